import copy
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, T5Config, T5ForConditionalGeneration

from fullrank.compress import (
    METHODS,
    BudgetRank,
    EnergyRank,
    FixedRank,
    RatioRank,
    SVDMethod,
    compress,
    describe_layers,
    load,
    save,
)
from fullrank.nn import LowRankConv2d, LowRankLinear

from .models import bert, convolutional, gpt2, mlp, texts

FACTORISATIONS = ["svd", "fwsvd", "fwsvd-output", "fwsvd-both", "asvd", "whiten"]
RULES = [FixedRank(3), RatioRank(0.5), EnergyRank(0.5), BudgetRank(keep=0.5)]


def _output(model, batch):
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize("method", FACTORISATIONS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_factorisation_takes_every_rule_and_leaves_the_original(method, rule):
    model, data = bert(), texts()
    before = copy.deepcopy(model.state_dict())
    small = compress(model, method, data=data, rank_rule=rule)
    assert small.report.parameters_after < small.report.parameters_before
    assert sum(p.numel() for p in small.model.parameters()) == small.report.parameters_after
    assert _output(small.model, data[0]).isfinite().all()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_plain_error_is_that_of_the_truncated_spectrum():
    small = compress(mlp(), "svd", rank_rule=FixedRank(3))
    for layer in small.report.layers:
        weight = mlp().get_submodule(layer.name).weight.detach()
        values = torch.linalg.svdvals(weight)
        assert layer.error == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-4)
        assert layer.loss == pytest.approx(float(values[3:].square().sum()), rel=1e-4)


def test_whitening_has_the_least_error_at_its_outputs():
    torch.manual_seed(0)
    x = torch.randn(200, 12) * torch.logspace(-2, 1, 12)
    model, errors = mlp(), {}
    for method in ("svd", "asvd", "whiten"):
        small = compress(model, method, data=[x], target_modules=["0"], rank_rule=FixedRank(3)).model
        errors[method] = float((small[0](x) - model[0](x)).detach().norm())
    assert errors["whiten"] <= min(errors["svd"], errors["asvd"]) + 1e-5


def test_a_layer_that_would_not_shrink_stays_dense():
    small = compress(mlp(), "svd", rank_rule=FixedRank(6))
    assert set(small.report.left) == {"4"}
    assert small.report.left["4"] == "rank 5 saves nothing, the break-even rank is 3"
    assert isinstance(small.model[4], nn.Linear)


def test_layers_the_task_does_not_use_are_left():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    small = compress(Forked(), "whiten", data=[torch.randn(20, 8)], rank_rule=FixedRank(2))
    assert small.report.left == {"unused": "the task does not use it"}


def test_convolutions_and_conv1d_are_factorised():
    small = compress(convolutional(), "svd", target_modules="all", rank_rule=RatioRank(0.5))
    assert isinstance(small.model[0], LowRankConv2d)
    x = torch.randn(2, 3, 9, 8)
    assert small.model(x).shape == (2, 4)
    language = compress(gpt2(), "svd", rank_rule=RatioRank(0.5)).model
    assert isinstance(language.transformer.h[0].attn.c_attn, LowRankLinear)
    exact = compress(gpt2(), "svd", target_modules=["c_fc"], rank_rule=EnergyRank(0.999))
    ids = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(exact.model(ids).logits, gpt2()(ids).logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype):
    small = compress(mlp().to(dtype), "svd").model
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}


def test_a_model_of_transformers_is_saved_and_loaded_without_its_weights(tmp_path):
    data = texts()
    small = compress(bert(), "fwsvd", data=data)
    folder = save(small.model, tmp_path / "small", small.report)
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}
    wanted = _output(small.model, data[0])
    for loaded in (load(folder), AutoModelForSequenceClassification.from_pretrained(folder)):
        assert describe_layers(loaded) == describe_layers(small.model)
        torch.testing.assert_close(_output(loaded, data[0]), wanted, rtol=0, atol=0)
    again = save(load(folder), tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    facts = json.loads((folder / "fullrank.json").read_text())
    assert facts["report"]["method"] == "fwsvd"
    assert not hasattr(bert().config, "quantization_config")


def test_a_model_that_initialises_the_layers_inside_its_blocks_is_loaded(tmp_path):
    config = T5Config(vocab_size=40, d_model=24, d_kv=8, d_ff=40, num_layers=1, num_heads=3, decoder_start_token_id=0)
    ids = torch.randint(1, 40, (2, 6))
    small = compress(T5ForConditionalGeneration(config), "fwsvd", data=[{"input_ids": ids, "labels": ids}]).model
    loaded = load(save(small, tmp_path / "small"))
    assert describe_layers(loaded) == describe_layers(small)
    for name, tensor in small.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_factors_that_were_compressed_in_their_turn_are_loaded(tmp_path):
    for number, build in enumerate((bert, mlp)):
        once = compress(build(), "svd", rank_rule=RatioRank(0.8)).model
        twice = compress(once, "rtn", group_size=-1).model.eval()
        assert any(name.endswith(".first") for name in describe_layers(twice))
        folder = save(twice, tmp_path / str(number))
        loaded = load(folder) if build is bert else load(folder, skeleton=build())
        assert describe_layers(loaded) == describe_layers(twice)
        for name, tensor in twice.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_layers_that_were_factorised_twice_are_saved_and_made_dense(tmp_path):
    def skeleton():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(16, 32, 3, padding="same", dilation=2, padding_mode="reflect"),
            nn.Conv2d(32, 24, 3, 2, bias=False), nn.Flatten(), nn.Linear(24 * 9, 64),
        )  # fmt: skip

    model, x = skeleton(), torch.randn(2, 16, 8, 8)
    for times in range(1, 4):
        model = compress(model, rank_rule=RatioRank(0.8), target_modules="all").model
        assert torch.equal(load(save(model, tmp_path / str(times)), skeleton=skeleton())(x), model(x))
    inner = model[0].first.first
    assert (type(inner), inner.padding, inner.dilation) == (LowRankConv2d, "same", (2, 2))
    dense = nn.Sequential(model[0].to_conv(), model[1].to_conv(), model[2], model[3].to_linear())
    torch.testing.assert_close(dense(x), model(x), rtol=1e-3, atol=1e-4)


