import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from fullrank.compress import (
    FisherAccumulator,
    FisherCallback,
    FixedRank,
    FWSVDConfig,
    compress,
    compress_low_rank,
    estimate_fisher,
    fisher_scale,
)
from fullrank.nn import LowRankLinear

from .models import bert, gpt2, mlp, texts


def _losses(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _points(count=20):
    torch.manual_seed(1)
    return [(torch.randn(1, 12), torch.randint(5, (1,))) for _ in range(count)]


def _sums(model, side=0):
    return {name: torch.rand(layer.weight.shape[1 - side]) for name, layer in model.named_children() if name in "024"}


@pytest.mark.parametrize("side", ["input", "output", "both"])
def test_the_fisher_information_is_the_mean_squared_gradient(side):
    model, data = mlp(), _points()
    found = estimate_fisher(model, data, _losses, side=side)
    expected = {}
    for batch in data:
        model.zero_grad()
        _losses(model, batch).sum().backward()
        for name in ("0", "2", "4"):
            expected[name] = expected.get(name, 0) + model.get_submodule(name).weight.grad.double().square() / len(data)
    for name, squares in expected.items():
        sides = found[name] if side == "both" else (found[name],)
        axes = {"input": (0,), "output": (1,), "both": (0, 1)}[side]
        for sums, axis in zip(sides, axes, strict=True):
            torch.testing.assert_close(sums, squares.sum(axis), rtol=1e-4, atol=1e-9)


def test_batches_go_where_the_model_goes_and_an_unknown_side_is_refused(unchecked):
    assert len(estimate_fisher(bert(), texts(), device="cpu", num_samples=3)) == 2 * 6 + 1
    with pytest.raises(ValueError, match="side='left' is not known; accepted: 'input', 'output', 'both'"):
        estimate_fisher(mlp(), _points(), _losses, side="left")
    with pytest.raises(ValueError, match="one loss a sample"):
        estimate_fisher(mlp(), _points(), lambda model, batch: _losses(model, batch).mean())


@pytest.mark.parametrize("method", ["fwsvd", "fwsvd-output", "fwsvd-both"])
def test_the_model_is_factorised_by_the_weights(method):
    side = {"fwsvd": "input", "fwsvd-output": "output", "fwsvd-both": "both"}[method]
    model = mlp()
    fisher = estimate_fisher(model, _points(), _losses, side=side)
    small = compress_low_rank(model, FWSVDConfig(rank=3, target_modules=["0", "2"]), fisher, method=method, copy=True)
    assert isinstance(model[0], nn.Linear)
    by_in = {"input": fisher["0"], "both": fisher["0"][0]}.get(side)
    by_out = {"output": fisher["0"], "both": fisher["0"][-1]}.get(side)
    scales = [None if sums is None else fisher_scale(sums) for sums in (by_in, by_out)]
    torch.testing.assert_close(small[0].weight(), LowRankLinear.from_linear(model[0], 3, *scales).weight())
    rows = small.low_rank_report().layers
    assert [(row.name, row.rank) for row in rows] == [("0", 3), ("2", 3)]
    left, right = ((1.0 if scale is None else scale) for scale in (scales[1], scales[0]))
    weighted = (left if side == "input" else left[:, None]) * model[0].weight.detach() * right
    lost = (left if side == "input" else left[:, None]) * (model[0].weight - small[0].weight()).detach() * right
    assert rows[0].weighted_error == pytest.approx(float(lost.norm() / weighted.norm()), rel=1e-4)
    assert pickle.loads(pickle.dumps(small)).low_rank_report() == copy.deepcopy(small).low_rank_report()


def test_the_report_says_how_much_larger_factors_are_than_the_weight():
    model = mlp()
    fisher = _sums(model)
    for split in ("left", "right", "balanced"):
        config = FWSVDConfig(rank=3, eps=0, split=split)
        row = compress_low_rank(model, config, fisher, copy=True).low_rank_report().layers[0]
        alone = LowRankLinear.from_linear(model[0], 3, in_weight=fisher["0"].sqrt(), split=split)
        growth = alone.first.weight.abs().max() / model[0].weight.abs().max()
        assert row.factor_growth == pytest.approx(float(growth.detach()), rel=1e-4)
    conv = compress(nn.Sequential(nn.Conv2d(4, 8, 3)), rank_rule=FixedRank(3), target_modules="all").report
    assert conv.layers[0].factor_growth > 0
    assert conv.to_rows()[0]["factor_growth"] == conv.layers[0].factor_growth
    assert compress(model, "rtn", bits=4, group_size=-1).report.layers[0].factor_growth is None
    with torch.no_grad():
        model[0].weight.zero_()
    assert compress(model, rank_rule=FixedRank(3)).report.layers[0].factor_growth is None


@pytest.mark.parametrize("method", ["svd", "asvd", "whiten"])
def test_rivals_are_one_argument_away(method):
    small = compress_low_rank(bert(), method=method, data=texts())
    assert {row.kind for row in small.low_rank_report().layers} == {"low-rank-linear"}
    assert isinstance(small.classifier, nn.Linear)
    assert isinstance(small.bert.pooler.dense, nn.Linear)
    assert not small.low_rank_report().layers[0].name.startswith("classifier")


def test_every_layer_has_its_own_rank():
    model = mlp()
    of_numpy = FWSVDConfig(param_ratio=np.float32(0.5), rank=np.int64(2), rank_pattern={"2": np.int16(5)}, eps=0)
    small = compress_low_rank(model, of_numpy, _sums(model), copy=True)
    assert [row.rank for row in small.low_rank_report().layers] == [2, 5, 2]
    config = FWSVDConfig(param_ratio=0.6, rank_pattern={"2": 5})
    small = compress_low_rank(model, config, _sums(model), copy=True)
    assert [row.rank for row in small.low_rank_report().layers] == [4, 5, 2]  # floor(0.6 * in * out / (in + out))
    assert compress_low_rank(model, config, _sums(model)) is model


def test_layers_that_save_nothing_are_left_with_one_warning_or_refused(caplog):
    model = mlp()
    config = FWSVDConfig(rank=5)
    with pytest.warns(UserWarning, match=r"1 layers stay dense.*4 \(rank 5, break-even 3\)") as told:
        small = compress_low_rank(model, config, _sums(model), copy=True)
    assert len(told) == 1
    assert isinstance(small[4], nn.Linear)
    with pytest.raises(ValueError, match=r"1 layers would save nothing: 4 \(rank 5, break-even 3\)"):
        compress_low_rank(model, FWSVDConfig(rank=5, min_saving="raise"), _sums(model))
    with caplog.at_level(logging.DEBUG, "fullrank.compress.fwsvd_model"):
        compress_low_rank(model, FWSVDConfig(rank=2), _sums(model) | {"9": torch.rand(3)})
    assert "weights of 9 are not used" in caplog.text


def test_tied_weights_are_parted_on_request_only():
    model = gpt2()
    config = FWSVDConfig(rank=2, target_modules=["lm_head"])
    with pytest.raises(ValueError, match="its weight is shared with another layer"):
        compress_low_rank(model, config, method="svd")
    small = compress_low_rank(model, FWSVDConfig(rank=2, target_modules=["lm_head"], allow_untie=True), method="svd",
                              copy=True)  # fmt: skip
    assert isinstance(small.lm_head, LowRankLinear)
    assert not small.config.tie_word_embeddings
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"param_ratio": 0}, r"param_ratio=0: a share in \(0, 1\]"),
        ({"param_ratio": 1.5}, r"param_ratio=1\.5"),
        ({"min_saving": False}, "min_saving=False is not known"),
        ({"weight_side": "left"}, "weight_side='left' is not known"),
        ({"split": "middle"}, "split='middle' is not known"),
        ({"eps": -1}, "eps=-1"),
        ({"rank_multiple_of": 0}, "multiple_of=0"),
    ],
)
def test_bad_configurations_are_refused(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        FWSVDConfig(**options)


@pytest.mark.parametrize("rank", [0, 13, 2.5, True])
def test_ranks_that_do_not_fit_are_refused_with_the_layer(rank, unchecked):
    with pytest.raises(ValueError, match=rf"0: rank={rank} does not fit its shape \(16, 12\): 1 to 12 is accepted"):
        compress_low_rank(mlp(), FWSVDConfig(rank=rank), _sums(mlp()))


def test_bad_weights_methods_and_quantised_layers_are_refused(unchecked):
    with pytest.raises(KeyError, match="fisher has no sums for 0, 2, 4"):
        compress_low_rank(mlp(), weights={})
    with pytest.raises(ValueError, match=r"shape \(16,\).*needs \(12,\); 16 values belong to the other side"):
        compress_low_rank(mlp(), weights=_sums(mlp(), side=1))
    with pytest.raises(ValueError, match="holds sums of one side"):
        compress_low_rank(mlp(), weights=_sums(mlp()), method="fwsvd-both")
    with pytest.raises(ValueError, match="method='pca' is not known"):
        compress_low_rank(mlp(), method="pca")
    with pytest.raises(ValueError, match="needs data"):
        compress_low_rank(mlp())
    held = nn.Sequential(nn.Linear(4, 4))
    held[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    for call in (lambda: compress_low_rank(held, method="svd"), lambda: estimate_fisher(held, [])):
        with pytest.raises(TypeError, match="0 is quantised already, a Linear"):
            call()


def test_a_running_trainer_gathers_the_squares_of_its_gradients(tmp_path):
    model, rows = bert(), [{name: value[0] for name, value in texts(1, 1)[0].items()} for _ in range(6)]
    callback, seen = FisherCallback(model), []
    accumulator = FisherAccumulator(model, side="output")
    layer = model.bert.encoder.layer[0].attention.self.query
    layer.weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.double().square()))
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=3, num_train_epochs=1, max_grad_norm=0, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    name = "bert.encoder.layer.0.attention.self.query"
    torch.testing.assert_close(callback.fisher()[name], torch.stack(seen).mean(0).sum(0), rtol=1e-4, atol=1e-12)
    compress_low_rank(model, FWSVDConfig(rank=2), callback.fisher())
    with pytest.raises(RuntimeError, match=r"no gradient of bert.encoder.*was seen in 0 steps"):
        accumulator.fisher()
