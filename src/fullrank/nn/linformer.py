"""Linformer: keys and values projected along the sequence, from n tokens to k (Wang et al. 2020, arXiv 2006.04768).

    head = softmax(Q (E K)^T / sqrt(d_h)) (F V),  E and F of shape (k, n_max)

No n x n matrix exists, so time and memory are linear in n. It is not causal: every projected key mixes all tokens.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fullrank.nn.encoder_layer import (
    Activation,
    EncoderLayer,
    Mask,
    Tokens,
    attend,
    check_heads,
    check_mask,
    join_heads,
    split_heads,
)

Share = Literal["headwise", "kv", "none", "layerwise"]


class SequenceProjection(nn.Module):
    """E, the learned map from up to n_max tokens to k.

    Args:
        seq_len: n_max.
        k: rows of E.
        heads: a matrix for each head; None shares one.
        init: "uniform" between -1/sqrt(k) and 1/sqrt(k), or "xavier" with gain 1/sqrt(2).

    Raises:
        ValueError: sizes below 1, or an unknown `init`.
    """

    def __init__(
        self,
        seq_len: int,
        k: int,
        heads: int | None = None,
        init: Literal["uniform", "xavier"] = "uniform",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if seq_len < 1 or k < 1:
            raise ValueError(f"seq_len={seq_len} and k={k}: both are at least 1")
        if k > seq_len:
            warnings.warn(f"k={k} exceeds seq_len={seq_len}: projecting saves nothing", stacklevel=3)
        shape = (k, seq_len) if heads is None else (heads, k, seq_len)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if init == "uniform":
            nn.init.uniform_(self.weight, -(k**-0.5), k**-0.5)
        elif init == "xavier":
            bound = math.sqrt(6 / (k + seq_len)) / math.sqrt(2)  # of one head's matrix
            nn.init.uniform_(self.weight, -bound, bound)
        else:
            raise ValueError(f"init={init!r} is not known; accepted: 'uniform', 'xavier'")

    def forward(self, x: Tokens, heads: int) -> Float[Tensor, "batch heads k head_dim"]:
        """E x, in heads; a shorter input takes the first columns of E.

        Raises:
            ValueError: more tokens than E has columns.
        """
        tokens, longest = x.shape[1], self.weight.shape[-1]
        if tokens > longest:
            raise ValueError(
                f"the input has {tokens} tokens, seq_len={longest}: build the layer with a seq_len of {tokens} or more"
            )
        E = self.weight[..., :tokens]
        return E @ split_heads(x, heads) if E.ndim == 3 else split_heads(E @ x, heads)


class LinformerSelfAttention(nn.Module):
    """Multi-head self-attention over k projected keys and values.

    Args:
        embed_dim: width d.
        num_heads: divides d.
        seq_len: n_max, the longest input.
        k: projected length.
        share: "headwise" one E and one F for all heads; "kv" one matrix for keys and values; "none" an E and an F for
            each head; "layerwise" the same matrix in every layer: the first makes it, and the others are given its `E`
            as `projection`. `LinformerEncoder` does that.
        dropout: of the attention weights.
        batch_first: whether inputs are (batch, tokens, dim).
        bias: in query, key, value and output map.
        fused: False writes the n x k scores out.
        init: see `SequenceProjection`.
        projection: E of all layers, for "layerwise"; default a new one.

    Raises:
        ValueError: heads that do not divide the width, an unknown `share`, or a `projection` without "layerwise".
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        seq_len: int,
        k: int = 256,
        share: Share = "headwise",
        dropout: float = 0.0,
        batch_first: bool = True,
        bias: bool = True,
        fused: bool = True,
        init: Literal["uniform", "xavier"] = "uniform",
        projection: SequenceProjection | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        if share not in get_args(Share):
            raise ValueError(f"share={share!r} is not known; accepted: {', '.join(map(repr, get_args(Share)))}")
        if projection is not None and share != "layerwise":
            raise ValueError(
                f"share={share!r} with a projection: one of all layers is given with share='layerwise' only"
            )
        place = {"device": device, "dtype": dtype}
        self.num_heads, self.dropout, self.batch_first, self.fused = num_heads, dropout, batch_first, fused
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias, **place)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias, **place)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias, **place)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias, **place)
        heads = num_heads if share == "none" else None
        self.E = projection or SequenceProjection(seq_len, k, heads, init, **place)
        self.F = self.E if share in ("kv", "layerwise") else SequenceProjection(seq_len, k, heads, init, **place)

    def forward(
        self,
        x: Float[Tensor, "first second dim"],
        attn_mask: Mask | None = None,
        key_padding_mask: Mask | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "first second dim"]:
        """Attention from every token to k mixtures of all tokens.

        Args:
            x: (batch, tokens, dim), or (tokens, batch, dim) without `batch_first`.
            attn_mask: refused.
            key_padding_mask: (batch, tokens), True or minus infinity where a token is padding; its key and value become
                0 before the projection.
            is_causal: refused.

        Raises:
            NotImplementedError: a mask between tokens, which has no meaning after the projection.
            ValueError: more tokens than `seq_len`, or a padding mask that does not fit them.
            TypeError: a padding mask of integers.
        """
        if attn_mask is not None or is_causal:
            raise NotImplementedError(
                "Linformer takes no attention mask and is not causal: its keys are mixtures of all tokens. Use "
                "key_padding_mask for padding, or LowRankTransformerEncoderLayer"
            )
        tokens = x if self.batch_first else x.transpose(0, 1)
        keys, values = self.k_proj(tokens), self.v_proj(tokens)
        if key_padding_mask is not None:
            padding = _padding(key_padding_mask, tokens).unsqueeze(-1)
            keys, values = keys.masked_fill(padding, 0), values.masked_fill(padding, 0)
        mixed = attend(
            split_heads(self.q_proj(tokens), self.num_heads),
            self.E(keys, self.num_heads),
            self.F(values, self.num_heads),
            None,
            self.dropout if self.training else 0.0,
            self.fused,
        )
        output = self.out_proj(join_heads(mixed))
        return output if self.batch_first else output.transpose(0, 1)


