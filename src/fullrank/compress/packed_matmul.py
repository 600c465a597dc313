"""The product with a packed weight, a block of rows at a time: one operator for autograd and `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fullrank.compress.quantization import dequantize, unpack
from fullrank.linalg import State, state_of

# Entries of a block that are unpacked at once: about what a core's cache holds in float32.
_BLOCK = 1 << 19

# What torch's own product of bfloat16 tokens with 4-bit codes accepts, and where it is more than its plain loop.
_TILED_GROUPS, _TILED_ROWS, _TILED_PROCESSORS = (32, 64, 128, 256), 16, ("AVX2", "AVX512")


def packed_linear(x: Tensor, qweight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """x W^T with W = s (q - z) from its packed codes, which are never unpacked whole.

    Tokens in bfloat16 on a processor with AVX2 or AVX-512 go through torch's own product, if W has 4-bit codes in
    groups of 32, 64, 128 or 256 and a multiple of 16 rows. It takes the codes in another order and s and (8 - z) s in
    bfloat16: that copy is made at the first product and lives as long as `qweight`.

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
    tiles = _tiles_of(tokens.shape[1], qweight, scales, zeros) if _takes_tiles(tokens, qweight, scales, bits) else None
    if tiles is not None:
        group = tokens.shape[1] // scales.shape[1]
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(tokens.contiguous(), tiles.codes, group, tiles.scales_and_zeros)
        return y.reshape(*x.shape[:-1], len(qweight))
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


class _Tiles(NamedTuple):
    """A 4-bit weight as torch's own product takes it, (q - 8) s + (8 - z) s, and the state that it was made from."""

    codes: Tensor
    scales_and_zeros: Tensor
    made_from: State


_tiles: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _takes_tiles(tokens: Tensor, qweight: Tensor, scales: Tensor, bits: int) -> bool:
    if bits != 4 or tokens.dtype is not torch.bfloat16 or tokens.device.type != "cpu" or not len(tokens):
        return False
    if tokens.shape[1] // scales.shape[1] not in _TILED_GROUPS or len(qweight) % _TILED_ROWS:
        return False
    return torch.backends.cpu.get_cpu_capability() in _TILED_PROCESSORS


def _tiles_of(inputs: int, qweight: Tensor, scales: Tensor, zeros: Tensor | None) -> _Tiles | None:
    made_from = state_of(*(t for t in (qweight, scales, zeros) if t is not None))
    if made_from is None:
        return None
    tiles = _tiles.get(qweight)
    if tiles is None or tiles.made_from != made_from:
        codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack(qweight, 4, inputs).int(), 1)
        s = scales.float()
        shift = torch.zeros_like(s) if zeros is None else (8 - zeros.float()) * s
        tiles = _Tiles(codes, torch.stack([s.mT, shift.mT], -1).bfloat16().contiguous(), made_from)
        _tiles[qweight] = tiles
    return tiles


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
