import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import nn

from fullrank.compress import (
    METHODS,
    Grid,
    Layer,
    LoRCConfig,
    LoRCMethod,
    QuantizedLinear,
    compress,
    dequantize_model,
    export_adapter,
    lorc_factors,
    quantization_sensitivity,
    quantize_lorc,
    sensitivity_class,
)
from fullrank.compress.calibration import LayerInputs
from fullrank.compress.lorc import compensate
from fullrank.compress.statistics import collect_statistics
from fullrank.linalg import singular_values

from .models import bert, gpt2, mlp, texts


def _weight(outputs=40, inputs=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator)


def _inputs(inputs=32, samples=300, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    return torch.randn(samples, inputs, generator=generator) @ mixing * torch.logspace(-1, 1, inputs)


# --- the factors ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(0, 12), bits=st.integers(2, 8), seed=st.integers(0, 20))
def test_what_is_left_is_the_tail_of_the_spectrum(rank, bits, seed):
    weight = _weight(16, 12, seed).double()
    quantised = Grid(bits).quantize(weight).dequantize(torch.float64)
    A, B = lorc_factors(weight, quantised, rank, svd="exact")
    assert A.shape == (rank, 12)
    assert B.shape == (16, rank)
    E = weight - quantised
    tail = singular_values(E)[rank:].square().sum()
    torch.testing.assert_close((E - B @ A).square().sum(), tail, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(A.norm(dim=1), B.norm(dim=0))


def test_full_rank_recovers_the_weight():
    weight = _weight()
    quantised = Grid(2).quantize(weight).dequantize()
    A, B = lorc_factors(weight, quantised, 32)
    torch.testing.assert_close(quantised + B @ A, weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(96, 128), (200, 64), (1024, 1024), (768, 3072)])
def test_the_randomised_factors_hold_as_much_as_the_exact_ones(shape):
    weight = _weight(*shape)
    quantised = Grid(4).quantize(weight).dequantize()
    captured = {}
    for method in ("exact", "randomized"):
        A, B = lorc_factors(weight, quantised, 8, svd=method)
        E = weight - quantised
        captured[method] = float(E.square().sum() - (E - B @ A).square().sum())
    assert captured["randomized"] >= 0.99 * captured["exact"]


def test_a_constant_scale_changes_nothing_and_the_right_one_helps_the_output():
    weight, x = _weight(), _inputs()
    quantised = Grid(3).quantize(weight).dequantize()
    plain = lorc_factors(weight, quantised, 4, svd="exact")
    for scale in (torch.full((32,), 2.5), 2.5 * torch.eye(32)):
        A, B = lorc_factors(weight, quantised, 4, scale, svd="exact")
        torch.testing.assert_close(B @ A, plain[1] @ plain[0], rtol=1e-4, atol=1e-4)
    moments = (x.mT @ x / len(x)).double()
    values, vectors = torch.linalg.eigh(moments)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    errors = {}
    for name, scale in (("none", None), ("diag", moments.diagonal().sqrt()), ("exact", root)):
        A, B = lorc_factors(weight.double(), quantised.double(), 4, scale, svd="exact")
        errors[name] = float((x.double() @ (weight - quantised - B @ A).mT).square().sum())
    assert errors["exact"] <= errors["diag"] * (1 + 1e-9) < errors["none"]


def test_inputs_that_never_occur_weigh_nothing():
    weight = _weight()
    quantised = Grid(3).quantize(weight).dequantize()
    scale = torch.ones(32)
    scale[[2, 7]] = 0
    for S in (scale, torch.diag(scale)):
        A, B = lorc_factors(weight, quantised, 5, S)
        assert A.isfinite().all()
        assert (B @ A)[:, [2, 7]].abs().max() < 1e-6
    assert compensate(weight, Grid(3).quantize, 5, torch.diag(scale)).dead_inputs == 2
    x = torch.randn(60, 12)
    x[:, [1, 4]] = 0
    config = LoRCConfig(4, -1, rank=2, scaling="exact", target_modules=["0"])
    (layer,) = quantization_sensitivity(mlp(), config, [x]).layers
    assert layer.dead_inputs == 2


@settings(max_examples=20, deadline=None)
@given(bits=st.integers(2, 4), rank=st.integers(1, 12), seed=st.integers(0, 20))
def test_the_weight_error_falls_as_it_is_stored(bits, rank, seed):
    weight = _weight(24, 16, seed)
    made = compensate(weight, Grid(bits).quantize, rank)
    E = weight - made.quantized.dequantize()
    assert float((E - made.factors.product()).norm()) < float(E.norm())


def test_more_iterations_lose_less():
    weight = _weight(64, 48)
    errors = []
    for iterations in (1, 5):
        made = compensate(weight, Grid(2).quantize, 8, iterations=iterations, lowrank_dtype="float32", svd="exact")
        errors.append(float((weight - made.quantized.dequantize() - made.factors.product()).norm()))
    assert errors[1] < errors[0]


# --- models -----------------------------------------------------------------------------------------------------------


def _loss(model, small, data):
    with torch.no_grad():
        batch = {name: value for name, value in data.items() if name != "labels"}
        return float((model(**batch).logits - small(**batch).logits).square().mean())


@pytest.mark.parametrize("quantizer", ["rtn", "gptq", "zeroquant-local"])
@pytest.mark.parametrize("scaling", ["none", "lqer", "diag", "exact"])
def test_every_quantiser_takes_every_scaling(quantizer, scaling):
    model, data = bert(), texts()
    config = LoRCConfig(3, 8, quantizer=quantizer, scaling=scaling, rank=4, target_modules=["query", "key"])
    small = quantize_lorc(model, config, data)
    layers = [module for module in small.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 4
    assert {(layer.bits, layer.rank, layer.groups) for layer in layers} == {(3, 4, 3)}
    assert 0 < _loss(model, small, data[0]) < 1e-2


def test_a_method_by_name_with_its_defaults():
    data = [torch.randn(30, 12)]
    sizes = {}
    for name in ("rtn", "gptq", "lorc"):
        options = {"rank": 2} if name == "lorc" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            small = compress(mlp(), name, data=data, group_size=-1, **options)
        assert small.report.method == name
        assert {layer.kind for layer in small.report.layers} == {"quantized-linear"}
        assert small.report.options["bits"] == 4
        assert small.report.parameters_after >= small.report.parameters_before
        sizes[name] = small.report.bytes_after
    assert sizes["rtn"] == sizes["gptq"] < sizes["lorc"]
    assert set(sizes) <= set(METHODS)


def test_patterns_give_layers_their_own_bits_and_ranks():
    config = LoRCConfig(4, -1, rank=2, rank_pattern={"2": 0, "4": 3}, bits_pattern={"0": 8})
    small = quantize_lorc(mlp(), config)
    assert [(small[place].bits, small[place].rank) for place in (0, 2, 4)] == [(8, 2), (4, 0), (4, 3)]
    names = LoRCConfig(rank_pattern={r"layer\.1\..*": 5})
    assert LoRCConfig(rank=np.int64(8), rank_pattern={r"layer\.1\..*": np.int16(5)}).to_dict() == names.to_dict()
    assert [names.rank_of(f"bert.layer.{layer}.dense") for layer in (0, 1)] == [8, 5]


def test_rank_zero_is_the_bare_quantiser():
    small = quantize_lorc(mlp(), LoRCConfig(3, -1, rank=0))
    expected = Grid(3).quantize(mlp()[0].weight.detach()).dequantize()
    torch.testing.assert_close(small[0].dequantize(), expected, rtol=0, atol=0)


def test_later_layers_are_calibrated_behind_compensated_ones():
    model, data = bert(), texts()
    layers = [f"bert.encoder.layer.0.{name}" for name in ("intermediate.dense", "output.dense")]
    dense = quantize_lorc(model, LoRCConfig(2, 8, quantizer="gptq", rank=0, target_modules=layers[1:]), data)
    behind = quantize_lorc(model, LoRCConfig(2, 8, quantizer="gptq", rank=0, target_modules=layers), data)
    one, other = (small.get_submodule(layers[1]).dequantize() for small in (dense, behind))
    assert not torch.equal(one, other)


def test_the_inputs_of_a_layer_are_those_of_the_room_and_shared_where_they_are_the_same():
    model, data = bert(), texts()
    layers = [
        Layer(name, model.get_submodule(name))
        for name in (f"bert.encoder.layer.0.attention.self.{part}" for part in ("query", "key", "value"))
    ]
    calls = []
    hook = model.register_forward_pre_hook(lambda *rest: calls.append(1))
    inputs = LayerInputs(model, (batch for batch in data), layers)
    found = [inputs.of(layer) for layer in layers]
    hook.remove()
    assert len(calls) == len(data)
    assert found[0] is found[1] is found[2]
    expected = collect_statistics(model, data, layers, ("moments", "mean_abs", "mean_square"))[layers[0].name]
    for name in ("moments", "mean_abs", "mean_square"):
        torch.testing.assert_close(getattr(found[0], name).double(), getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert found[0].positions == expected.positions


def test_layers_that_the_data_do_not_reach_are_left():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    small = compress(Forked(), "gptq", data=[torch.randn(20, 8)], group_size=-1)
    assert small.report.left == {"unused": "the calibration data do not reach it"}


def test_the_compensation_is_a_lora_adapter(tmp_path):
    model, data = bert(), texts()
    config = LoRCConfig(3, 8, rank=4, rank_pattern={"query": 2, "key": 0})
    small = quantize_lorc(model, config)
    folder = export_adapter(small, tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(dequantize_model(small, compensated=False), folder)
    assert _loss(small, adapted, data[0]) < 1e-10
    assert _loss(small, dequantize_model(small), data[0]) < 1e-10
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["r"] == written["lora_alpha"] == 4
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        export_adapter(small, folder)
    with pytest.raises(ValueError, match="no layer has a compensation to export"):
        export_adapter(quantize_lorc(model, LoRCConfig(3, 8, rank=0)), tmp_path / "bare")
    with pytest.raises(ValueError, match="BertForSequenceClassification has no quantised layer"):
        export_adapter(model, tmp_path / "dense")


def test_the_sensitivity_of_every_layer(tmp_path):
    model, data = gpt2(), [{"input_ids": torch.arange(12)[None]}]
    report = quantization_sensitivity(model, LoRCConfig(3, -1, rank=4), data)
    assert len(report.layers) == 8
    for layer in report.layers:
        assert layer.weight_error_compensated < layer.weight_error
        assert layer.output_error is not None
        assert 0 < layer.captured < 1
        assert 1 <= layer.effective_rank <= min(layer.shape)
        energies = torch.tensor(layer.spectrum).square()
        assert layer.captured == pytest.approx(float(energies[:4].sum() / energies.sum()), abs=0.02)
    assert all(type(module).__name__ == "Conv1D" for _, module in model.named_modules() if hasattr(module, "nf"))
    for suffix in (".json", ".csv", ".parquet"):
        assert report.save(tmp_path / f"report{suffix}").stat().st_size > 100
    without = quantization_sensitivity(model, LoRCConfig(3, -1, rank=4))
    assert without.layers[0].output_error is None
    assert [sensitivity_class(rise) for rise in (0.05, 0.1, 0.3, 0.5, 2.0)] == [1, 1, 2, 2, 3]


def test_the_report_counts_inputs_that_never_occur(tmp_path):
    model, x = nn.Sequential(nn.Linear(16, 12)), torch.randn(40, 16)
    x[:, [2, 5, 7]] = 0
    method = LoRCMethod(LoRCConfig(group_size=8, rank=2, scaling="diag", bits=3))
    for _ in range(2):  # the second time from the finished layers
        report = compress(model, method, data=[x], resume=tmp_path).report
        assert [layer.dead_inputs for layer in report.layers] == [3]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits=1: whole numbers from 2 to 8"),
        ({"bits_pattern": {"query": 16}}, "bits=16: whole"),
        ({"rank": -1}, "rank=-1: 0 "),
        ({"iterations": 0}, "iterations=0: 1 "),
        ({"rank": 2.5}, r"rank=2\.5: 0 "),
        ({"rank": True}, "rank=True: 0 "),
        ({"iterations": 1.5}, r"iterations=1\.5: 1 "),
        ({"group_size": 2.5}, r"group_size=2\.5: -1"),
        ({"quantizer": "awq"}, "quantizer='awq' is not known; accepted: rtn, gptq, zeroquant-local"),
        ({"scaling": "qera"}, "scaling='qera' is not known; accepted: none, lqer, diag, exact"),
        ({"lowrank_dtype": "int4"}, "lowrank_dtype='int4' is not known"),
        ({"svd": "fast"}, "svd='fast' is not known"),
        ({"activations": "int4"}, "activations='int4' is not known"),
        ({"grid": "nf4"}, "grid='nf4' is not known"),
    ],
)
def test_impossible_configurations_are_refused(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LoRCConfig(**options)


def test_what_does_not_fit_a_layer_names_it():
    with pytest.raises(ValueError, match=r"^0: group_size=128 does not divide its 12 inputs"):
        quantize_lorc(mlp())
    with pytest.raises(ValueError, match=r"^4: rank=8 does not fit its shape \(5, 14\): 0 to 5 is accepted"):
        quantize_lorc(mlp(), LoRCConfig(4, -1))
    for options in ({"quantizer": "gptq"}, {"scaling": "diag"}, {"quantizer": "zeroquant-local", "rank": 0}):
        with pytest.raises(ValueError, match=r"needs data: give calibration data.*128 sequences of 2048 tokens"):
            quantize_lorc(mlp(), LoRCConfig(4, -1, **{"rank": 2, **options}))
    assert not LoRCConfig(rank=0, scaling="diag").needs_data
    with pytest.raises(ValueError, match="data holds no batch"):
        quantize_lorc(mlp(), LoRCConfig(4, -1, rank=2, scaling="diag"), [])
    broken = mlp()
    broken[2].weight.data[3, 1] = float("inf")
    with pytest.raises(ValueError, match=r"^2 has inf at \(3, 1\)"):
        quantize_lorc(broken, LoRCConfig(4, -1, rank=2))
    with pytest.raises(ValueError, match=r"^0: its calibration inputs are not finite"):
        quantize_lorc(mlp(), LoRCConfig(4, -1, rank=2, scaling="diag"), [torch.full((4, 12), float("nan"))])
    with pytest.raises(ValueError, match="method 'lorc' has no option 'ranks'; it has bits"):
        LoRCMethod(ranks=3)


def test_a_model_that_is_quantised_already_is_refused():
    small = quantize_lorc(mlp(), LoRCConfig(4, -1, rank=2))
    with pytest.raises(TypeError, match=r"0 is quantised already \(QuantizedLinear\): LoRC needs the original weight"):
        quantize_lorc(small, LoRCConfig(4, -1, rank=2))
    other = mlp()
    other[2].weight = nn.Parameter(torch.zeros(14, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="2 is quantised already"):
        quantization_sensitivity(other, LoRCConfig(4, -1, rank=2))


def test_factors_that_cost_more_than_they_save_are_warned_of():
    config = LoRCConfig(4, -1, rank=0, rank_pattern={"0": 7}, lowrank_dtype="float16")
    with pytest.warns(UserWarning, match=r"^0: codes, scales and factors take .* bits a weight, which had 16: factors"):
        small = quantize_lorc(mlp().half(), config)
    assert small[0].bits_per_weight > 16


def test_bad_factors_are_refused(unchecked):
    weight = _weight()
    with pytest.raises(
        TypeError, match="quantized_weight is NoneType: LoRC needs the original weight and the quantised"
    ):
        lorc_factors(weight, None, 2)
    with pytest.raises(TypeError, match=r"quantized_weight is torch\.int8"):
        lorc_factors(weight, weight.to(torch.int8), 2)
    with pytest.raises(ValueError, match=r"weight has shape \(40, 32\), quantized_weight \(32, 40\)"):
        lorc_factors(weight, weight.mT, 2)
    for rank in (-1, 33, 2.5):
        with pytest.raises(ValueError, match=rf"rank={rank} does not fit its shape \(40, 32\): 0 to 32"):
            lorc_factors(weight, weight, rank)
    with pytest.raises(ValueError, match=r"scale has shape \(40,\): \(32,\) or \(32, 32\) fits"):
        lorc_factors(weight, weight, 2, torch.ones(40))
    with pytest.raises(ValueError, match="scale has a negative entry"):
        lorc_factors(weight, weight, 2, -torch.ones(32))
    with pytest.raises(ValueError, match="the scale of weight has nan"):
        lorc_factors(weight, weight, 2, torch.full((32,), float("nan")))
    with pytest.raises(ValueError, match="the quantised weight has nan"):
        lorc_factors(weight, weight * float("nan"), 2)
