"""Low-rank efficient spatial-spectral attention (Si et al. 2025, arXiv 2503.12843).

A hyperspectral cube is a grid of N patches times C channels. Joint attention over its N C tokens is approximated by a
sum of r Kronecker products of a small spectral and a small spatial attention,

    A ≈ Σ_ρ A_c^(ρ) ⊗ A_s^(ρ),

on C spectral and N spatial tokens that attention pooling summarises the grid into. Neither A nor the grid of Kronecker
products of the values is ever formed here: the output projection is split between its two factors, and a pooling query
is carried through its key projection, so that the costly products act on N (or C) tokens instead of N C.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention

from fullrank.nn.less_positions import Number, Rotation, rotate

RankReduce = Literal["sum", "mean"]
SpatialMask = Bool[Tensor, "patches patches"] | Bool[Tensor, "batch patches patches"]


def admissible_channel_head_dims(dim: int, num_heads: int) -> list[int]:
    """The spectral widths d_c that a head of width dim / num_heads can be split into: its divisors."""
    head = dim // num_heads
    return [d for d in range(1, head + 1) if head % d == 0]


class AttentionPool(nn.Module):
    """One token for every row of a grid: its CLS entry, index 0, attends to the whole row.

    Exact for one query a row: its score q_hᵀ W_k x equals (W_kᵀ q_h)ᵀ x, the bias of the keys shifts all scores alike,
    and Σ a (W_v x + b_v) = W_v Σ a x + b_v. So neither keys nor values of the grid are computed.

    Args:
        dim: width of a token.
        num_heads: attention heads.
        qkv_bias: biases of query, key and value. Default True.
        attention_dropout: probability of dropout on the attention. Default 0.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, attention_dropout: Number = 0.0) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attention_dropout = num_heads, dim // num_heads, attention_dropout
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.output = nn.Linear(dim, dim)

    def forward(self, rows: Float[Tensor, "batch rows tokens dim"]) -> Float[Tensor, "batch rows dim"]:
        """The pooled rows."""
        heads = (self.num_heads, self.head_dim)
        q = self.query(rows[:, :, 0]).unflatten(-1, heads)
        W_k, W_v = (weight.unflatten(0, heads) for weight in self.key_value.weight.chunk(2))
        carried = torch.einsum("brhd,hdw->brhw", q, W_k)
        drop = self.attention_dropout if self.training else 0.0
        # The heads are the queries of one attention over the tokens themselves.
        rows = rows.to(carried.dtype)
        means = scaled_dot_product_attention(carried, rows, rows, dropout_p=drop, scale=self.head_dim**-0.5)
        pooled = torch.einsum("brhw,hdw->brhd", means, W_v).flatten(-2)
        if self.key_value.bias is not None:
            pooled = pooled + self.key_value.bias.chunk(2)[1]
        return self.output(pooled)


