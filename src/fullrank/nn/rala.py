"""Rank-augmented linear attention (RALA): linear cost, weighted tokens, and a gate that restores the output's rank.

Source: arXiv 2411.07635; where the official code says more than the formula (normaliser, rotary positions, local
position term), the code is followed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fullrank.nn.axial_rotation import Rotation, rotate
from fullrank.nn.gated_attention import GateActivation, GatedAttention, Heads

Queries = Float[Tensor, "batch heads queries dim"]
Keys = Float[Tensor, "batch heads keys dim"]
Values = Float[Tensor, "batch heads keys value_dim"]
Output = Float[Tensor, "batch heads queries value_dim"]


def positive_features(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The kernel feature map kappa(x) = ELU(x) + 1."""
    return functional.elu(x).add_(1)  # in place on a fresh tensor; the derivative is taken from x


def token_weights(q: Queries, k: Keys) -> Float[Tensor, "batch heads keys"]:
    """alpha_j = N softmax_j(d^-1/2 mean_i kappa(q_i) . kappa(k_j)): how much key j counts in the buffer, 1 on average.

    Args:
        q: queries before the feature map.
        k: keys before the feature map.

    Source: arXiv 2411.07635, and `GateLinearAttentionNoSilu` of the official code.
    """
    q, k = (positive_features(_wide(x)) for x in (q, k))
    return k.shape[-2] * _shares(q, k).squeeze(-1)


def kv_buffer(
    q: Queries, k: Keys, v: Values, *, k_pos: Rotation | None = None, reweight: bool = True
) -> Float[Tensor, "batch heads dim value_dim"]:
    """The key-value buffer KV = 1/N sum_j alpha_j (R_j kappa(k_j))^T v_j that stands for all tokens.

    Args:
        q: queries before the feature map; only their mean counts, in the weights.
        k: keys before the feature map.
        v: values.
        k_pos: rotation of the keys (`axial_rotation`), or None.
        reweight: weigh the tokens by alpha; otherwise all alike.
    """
    q, k, v = (_wide(x) for x in (q, k, v))
    k = positive_features(k)
    shares = _shares(positive_features(q), k) if reweight else k.new_full((1, 1, 1, 1), 1 / k.shape[-2])
    return _buffer(k, v, shares, k_pos)


def rala_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    q_pos: Rotation | None = None,
    k_pos: Rotation | None = None,
    eps: float = 1e-6,
    reweight: bool = True,
    normalize: bool = True,
) -> Output:
    """Linear attention with weighted tokens: r_i = (R_i q_i) KV / (q_i . mean_j alpha_j k_j + eps), after kappa.

    Time and memory grow linearly with the number of tokens. Everything is computed in float32 at least, under autocast
    too, and returned in the dtype of `q`.

    Args:
        q: queries before the feature map.
        k: keys before the feature map; their number may differ from that of the queries.
        v: values.
        q_pos: rotation of the queries (`axial_rotation`), or None.
        k_pos: rotation of the keys; given exactly when `q_pos` is.
        eps: added to the normaliser.
        reweight: weigh the tokens by alpha (`token_weights`); otherwise this is plain linear attention.
        normalize: divide by the normaliser. It is made of un-rotated vectors, so that it stays positive.

    Raises:
        ValueError: heads, widths or numbers of tokens that do not fit, one of `q_pos` and `k_pos` is missing, or a
            rotation does not fit its tokens.

    Source: arXiv 2411.07635, and `GateLinearAttentionNoSilu` of the official code.
    """
    _check_shapes(q, k, v)
    check_positions(q, k, q_pos, k_pos)
    kind = q.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return _attend(q, k, v, q_pos, k_pos, eps, reweight, normalize)
    return _attend(q, k, v, q_pos, k_pos, eps, reweight, normalize)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_pos: Tensor | None,
    k_pos: Tensor | None,
    eps: float,
    reweight: bool,
    normalize: bool,
) -> Tensor:
    dtype = q.dtype
    q, k, v = (_head_major(_wide(x)) for x in (q, k, v))
    q, k = positive_features(q), positive_features(k)
    # alpha_j / N is the softmax itself: no factor N anywhere, and nothing that overflows in half precision.
    shares = _shares(q, k) if reweight else k.new_full((1, 1, 1, 1), 1 / k.shape[-2]).expand(*k.shape[:-1], 1)
    KV = _buffer(k, v, shares, k_pos)
    r = (rotate(q, q_pos) if q_pos is not None else q) @ KV
    if normalize:
        z = q @ (k.mT @ shares) + eps  # (batch, heads, queries, 1)
        r = r / z
    return r.to(dtype)


