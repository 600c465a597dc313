"""Poolings of the states of a text beside LAMA: single-head, structured and transformer attention, mean and maximum.

Each takes states (batch, tokens, D) and a mask, True where there is a word, and gives (batch, rows, D) and, if asked
for, what every word weighs in every row. Each text needs a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from fullrank.nn.lama import LowRankMultiHeadAttentionPooling
from fullrank.nn.word_masks import as_keep_mask, masked_mean, masked_softmax, refuse_empty

PoolingName = Literal["lama", "han", "self_attentive", "mha", "mean", "max"]


class WeightedPooling(nn.Module):
    """A = `attention(hidden, keep)` of shape (batch, rows, tokens), S = A H: what these poolings share."""

    rows: int = 1

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        mask: Shaped[Tensor, "batch tokens"] | None = None,
        need_weights: bool = False,
    ) -> Float[Tensor, "batch rows dim"] | tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch heads tokens"]]:
        """Pool states.

        Args:
            hidden: states of the words.
            mask: True or 1 where there is a word; None: everywhere.
            need_weights: return what every word weighs too.

        Raises:
            ValueError: a mask of another shape or other values than 0 and 1, or a text without words.
        """
        keep = as_keep_mask(hidden, mask)
        refuse_empty(hidden, keep)
        return self.pool(hidden, keep, need_weights)

    def pool(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None, need_weights: bool) -> Any:
        """S, or (S, A)."""
        A = self.attention(hidden, keep)
        return (A @ hidden, A) if need_weights else A @ hidden

    def attention(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None) -> Tensor:
        """What every word weighs: a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define what its words weigh")


class MeanPooling(WeightedPooling):
    """The mean over the words."""

    def attention(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None) -> Tensor:
        """The same for every word."""
        return masked_softmax(hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1]), keep)


class MaxPooling(WeightedPooling):
    """The maximum over the words, feature by feature; a word weighs as much as the share of features that it gives."""

    def pool(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None, need_weights: bool) -> Any:
        """The maximum, and shares that have no gradient."""
        if keep is not None:
            hidden = hidden.masked_fill(~keep.unsqueeze(-1), -torch.inf)
        largest, place = hidden.max(dim=1, keepdim=True)
        if not need_weights:
            return largest
        shares = nn.functional.one_hot(place, hidden.shape[1]).to(hidden.dtype).mean(dim=2)
        return largest, shares


class HANPooling(WeightedPooling):
    """Attention of hierarchical attention networks: softmax over t of cᵀ tanh(W h_t + b), one head (Yang et al. 2016).

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim)
        self.c = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        self.projection.reset_parameters()
        nn.init.normal_(self.c, std=self.c.numel() ** -0.5)

    def attention(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None) -> Tensor:
        """One row."""
        return masked_softmax((torch.tanh(self.projection(hidden)) @ self.c).unsqueeze(1), keep)


class SelfAttentivePooling(WeightedPooling):
    """Structured self-attentive embedding: A = softmax(W_s2 tanh(W_s1 Hᵀ)) (Lin et al. 2017, Equation 6).

    Args:
        dim: D.
        num_heads: rows of A.
        attention_dim: d_a, width of the hidden layer. Default `dim`.
    """

    def __init__(self, dim: int, num_heads: int = 8, attention_dim: int | None = None) -> None:
        super().__init__()
        self.rows = num_heads
        self.W_s1 = nn.Linear(dim, attention_dim or dim, bias=False)
        self.W_s2 = nn.Linear(attention_dim or dim, num_heads, bias=False)

    def attention(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None) -> Tensor:
        """One row per head."""
        return masked_softmax(self.W_s2(torch.tanh(self.W_s1(hidden))).transpose(1, 2), keep)


class TransformerPooling(WeightedPooling):
    """The mean over the words of multi-head self-attention; a word weighs what all words give it on average.

    Args:
        dim: D.
        num_heads: heads of D / num_heads features.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads}: a width of {dim} cannot be split into so many equal heads")
        self.attend = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def pool(self, hidden: Tensor, keep: Bool[Tensor, "batch tokens"] | None, need_weights: bool) -> Any:
        """One row; weights of every head."""
        padding = None if keep is None else ~keep
        attended, weights = self.attend(
            hidden, hidden, hidden, padding, need_weights=need_weights, average_attn_weights=False
        )
        pooled = masked_mean(attended, keep).unsqueeze(1)
        if not need_weights:
            return pooled
        return pooled, masked_mean(weights.transpose(1, 2).flatten(2), keep).unflatten(1, weights.shape[1::2])


_POOLINGS: dict[PoolingName, Callable[..., nn.Module]] = {
    "lama": LowRankMultiHeadAttentionPooling,
    "han": lambda dim, num_heads, **options: HANPooling(dim, **options),
    "self_attentive": SelfAttentivePooling,
    "mha": TransformerPooling,
    "mean": lambda dim, num_heads, **options: MeanPooling(**options),
    "max": lambda dim, num_heads, **options: MaxPooling(**options),
}


def pooling_layer(name: PoolingName, dim: int, num_heads: int = 8, **options: Any) -> nn.Module:
    """A pooling by its name; its `rows` says how many vectors stand for a text.

    Args:
        name: "lama", "han", "self_attentive", "mha", "mean" or "max".
        dim: D, width of the states.
        num_heads: of those that have several.
        options: further options of the layer, such as `context="mean"` of LAMA.

    Raises:
        ValueError: an unknown name, or an option out of range.
        TypeError: an option that the layer does not have.
    """
    if name not in _POOLINGS:
        raise ValueError(f"pooling={name!r}: use one of {', '.join(map(repr, get_args(PoolingName)))}")
    if name == "lama" and (shaping := {"output_dim", "batch_first"} & options.keys()):
        raise ValueError(f"{shaping.pop()} is not accepted here: the classifier reads (batch, heads, {dim})")
    return _POOLINGS[name](dim, num_heads, **options)