def _padding(mask: Tensor, tokens: Tensor) -> Bool[Tensor, "batch tokens"]:
    """Where a token is padding, from a mask of booleans or one that is added to scores."""
    check_mask("key_padding_mask", mask, tuple(tokens.shape[:2]))
    if mask.dtype == torch.bool:
        return mask
    padding = mask == -math.inf
    if not torch.compiler.is_compiling() and bool((mask[~padding] != 0).any()):
        raise ValueError(
            "key_padding_mask has numbers other than 0 and minus infinity: Linformer has no scores of single tokens "
            "to add them to; give booleans, True where a token is padding"
        )
    return padding


class LinformerEncoderLayer(EncoderLayer):
    """A transformer encoder layer with `LinformerSelfAttention`.

    Args:
        d_model: width d.
        nhead: heads.
        seq_len: n_max, the longest input.
        k: projected length.
        dim_feedforward: inner width of the feed-forward network.
        dropout: of attention weights, feed-forward network and both residual branches.
        activation: "relu", "gelu" or a function.
        layer_norm_eps: of both norms.
        batch_first: whether inputs are (batch, tokens, dim).
        norm_first: layer norm before each part.
        share: see `LinformerSelfAttention`.
        fused: False writes the n x k scores out.
        projection: see `LinformerSelfAttention`.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        seq_len: int,
        k: int = 256,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        share: Share = "headwise",
        fused: bool = True,
        projection: SequenceProjection | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = {"device": device, "dtype": dtype}
        super().__init__(
            LinformerSelfAttention(
                d_model, nhead, seq_len, k, share, dropout, fused=fused, projection=projection, **place
            ),
            nn.Linear(d_model, dim_feedforward, **place),
            nn.Linear(dim_feedforward, d_model, **place),
            d_model=d_model,
            dropout=dropout,
            activation=activation,
            norm_first=norm_first,
            batch_first=batch_first,
            layer_norm_eps=layer_norm_eps,
            **place,
        )


class LinformerEncoder(nn.Module):
    """Several `LinformerEncoderLayer`s; with `share="layerwise"` one projection for them all.

    Args:
        num_layers: how many.
        d_model, nhead, seq_len, k, share, options: of each layer.
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        seq_len: int,
        k: int = 256,
        share: Share = "headwise",
        **options,
    ) -> None:
        super().__init__()
        place = {name: options[name] for name in ("device", "dtype") if name in options}
        projection = SequenceProjection(seq_len, k, **place) if share == "layerwise" else None
        self.layers = nn.ModuleList(
            LinformerEncoderLayer(d_model, nhead, seq_len, k, share=share, projection=projection, **options)
            for _ in range(num_layers)
        )

    def forward(
        self,
        src: Float[Tensor, "first second dim"],
        src_key_padding_mask: Mask | None = None,
    ) -> Float[Tensor, "first second dim"]:
        """The layers one after another."""
        for layer in self.layers:
            src = layer(src, src_key_padding_mask=src_key_padding_mask)
        return src


def crossover_length(
    d_model: int, rank: int, k: int, ffn_mult: float = 4, metric: Literal["macs", "activation"] = "macs"
) -> int:
    """Up to how many tokens a Low-Rank Transformer layer is cheaper than a Linformer layer of the same width.

    Multiply-adds of n tokens, feed-forward width f d: low rank n r d (10 + 2 f) + 2 n^2 d, Linformer n d^2 (4 + 2 f) +
    4 n k d. They are equal at n = (2 + f) d - (5 + f) r + 2 k. The scores kept for the backward pass are n^2 against
    n k a head, equal at n = k; a fused kernel keeps neither.

    Args:
        d_model: width d.
        rank: r of the Low-Rank Transformer.
        k: projected length of Linformer.
        ffn_mult: f.
        metric: "macs" or "activation".

    Returns:
        Tokens; 0 where Linformer is cheaper at every length.

    Raises:
        ValueError: sizes below 1, or an unknown metric.
    """
    if min(d_model, rank, k) < 1 or ffn_mult <= 0:
        raise ValueError(f"d_model={d_model}, rank={rank}, k={k}, ffn_mult={ffn_mult}: all are positive")
    if metric == "activation":
        return k
    if metric != "macs":
        raise ValueError(f"metric={metric!r} is not known; accepted: 'macs', 'activation'")
    return max(0, round((2 + ffn_mult) * d_model - (5 + ffn_mult) * rank + 2 * k))