def _shares(q: Tensor, k: Tensor) -> Tensor:
    """alpha_j / N as a column, (batch, heads, keys, 1), of q and k after the feature map."""
    mean = q.mean(dim=-2).unsqueeze(-1) * q.shape[-1] ** -0.5
    return torch.softmax(k @ mean, dim=-2)


def _buffer(k: Tensor, v: Tensor, shares: Tensor, k_pos: Tensor | None) -> Tensor:
    return (rotate(k, k_pos) if k_pos is not None else k).mT @ (shares * v)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _head_major(x: Tensor) -> Tensor:
    """Several heads that lie token by token are laid out head by head once, not again by each product."""
    return x if x.shape[1] == 1 else x.contiguous()


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    *heads, _, dim = q.shape
    keys = k.shape[-2]
    if k.shape != (*heads, keys, dim) or v.shape[:-1] != (*heads, keys):
        raise ValueError(
            f"q has shape {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}: the same batch and heads are "
            "needed, as wide keys as queries, and as many values as keys"
        )


def check_positions(q: Tensor, k: Tensor, q_pos: Tensor | None, k_pos: Tensor | None) -> None:
    """Raise ValueError where one rotation is missing, or one does not fit its tokens."""
    if (q_pos is None) != (k_pos is None):
        given, missing = ("q_pos", "k_pos") if k_pos is None else ("k_pos", "q_pos")
        raise ValueError(f"{given} is given and {missing} is not: rotate both queries and keys, or neither")
    for name, x, position in (("q_pos", q, q_pos), ("k_pos", k, k_pos)):
        expected = (x.shape[-2], x.shape[-1] // 2, 2)
        if position is not None and tuple(position.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(position.shape)}, but {x.shape[-2]} tokens with heads of {x.shape[-1]} need "
                f"{expected}: make it with axial_rotation(grid, head_dim)"
            )


class RankAugmentedLinearAttention(GatedAttention):
    """Rank-augmented linear attention: a block of linear cost in the number of tokens.

    Args:
        dim: channels C.
        num_heads: heads of C / num_heads channels.
        reweight: weigh the tokens in the key-value buffer (`token_weights`). Without it and without the gate this is
            plain linear attention.
        normalize: divide by the un-rotated normaliser.
        eps: added to the normaliser.
        options: see `GatedAttention`.

    Source: arXiv 2411.07635, `GateLinearAttentionNoSilu` of the official code.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        rope: bool = True,
        lepe_kernel: int | None = 5,
        gate: bool = True,
        gate_act: GateActivation | None = None,
        reweight: bool = True,
        normalize: bool = True,
        eps: float = 1e-6,
        num_prefix_tokens: int = 0,
    ) -> None:
        super().__init__(
            dim, num_heads, qkv_bias=qkv_bias, rope=rope, lepe_kernel=lepe_kernel, gate=gate, gate_act=gate_act,
            num_prefix_tokens=num_prefix_tokens,
        )  # fmt: skip
        self.reweight, self.normalize, self.eps = reweight, normalize, eps

    def attend(self, heads: Heads, rotation: Rotation | None) -> Float[Tensor, "batch heads tokens dim"]:
        """`rala_attention` on the heads."""
        return rala_attention(
            heads.q, heads.k, heads.v, q_pos=rotation, k_pos=rotation, eps=self.eps, reweight=self.reweight,
            normalize=self.normalize,
        )  # fmt: skip