def test_another_module_is_loaded_into_its_skeleton(tmp_path):
    small = compress(convolutional(), "svd", target_modules="all").model
    folder = save(small, tmp_path / "small")
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(load(folder, skeleton=convolutional())(x), small.eval()(x))
    with pytest.raises(ValueError, match="no model of transformers: build one and pass it as skeleton="):
        load(folder)
    with pytest.raises(ValueError, match="Linear has no layer '0': it is not the model that was compressed"):
        load(folder, skeleton=nn.Linear(2, 2))


def test_tensors_with_two_names_are_saved_once(tmp_path):
    def build():
        layer, table, head = nn.Linear(12, 12), nn.Embedding(9, 12), nn.Linear(12, 9)
        head.weight = table.weight
        return nn.Sequential(table, layer, nn.ReLU(), layer, head)

    small = compress(build(), "svd", rank_rule=FixedRank(2)).model
    folder = save(small, tmp_path / "small")
    known = load_file(folder / "model.safetensors")
    assert len(known) == 1 + 3 + 1  # table, two factors and a bias, the head's bias
    loaded = load(folder, skeleton=build())
    assert loaded[1] is loaded[3]
    assert loaded[0].weight is loaded[4].weight
    ids = torch.arange(9)
    torch.testing.assert_close(loaded(ids), small.eval()(ids))


def test_nothing_is_overwritten_and_damage_is_named(tmp_path):
    small = compress(mlp(), "svd").model
    (tmp_path / "note").write_text("mine")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        save(small, tmp_path)
    with pytest.raises(ValueError, match="Sequential has no compressed layer"):
        save(mlp(), tmp_path / "dense")
    with pytest.raises(FileNotFoundError, match=r"holds no fullrank\.json"):
        load(tmp_path)
    (tmp_path / "fullrank.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load(tmp_path)
    (tmp_path / "fullrank.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99, this Fullrank reads up to 1"):
        load(tmp_path)


def test_an_interrupted_compression_goes_on_behind_the_last_finished_layer(tmp_path, monkeypatch):
    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(mlp(), "svd", resume=tmp_path, on_progress=stop)
    computed = []
    replace = SVDMethod._replace
    monkeypatch.setattr(
        SVDMethod, "_replace", lambda self, layer, *rest: computed.append(layer.name) or replace(self, layer, *rest)
    )
    resumed = compress(mlp(), "svd", resume=tmp_path)
    assert computed == ["4"]
    whole = compress(mlp(), "svd")
    x = torch.randn(3, 12)
    torch.testing.assert_close(resumed.model(x), whole.model(x), rtol=0, atol=0)
    assert resumed.report.layers == whole.report.layers
    with pytest.raises(ValueError, match="holds layers of another compression"):
        compress(mlp(), "svd", resume=tmp_path, rank_rule=FixedRank(1))


def test_the_report_is_read_and_written(tmp_path):
    report = compress(bert(), "svd", target_modules=["query", "key", "embeddings.word_embeddings"]).report
    console = Console(width=120, record=True)
    console.print(report.to_table())
    text = console.export_text()
    assert "parameters became" in text
    assert "is left: its type is Embedding" in text
    rows = report.to_rows()
    assert sum(row["share_of_loss"] for row in rows) == pytest.approx(1)
    for suffix in (".json", ".csv", ".parquet"):
        assert report.save(tmp_path / f"report{suffix}").stat().st_size > 100
    assert 0 < report.kept_in_layers < 0.6


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="method='fwsdv' is not known; did you mean 'fwsvd'"):
        compress(mlp(), "fwsdv")
    with pytest.raises(ValueError, match="method 'svd' has no option 'ranks'; it has rank_rule"):
        compress(mlp(), "svd", ranks=3)
    with pytest.raises(ValueError, match="belong to a method given by name"):
        compress(mlp(), SVDMethod(), split="right")
    with pytest.raises(ValueError, match="method 'whiten' needs data"):
        compress(mlp(), "whiten")
    broken = mlp()
    broken[2].weight.data[3, 1] = float("nan")
    with pytest.raises(ValueError, match="2: "):
        compress(broken, "svd")


@pytest.mark.parametrize("method", ["svd", "snmf"])
def test_a_number_is_no_rule(method, unchecked):
    with pytest.raises(TypeError, match=r"rank_rule=0\.5 is no rule of ranks: FixedRank\(16\)"):
        compress(mlp(), method, rank_rule=0.5)


def test_every_method_has_a_name_of_its_own():
    assert len({make().name for name, make in METHODS.items() if name in FACTORISATIONS}) >= 4
