"""X-LoRA's gate: from a hidden state to how much of every expert a token gets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, relu


@dataclass
class XLoraGateConfig:
    """Configuration of X-LoRA; the fields are named as in PEFT's `XLoraConfig`.

    Args:
        hidden_size: width of the base model's hidden states. Default: what the model's configuration says.
        adapters: expert name -> path or hub id of its LoRA checkpoint, None for an adapter that the model holds
            already. Default: all adapters of the model. Their order is that of the gate's outputs.
        xlora_depth: number of linear layers of the gate. Default 1.
        xlora_size: width between them. Default 2048; without effect at depth 1.
        xlora_dropout_p: dropout after each hidden layer of the gate. Default 0.2.
        enable_softmax: softmax over the experts; otherwise the gate's outputs are the scalings. Default True.
        enable_softmax_topk: softmax over the experts that `top_k_lora` keeps, token by token; needs
            `enable_softmax=False`. Default False.
        softmax_temperature: divides the outputs before the softmax. Default 1.
        layerwise_scalings: scalings of their own for every adapted layer. Default False.
        top_k_lora: keep the k largest scalings of a token at a layer, without renormalising. Default: keep all.
        scaling_pass_value: every expert's scaling in the pass that the gate reads. Default 0: the base model.
        global_scaling_weight: factor of all experts. Default 1.
        use_trainable_adapters: train the experts as well. Default False.
        use_bias: biases in the gate. Default True.
        enable_relu_and_dropout: False leaves the gate linear at any depth, as in the official repository. Default True.

    Raises:
        ValueError: naming the field, the value and what is accepted.
    """

    hidden_size: int | None = None
    adapters: dict[str, str | None] | None = None
    xlora_depth: int = 1
    xlora_size: int = 2048
    xlora_dropout_p: float = 0.2
    enable_softmax: bool = True
    enable_softmax_topk: bool = False
    softmax_temperature: float = 1.0
    layerwise_scalings: bool = False
    top_k_lora: int | None = None
    scaling_pass_value: float = 0.0
    global_scaling_weight: float = 1.0
    use_trainable_adapters: bool = False
    use_bias: bool = True
    enable_relu_and_dropout: bool = True

    def __post_init__(self) -> None:
        _check_count("hidden_size", self.hidden_size, optional=True)
        _check_count("xlora_depth", self.xlora_depth)
        if self.xlora_depth > 1:
            _check_count("xlora_size", self.xlora_size)
        _check_count("top_k_lora", self.top_k_lora, optional=True)
        for name in ("xlora_dropout_p", "softmax_temperature", "scaling_pass_value", "global_scaling_weight"):
            check_finite(name, getattr(self, name))
        if not 0 <= self.xlora_dropout_p < 1:
            raise ValueError(f"xlora_dropout_p={self.xlora_dropout_p}: use a probability in [0, 1)")
        if not self.softmax_temperature > 0:
            raise ValueError(f"softmax_temperature={self.softmax_temperature}: use a positive number")
        if self.enable_softmax and self.enable_softmax_topk:
            raise ValueError(
                "enable_softmax=True and enable_softmax_topk=True would normalise twice: switch one of them off"
            )
        self.check_top_k(self.top_k_lora)

    def check_top_k(self, k: int | None, experts: int | None = None) -> None:
        """Raise ValueError unless k experts can be kept of so many."""
        _check_count("top_k_lora", k, optional=True)
        if k is None and self.enable_softmax_topk:
            raise ValueError("enable_softmax_topk=True needs top_k_lora, got None: say how many experts to keep")
        if k is not None and experts is not None and k > experts:
            raise ValueError(f"top_k_lora={k}: there are {experts} experts, use 1..{experts}, or None to keep all")


class XLoraGate(nn.Module):
    """The scaling head (X-LoRA, section on the scaling head): linear layers with ReLU and dropout between them.

    It computes in float32 whatever the base model's dtype is.

    Args:
        config: its size and normalisation; `hidden_size` has to be set.
        experts: n, the number of experts.
        layers: L, the number of adapted layers.

    Raises:
        ValueError: `hidden_size` is None.
    """

    def __init__(self, config: XLoraGateConfig, experts: int, layers: int) -> None:
        super().__init__()
        if config.hidden_size is None:
            raise ValueError("hidden_size=None: a gate of its own needs the width of what it reads")
        self.config = config
        self.experts = experts
        width = config.hidden_size
        for name in hidden_names(config.xlora_depth):
            self.add_module(name, nn.Linear(width, config.xlora_size, bias=config.use_bias))
            width = config.xlora_size
        outputs = experts * layers if config.layerwise_scalings else experts
        self.output = nn.Linear(width, outputs, bias=config.use_bias)

    def forward(
        self, hidden: Float[Tensor, "batch tokens hidden"]
    ) -> Float[Tensor, "batch tokens experts"] | Float[Tensor, "batch tokens layers experts"]:
        """Scalings of every token, before any top-k: the same for all layers, or one row a layer."""
        config, x = self.config, hidden.to(self.output.weight.device)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            for name in hidden_names(config.xlora_depth):
                x = _linear(self.get_submodule(name), x)
                if config.enable_relu_and_dropout:
                    x = dropout(relu(x), config.xlora_dropout_p, self.training)
            logits = _linear(self.output, x)
            if config.layerwise_scalings:
                logits = logits.unflatten(-1, (-1, self.experts))
            return (logits / config.softmax_temperature).softmax(-1) if config.enable_softmax else logits


def hidden_names(depth: int) -> list[str]:
    """Names of the gate's hidden layers; no bare number in them, which PEFT's filters take for an adapter's name."""
    return [f"hidden{index}" for index in range(depth - 1)]


def keep_top_k(
    scalings: Float[Tensor, "*batch experts"], k: int | None, softmax: bool = False
) -> Float[Tensor, "*batch experts"]:
    """The k largest scalings of every token, the others zero.

    Args:
        scalings: by expert.
        k: how many to keep; None keeps all.
        softmax: normalise the kept ones.
    """
    if k is None:
        return scalings
    values, experts = scalings.topk(k, dim=-1)
    return torch.zeros_like(scalings).scatter(-1, experts, values.softmax(-1) if softmax else values)


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return linear(x, layer.weight.float(), None if layer.bias is None else layer.bias.float())


def _check_count(name: str, value: Any, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: use an integer of at least 1{', or None' if optional else ''}")


def check_finite(name: str, value: float) -> None:
    """Raise TypeError unless the value is a number, and ValueError unless it is finite."""
    if not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: use a number")
    if not math.isfinite(value):
        raise ValueError(f"{name}={value}: use a finite number")
