"""Hydra against the authors' code: outputs, gradients, merged weights; alone and inside a block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from fullrank.adapt import HydraConfig

_LINEAR = {"in", "out", "r_par", "r_seq", "scale", "adapter_bias", "base_bias", "dropout"}
_BLOCK = {"d", "heads", "r_par", "r_seq", "scale", "adapter_bias", "dropout"}


class _Single(nn.Module):
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.adapted = _linear(tensors["W0"], tensors.get("b0"))

    def forward(self, x: Tensor) -> Tensor:
        return self.adapted(x)


class _FeedForward(nn.Module):
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.fc1 = _linear(tensors["fc1_w"], tensors.get("fc1_b"))
        self.adapted = _linear(tensors["fc2_w"], tensors.get("fc2_b"))

    def forward(self, x: Tensor) -> Tensor:
        return self.adapted(nn.functional.gelu(self.fc1(x)))


class _Attention(nn.Module):
    def __init__(self, tensors: dict[str, Tensor], heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _linear(tensors["qkv_w"], tensors.get("qkv_b"))
        self.adapted = _linear(tensors["proj_w"], tensors.get("proj_b"))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.adapted(mixed.transpose(1, 2).flatten(-2))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


def _model(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    if "W0" in tensors:
        assert set(config) == _LINEAR, "an option that this test does not know"
        assert config["base_bias"] == ("b0" in tensors)
        return _Single(tensors)
    assert set(config) == _BLOCK, "an option that this test does not know"
    return _FeedForward(tensors) if "fc2_w" in tensors else _Attention(tensors, config["heads"])


def _ours(name: str) -> str:
    """par_down_w -> par_A, seq_up_b -> seq_B_bias"""
    branch, side, kind = name.split("_")
    return f"{branch}_{'A' if side == 'down' else 'B'}{'_bias' if kind == 'b' else ''}"


@pytest.mark.golden("hydra")
def test_golden(case: Any) -> None:
    spec, tensors = case.spec, case.tensors
    config = spec["config"]
    tolerance = {name: spec["tolerance_float32"][name] for name in ("atol", "rtol")}
    adapter = HydraConfig(
        target_modules=["adapted"],
        r=config["r_par"],
        r_seq=config["r_seq"],
        scaling=config["scale"],
        adapter_bias=config["adapter_bias"],
        hydra_dropout=config["dropout"],
        create_bias=True,
    )
    model = get_peft_model(_model(config, tensors), adapter)
    delta = next(model.base_model.deltas())
    theirs = [name for name in tensors if name.startswith(("par_", "seq_"))]
    assert {_ours(name) for name in theirs} == set(dict(delta.named_parameters()))
    for name in theirs:
        getattr(delta, _ours(name)).data = tensors[name].clone()

    x = tensors["x"].clone().requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, tensors["y"], **tolerance)
    (y * tensors["gy"]).sum().backward()
    torch.testing.assert_close(x.grad, tensors["grad_x"], **tolerance)
    for name in theirs:
        torch.testing.assert_close(getattr(delta, _ours(name)).grad, tensors[f"grad_{name}"], **tolerance)

    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(tensors["x"]), tensors["y"], atol=1e-4, rtol=1e-4)
    if "merged_w" in tensors:
        torch.testing.assert_close(merged.adapted.weight, tensors["merged_w"], **tolerance)
    if "merged_b" in tensors:
        torch.testing.assert_close(merged.adapted.bias, tensors["merged_b"], **tolerance)
