import copy
import re

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from fullrank.compress import CED, LED, EnergyRank, FixedRank, auto_fact, compress, fact_report, factor_rank, load, save
from fullrank.compress.factor_solvers import SOLVERS
from fullrank.nn import LowRankConv2d, LowRankEmbedding, LowRankLinear

from .models import bert, convolutional, gpt2, mlp

LAYERS = {"lin": nn.Linear, "conv1d": Conv1D, "conv": nn.Conv2d, "c1d": nn.Conv1d}


@pytest.mark.golden("greenformers")
def test_agrees_with_the_library(case):
    _check_ranks(case.spec)
    _check_models(case.spec)
    _check_layers(case.tensors)


def _check_ranks(spec):
    for (inputs, outputs), asked, used, *counts in spec["rank_table_linear"]:
        for rule in ("params", "greenformer"):
            assert factor_rank(inputs, outputs, asked, rank_rule=rule) == used
        if counts:
            dense = nn.Linear(inputs, outputs, device="meta")
            assert [_count(dense), _count(auto_fact(dense, asked, "random", rank_rule="greenformer"))] == counts
    for (inputs, outputs, kernel, groups), asked, used, *counts in spec["rank_table_conv2d"]:
        assert factor_rank(inputs, outputs, asked, kernel**2, groups, "greenformer") == used
        if counts:
            dense = nn.Conv2d(inputs, outputs, kernel, groups=groups, device="meta")
            assert [_count(dense), _count(auto_fact(dense, asked, "random", rank_rule="greenformer"))] == counts


def _check_models(spec):
    for name, rank, given, before, after in spec["model_param_counts"]:
        model, submodules = _model(spec["model_configs"], name)
        assert (submodules is not None) == given
        assert _count(model) == before
        assert _count(auto_fact(model, rank, submodules=submodules, rank_rule="greenformer")) == after, name


def _model(configs, name):
    text = configs[name]
    if text.startswith("same; submodules"):
        model, _ = _model(configs, re.match(r"[a-z]+\d+", name)[0])
        chosen = eval(text.partition("=")[2], {"encoder": model.encoder, "pooler": model.pooler})
        return model, list(chosen)
    config, options, kind = re.match(r"(\w+)\((.*)\) with (\w+)", text).groups()
    fields = {key: int(value) for key, value in (part.split("=") for part in options.split(","))}
    return getattr(transformers, kind)(getattr(transformers, config)(**fields)), None


def _count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def _check_layers(known):
    checked = 0
    for prefix, kind in LAYERS.items():
        if f"{prefix}_w" not in known:
            continue
        weight, bias, x = (known[f"{prefix}_{part}"] for part in ("w", "b", "x"))
        layer = _dense(kind, weight, x, known[f"{prefix}_y"])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        rank = int(torch.linalg.matrix_rank(known[f"indep_{prefix}_prod"]))
        factored = auto_fact(layer, rank)
        product = factored.weight().detach().flatten(1)
        torch.testing.assert_close(product.double(), known[f"indep_{prefix}_prod"], rtol=0, atol=1e-5)
        torch.testing.assert_close(product, known[f"{prefix}_prod"], rtol=0, atol=2e-4)
        torch.testing.assert_close(factored(x).detach(), known[f"{prefix}_y"], rtol=0, atol=2e-3)
        if prefix == "conv":
            assert factored.first.weight.shape == tuple(known["conv_first_shape"].tolist())
            assert factored.second.weight.shape == tuple(known["conv_second_shape"].tolist())
        checked += 1
    assert checked


def _dense(kind, weight, x, y):
    if kind is nn.Linear:
        return nn.Linear(weight.shape[1], weight.shape[0])
    if kind is Conv1D:
        return Conv1D(weight.shape[1], weight.shape[0])
    for stride in (1, 2):
        for padding in range(4):
            conv = kind(weight.shape[1], weight.shape[0], weight.shape[2:], stride, padding)
            if conv(x).shape == y.shape:
                return conv
    raise AssertionError(f"no stride and padding lead from {tuple(x.shape)} to {tuple(y.shape)}")


