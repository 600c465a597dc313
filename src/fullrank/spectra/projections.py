"""Find the attention projections of a model, whatever its architecture calls them, fused or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Names of the query, key, value and output projections in the architectures of the Hugging Face library.
_NAMES = {
    "q": r"(?:q_proj|query|q_lin|q|wq|to_q|query_proj)",
    "k": r"(?:k_proj|key|k_lin|k|wk|to_k|key_proj)",
    "v": r"(?:v_proj|value|v_lin|v|wv|to_v|value_proj)",
    "o": r"(?:o_proj|out_proj|out_lin|o|wo|output\.dense|dense|c_proj|to_out\.0|proj)",
}
_ATTENTION = r"(?:self_attn|self_attention|attention|attn|selfattention|layer\.0\.SelfAttention)"
_FUSED = re.compile(rf"(?P<prefix>.*{_ATTENTION})\.(?P<fused>c_attn|query_key_value|qkv_proj|qkv|Wqkv|in_proj)$", re.I)
_INDEX = re.compile(r"\.(\d+)(?=\.)")


@dataclass(frozen=True)
class Projection:
    """One linear map whose gradient is measured.

    Attributes:
        layer: number of its layer, from 0.
        kind: "q", "k", "v", "o", or the module's name within its layer.
        name: full name of the module; of a fused module with "[q]" and so on behind it.
        module: the module itself.
        select: picks the kind's columns out of the module's output.
    """

    layer: int
    kind: str
    name: str
    module: nn.Module
    select: Callable[[Tensor], Tensor]


def attention_projections(model: nn.Module) -> list[Projection]:
    """Query, key, value and output projections of every self-attention layer; fused ones are split.

    Raises:
        ValueError: none was found, or a fused projection's layout is not known.
    """
    found: list[tuple[str, str, str, nn.Module, Callable[[Tensor], Tensor]]] = []
    for name, module in linear_modules(model):
        public = name.replace(".base_layer", "")
        fused = _FUSED.match(public)
        if fused:
            for kind, select in _split(model, module, fused["fused"]).items():
                found.append((fused["prefix"], kind, f"{name}[{kind}]", module, select))
            continue
        for kind, pattern in _NAMES.items():
            matched = re.match(rf"(?P<prefix>.*{_ATTENTION}(?:\.self)?)\.{pattern}$", public, re.I)
            if matched and "cross" not in public.lower() and ".encdecattention." not in public.lower():
                found.append((matched["prefix"], kind, name, module, lambda output: output))
                break
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention projections under a known name; "
            'give modules="all-linear" or a regular expression over module names'
        )
    layers = _number([prefix for prefix, *_ in found])
    return [
        Projection(layer, kind, name, module, select)
        for layer, (_, kind, name, module, select) in zip(layers, found, strict=True)
    ]


def matching_projections(model: nn.Module, pattern: str | None) -> list[Projection]:
    """Every linear map, or those whose name the regular expression finds; numbered by the first index in their name.

    Raises:
        ValueError: nothing matches, or the expression is not valid.
    """
    try:
        expression = re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"modules={pattern!r} is not a regular expression: {error}") from error
    named = [(name, module) for name, module in linear_modules(model) if expression.search(name)]
    if not named:
        names = [name for name, _ in linear_modules(model)]
        raise ValueError(f"modules={pattern!r} matches none of the {len(names)} linear modules, such as {names[:3]}")
    return _by_layer(named)


def adapter_projections(model: nn.Module) -> list[Projection]:
    """The linear maps of every LoRA adapter, two to an adapted layer.

    Raises:
        ValueError: there is none.
    """
    named = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.lora_[AB]\.", name)
    ]
    if not named:
        raise ValueError(f'modules="adapters" finds no LoRA adapter in {type(model).__name__}: wrap it with PEFT first')
    return _by_layer(named)


def linear_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of all linear maps: `nn.Linear` and its kin (quantised ones), transformers' `Conv1D`."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if not re.search(r"\.(lora_|modules_to_save)", name)
    ]


def _by_layer(named: Sequence[tuple[str, nn.Module]]) -> list[Projection]:
    """Layers are numbered by the first index in their modules' names; the rest of the name is the kind."""
    prefixes = [name[: match.end()] if (match := _INDEX.search(name)) else "" for name, _ in named]
    return [
        Projection(layer, name[len(prefix) :].lstrip("."), name, module, lambda output: output)
        for layer, prefix, (name, module) in zip(_number(prefixes), prefixes, named, strict=True)
    ]


def _number(prefixes: list[str]) -> list[int]:
    order = {prefix: number for number, prefix in enumerate(dict.fromkeys(prefixes))}
    return [order[prefix] for prefix in prefixes]


def _split(model: nn.Module, module: nn.Module, name: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """How the output of a fused projection divides into q, k and v."""
    config: Any = getattr(model, "config", None)
    weight: Any = module.weight
    width = int(weight.shape[1] if type(module).__name__ == "Conv1D" else weight.shape[0])
    heads = getattr(config, "num_attention_heads", None)
    groups = getattr(config, "num_key_value_heads", None) or heads
    if heads is None or groups is None:
        raise ValueError(f"the fused projection {name!r} cannot be split: the model's config names no attention heads")
    if name == "query_key_value" and getattr(config, "model_type", "") in ("gpt_neox", "bloom"):  # (head, 3, head_dim)
        position = torch.arange(width).reshape(heads, 3, -1)
        return {kind: _columns(position[:, part].flatten()) for part, kind in enumerate("qkv")}
    size = width // (heads + 2 * groups)
    if size * (heads + 2 * groups) != width:
        raise ValueError(
            f"the fused projection {name!r} of width {width} does not divide into {heads}+2x{groups} heads"
        )
    bounds = {"q": (0, heads), "k": (heads, heads + groups), "v": (heads + groups, heads + 2 * groups)}
    return {kind: _columns(torch.arange(first * size, last * size)) for kind, (first, last) in bounds.items()}


def _columns(index: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: output[..., index.to(output.device)]
