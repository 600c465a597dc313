import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from fullrank.compress import (
    FixedRank,
    FWSVDMethod,
    Layer,
    collect_statistics,
    compress,
    fisher_scale,
    gather_statistics,
)
from fullrank.linalg import weighted_svd
from fullrank.nn import LowRankLinear

from .models import bert, mlp, texts

BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attn_out": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}


@pytest.mark.golden("fwsvd")
def test_agrees_with_the_reference(case):
    check = _check_fisher if "n_samples" in case.spec else _check_layer
    check(case)


def _check_layer(case):
    known = case.tensors
    rank, weight = case.spec["config"]["rank"], known["weight"].double()
    by_in, by_out = known["fisher_in"], known["fisher_out"]

    def product(**weights):
        return weighted_svd(weight, rank, **weights).reconstruct()

    damped = fisher_scale(by_in, 1e-5, "max")
    torch.testing.assert_close(product(right=damped).mT.float(), known["up_product_in_out"], rtol=1e-4, atol=1e-5)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data, linear.bias.data = known["weight"], known["bias"]
    layer = LowRankLinear.from_linear(linear, rank, in_weight=damped)
    torch.testing.assert_close(layer(known["x"]), known["y"], rtol=1e-4, atol=1e-5)
    exact = {"rtol": 1e-8, "atol": 1e-9}
    torch.testing.assert_close(product(right=damped).mT, known["indep_product_in_out_eps1e5"], **exact)
    undamped = fisher_scale(by_in.double(), 0.0, "max")
    torch.testing.assert_close(product(right=undamped).mT, known["indep_product_in_out_eps0"], **exact)
    values = weighted_svd(weight, right=undamped).S
    torch.testing.assert_close(values, known["indep_singular_eps0"], **exact)
    torch.testing.assert_close(
        product(left=fisher_scale(by_out.double(), 0.0)), known["indep_product_out_in_by_out"], **exact
    )
    columns = known["fisher_full"].sum(0).double()  # in float32, as the reference summed them
    both = product(left=fisher_scale(by_out.double(), 0.0), right=fisher_scale(columns, 0.0))
    torch.testing.assert_close(both, known["indep_product_out_in_both"], **exact)
    torch.testing.assert_close(product().float(), known["plain_svd_product_out_in"].float(), rtol=1e-4, atol=1e-5)
    error = float(((weight - product(right=damped)).square() * by_in.double()).sum())
    assert error == pytest.approx(case.spec["weighted_error_eps1e5"], rel=1e-6)


def _check_fisher(case):
    known = case.tensors
    model = BertForSequenceClassification(BertConfig(**case.spec["config"]))
    state = {name.removeprefix("model."): value for name, value in known.items() if name.startswith("model.")}
    model.load_state_dict(state)
    numbers = sorted({name.partition(".")[0] for name in known if name.startswith("batch")})
    batches = [
        {part: known[f"{number}.{part}"] for part in ("input_ids", "attention_mask", "labels")} for number in numbers
    ]
    layers = []
    for number in range(case.spec["config"]["num_hidden_layers"]):
        for place in BERT_NAMES.values():
            name = f"bert.encoder.layer.{number}.{place}"
            layers.append(Layer(name, model.get_submodule(name)))
    exact = collect_statistics(model, batches, layers, ("fisher_in", "fisher_out"))
    public = collect_statistics(model, batches, layers, ("fisher_in",), kind="batch")
    checked = 0
    for name, expected in known.items():
        kind, _, place = name.partition(".")
        if not kind.endswith(("fisher", "fisher_in", "fisher_out")):
            continue
        number, part = place.split(".")
        found = (public if kind == "up_fisher" else exact)[f"bert.encoder.layer.{number}.{BERT_NAMES[part]}"]
        sums = found.fisher_out if kind == "indep_fisher_out" else found.fisher_in
        if kind == "up_fisher":
            sums = sums / sums.max()
        torch.testing.assert_close(sums, expected.double(), rtol=1e-3, atol=1e-3 * float(expected.max()))
        checked += 1
    assert checked


