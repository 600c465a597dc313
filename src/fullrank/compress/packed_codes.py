"""Codes of any width as a stream of bits: little endian, one behind the other, without gaps."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


def code_bits(k: int) -> int:
    """Bits of a code that tells k codewords apart, ceil(log2 k)."""
    return max(1, (k - 1).bit_length())


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of so many codes."""
    return math.ceil(count * bits / 8)


def pack_codes(codes: Int[Tensor, "n"], bits: int) -> UInt8[Tensor, "bytes"]:
    """Bit j of code i becomes bit i * bits + j of the stream; the last byte is filled up with zeros.

    Raises:
        ValueError: a code that does not fit into so many bits.
    """
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits):
        raise ValueError(f"codes go from {int(codes.min())} to {int(codes.max())}: {bits} bits hold 0 to {2**bits - 1}")
    stream = (codes.unsqueeze(1) >> torch.arange(bits, device=codes.device)).bitwise_and(1).to(torch.uint8).flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).unflatten(0, (-1, 8))
    places = torch.arange(8, device=codes.device, dtype=torch.uint8)
    return (stream << places).sum(1, dtype=torch.uint8)


def unpack_codes(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Int[Tensor, "n"]:
    """The codes that `pack_codes` was given, int64.

    Raises:
        ValueError: a stream of another length.
    """
    if len(packed) != packed_bytes(count, bits):
        raise ValueError(
            f"packed has {len(packed)} bytes: {count} codes of {bits} bits take {packed_bytes(count, bits)}"
        )
    places = torch.arange(8, device=packed.device, dtype=torch.uint8)
    if 8 % bits == 0:  # no code crosses a byte
        return (packed.unsqueeze(1) >> places[::bits]).bitwise_and(2**bits - 1).flatten()[:count].to(torch.int64)
    stream = (packed.unsqueeze(1) >> places).bitwise_and(1).flatten()[: count * bits].unflatten(0, (count, bits))
    return (stream.to(torch.int64) << torch.arange(bits, device=packed.device)).sum(1)
