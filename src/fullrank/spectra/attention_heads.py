"""Attention heads as pairs of projections: Q and K (which tokens attend), O and V (what they pass on).

A head's product of two projections is a dim x dim matrix of rank at most head_dim. It is never formed: its singular
values are those of the head_dim x head_dim core of its two thin QR factorisations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.linalg import singular_values
from fullrank.spectra.weights import Weight

Product = Literal["QK", "OV"]
PRODUCTS: tuple[Product, ...] = ("QK", "OV")

# Names of one attention layer's weights, in the order q, k, v, o; the same prefix makes the layer.
_SEPARATE = (
    # Llama, Mistral, Qwen, Gemma, OPT, BART, CLIP
    (r"self_attn\.q_proj", r"self_attn\.k_proj", r"self_attn\.v_proj", r"self_attn\.(?:o_proj|out_proj)"),
    # BERT, MiniLM, RoBERTa, ELECTRA
    (r"attention\.self\.query", r"attention\.self\.key", r"attention\.self\.value", r"attention\.output\.dense"),
    # ViT, DeiT, DINOv2
    (
        r"attention\.attention\.query",
        r"attention\.attention\.key",
        r"attention\.attention\.value",
        r"attention\.output\.dense",
    ),
    # DistilBERT
    (r"attention\.q_lin", r"attention\.k_lin", r"attention\.v_lin", r"attention\.out_lin"),
    # Wav2Vec2, GPT-Neo, ViT as newer libraries name it
    (r"attention\.q_proj", r"attention\.k_proj", r"attention\.v_proj", r"attention\.(?:o_proj|out_proj)"),
    # T5
    (r"SelfAttention\.q", r"SelfAttention\.k", r"SelfAttention\.v", r"SelfAttention\.o"),
)
_FUSED = (r"attn\.c_attn", r"attn\.c_proj")  # GPT-2: q, k and v in one Conv1D, stored (in, out)
_WEIGHT = r"(?:\.base_layer)?\.weight$"


_BLOCK = 1 << 20  # entries factorised at a time


@dataclass(frozen=True)
class HeadLayer:
    """Where one layer's projections are, and how they divide into heads.

    Attributes:
        layer: its number, counted over the whole model.
        module: name of what the projections have in common, such as "encoder.layer.0".
        names: weight names of q, k, v and o; or of qkv and o where they are fused.
        heads: query heads.
        groups: key and value heads.
    """

    layer: int
    module: str
    names: tuple[str, ...]
    heads: int
    groups: int


def head_layers(names: Iterable[str], config: Mapping[str, Any]) -> list[HeadLayer]:
    """The attention layers of a known architecture among weight names; empty where there is none.

    Args:
        names: names of all weights, in the order of the layers.
        config: the model's configuration; without a number of heads nothing is known.
    """
    heads = _first(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    groups = _first(config, "num_key_value_heads") or heads
    if not heads or not groups:
        return []
    names = list(names)
    for patterns in (*_SEPARATE, _FUSED):
        modules: dict[str, dict[int, str]] = {}
        for place, pattern in enumerate(patterns):
            expression = re.compile(rf"^(?P<module>.*?)\.?\b{pattern}{_WEIGHT}")
            for name in names:
                if match := expression.match(name):
                    modules.setdefault(match["module"] or "the model", {})[place] = name
        whole = {module: found for module, found in modules.items() if len(found) == len(patterns)}
        if whole:
            return [
                HeadLayer(layer, module, tuple(found[place] for place in range(len(patterns))), heads, groups)
                for layer, (module, found) in enumerate(whole.items())
            ]
    return []


def head_products(
    layer: HeadLayer, weights: Mapping[str, Weight], product: Product, device: str = "cpu"
) -> Float[Tensor, "heads head_dim"]:
    """Singular values of every head's product; the weights are read a few heads at a time.

    Args:
        layer: where the projections are.
        weights: the weights by name.
        product: "QK" is W_Q^h^T W_K^h, "OV" is W_O^h W_V^h.
        device: where to compute.

    Raises:
        ValueError: the weights do not divide into the configuration's heads, or are not finite.
    """
    left, right = _factors(layer, weights, product)
    if left.size != right.size:
        raise ValueError(
            f"{left.weight.name} has {left.size} entries a head and {right.weight.name} {right.size}, "
            f"for the configuration's {layer.heads} query heads and {layer.groups} key and value heads"
        )
    # A B^T = Q_A (R_A R_B^T) Q_B^T with orthonormal columns Q: the core has the product's singular values.
    shared = right.triangles(device).repeat_interleave(_divided(layer.heads, layer.groups), dim=0)
    return singular_values(left.triangles(device) @ shared.mT, method="exact")


@dataclass(frozen=True)
class _Factor:
    """One side of every head's product: heads follow each other along an axis of a weight, `size` entries each."""

    weight: Weight
    axis: int
    start: int
    heads: int
    size: int

    def triangles(self, device: str) -> Float[Tensor, "heads core size"]:
        """R of the QR factorisation of every head's factor."""
        other = self.weight.shape[1 - self.axis]
        step = max(1, _BLOCK // (other * self.size))
        found = []
        for head in range(0, self.heads, step):
            stop = min(head + step, self.heads)
            part = self.weight.part(self.axis, self.start + head * self.size, self.start + stop * self.size).to(device)
            columns = part.mT if self.axis == 0 else part
            factors = columns.unflatten(1, (stop - head, self.size)).transpose(0, 1)
            dtype = torch.float64 if factors.dtype == torch.float64 else torch.float32
            found.append(torch.linalg.qr(factors.to(dtype), mode="r").R)
        return torch.cat(found)


def _factors(layer: HeadLayer, weights: Mapping[str, Weight], product: Product) -> tuple[_Factor, _Factor]:
    """Both factors of every head's product."""
    if len(layer.names) == len(_FUSED):
        fused, o = (weights[name] for name in layer.names)
        width = fused.rows
        if fused.columns != 3 * width:
            raise ValueError(f"{fused.name} is {fused.shape}, not (width, 3 x width)")
        size = _divided(width, layer.heads)
        q, k, v = (_Factor(fused, 1, part * width, layer.heads, size) for part in range(3))
        return (q, k) if product == "QK" else (_Factor(o, 0, 0, layer.heads, size), v)
    q, k, v, o = (weights[name] for name in layer.names)
    first, axis, second = (q, 0, k) if product == "QK" else (o, 1, v)
    return (
        _Factor(first, axis, 0, layer.heads, _divided(first.shape[axis], layer.heads)),
        _Factor(second, 0, 0, layer.groups, _divided(second.rows, layer.groups)),
    )


def _divided(width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads")
    return width // heads


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        if isinstance(config.get(key), int):
            return config[key]
    return None