class LowRankPooling(nn.Module):
    """Summarise a (C, N) grid into C spectral tokens of `channel_dim` and N spatial tokens of `spatial_dim`.

    z_c[c] = X_c[c, 0] + AttentionPool(LN(X_c[c, :])) and z_s[n] = X_s[0, n] + AttentionPool(LN(X_s[:, n])), where X_c
    and X_s are two projections of the grid, computed as one product.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        channel_dim: int,
        spatial_dim: int,
        qkv_bias: bool,
        attention_dropout: Number,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.widths = (channel_dim, spatial_dim)
        self.project = nn.Linear(dim, channel_dim + spatial_dim)
        self.channel_norm = nn.LayerNorm(channel_dim, eps=norm_eps)
        self.spatial_norm = nn.LayerNorm(spatial_dim, eps=norm_eps)
        self.channel_pool = AttentionPool(channel_dim, num_heads, qkv_bias, attention_dropout)
        self.spatial_pool = AttentionPool(spatial_dim, num_heads, qkv_bias, attention_dropout)

    def forward(
        self, grid: Float[Tensor, "batch channels patches dim"]
    ) -> tuple[Float[Tensor, "batch channels channel_dim"], Float[Tensor, "batch patches spatial_dim"]]:
        """z_c and z_s."""
        Xc, Xs = self.project(grid).split(self.widths, dim=-1)
        Xs = Xs.transpose(1, 2)
        z_c = Xc[:, :, 0] + self.channel_pool(self.channel_norm(Xc))
        z_s = Xs[:, :, 0] + self.spatial_pool(self.spatial_norm(Xs))
        return z_c, z_s


class RankedAttention(nn.Module):
    """Multi-head self-attention with r attention maps a head: U^(ρ) = softmax(q^(ρ) k^(ρ)ᵀ / √d) v.

    Args:
        dim: width of a token, num_heads times d.
        num_heads: attention heads.
        rank: r, how many maps each head has.
        value_per_rank: a v for every map instead of one for all.
        qk_norm: LayerNorm on queries and keys.
        qkv_bias: biases of query, key and value.
        attention_dropout: probability of dropout on the attention.
        norm_eps: of every LayerNorm.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rank: int,
        value_per_rank: bool,
        qk_norm: bool,
        qkv_bias: bool,
        attention_dropout: Number,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.rank = num_heads, dim // num_heads, rank
        self.attention_dropout = attention_dropout
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.query_key = nn.Linear(dim, 2 * rank * dim, bias=qkv_bias)
        self.value = nn.Linear(dim, (rank if value_per_rank else 1) * dim, bias=qkv_bias)
        self.query_norm = nn.LayerNorm(self.head_dim, eps=norm_eps) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(self.head_dim, eps=norm_eps) if qk_norm else nn.Identity()

    def query_key_value(
        self, tokens: Float[Tensor, "batch tokens dim"], rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q and k of (batch, rank, heads, tokens, d); v likewise, with one rank where the ranks share it."""
        tokens = self.norm(tokens)
        query_key = self.query_key(tokens).unflatten(-1, (2, self.num_heads, self.rank, self.head_dim))
        q, k = query_key.permute(2, 0, 4, 3, 1, 5)
        v = self.value(tokens).unflatten(-1, (self.num_heads, -1, self.head_dim)).permute(0, 3, 2, 1, 4)
        q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        mask: Bool[Tensor, "*batch tokens tokens"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "batch rank heads tokens head_dim"]:
        """U^(ρ) of every head; `mask` is True where a token (row) may attend."""
        q, k, v = self.query_key_value(tokens, rotation)
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None, None]
        drop = self.attention_dropout if self.training else 0.0
        return scaled_dot_product_attention(q, k, v.expand_as(q).to(q.dtype), mask, drop)


class LESSAttention(nn.Module):
    """Low-rank efficient spatial-spectral attention on a (C, N) grid of tokens; index 0 of either axis is its CLS.

    O[c, n] = Σ_ρ U_c^(ρ)[c] ⊗ U_s^(ρ)[n] for every head, followed by a linear map W_o. With W_o as (h, d_c, d_s, D),
    T[n, (ρ, h, a)] = Σ_b W_o[h, a, b] U_s^(ρ)[n, h, b] and out[c, n] = Σ_{ρ, h, a} U_c^(ρ)[c, h, a] T[n, (ρ, h, a)]:
    the same numbers for N D² + C N r h d_c D products instead of C N D², and no grid of Kronecker products in memory.

    Args:
        dim: D, width of the tokens.
        num_heads: h, attention heads.
        channel_head_dim: d_c, how much of a head's width D / h belongs to the spectral branch; the spatial branch has
            d_s = D / (h d_c). Default 2.
        rank: r, how many Kronecker products are summed. Default 1.
        value_per_rank: values of their own for every rank, as the later release has them. Default False: shared.
        rank_reduce: "sum" over ranks, or "mean", as the later release, whose scale does not depend on r. Default "sum".
        qk_norm: LayerNorm on the queries and keys of both branches. Default False.
        qkv_bias: biases of query, key and value. Default True.
        dropout: probability of dropout on the output. Default 0.
        attention_dropout: probability of dropout on every attention. Default 0.
        norm_eps: of every LayerNorm. Default 1e-6.

    Raises:
        ValueError: sizes that do not divide; the message lists the admissible `channel_head_dim`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        channel_head_dim: int = 2,
        rank: int = 1,
        value_per_rank: bool = False,
        rank_reduce: RankReduce = "sum",
        qk_norm: bool = False,
        qkv_bias: bool = True,
        dropout: Number = 0,
        attention_dropout: Number = 0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check_head_split(dim, num_heads, channel_head_dim)
        if rank < 1:
            raise ValueError(f"rank={rank}: at least one Kronecker product is needed")
        if rank_reduce not in ("sum", "mean"):
            raise ValueError(f"rank_reduce={rank_reduce!r}: use 'sum' or 'mean'")
        spatial_head_dim = dim // (num_heads * channel_head_dim)
        self.split = (num_heads, channel_head_dim, spatial_head_dim)
        self.rank, self.rank_reduce, self.dropout = rank, rank_reduce, dropout
        channel_dim, spatial_dim = num_heads * channel_head_dim, num_heads * spatial_head_dim
        self.pooling = LowRankPooling(dim, num_heads, channel_dim, spatial_dim, qkv_bias, attention_dropout, norm_eps)
        options = (num_heads, rank, value_per_rank, qk_norm, qkv_bias, attention_dropout, norm_eps)
        self.channel_branch = RankedAttention(channel_dim, *options)
        self.spatial_branch = RankedAttention(spatial_dim, *options)
        self.output = nn.Linear(dim, dim)
        self.apply(xavier_linear)

    def factors(
        self,
        grid: Float[Tensor, "batch channels patches dim"],
        spatial_mask: SpatialMask | None = None,
        channel_rotation: Rotation | None = None,
        spatial_rotation: Rotation | None = None,
    ) -> tuple[Float[Tensor, "batch rank heads channels d_c"], Float[Tensor, "batch rank heads patches d_s"]]:
        """U_c and U_s, whose Kronecker products, summed over the ranks, are the attended values of the grid."""
        z_c, z_s = self.pooling(grid)
        U_c = self.channel_branch(z_c, rotation=channel_rotation)
        U_s = self.spatial_branch(z_s, spatial_mask, spatial_rotation)
        return U_c, U_s

    def forward(
        self,
        grid: Float[Tensor, "batch channels patches dim"],
        spatial_mask: SpatialMask | None = None,
        channel_rotation: Rotation | None = None,
        spatial_rotation: Rotation | None = None,
    ) -> Float[Tensor, "batch channels patches dim"]:
        """Attend.

        Args:
            grid: tokens, with or without CLS entries at index 0 of the axes.
            spatial_mask: True where patch i (row) may attend to patch j; one for all images or one an image.
            channel_rotation: cosines and sines of `spectral_rotation`.
            spatial_rotation: cosines and sines of `less_positions.spatial_rotation`.
        """
        U_c, U_s = self.factors(grid, spatial_mask, channel_rotation, spatial_rotation)
        return dropout(self._combine(U_c, U_s), self.dropout, self.training)

    def _combine(self, U_c: Tensor, U_s: Tensor) -> Tensor:
        """W_o Σ_ρ U_c^(ρ) ⊗ U_s^(ρ) + b_o, without the Kronecker products."""
        batch, _, _, patches, _ = U_s.shape
        W_o = self.output.weight.unflatten(1, self.split)
        T = torch.einsum("zrhnb,ohab->zrhano", U_s, W_o)
        if self.rank_reduce == "mean":
            U_c = U_c / self.rank
        U_c = U_c.permute(0, 3, 1, 2, 4).flatten(2)
        out = torch.bmm(U_c, T.reshape(batch, U_c.shape[-1], -1))
        return out.unflatten(-1, (patches, -1)) + self.output.bias


class LESSBlock(nn.Module):
    """X + γ1 LESSAttention(LN X), then X + γ2 MLP(LN X), with an exact GELU in the MLP.

    Args:
        dim: D, width of the tokens.
        num_heads: attention heads.
        channel_head_dim: d_c of `LESSAttention`.
        mlp_ratio: hidden width of the MLP over D. Default 4.
        layer_scale: where γ1 and γ2 start; None: no such factor. Default 1.
        dropout: probability of dropout on the outputs of attention and MLP. Default 0.
        drop_path: probability of leaving a branch out, image by image. Default 0.
        norm_eps: of every LayerNorm. Default 1e-6.
        attention: further options of `LESSAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        channel_head_dim: int = 2,
        *,
        mlp_ratio: Number = 4,
        layer_scale: Number | None = 1.0,
        dropout: Number = 0,
        drop_path: Number = 0,
        norm_eps: float = 1e-6,
        **attention: object,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = LESSAttention(
            dim,
            num_heads,
            channel_head_dim,
            dropout=dropout,
            norm_eps=norm_eps,
            **attention,  # pyright: ignore[reportArgumentType]
        )
        self.scale1 = _layer_scale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.up = nn.Linear(dim, int(dim * mlp_ratio))
        self.down = nn.Linear(int(dim * mlp_ratio), dim)
        self.scale2 = _layer_scale(dim, layer_scale)
        self.dropout, self.drop_path = dropout, drop_path
        xavier_linear(self.up)
        xavier_linear(self.down)

    def forward(
        self,
        grid: Float[Tensor, "batch channels patches dim"],
        spatial_mask: SpatialMask | None = None,
        channel_rotation: Rotation | None = None,
        spatial_rotation: Rotation | None = None,
    ) -> Float[Tensor, "batch channels patches dim"]:
        """The grid after one block; the arguments are those of `LESSAttention`."""
        # Nothing keeps a name here: what one half has computed is freed before the other begins.
        grid = self._add(
            grid, self.attention(self.norm1(grid), spatial_mask, channel_rotation, spatial_rotation), self.scale1
        )
        return self._add(grid, self._mlp(grid), self.scale2)

    def _mlp(self, grid: Tensor) -> Tensor:
        hidden = dropout(gelu(self.up(self.norm2(grid))), self.dropout, self.training)
        return dropout(self.down(hidden), self.dropout, self.training)

    def _add(self, grid: Tensor, branch: Tensor, scale: nn.Parameter | None) -> Tensor:
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            branch = branch * (branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep) / keep)
        return grid + branch if scale is None else torch.addcmul(grid, branch, scale)


def _layer_scale(dim: int, start: Number | None) -> nn.Parameter | None:
    return None if start is None else nn.Parameter(torch.full((dim,), float(start)))


def check_head_split(dim: int, num_heads: int, channel_head_dim: int) -> None:
    """Refuse widths that do not divide.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `channel_head_dim` not the width of a head.
    """
    if num_heads < 1 or dim < 1 or dim % num_heads:
        raise ValueError(f"dim={dim} is no multiple of num_heads={num_heads}: choose another number of heads")
    if channel_head_dim < 1 or (dim // num_heads) % channel_head_dim:
        raise ValueError(
            f"channel_head_dim={channel_head_dim} does not divide the head width {dim} / {num_heads} = "
            f"{dim // num_heads}: use one of {admissible_channel_head_dims(dim, num_heads)}"
        )


def xavier_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in a linear layer; anything else stays as it is."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
