import copy
import gc
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForSequenceClassification

from fullrank.compress import (
    Factors,
    Grid,
    LoRCConfig,
    QuantizedLinear,
    compress,
    describe_layers,
    load,
    lorc_factors,
    quantize_lorc,
    save,
)
from fullrank.compress import packed_matmul as packed
from fullrank.compress.quantized_linear import round_tokens

from .models import bert, gpt2, mlp, texts


def quantized_layer(bits=4, group=-1, rank=3, inputs=24, outputs=10, dtype="int8", activations=None, **options):
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs)
    quantized = Grid(bits, group, **options).quantize(linear.weight.detach())
    E = linear.weight.detach() - quantized.dequantize()
    A, B = lorc_factors(linear.weight.detach(), quantized.dequantize(), rank)
    layer = QuantizedLinear.from_linear(linear, quantized, Factors.rounded(A, B, E, dtype), activations)
    return linear, layer


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("batch", [(), (1,), (2, 37), (0,)])
def test_four_bits_in_bfloat16_are_multiplied_by_torch_where_it_can(group, sym, batch):
    _, layer = quantized_layer(4, group, inputs=512, outputs=48, sym=sym)
    x = torch.randn(*batch, 512).bfloat16().requires_grad_()
    y = layer(x)
    expected = nn.functional.linear(x.detach().double(), layer.dequantize().double(), layer.bias.double())
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=2e-2, atol=2e-2 * 3)
    if 0 not in batch:
        assert (layer.qweight in packed._tiles) == (torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"))
    gradient = torch.autograd.grad(y.sum(), x)[0].float()
    wanted = layer.dequantize().sum(0).expand_as(x)
    torch.testing.assert_close(gradient, wanted, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("changed", ["qweight", "scales", "zeros"])
def test_a_weight_that_was_edited_is_multiplied_as_it_is_now(changed):
    _, layer = quantized_layer(4, 32, rank=0, inputs=64, outputs=16)
    x = torch.randn(3, 64).bfloat16()
    before = layer(x)
    buffer = getattr(layer, changed)
    buffer.copy_(buffer.flip(0))
    after, expected = layer(x), nn.functional.linear(x.float(), layer.dequantize(), layer.bias)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after.float(), expected, rtol=2e-2, atol=5e-2)


def test_the_copy_for_torchs_product_is_neither_saved_nor_copied_and_goes_with_its_layer():
    _, layer = quantized_layer(4, 32, inputs=64, outputs=16)
    size, held = len(pickle.dumps(layer)), len(packed._tiles)
    layer(torch.randn(3, 64).bfloat16())
    assert len(pickle.dumps(layer)) == size
    assert copy.deepcopy(layer).qweight not in packed._tiles
    del layer
    gc.collect()
    assert len(packed._tiles) <= held


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(2, 8),
    group=st.sampled_from([-1, 4, 12]),
    rank=st.sampled_from([0, 1, 5]),
    sym=st.booleans(),
    batch=st.sampled_from([(), (1,), (3,), (2, 5), (0,)]),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
)
def test_the_output_is_that_of_the_dequantised_weight(bits, group, rank, sym, batch, dtype):
    _, layer = quantized_layer(bits, group, rank, dtype=dtype, sym=sym)
    x = torch.randn(*batch, 24, requires_grad=True)
    expected = nn.functional.linear(x, layer.dequantize(), layer.bias)
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(expected.sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(("bits", "group"), [(4, 8), (3, 8), (2, 2), (2, -1)])
def test_the_weight_is_unpacked_a_block_at_a_time(rows, bits, group, monkeypatch):
    _, layer = quantized_layer(bits, group, outputs=64)
    x = torch.randn(4, 24, requires_grad=True)
    expected = layer(x)
    seen = []
    dequantize = packed.dequantize
    monkeypatch.setattr(packed, "_BLOCK", 24 * rows)
    monkeypatch.setattr(
        packed, "dequantize", lambda codes, *rest: seen.append(codes.numel()) or dequantize(codes, *rest)
    )
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert max(seen) <= 24 * rows
    assert sum(seen) == 2 * 64 * 24


def test_the_operator_is_sound_for_autograd_and_compile():
    script = Path(__file__).with_name("compiling.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_output_has_the_dtype_of_the_input(dtype):
    linear, layer = quantized_layer(8)
    x = torch.randn(3, 24)
    y = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), linear(x), rtol=0.05, atol=0.05)
    assert layer.qweight.dtype == torch.uint8
    assert layer.lorc_A.dtype == torch.int8


def test_autocast_keeps_its_dtype():
    _, layer = quantized_layer(8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("activations", ["int8", "int8-asymmetric"])
def test_activations_are_rounded_token_by_token(activations):
    _, layer = quantized_layer(activations=activations)
    _, plain = quantized_layer()
    x = torch.randn(5, 24) * torch.logspace(-3, 3, 5).unsqueeze(1)
    y, expected = layer(x).detach(), plain(x).detach()
    assert not torch.equal(y, expected)
    error = (y - expected).norm(dim=1) / (expected - plain.bias.detach()).norm(dim=1).clamp_min(1e-9)
    assert float(error.max()) < 0.03  # a token of small values loses no more than one of large ones
    rounded = round_tokens(x, activations == "int8")
    assert all(len(row.unique()) <= 256 for row in rounded)
    x.requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand_as(x), rtol=1e-4, atol=1e-5)
    assert round_tokens(torch.zeros(2, 3), activations == "int8").abs().max() == 0


