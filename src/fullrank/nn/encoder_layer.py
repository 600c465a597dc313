"""The transformer encoder layer around any self-attention and any feed-forward network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Activation = str | Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "gelu": functional.gelu}

Tokens = Float[Tensor, "batch tokens dim"]
Mask = Float[Tensor, "..."] | Bool[Tensor, "..."]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each with dropout, residual sum and layer norm.

    Masks are those of `nn.TransformerEncoderLayer`: True, or minus infinity, is ignored.

    Args:
        self_attn: called with (x, attn_mask, key_padding_mask, is_causal), x of shape (batch, tokens, dim).
        linear1: dim to the inner width.
        linear2: inner width to dim.
        d_model: dim.
        dropout: after attention, inside and after the feed-forward network.
        activation: "relu", "gelu" or a function.
        norm_first: layer norm before each part, and not after its sum.
        batch_first: whether inputs are (batch, tokens, dim), or (tokens, batch, dim).
        layer_norm_eps: of both norms.
        bias: of both norms.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        self_attn: nn.Module,
        linear1: nn.Module,
        linear2: nn.Module,
        *,
        d_model: int,
        dropout: float,
        activation: Activation,
        norm_first: bool,
        batch_first: bool,
        layer_norm_eps: float = 1e-5,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.self_attn, self.linear1, self.linear2 = self_attn, linear1, linear2
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.activation = _activation(activation)
        self.norm_first, self.batch_first = norm_first, batch_first

    def forward(
        self,
        src: Float[Tensor, "first second dim"],
        src_mask: Mask | None = None,
        src_key_padding_mask: Mask | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "first second dim"]:
        """The layer over (batch, tokens, dim), or (tokens, batch, dim) without `batch_first`.

        Args:
            src: the tokens.
            src_mask: (tokens, tokens) or (batch * heads, tokens, tokens).
            src_key_padding_mask: (batch, tokens).
            is_causal: `src_mask` is the causal mask; without `src_mask` the layer makes it.

        Raises:
            ValueError: `src` has other axes, or a mask does not fit it.
            TypeError: a mask of integers.
        """
        if src.ndim != 3:
            order = "batch, tokens" if self.batch_first else "tokens, batch"
            raise ValueError(
                f"src has shape {tuple(src.shape)}: ({order}, dim) is needed; a sequence is a batch of one"
            )
        x = src if self.batch_first else src.transpose(0, 1)
        masks = (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), *masks))
            x = x + self.dropout2(self._feed_forward(self.norm2(x)))
        else:
            x = self.norm1(x + self.dropout1(self.self_attn(x, *masks)))
            x = self.norm2(x + self.dropout2(self._feed_forward(x)))
        return x if self.batch_first else x.transpose(0, 1)

    def _feed_forward(self, x: Tokens) -> Tokens:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


def split_heads(x: Tokens, heads: int) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Features as heads of consecutive features."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Float[Tensor, "batch heads tokens head_dim"]) -> Tokens:
    """Heads side by side."""
    return x.transpose(1, 2).flatten(-2)


def attend(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys head_dim"],
    mask: Float[Tensor, "..."] | None,
    dropout: float,
    fused: bool,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """softmax(q k^T / sqrt(head_dim) + mask) v, by torch's fused kernel or with the scores written out."""
    if fused:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return functional.dropout(weights, dropout) @ v


def check_mask(name: str, mask: Tensor, *shapes: tuple[int, ...]) -> None:
    """Refuse a mask of another shape, or of integers, whose meaning is not known.

    Raises:
        ValueError: another shape.
        TypeError: neither booleans nor floating-point numbers.
    """
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}: {' or '.join(map(str, shapes))} is needed, True where a token is "
            "ignored"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(
            f"{name} has dtype {mask.dtype}: a boolean mask is needed, True where a token is ignored, or a "
            "floating-point one that is added to the scores; convert zeros and ones with .bool()"
        )


def check_heads(d_model: int, heads: int) -> None:
    """Raise ValueError unless the width divides into heads."""
    if heads < 1 or d_model % heads:
        raise ValueError(f"num_heads={heads} does not divide the width {d_model}: choose a divisor of it")


def _activation(given: Activation) -> Callable[[Tensor], Tensor]:
    if callable(given):
        return given
    if given not in _ACTIVATIONS:
        raise ValueError(f"activation={given!r} is not known; accepted: 'relu', 'gelu' or a function")
    return _ACTIVATIONS[given]