def test_the_second_call_changes_nothing():
    model = auto_fact(mlp(), 0.9)
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="no layer was factored"):
        auto_fact(auto_fact(model, 0.5, submodules=[model[0]]), 0.5, submodules=[model[0]])
    assert before.keys() == model.state_dict().keys()
    assert isinstance(auto_fact(model, 1, fact_led_unit=True)[0].first, LowRankLinear)


def test_a_copy_leaves_the_source_untouched():
    model = bert()
    factored = auto_fact(model, 0.5, submodules=[model.bert.encoder.layer[1]], deepcopy=True)
    assert not any(isinstance(module, LowRankLinear) for module in model.modules())
    names = [name for name, module in factored.named_modules() if isinstance(module, LowRankLinear)]
    assert len(names) == 6
    assert all(name.startswith("bert.encoder.layer.1.") for name in names)
    by_name = auto_fact(model, 0.5, submodules=["layer.1"], deepcopy=True)
    assert [n for n, m in by_name.named_modules() if isinstance(m, LowRankLinear)] == names


@pytest.mark.parametrize("solver", ["svd", "randomized", "snmf"])
@pytest.mark.parametrize("build", [mlp, convolutional])
def test_solvers_keep_what_random_factors_lose(solver, build):
    torch.manual_seed(1)
    model = build()
    errors = {
        name: [row.error for row in fact_report(model, auto_fact(model, 0.6, name, num_iter=40, deepcopy=True))]
        for name in (solver, "random")
    }
    assert max(errors[solver]) < min(errors["random"])


def test_the_exact_solver_is_the_best_and_the_library_is_reproduced_without_oversampling():
    W = torch.linalg.qr(torch.randn(30, 30))[0] * torch.linspace(1, 0.2, 30)  # a flat spectrum
    generator = torch.Generator().manual_seed(0)
    lost = {}
    for name, options in (("svd", {}), ("randomized", {"oversample": 8}), ("randomized", {"oversample": 0})):
        factors = SOLVERS[name](W, 8, 1, generator, **options)
        lost[name, options.get("oversample")] = float((W - factors.B @ factors.A).norm())
    assert lost["svd", None] <= lost["randomized", 8] + 1e-5
    assert lost["randomized", 8] < lost["randomized", 0]


def test_semi_nmf_has_a_non_negative_factor_and_lowers_the_error():
    W = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    errors = []
    for rounds in (1, 10, 100):
        factors = SOLVERS["snmf"](W, 4, rounds, torch.Generator().manual_seed(0))
        assert (factors.B >= 0).all()
        errors.append(float((W - factors.B @ factors.A).norm()))
    assert errors == sorted(errors, reverse=True)


def test_nmf_factors_non_negative_weights_only():
    torch.manual_seed(0)
    layer = nn.Linear(12, 10)
    layer.weight.data.abs_()
    factored = auto_fact(layer, 4, "nmf", num_iter=300)
    assert (factored.weight() - layer.weight).norm() < 0.5 * layer.weight.norm()
    with pytest.raises(ValueError, match=r'the layer: solver="nmf" needs a non-negative matrix'):
        auto_fact(nn.Linear(12, 10), 4, "nmf")


def test_names_aliases_and_the_report():
    assert isinstance(LED(6, 5, 2), LowRankLinear)
    assert isinstance(CED(3, 4, 2, 3, padding=1), LowRankConv2d)
    assert CED(3, 4, 2, (5,))(torch.randn(1, 3, 9)).shape == (1, 4, 5)
    dense = mlp()
    rows = fact_report(dense, auto_fact(dense, 3, deepcopy=True, exclude_modules=["4"]))
    assert [(row.name, row.rank, row.macs_after) for row in rows] == [("0", 3, 84), ("2", 3, 90)]


