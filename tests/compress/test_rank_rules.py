import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.compress import BudgetRank, EffectiveRank, EnergyRank, FixedRank, LayerSpectrum, RatioRank


def _layer(name="a", rows=12, columns=8, decay=0.5):
    return LayerSpectrum(name, rows, columns, decay ** torch.arange(min(rows, columns), dtype=torch.float64))


def test_every_rule_gives_a_possible_rank():
    layer = _layer()
    for rule in (FixedRank(100), RatioRank(0.01), EnergyRank(1.0), EffectiveRank(50.0), EffectiveRank(0.01)):
        assert 1 <= rule.ranks([layer])["a"] <= 8


def test_ratio_is_the_share_of_parameters():
    layer = LayerSpectrum("a", 768, 3072)
    assert RatioRank(0.5).ranks([layer])["a"] == 307
    assert RatioRank(0.5, multiple_of=8).ranks([layer])["a"] == 304
    assert RatioRank(1.0).ranks([layer])["a"] == 614
    assert layer.break_even == 614


def test_energy_and_effective_rank_are_the_spectrums():
    layer = _layer()
    assert EnergyRank(0.9).ranks([layer])["a"] == int(layer.spectrum.energy_rank(0.9)) == 2
    assert EffectiveRank().ranks([layer])["a"] == 4
    assert EffectiveRank(0.5).ranks([layer])["a"] == 2


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (FixedRank(np.int64(4)), FixedRank(4)),
        (RatioRank(np.float64(0.5), np.int32(2)), RatioRank(0.5, 2)),
        (EnergyRank(np.float32(0.5)), EnergyRank(0.5)),
        (EffectiveRank(np.int8(2)), EffectiveRank(2)),
        (BudgetRank(keep=np.float32(0.5)), BudgetRank(keep=0.5)),
        (BudgetRank(parameters=np.int64(60)), BudgetRank(parameters=60)),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_numbers_of_numpy_are_numbers(given, wanted):
    assert repr(given) == repr(wanted)
    assert given.ranks([_layer()]) == wanted.ranks([_layer()])


@settings(max_examples=40, deadline=None)
@given(
    keep=st.floats(0.3, 1.0),
    decays=st.lists(st.floats(0.1, 0.99), min_size=1, max_size=4),
)
def test_a_budget_is_kept_and_spent_where_it_matters(keep, decays):
    layers = [_layer(str(number), decay=decay) for number, decay in enumerate(decays)]
    ranks = BudgetRank(keep=keep).ranks(layers)

    def cost(layer, rank):
        return layer.rows * layer.columns if rank > layer.break_even else rank * (layer.rows + layer.columns)

    spent = sum(cost(layer, ranks[layer.name]) for layer in layers)
    budget = keep * sum(layer.rows * layer.columns for layer in layers)
    assert spent <= budget
    slowest = max(range(len(decays)), key=lambda number: decays[number])  # equal sizes: the slowest decay needs most
    assert ranks[str(slowest)] == max(ranks.values())


def test_a_budget_loses_little_more_than_the_best_ranks():
    """Against the exact optimum over all ranks, by dynamic programming over the budget."""
    generator = torch.Generator().manual_seed(0)
    excess = []
    for _ in range(40):
        keep, flat = (
            torch.rand(2, generator=generator).mul(torch.tensor([0.6, 1.0])).add(torch.tensor([0.4, 0])).tolist()
        )
        layers = []
        for number in range(12):
            rows, columns = torch.randint(20, 80, (2,), generator=generator).tolist()
            values = (flat + torch.rand(min(rows, columns), generator=generator)) * torch.rand(1, generator=generator)
            layers.append(LayerSpectrum(str(number), rows, columns, values.sort(descending=True).values))
        ranks = BudgetRank(keep=keep).ranks(layers)
        budget = int(keep * sum(layer.rows * layer.columns for layer in layers))
        loss, total, spent = 0.0, 0.0, 0
        least = torch.zeros(budget + 1, dtype=torch.float64)  # loss by what the layers so far may cost
        for layer in layers:
            squares = layer.values.double().square()
            choices = {r: r * (layer.rows + layer.columns) for r in range(1, layer.break_even + 1)}
            choices[len(squares)] = layer.rows * layer.columns
            losses = {r: float(squares[r:].sum()) for r in choices}
            loss, total = loss + losses[ranks[layer.name]], total + float(squares.sum())
            spent += choices[ranks[layer.name]]
            with_layer = torch.full_like(least, torch.inf)
            for r, cost in choices.items():
                if cost <= budget:
                    with_layer[cost:] = torch.minimum(with_layer[cost:], least[: budget + 1 - cost] + losses[r])
            least = with_layer
        assert spent <= budget
        excess.append((loss - float(least[-1])) / total)
    assert min(excess) > -1e-9
    assert max(excess) < 0.05
    assert sum(excess) / len(excess) < 0.005


def test_a_budget_of_everything_leaves_all_layers_dense():
    layers = [_layer("a"), _layer("b", decay=0.9)]
    assert BudgetRank(keep=1.0).ranks(layers) == {"a": 8, "b": 8}
    assert BudgetRank(parameters=2 * 96).ranks(layers) == {"a": 8, "b": 8}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedRank(0), "rank=0"),
        (lambda: FixedRank(np.int64(0)), "rank=0"),
        (lambda: FixedRank(np.float64(4.0)), "rank=4.0: .* a whole number"),
        (lambda: FixedRank(np.bool_(True)), "a whole number"),
        (lambda: FixedRank(2.5), "rank=2.5: .* a whole number"),
        (lambda: EffectiveRank(float("inf")), "times=inf"),
        (lambda: BudgetRank(parameters=0.5), "parameters=0.5: .* keep= takes a share"),
        (lambda: RatioRank(1.5), "keep=1.5: a share in \\(0, 1\\]"),
        (lambda: RatioRank(0.5, multiple_of=0), "multiple_of=0"),
        (lambda: EnergyRank(0.0), "energy=0.0"),
        (lambda: EffectiveRank(-1.0), "times=-1.0"),
        (lambda: BudgetRank(), "either keep= .* or parameters="),
        (lambda: BudgetRank(parameters=10).ranks([_layer()]), "a budget of 10 parameters is too small.*takes 20"),
        (lambda: EnergyRank(0.5).ranks([LayerSpectrum("a", 3, 3)]), "the spectrum of a was not measured"),
    ],
)
def test_impossible_rules_are_refused(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()
