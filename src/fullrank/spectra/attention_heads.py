"""Attention heads as pairs of projections: the Q-K product (which tokens attend) and the O-V product (what they pass on).

A head's product of two projections is a dim x dim matrix of rank at most head_dim. It is never formed: its singular
values are those of the head_dim x head_dim core of its two thin QR factorisations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.linalg import singular_values

# Weight names of one attention layer: {kind: pattern}; the same prefix makes the layer.
_SEPARATE = (
    {"q": r"self_attn\.q_proj", "k": r"self_attn\.k_proj", "v": r"self_attn\.v_proj", "o": r"self_attn\.(?:o_proj|out_proj)"},
    {"q": r"attention\.self\.query", "k": r"attention\.self\.key", "v": r"attention\.self\.value", "o": r"attention\.output\.dense"},
    {"q": r"attention\.attention\.query", "k": r"attention\.attention\.key", "v": r"attention\.attention\.value",
     "o": r"attention\.output\.dense"},
    {"q": r"attention\.q_lin", "k": r"attention\.k_lin", "v": r"attention\.v_lin", "o": r"attention\.out_lin"},
    {"q": r"attention\.q_proj", "k": r"attention\.k_proj", "v": r"attention\.v_proj", "o": r"attention\.(?:o_proj|out_proj)"},
    {"q": r"SelfAttention\.q", "k": r"SelfAttention\.k", "v": r"SelfAttention\.v", "o": r"SelfAttention\.o"},
)  # fmt: skip
_FUSED = {"qkv": r"attn\.c_attn", "o": r"attn\.c_proj"}  # GPT-2, Conv1D: stored (in, out)
_WEIGHT = r"(?:\.base_layer)?\.weight$"


@dataclass(frozen=True)
class HeadLayer:
    """Where one layer's projections are, and how they divide into heads.

    Attributes:
        layer: its number.
        names: weight name by "q", "k", "v", "o"; or "qkv" and "o" where they are fused.
        heads: query heads; groups: key and value heads.
    """

    layer: int
    names: Mapping[str, str]
    heads: int
    groups: int


def head_layers(names: Iterable[str], config: Mapping[str, Any]) -> list[HeadLayer]:
    """The attention layers of a known architecture among weight names; empty where there is none.

    Args:
        names: names of all weights.
        config: the model's configuration; without a number of heads nothing is known.
    """
    heads = _first(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    groups = _first(config, "num_key_value_heads") or heads
    if heads is None or groups is None:
        return []
    names = list(names)
    for patterns in (*_SEPARATE, _FUSED):
        layers: dict[str, dict[str, str]] = {}
        for kind, pattern in patterns.items():
            expression = re.compile(rf"^(?P<prefix>.*?){pattern}{_WEIGHT}")
            for name in names:
                if match := expression.match(name):
                    layers.setdefault(match["prefix"], {})[kind] = name
        whole = [found for found in layers.values() if set(found) == set(patterns)]
        if whole:
            return [HeadLayer(number, found, heads, groups) for number, found in enumerate(whole)]
    return []


def head_products(
    layer: HeadLayer, read: Callable[[str], Tensor], product: Literal["QK", "OV"]
) -> Float[Tensor, "heads head_dim"]:
    """Singular values of every head's product.

    Args:
        layer: where the projections are.
        read: gives the weight of a name.
        product: "QK" is W_Q^h^T W_K^h, "OV" is W_O^h W_V^h.

    Raises:
        ValueError: the weights do not divide into the configuration's heads, or are not finite.
    """
    if "qkv" in layer.names:
        fused = read(layer.names["qkv"]).mT
        q, k, v = fused.chunk(3)
        o = read(layer.names["o"]).mT if product == "OV" else None
        first, second = (_inputs(q, layer.heads), _inputs(k, layer.heads)) if o is None else (
            _outputs(o, layer.heads), _inputs(v, layer.heads))  # fmt: skip
    elif product == "QK":
        first = _inputs(read(layer.names["q"]), layer.heads)
        second = _shared(_inputs(read(layer.names["k"]), layer.groups), layer)
    else:
        first = _outputs(read(layer.names["o"]), layer.heads)
        second = _shared(_inputs(read(layer.names["v"]), layer.groups), layer)
    R_first, R_second = (torch.linalg.qr(part.float(), mode="r").R for part in (first, second))
    return singular_values(R_first @ R_second.mT, method="exact")


def _inputs(weight: Tensor, heads: int) -> Tensor:
    """(heads * head_dim, dim) -> (heads, dim, head_dim)."""
    return weight.reshape(heads, _divided(weight.shape[0], heads), -1).mT


def _outputs(weight: Tensor, heads: int) -> Tensor:
    """(dim, heads * head_dim) -> (heads, dim, head_dim)."""
    return weight.reshape(weight.shape[0], heads, _divided(weight.shape[1], heads)).transpose(0, 1)


def _shared(parts: Tensor, layer: HeadLayer) -> Tensor:
    """Every query head with the key or value head of its group."""
    return parts.repeat_interleave(_divided(layer.heads, layer.groups), dim=0)


def _divided(width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads")
    return width // heads


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        if isinstance(config.get(key), int):
            return config[key]
    return None
