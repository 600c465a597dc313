"""Rank-augmented linear attention in three kernels on a GPU, for those who have Triton.

Queries are read twice, keys and values once, and the output is written once; between the kernels lie only sums of
d x d numbers per head and part of the tokens. It runs only where it is called: `rala_attention` is plain torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from math import ceil
from typing import Any

import torch
from torch import Tensor

from fullrank._optional import require
from fullrank.nn.axial_rotation import Rotation
from fullrank.nn.rala import Keys, Output, Queries, Values, check_positions, rala_attention

_TOKENS = 32  # of one step of a kernel
_STEPS = 16  # steps of one program; its sums are added up afterwards


def rala_attention_triton(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    q_pos: Rotation | None = None,
    k_pos: Rotation | None = None,
    eps: float = 1e-6,
) -> Output:
    """`rala_attention` with its weights and normaliser, computed forward by Triton kernels.

    The backward pass recomputes the torch form, whose memory is linear in the number of tokens too.

    Args:
        q: queries before the feature map, on a CUDA device; any strides, of float32, float16 or bfloat16.
        k: keys before the feature map.
        v: values of the width of the keys.
        q_pos: rotation of the queries (`axial_rotation`), or None.
        k_pos: rotation of the keys; given exactly when `q_pos` is.
        eps: added to the normaliser.

    Raises:
        MissingExtra: Triton is not installed.
        ValueError: values of another width than the keys, another dtype or device, or positions that do not fit.
    """
    require("triton", "vision")
    if v.shape[-1] != k.shape[-1] or k.shape[-1] % 2:
        raise ValueError(
            f"heads of {k.shape[-1]} with values of {v.shape[-1]}: the kernels want one even width for both; use "
            "rala_attention"
        )
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"q has dtype {q.dtype}: the kernels compute in float32, so use rala_attention")
    check_positions(q, k, q_pos, k_pos)
    if q.device.type != "cuda" and not os.environ.get("TRITON_INTERPRET"):
        raise ValueError(f"q is on '{q.device}': the kernels run on a CUDA device; use rala_attention")
    return _Attention.apply(q, k, v, q_pos, k_pos, eps)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, q_pos: Any, k_pos: Any, eps: float) -> Tensor:
        ctx.save_for_backward(q, k, v, q_pos, k_pos)
        ctx.eps = eps
        return _forward(q, k, v, q_pos, k_pos, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, q_pos, k_pos = ctx.saved_tensors
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (q, k, v)]
            output = rala_attention(*inputs, q_pos=q_pos, k_pos=k_pos, eps=ctx.eps)
        return *torch.autograd.grad(output, inputs, gradients[0]), None, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, q_pos: Tensor | None, k_pos: Tensor | None, eps: float) -> Tensor:
    kernels: Any = import_module("fullrank.nn.rala_kernels")  # brings Triton
    batch, heads, queries, dim = q.shape
    keys, rotated = k.shape[2], q_pos is not None
    program = _TOKENS * _STEPS
    query_parts, key_parts = ceil(queries / program), ceil(keys / program)
    pairs = max(16, 1 << (dim // 2 - 1).bit_length())  # the smallest side of a matrix product on a GPU
    options = {"PAIRS": pairs, "TOKENS": _TOKENS, "STEPS": _STEPS}
    q_table, k_table = (_table(position, q) for position in (q_pos, k_pos))

    def sums(parts: int, *shape: int) -> Tensor:
        return torch.zeros(batch * heads, parts, *shape, device=q.device, dtype=torch.float32)

    totals = sums(query_parts, 2, pairs)
    kernels.query_sums[(batch * heads, query_parts)](q, totals, *q.stride(), heads, queries, dim, **options)
    mean = totals.sum(1) * (dim**-0.5 / queries)  # (batch * heads, 2, pairs)

    peaks, masses = sums(key_parts), sums(key_parts)
    key_sums, buffers = sums(key_parts, 2, pairs), sums(key_parts, 2, pairs, 2 * pairs)
    kernels.buffers[(batch * heads, key_parts)](
        k, v, mean, k_table, peaks, masses, key_sums, buffers, *k.stride(), *v.stride(), heads, keys, dim,
        ROTATED=rotated, **options,
    )  # fmt: skip
    # Softmax over all keys, of sums that each part took relative to its own largest logit.
    scale = torch.softmax(peaks + masses.log(), dim=1) / masses
    key_mean = torch.einsum("bp,bpef->bef", scale, key_sums)
    KV = torch.einsum("bp,bpefg->befg", scale, buffers).contiguous()

    r = torch.empty_like(q, memory_format=torch.contiguous_format)
    kernels.outputs[(batch * heads, query_parts)](
        q, key_mean, KV, q_table, r, *q.stride(), *r.stride(), heads, queries, dim, eps, ROTATED=rotated, **options
    )
    return r


def _table(position: Tensor | None, like: Tensor) -> Tensor:
    """The rotation as the kernels read it; without one a tensor that they do not read."""
    return like if position is None else position.to(torch.float32).contiguous()
