"""The paper's own evidence: the rank of the key-value buffer, and of what a head's attention puts out.

Source: arXiv 2411.07635; the authors measure one head at a time, since a whole layer looks low-rank for every method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fullrank.nn.gated_attention import GatedAttention, Prepared
from fullrank.nn.rala import RankAugmentedLinearAttention, kv_buffer
from fullrank.spectra import Spectrum


class HeadRanks(NamedTuple):
    """Ranks by image and head.

    Attributes:
        numerical: singular values that rounding does not explain (`Spectrum.numerical_rank`).
        effective: exp of the entropy of the singular values (`Spectrum.effective_rank`).
    """

    numerical: Int[Tensor, "batch heads"]
    effective: Float[Tensor, "batch heads"]


def kv_buffer_rank(model: nn.Module, x: Float[Tensor, "batch ..."], **inputs: Any) -> dict[str, HeadRanks]:
    """Ranks of the key-value buffer of every RALA layer, of at most the width of a head.

    Args:
        model: a network with RALA layers, or one layer.
        x: its input.
        inputs: further inputs of the model, such as `grid`.

    Returns:
        By the layer's name in the model ("" for the model itself).

    Raises:
        ValueError: the model has no such layer.
    """

    def buffer(layer: GatedAttention, prepared: Prepared) -> Tensor:
        assert isinstance(layer, RankAugmentedLinearAttention)
        heads = layer.heads(prepared.tokens)
        return kv_buffer(heads.q, heads.k, heads.v, k_pos=prepared.rotation, reweight=layer.reweight)

    return _ranks(model, x, inputs, RankAugmentedLinearAttention, buffer)


def feature_rank(
    model: nn.Module, x: Float[Tensor, "batch ..."], *, gated: bool = True, **inputs: Any
) -> dict[str, HeadRanks]:
    """Ranks of every head's output, a matrix of tokens by head width.

    Args:
        model: a network with RALA layers or their softmax siblings, or one such layer.
        x: its input.
        gated: after the local position term and the gate, as the last projection reads it; otherwise what attention
            alone gives.
        inputs: further inputs of the model, such as `grid`.

    Returns:
        By the layer's name in the model ("" for the model itself).

    Raises:
        ValueError: the model has no such layer.
    """

    def output(layer: GatedAttention, prepared: Prepared) -> Tensor:
        heads = layer.heads(prepared.tokens)
        attended = layer.attend(heads, prepared.rotation)
        if not gated:
            return attended
        combined = layer.combine(attended, heads, prepared.grid)
        return combined.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2)

    return _ranks(model, x, inputs, GatedAttention, output)


def _ranks(
    model: nn.Module,
    x: Tensor,
    inputs: dict[str, Any],
    kind: type[GatedAttention],
    matrices: Callable[[GatedAttention, Prepared], Tensor],
) -> dict[str, HeadRanks]:
    """Run the model once, and take the ranks of one matrix per image and head where a layer of that kind is called."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no {kind.__name__} layer whose ranks could be taken")
    found: dict[str, HeadRanks] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: GatedAttention, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            spectrum = Spectrum.of(matrices(layer, layer.prepare(*args, **options)))
            found[name] = HeadRanks(spectrum.numerical_rank, spectrum.effective_rank)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(x, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