@pytest.mark.parametrize("side", ["input", "output", "both"])
def test_constant_fisher_gives_plain_svd(side):
    weights = {"input": {"right"}, "output": {"left"}, "both": {"left", "right"}}[side]
    matrix = torch.randn(7, 5)
    scaled = weighted_svd(
        matrix, 2, **{name: fisher_scale(torch.full((7 if name == "left" else 5,), 3.0)) for name in weights}
    )
    torch.testing.assert_close(scaled.reconstruct(), weighted_svd(matrix, 2).reconstruct(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_the_loss_changes_nothing(factor):
    matrix, sums = torch.randn(7, 5).double(), torch.rand(5).double()
    one, other = (weighted_svd(matrix, 2, right=fisher_scale(sums * f, 0.0)).reconstruct() for f in (1.0, factor))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", ["fwsvd", "fwsvd-output", "fwsvd-both"])
def test_the_model_is_compressed_by_its_task(method):
    small = compress(bert(), method, data=texts(), rank_rule=FixedRank(4))
    assert {layer.rank for layer in small.report.layers} == {4}
    plain = compress(bert(), "svd", rank_rule=FixedRank(4))
    for weighted, unweighted in zip(small.report.layers, plain.report.layers, strict=True):
        assert weighted.error >= unweighted.error - 1e-6  # a theorem


def test_fisher_of_another_run_is_taken():
    layers = {
        name: torch.rand(module.in_features) for name, module in mlp().named_modules() if isinstance(module, nn.Linear)
    }
    small = compress(mlp(), FWSVDMethod(FixedRank(2), fisher=layers))
    assert len(small.report.layers) == 3


def test_bad_fisher_and_options_are_refused(unchecked):
    with pytest.raises(ValueError, match="weight_side='left' is not known"):
        FWSVDMethod(weight_side="left")
    with pytest.raises(ValueError, match="eps=-1"):
        FWSVDMethod(eps=-1.0)
    with pytest.raises(ValueError, match="eps_mode='sum' is not known"):
        FWSVDMethod(eps_mode="sum")
    with pytest.raises(ValueError, match="holds sums of one side, weight_side='both' needs \\(by input"):
        compress(mlp(), FWSVDMethod(weight_side="both", fisher={name: torch.rand(12) for name in "024"}))
    with pytest.raises(KeyError, match="fisher has no sums for 0, 2, 4"):
        compress(mlp(), FWSVDMethod(fisher={}))
    sums = {"0": torch.rand(16), "2": torch.rand(16), "4": torch.rand(14)}
    with pytest.raises(ValueError, match=r"shape \(16,\).*needs \(12,\); 16 values belong to the other"):
        compress(mlp(), FWSVDMethod(fisher=sums))
    with pytest.raises(ValueError, match="negative or not finite"):
        fisher_scale(torch.tensor([1.0, -1.0]))
    with pytest.warns(UserWarning, match="no gradient reached the layer"):
        assert fisher_scale(torch.zeros(3), name="the layer").tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="method 'fwsvd' needs data"):
        compress(bert(), "fwsvd")
    with pytest.raises(ValueError, match="the batch has no labels"):
        compress(bert(), "fwsvd", data=[{"input_ids": torch.ones(2, 4, dtype=torch.int64)}])


@pytest.mark.parametrize("method", ["svd", "asvd", "whiten", "fwsvd", "fwsvd-output", "fwsvd-both"])
def test_statistics_are_gathered_once_for_several_sizes(method):
    model, batches = bert(), texts()
    found = gather_statistics(model, method, data=batches)
    for rank in (3, 5):
        at_once = compress(model, method, data=batches, rank_rule=FixedRank(rank))
        later = compress(model, method, statistics=found, rank_rule=FixedRank(rank))
        assert later.report.layers == at_once.report.layers
        assert later.report.options == at_once.report.options
        for one, other in zip(later.model.parameters(), at_once.model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_statistics_of_something_else_are_refused():
    model, found = bert(), gather_statistics(bert(), "asvd", data=texts())
    with pytest.raises(ValueError, match=r"lack moments: gather them with gather_statistics\(model, 'whiten'"):
        compress(model, "whiten", statistics=found)
    with pytest.raises(ValueError, match="statistics holds none of the 3 layers"):
        compress(mlp(), "asvd", statistics=found)
    with pytest.raises(ValueError, match="method 'greenformers' keeps no statistics"):
        gather_statistics(model, "snmf", data=texts())
