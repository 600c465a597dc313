"""The Low-Rank Transformer (LRT): an encoder layer whose every weight is a thin pair of matrices.

Winata et al. (2020), arXiv 1910.13923; compared with Linformer in Greenformers (arXiv 2108.10808). The attention itself
stays softmax(Q K^T / sqrt(d_h)) V, so a layer costs n r 18 d + 2 n^2 d multiply-adds for n tokens of width d.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
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
from fullrank.nn.low_rank import LowRankLinear, Split


class LowRankMultiheadAttention(nn.Module):
    """Multi-head self-attention with `LowRankLinear` for query, key, value and output.

    Args:
        embed_dim: width d.
        num_heads: divides d.
        rank: r of all four maps.
        dropout: of the attention weights.
        bias: in the four maps.
        fused: False writes the n x n scores out, as before fused kernels.

    Attributes:
        batch_first: True, which `nn.TransformerEncoder` reads: inputs are (batch, tokens, dim).

    Raises:
        ValueError: heads that do not divide the width, or `rank` below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        rank: int,
        dropout: float = 0.0,
        bias: bool = True,
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads, self.dropout, self.batch_first, self.fused = num_heads, dropout, True, fused
        place = {"device": device, "dtype": dtype}
        self.q_proj = LowRankLinear(embed_dim, embed_dim, rank, bias, **place)
        self.k_proj = LowRankLinear(embed_dim, embed_dim, rank, bias, **place)
        self.v_proj = LowRankLinear(embed_dim, embed_dim, rank, bias, **place)
        self.out_proj = LowRankLinear(embed_dim, embed_dim, rank, bias, **place)

    def forward(
        self,
        x: Tokens,
        attn_mask: Mask | None = None,
        key_padding_mask: Mask | None = None,
        is_causal: bool = False,
    ) -> Tokens:
        """Attention among the tokens; masks as in `nn.MultiheadAttention`: True, or minus infinity, is ignored.

        Raises:
            ValueError: a mask of another shape.
            TypeError: a mask of integers.
        """
        q, k, v = (split_heads(map_(x), self.num_heads) for map_ in (self.q_proj, self.k_proj, self.v_proj))
        mask = _additive(attn_mask, key_padding_mask, is_causal, q)
        mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0, self.fused)
        return self.out_proj(join_heads(mixed))


class LowRankTransformerEncoderLayer(EncoderLayer):
    """In place of `nn.TransformerEncoderLayer`, with every weight of rank r.

    Args:
        d_model: width d.
        nhead: heads.
        dim_feedforward: inner width of the feed-forward network.
        rank: r of the four attention maps.
        rank_ffn: r of the two feed-forward maps; default `rank`.
        dropout: of attention weights, feed-forward network and both residual branches.
        activation: "relu", "gelu" or a function.
        layer_norm_eps: of both norms.
        batch_first: whether inputs are (batch, tokens, dim).
        norm_first: layer norm before each part; the original has it after the sum.
        bias: in all maps and norms.
        fused: False writes the n x n scores out.

    Raises:
        ValueError: heads that do not divide the width, a rank below 1, or an unknown activation.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        rank: int = 64,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        rank_ffn: int | None = None,
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = {"device": device, "dtype": dtype}
        inner_rank = rank if rank_ffn is None else rank_ffn
        super().__init__(
            LowRankMultiheadAttention(d_model, nhead, rank, dropout, bias, fused, **place),
            LowRankLinear(d_model, dim_feedforward, inner_rank, bias, **place),
            LowRankLinear(dim_feedforward, d_model, inner_rank, bias, **place),
            d_model=d_model,
            dropout=dropout,
            activation=activation,
            norm_first=norm_first,
            batch_first=batch_first,
            layer_norm_eps=layer_norm_eps,
            bias=bias,
            **place,
        )

    @classmethod
    def from_layer(
        cls, layer: nn.TransformerEncoderLayer, rank: int, split: Split = "left"
    ) -> LowRankTransformerEncoderLayer:
        """The layer with the best approximation of every weight of a trained dense layer.

        Args:
            layer: it stays as it is.
            rank: 1 to the width.
            split: see `LowRankLinear.from_linear`.

        Raises:
            ValueError: `rank` outside 1..width, or weights that are not finite.
        """
        attention = layer.self_attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        made = cls(
            attention.embed_dim,
            attention.num_heads,
            layer.linear1.out_features,
            rank,
            layer.dropout.p,
            layer.activation,
            layer.norm1.eps,
            attention.batch_first,
            layer.norm_first,
            layer.linear1.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        parts = zip(("q_proj", "k_proj", "v_proj"), _linear_parts(weight, bias), strict=True)
        for name, linear in (*parts, ("out_proj", attention.out_proj)):
            setattr(made.self_attn, name, LowRankLinear.from_linear(linear, rank, split=split))
        made.linear1 = LowRankLinear.from_linear(layer.linear1, rank, split=split)
        made.linear2 = LowRankLinear.from_linear(layer.linear2, rank, split=split)
        made.norm1.load_state_dict(layer.norm1.state_dict())
        made.norm2.load_state_dict(layer.norm2.state_dict())
        return made.train(layer.training)


def _linear_parts(weight: Float[Tensor, "three_dim dim"], bias: Tensor | None) -> list[nn.Linear]:
    """Query, key and value map of torch's packed projection."""
    parts = []
    for number, rows in enumerate(weight.detach().chunk(3)):
        linear = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None, device=rows.device, dtype=rows.dtype)
        with torch.no_grad():
            linear.weight.copy_(rows)
            if bias is not None:
                linear.bias.copy_(bias.detach().chunk(3)[number])
        parts.append(linear)
    return parts


def _additive(attn_mask: Tensor | None, key_padding_mask: Tensor | None, is_causal: bool, q: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores (batch, heads, tokens, tokens), or None."""
    batch, heads, tokens, _ = q.shape
    if is_causal and attn_mask is None:
        attn_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
    mask = None
    if attn_mask is not None:
        check_mask("src_mask", attn_mask, (tokens, tokens), (batch * heads, tokens, tokens))
        mask = _minus_infinity(attn_mask, q.dtype)
        if mask.ndim == 3:
            mask = mask.view(batch, heads, tokens, tokens)
    if key_padding_mask is None:
        return mask
    check_mask("src_key_padding_mask", key_padding_mask, (batch, tokens))
    padding = _minus_infinity(key_padding_mask, q.dtype)[:, None, None]
    return padding if mask is None else mask + padding


def _minus_infinity(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
