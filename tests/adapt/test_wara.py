from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fullrank.adapt import WaraConfig, analysis_matrix

from .conformance import Conformance


class TestSubbands(Conformance):
    lora_rank = 12

    def config(self, **options):
        return WaraConfig(**({"r": 2} | options))


class TestPerBand(Conformance):
    def config(self, **options):
        return WaraConfig(**({"r": 2, "mode": "per_band", "levels": 2, "wavelet": "db2", "wara_alpha": 3.0} | options))


class TestShared(Conformance):
    def config(self, **options):
        return WaraConfig(**({"r": 2, "mode": "shared", "wavelet": "db2"} | options))


class TestTiny(Conformance):
    lora_rank = 12

    def config(self, **options):
        return WaraConfig(**({"mode": "tiny", "svd_rank": 2, "tiny_projections": 3} | options))


# --- the derivation in NumPy ------------------------------------------------------------------------------------------


def adapted(weight, bias=None, **options):
    """One adapted linear layer of the shape of `weight`, built as a user builds it, and its delta."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.weight.data = weight.clone()
    if bias is not None:
        linear.bias.data = bias.clone()
    layer = get_peft_model(nn.Sequential(linear), WaraConfig(target_modules=["0"], **options)).base_model.model[0]
    return layer, layer.deltas["default"]


def pack(tensors, letter):
    count = sum(name[0] == letter and name[1:].isdigit() for name in tensors)
    return torch.cat([tensors[f"{letter}{band}"].flatten() for band in range(count)])


@pytest.mark.golden("wara")
@pytest.mark.filterwarnings("ignore:this WaRA is algebraically")
def test_golden(case):
    tensors, config = case.tensors, dict(case.spec["config"])
    tolerance = {name: case.spec["tolerance_float32"][name] for name in ("atol", "rtol")}
    grid = "grid" in config
    options = {name: config.pop(name) for name in ("r", "wavelet", "levels")}
    options |= {"wara_alpha": config.pop("scale") * options["r"], "mode": "grid" if grid else config.pop("mode")}
    if grid:
        options |= {"grid_size": config.pop("grid"), "num_prefix_tokens": config.pop("prefix_tokens")}
        options |= {"activation": config.pop("activation"), "band_gates": "gamma" in tensors}
    shape = config.pop("out"), config.pop("in")
    assert set(config) <= {"tokens"}, "an option that this test does not know"
    assert tensors["W0"].shape == shape
    layer, delta = adapted(tensors["W0"], tensors.get("b0"), **options)
    x = tensors["x"].clone().requires_grad_()
    if grid:
        delta.A.data, delta.B.data = tensors["A"].flatten(), tensors["B"].flatten()
        if delta.gate is not None:
            gamma = tensors["gamma"]
            delta.gate.data.copy_(gamma[:, None] if gamma.ndim == 1 else gamma)
        torch.testing.assert_close(layer(x), tensors["y"], **tolerance)
        return
    delta.A.data, delta.B.data = pack(tensors, "A"), pack(tensors, "B")
    y = layer(x)
    torch.testing.assert_close(y, tensors["y"], **tolerance)
    torch.testing.assert_close(delta.weight(), tensors["delta_w"], **tolerance)
    for size, name in zip(shape, ("T_out", "T_in"), strict=True):
        T = analysis_matrix(size, options["wavelet"], options["levels"])
        torch.testing.assert_close(T.float(), tensors[name], **tolerance)

    (y * tensors["gy"]).sum().backward()
    grads = {"grad_x": x.grad, "A": delta.A.grad, "B": delta.B.grad}
    expected = {"grad_x": tensors["grad_x"]} | {
        letter: pack({name.removeprefix("grad_"): value for name, value in tensors.items() if "grad_" in name}, letter)
        for letter in "AB"
    }
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, expected[name], **case.spec["tolerance_float32"]["grads"])
    layer.merge()
    torch.testing.assert_close(layer.base_layer.weight, tensors["merged_w"], **tolerance)