def test_bits_per_weight_counts_everything():
    _, layer = quantized_layer(4, 8, rank=2, inputs=32, outputs=16)
    numbers = 4 * 512 + (16 + 8) * 64 + 8 * 2 * 48 + 32 * 2
    assert layer.bits_per_weight == numbers / 512
    assert layer.packed_values == 512 + 2 * 48
    assert "bits=4" in repr(layer)


def test_int8_factors_lose_little_of_the_compensation():
    for seed in range(3):
        torch.manual_seed(seed)
        weight = torch.randn(64, 48)
        quantized = Grid(3).quantize(weight)
        E = weight - quantized.dequantize()
        A, B = lorc_factors(weight, quantized.dequantize(), 8, svd="exact")
        errors = {dtype: float((E - Factors.rounded(A, B, E, dtype).product()).norm()) for dtype in ("int8", "float32")}
        assert errors["int8"] < 1.001 * errors["float32"]
        assert errors["float32"] < float(E.norm())


def test_the_error_report_needs_the_original_weight():
    linear, layer = quantized_layer(3)
    x = torch.randn(50, 24)
    report = layer.error_report(x, linear.weight.detach())
    assert report["weight"] < report["weight without compensation"]
    assert report["output"] < report["output without compensation"]
    bare = linear.weight.detach() - layer.dequantize(compensated=False)
    assert report["output without compensation"] == pytest.approx(float((x @ bare.mT).square().mean()), rel=1e-4)
    with pytest.raises(ValueError, match="weight is missing: this layer holds the quantised weight only"):
        layer.error_report(x)


def test_a_dense_layer_comes_back():
    _, layer = quantized_layer()
    x = torch.randn(3, 24)
    torch.testing.assert_close(layer.to_linear()(x), layer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.to_linear(False).weight, layer.dequantize(False))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_dense_layer_comes_back_in_the_dtype_of_the_model(dtype, bias):
    linear = nn.Linear(24, 10, bias=bias, dtype=dtype)
    layer = QuantizedLinear.from_linear(linear, Grid(4).quantize(linear.weight.detach()))
    assert layer.to_linear().weight.dtype == dtype
    assert layer.float().to_linear().weight.dtype == torch.float32


def test_impossible_layers_are_refused():
    with pytest.raises(ValueError, match="bits=9"):
        QuantizedLinear(4, 4, 9)
    with pytest.raises(ValueError, match="groups=3 does not divide in_features=4"):
        QuantizedLinear(4, 4, 4, 3)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"group_size": -1, "sym": True, "rank": 2}, {"group_size": 8, "rank": 0}])
def test_a_model_of_transformers_is_saved_and_loaded(options, tmp_path):
    small = compress(bert(), "lorc", **options)
    assert small.report.bytes_after < small.report.bytes_before
    folder = save(small.model, tmp_path / "small", small.report)
    data = {name: value for name, value in texts()[0].items() if name != "labels"}
    for loaded in (load(folder), AutoModelForSequenceClassification.from_pretrained(folder)):
        assert describe_layers(loaded) == describe_layers(small.model)
        with torch.no_grad():
            torch.testing.assert_close(loaded(**data).logits, small.model(**data).logits, rtol=0, atol=0)
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    layer = half.bert.encoder.layer[0].attention.self.query
    assert layer.scales.dtype == torch.float16
    assert layer.qweight.dtype == torch.uint8
    described = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert {layer["kind"] for layer in described["layers"].values()} == {"quantized-linear"}


def test_another_module_and_interrupted_work(tmp_path):
    options = {"group_size": -1, "rank": 2, "lowrank_dtype": "float16"}
    whole = compress(mlp(), "lorc", **options)
    folder = save(whole.model, tmp_path / "small")
    x = torch.randn(3, 12)
    torch.testing.assert_close(load(folder, skeleton=mlp())(x), whole.model(x), rtol=0, atol=0)

    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(mlp(), "lorc", resume=tmp_path / "work", on_progress=stop, **options)
    resumed = compress(mlp(), "lorc", resume=tmp_path / "work", **options)
    torch.testing.assert_close(resumed.model(x), whole.model(x), rtol=0, atol=0)
    assert resumed.report.layers == whole.report.layers


def test_conv1d_is_quantised_along_its_inputs():
    model = gpt2()
    small = quantize_lorc(model, LoRCConfig(8, -1, rank=0))
    layer = small.transformer.h[0].attn.c_attn
    assert isinstance(layer, QuantizedLinear)
    dense = model.transformer.h[0].attn.c_attn
    torch.testing.assert_close(layer.dequantize(), dense.weight.detach().mT, rtol=0, atol=2e-3)
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-2)


def test_layers_are_copied_and_moved():
    _, layer = quantized_layer()
    x = torch.randn(3, 24)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
    moved = layer.to("meta")
    assert moved.qweight.is_meta
    assert moved(x.to("meta")).shape == (3, 10)