def test_the_librarys_names_and_order_of_arguments_are_kept():
    unit = CED(2, 4, 1, (3, 3), 2, 1, 1, 1, "reflect", False)
    assert (unit.first.stride, unit.first.padding, unit.first.padding_mode, unit.bias) == (
        (2, 2),
        (1, 1),
        "reflect",
        None,
    )
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(unit.ced_unit(x), unit(x))
    led = LED(6, 5, 2)
    assert led.led_unit[0].weight is led.first.weight
    assert led.led_unit[1] is led.second
    assert set(led.state_dict()) == {"first.weight", "second.weight", "second.bias"}


def test_ranks_of_numpy_are_numbers(unchecked):
    for rank in (np.int64(3), np.int8(3), np.float64(3.0), np.float32(3.0)):
        assert factor_rank(64, 64, rank) == 3
        assert type(factor_rank(64, 64, rank)) is int
    assert factor_rank(64, 64, np.float32(0.5), rank_multiple_of=np.int64(4)) == 16
    factored = auto_fact(mlp(), np.int64(3), "snmf", np.int64(5), deepcopy=True)
    assert [factored[index].rank for index in (0, 2)] == [3, 3]
    assert type(LED(8, 8, np.int64(2)).rank) is int
    for rank in (np.int64(0), np.float64(1.0), np.float32("nan"), np.bool_(True)):
        with pytest.raises(ValueError, match="rank="):
            auto_fact(mlp(), rank)


def test_ranks_of_fractions_are_rounded_down_to_a_multiple():
    assert factor_rank(768, 768, 0.4) == 153
    assert factor_rank(768, 768, 0.4, rank_multiple_of=8) == 152
    assert factor_rank(768, 768, 0.1, rank_multiple_of=64) == 38  # a smaller one stays
    assert factor_rank(768, 768, 153, rank_multiple_of=8) == 153
    assert auto_fact(nn.Linear(48, 48), 0.9, rank_multiple_of=8).rank == 16
    with pytest.raises(ValueError, match="rank_multiple_of=0"):
        auto_fact(nn.Linear(48, 48), 0.9, rank_multiple_of=0)


def test_the_whole_model_and_a_single_name_are_submodules():
    for chosen, factored in (("root", [True, True]), ("0", [True, False])):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        auto_fact(model, 2, submodules=[model] if chosen == "root" else chosen)
        assert [isinstance(layer, LowRankLinear) for layer in model] == factored


@pytest.mark.parametrize("solver", ["svd", "randomized", "snmf", "nmf"])
def test_weights_that_cannot_be_factored_are_named(solver):
    broken = nn.Sequential(nn.Linear(8, 8))
    broken[0].weight.data[0, 3] = float("nan")
    with pytest.raises(ValueError, match=r"0 has nan at \(0, 3\)"):
        auto_fact(broken, 2, solver)
    with pytest.raises(ValueError, match="0 is on the meta device"):
        auto_fact(nn.Sequential(nn.Linear(8, 8, device="meta")), 2, solver)
    with pytest.raises(ValueError, match=r"0 has nan at \(0, 3\)"):
        compress(broken, "snmf", solver=solver)


def test_quantised_layers_are_refused_where_they_were_asked_for():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="0 is quantised, a Linear"):
        auto_fact(model, 2)
    auto_fact(model, 2, submodules=["1"])
    assert isinstance(model[1], LowRankLinear)


def test_half_precision_noncontiguous_inputs_and_biases():
    layer = nn.Linear(12, 10).half()
    factored = auto_fact(layer, 3)
    assert {p.dtype for p in factored.parameters()} == {torch.float16}
    assert factored.bias is not layer.bias
    assert factored(torch.randn(12, 5).half().T).shape == (5, 10)


def test_tied_and_grouped_layers_stay_dense():
    model = gpt2()
    auto_fact(model, 0.5)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert isinstance(model.lm_head, nn.Linear)
    with pytest.warns(UserWarning, match="groups=2, which one factorisation would mix"):
        auto_fact(nn.Sequential(nn.Conv2d(32, 32, 3, groups=2)), 4)


