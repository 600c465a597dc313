"""Where a padded batch of texts has words: masks of both conventions, and means and softmaxes that heed them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def as_keep_mask(
    hidden: Shaped[Tensor, "batch tokens *dim"],
    mask: Shaped[Tensor, "..."] | None = None,
    key_padding_mask: Shaped[Tensor, "..."] | None = None,
) -> Bool[Tensor, "batch tokens"] | None:
    """One boolean mask, True where there is a word, of either convention; None where there is no mask.

    Args:
        hidden: what is masked.
        mask: True or 1 where there is a word.
        key_padding_mask: True or 1 where there is padding.

    Raises:
        ValueError: both masks, a shape that is not (batch, tokens), or other values than 0 and 1.
    """
    if mask is not None and key_padding_mask is not None:
        raise ValueError("mask and key_padding_mask say the same, the one the opposite of the other: give one of them")
    name, given = ("mask", mask) if key_padding_mask is None else ("key_padding_mask", key_padding_mask)
    if given is None:
        return None
    if given.shape != hidden.shape[:2]:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}: (batch, tokens) = {tuple(hidden.shape[:2])} is accepted"
        )
    marked = given.bool()
    if given.dtype != torch.bool and not torch.compiler.is_compiling() and not bool((given == marked).all()):
        raise ValueError(f"{name} holds other values than 0 and 1; an additive mask of 0 and -inf is not accepted")
    return marked if key_padding_mask is None else ~marked


def refuse_empty(
    hidden: Shaped[Tensor, "batch tokens *dim"],
    keep: Bool[Tensor, "batch tokens"] | None,
    advice: str = "leave them out",
) -> None:
    """Raise an error that lists the texts without words, and gives that advice; reads the mask back from the device.

    Raises:
        ValueError: there are some.
    """
    if hidden.shape[1] == 0:
        empty = list(range(hidden.shape[0]))
    elif keep is None:
        return
    else:
        empty = (~keep.any(1)).nonzero().flatten().tolist()
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        raise ValueError(f"rows {shown} have no words to attend to: {advice}")


def masked_softmax(
    Z: Float[Tensor, "batch heads tokens"], keep: Bool[Tensor, "batch tokens"] | None
) -> Float[Tensor, "batch heads tokens"]:
    """Softmax over the words, exactly 0 on padding; rows of zeros, never NaN, for texts without words."""
    if keep is None:
        return Z.softmax(-1)
    has_words = keep.any(-1, keepdim=True)
    # A text without words attends everywhere for a moment: its softmax would be NaN, and so would its gradient.
    # Adding -inf spares the passes over all heads that filling Z before the softmax and A after it would take.
    bias = torch.zeros_like(keep, dtype=Z.dtype).masked_fill(~keep & has_words, -math.inf)
    return (Z + bias.unsqueeze(1)).softmax(-1) * has_words.unsqueeze(1)


def masked_mean(
    U: Float[Tensor, "batch tokens dim"], keep: Bool[Tensor, "batch tokens"] | None
) -> Float[Tensor, "batch dim"]:
    """Mean over the words as one matrix product, without a masked copy of U; zero where there are none."""
    if keep is None:
        return U.sum(1) / max(U.shape[1], 1)
    weights = keep.to(U.dtype) / keep.sum(1, keepdim=True).clamp(min=1)
    return (weights.unsqueeze(1) @ U).squeeze(1)
