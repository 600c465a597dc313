"""The product with a packed weight, a block of rows at a time: one operator for autograd and `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fullrank.compress.quantization import dequantize, unpack

# Entries of a block that are unpacked at once: about what a core's cache holds in float32.
_BLOCK = 1 << 19


def packed_linear(x: Tensor, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """x W^T with W = s (q - z) from its packed codes, which are never unpacked whole.

    Args:
        x: (..., in), floating point.
        qweight: packed codes, (out, bytes).
        scales: (out, groups).
        zeros: (out, groups), or None for a symmetric grid.
        bits: of a code.

    Returns:
        (..., out) in the dtype of x; differentiable in x.
    """
    return _forward(x, qweight, scales, zeros, bits)


@torch.library.custom_op(
    "fullrank::packed_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor qweight, Tensor scales, Tensor? zeros, int bits) -> Tensor",
)
def _forward(x: Tensor, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    tokens = x.reshape(-1, x.shape[-1])
    planes = _planes(tokens.shape[1], scales, bits)
    parts = [tokens[:, plane::planes].contiguous() for plane in range(planes)]
    y = x.new_empty(len(tokens), len(qweight))
    for rows, blocks in _blocks(tokens.shape[1], qweight, scales, zeros, bits, x.dtype):
        y[:, rows] = sum(part @ block.mT for part, block in zip(parts, blocks, strict=True))
    return y.reshape(*x.shape[:-1], len(qweight))


@torch.library.custom_op(
    "fullrank::packed_linear_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor qweight, Tensor scales, Tensor? zeros, int bits, int inputs) -> Tensor",
)
def _backward(
    gradient: Tensor, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, inputs: int
) -> Tensor:
    outer = gradient.reshape(-1, gradient.shape[-1])
    planes = _planes(inputs, scales, bits)
    sums = gradient.new_zeros(planes, len(outer), inputs // planes)
    for rows, blocks in _blocks(inputs, qweight, scales, zeros, bits, gradient.dtype):
        for part, block in zip(sums, blocks, strict=True):
            part.addmm_(outer[:, rows], block)
    return sums.permute(1, 2, 0).reshape(*gradient.shape[:-1], inputs)


@_forward.register_fake
def _(x: Tensor, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], qweight.shape[0])


@_backward.register_fake
def _(gradient: Tensor, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, inputs: int) -> Tensor:
    return gradient.new_empty(*gradient.shape[:-1], inputs)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, qweight, scales, zeros, bits = inputs
    ctx.save_for_backward(qweight, scales, zeros)
    ctx.bits, ctx.inputs = bits, x.shape[-1]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    qweight, scales, zeros = ctx.saved_tensors
    return _backward(gradient, qweight, scales, zeros, ctx.bits, ctx.inputs), None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _planes(inputs: int, scales: Tensor, bits: int) -> int:
    """How many codes of a byte are taken apart into matrices of their own, which spares putting them in order."""
    planes = 8 // bits if 8 % bits == 0 else 1
    return planes if inputs // scales.shape[1] % planes == 0 else 1


def _blocks(
    inputs: int, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Iterator[Tensor]]]:
    """The weight in blocks of rows, in a dtype; with several planes, plane p has the columns p, p + planes, ..."""
    planes = _planes(inputs, scales, bits)
    step = max(1, _BLOCK // inputs)
    for start in range(0, len(qweight), step):
        rows = slice(start, start + step)
        yield (
            rows,
            _block(planes, inputs, qweight[rows], scales[rows], None if zeros is None else zeros[rows], bits, dtype),
        )


def _block(
    planes: int,
    inputs: int,
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    for plane in range(planes):
        codes = unpack(qweight, bits, inputs) if planes == 1 else (qweight >> plane * bits) & (2**bits - 1)
        yield dequantize(codes, scales, zeros, bits, dtype)