def test_compress_takes_the_solver_with_any_rule():
    small = compress(mlp(), "snmf", rank_rule=EnergyRank(0.6))
    assert small.report.parameters_after < small.report.parameters_before
    assert small.report.method == "greenformers"


@pytest.mark.parametrize("rank", [0, -1, 1.0, 2.5, float("nan"), True])
def test_ambiguous_ranks_are_refused(rank, unchecked):
    with pytest.raises(ValueError, match="a whole number is an absolute rank"):
        auto_fact(mlp(), rank)


def test_bad_calls_are_refused(unchecked):
    with pytest.raises(ValueError, match="solver='qr' is not known"):
        auto_fact(mlp(), 2, "qr")
    with pytest.raises(ValueError, match="submodules holds a Linear that is not inside the Sequential"):
        auto_fact(mlp(), 2, submodules=[nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="submodules names 'head', which the Sequential does not have"):
        auto_fact(mlp(), 2, submodules=["head"])
    with pytest.raises(ValueError, match="num_iter=-1: a whole number of rounds"):
        auto_fact(mlp(), 2, "snmf", -1)
    with pytest.raises(ValueError, match=r"kernel_size=\(3, 3, 3, 3\)"):
        CED(3, 4, 2, (3, 3, 3, 3))
    with pytest.warns(UserWarning, match="no layer was factored"):
        auto_fact(mlp(), 1000)
    with pytest.raises(ValueError, match="no factored layer has a dense one"):
        fact_report(mlp(), mlp())
    with pytest.raises(ValueError, match="solver='random' is not known"):
        compress(mlp(), "snmf", solver="random")


def test_embeddings_are_factored_on_request_only():
    model = bert()
    table = model.bert.embeddings.word_embeddings
    assert type(auto_fact(model, 2, deepcopy=True).bert.embeddings.word_embeddings) is nn.Embedding
    factored = auto_fact(model, 8, deepcopy=True, embeddings=True, target_modules=["word_embeddings"])
    made = factored.bert.embeddings.word_embeddings
    assert isinstance(made, LowRankEmbedding)
    assert made.padding_idx == table.padding_idx
    U, S, Vh = torch.linalg.svd(table.weight.detach(), full_matrices=False)
    torch.testing.assert_close(made.weight().detach(), U[:, :8] * S[:8] @ Vh[:8], rtol=0, atol=1e-5)
    ids = torch.tensor([[1, 0], [3, 2]])
    torch.testing.assert_close(made(ids), made.weight()[ids], rtol=0, atol=1e-6)
    (row,) = fact_report(model, factored)
    assert (row.rank, row.macs_before, row.macs_after) == (8, 0, 8 * table.embedding_dim)
    assert row.parameters_after == made.num_embeddings * 8 + 8 * made.embedding_dim


def test_tables_that_rescale_their_rows_and_tied_ones_stay():
    renormed = nn.Sequential(nn.Embedding(50, 40, max_norm=1.0))
    with pytest.warns(UserWarning, match="rescales its rows to max_norm=1.0"):
        auto_fact(renormed, 2, embeddings=True)
    with pytest.raises(ValueError, match="rescales its rows"):
        compress(renormed, "snmf", rank_rule=EnergyRank(0.5), target_modules=["0"])
    tied = gpt2()
    factored = auto_fact(tied, 1, deepcopy=True, embeddings=True)
    assert type(factored.transformer.wte) is nn.Embedding


def test_a_compressed_embedding_loads_without_the_original(tmp_path):
    result = compress(bert(), "snmf", rank_rule=FixedRank(4), solver="svd", target_modules=["word_embeddings"])
    ids = torch.tensor([[1, 4, 2]])
    save(result.model, tmp_path / "small")
    again = load(tmp_path / "small").eval()
    assert isinstance(again.bert.embeddings.word_embeddings, LowRankEmbedding)
    torch.testing.assert_close(again(ids).logits, result.model.eval()(ids).logits)
    for name, buffer in again.named_buffers():  # some are in no file
        assert torch.equal(buffer, result.model.get_buffer(name))
