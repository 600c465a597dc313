"""Integer grids for weights, and the packing of their codes.

A quantised weight is w = s (q - z) with codes q of 2 to 8 bits, a scale s and an integer zero point z for every row or
for every group of consecutive inputs of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fullrank.linalg import require_finite

GridName = Literal["standard", "deepspeed"]
SymmetricMode = Literal["absmax", "gptq"]
ScaleDtype = Literal["float16", "float32"]

# The smallest and largest scale that float16 holds with all of its digits.
_HALF = (2.0**-14, 65504.0)


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes of a weight with what turns them back.

    Attributes:
        codes: q, (out, in), 0 to 2^bits - 1.
        scales: s, (out, groups).
        zeros: z, (out, groups); None for 2^(bits - 1) everywhere, the zero point of a symmetric grid.
        bits: of a code.
    """

    codes: UInt8[Tensor, "out in"]
    scales: Float[Tensor, "out groups"]
    zeros: Int[Tensor, "out groups"] | UInt8[Tensor, "out groups"] | None
    bits: int

    def dequantize(self, dtype: torch.dtype | None = None) -> Float[Tensor, "out in"]:
        """s (q - z), in float32 or the wider dtype of the scales unless `dtype` says otherwise."""
        wide = torch.promote_types(self.scales.dtype, torch.float32)
        return dequantize(self.codes, self.scales, self.zeros, self.bits, dtype or wide)


@dataclass(frozen=True)
class Grid:
    """How numbers are rounded to integers.

    Args:
        bits: 2 to 8.
        group_size: consecutive inputs of a row that share scale and zero point; -1 for the whole row.
        sym: symmetric about 0. Otherwise from the smallest to the largest value of a group, 0 included.
        grid: "standard" spreads 2^bits - 1 steps over the range; "deepspeed" divides it by 2^bits, so that the largest
            value is clipped by one step (deepspeed/compression/utils.py).
        sym_mode: of the standard symmetric grid: "absmax" has s = max|w| / (2^(bits - 1) - 1); "gptq" the public code's
            s = 2 max|w| / (2^bits - 1), whose steps are finer and whose largest value falls half a step off the grid.
        scale_dtype: scales are rounded to it before weights are, so that the rounded scales' errors are part of the
            codes. A scale outside float16's normal range stays in float32.

    Raises:
        ValueError: bits outside 2 to 8, a group size below 1, or an unknown name.
    """

    bits: int = 4
    group_size: int = -1
    sym: bool = False
    grid: GridName = "standard"
    sym_mode: SymmetricMode = "absmax"
    scale_dtype: ScaleDtype = "float16"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not isinstance(self.group_size, int) or (self.group_size != -1 and self.group_size < 1):
            raise ValueError(f"group_size={self.group_size!r}: -1 (a whole row) or a number of inputs is accepted")
        for name, accepted in (("grid", GridName), ("sym_mode", SymmetricMode), ("scale_dtype", ScaleDtype)):
            if getattr(self, name) not in get_args(accepted):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known; accepted: {', '.join(get_args(accepted))}"
                )

    def group_of(self, inputs: int, name: str = "weight") -> int:
        """The size of a group in a row of so many inputs.

        Raises:
            ValueError: it does not divide them, with the nearest sizes that do.
        """
        if self.group_size == -1:
            return inputs
        if inputs % self.group_size:
            divisors = [size for size in range(1, inputs + 1) if inputs % size == 0]
            below = max((size for size in divisors if size < self.group_size), default=None)
            above = min((size for size in divisors if size > self.group_size), default=None)
            near = " or ".join(str(size) for size in (below, above) if size is not None)
            raise ValueError(
                f"{name}: group_size={self.group_size} does not divide its {inputs} inputs: the nearest sizes that do "
                f"are {near}, and -1 takes whole rows"
            )
        return self.group_size

    def fit(self, values: Float[Tensor, "*batch size"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Scales and zero points (integers, as floats) of groups of values."""
        low, high = torch.aminmax(values, dim=-1)
        levels = 2**self.bits
        if self.grid == "standard":
            low, high = low.clamp_max(0), high.clamp_min(0)
        peak = torch.maximum(-low, high)
        if self.sym:
            divisor = levels / 2 if self.grid == "deepspeed" else (levels - 1) / 2
            if self.grid == "standard" and self.sym_mode == "absmax":
                divisor = levels / 2 - 1
            scales = self._rounded(torch.where(peak > 0, peak / divisor, 1.0))
            return scales, torch.full_like(scales, levels / 2)
        if self.grid == "deepspeed":
            # A constant group has no range: its own value is the step, and code 0 stands for it.
            ranges = torch.where(high > low, (high - low) / levels, peak)
            scales = self._rounded(torch.where(ranges > 0, ranges, 1.0))
            return scales, -(low / scales).round()
        zero = (low == 0) & (high == 0)
        low, high = torch.where(zero, -1.0, low), torch.where(zero, 1.0, high)
        scales = self._rounded((high - low) / (levels - 1))
        return scales, (-low / scales).round().clamp(0, levels - 1)

    def encode(
        self, values: Float[Tensor, "*batch size"], scales: Float[Tensor, "*batch"], zeros: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch size"]:
        """Codes (integers, as floats) of groups of values."""
        scales, zeros = scales.unsqueeze(-1), zeros.unsqueeze(-1)
        if self.grid == "deepspeed" and not self.sym:  # the order of the reference decides ties
            codes = ((values + zeros * scales) / scales).round()
        else:
            codes = (values / scales).round() + zeros
        return codes.clamp(0, 2**self.bits - 1)

    def quantize(self, weight: Float[Tensor, "out in"], name: str = "weight") -> QuantizedWeight:
        """Round every entry to the nearest (RTN), ties to even codes.

        Args:
            weight: float64 is computed as it is, other dtypes in float32.
            name: how errors call it.

        Raises:
            ValueError: NaN or infinite entries, or a group size that does not divide the inputs.
        """
        require_finite(weight, name)
        size = self.group_of(weight.shape[1], name)
        groups = wide(weight).unflatten(1, (-1, size))
        scales, zeros = self.fit(groups)
        return self.quantized(self.encode(groups, scales, zeros).flatten(1), scales, zeros)

    def quantized(
        self, codes: Float[Tensor, "out in"], scales: Float[Tensor, "out groups"], zeros: Float[Tensor, "out groups"]
    ) -> QuantizedWeight:
        """Codes, scales and zero points in the dtypes that they are stored in."""
        if self.scale_dtype == "float16" and bool(_fits_half(scales).all()):
            scales = scales.to(torch.float16)
        elif self.scale_dtype == "float16":
            scales = scales.to(torch.float32)
        # Zero points of the standard grid are codes; DeepSpeed's lie anywhere.
        kind = torch.uint8 if self.grid == "standard" else torch.int32
        return QuantizedWeight(codes.to(torch.uint8), scales, None if self.sym else zeros.to(kind), self.bits)

    def _rounded(self, scales: Tensor) -> Tensor:
        if self.scale_dtype == "float32":
            return scales
        return torch.where(_fits_half(scales), scales.to(torch.float16).to(scales.dtype), scales)


def dequantize(
    codes: UInt8[Tensor, "out in"],
    scales: Float[Tensor, "out groups"],
    zeros: Tensor | None,
    bits: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "out in"]:
    """s (q - z) of every group; see `QuantizedWeight`. Computed in float32 or `dtype`, whichever is wider."""
    compute = torch.promote_types(dtype, torch.float32)
    groups = codes.to(compute).unflatten(1, (scales.shape[1], -1))
    groups -= 2 ** (bits - 1) if zeros is None else zeros.to(compute).unsqueeze(-1)
    groups *= scales.to(compute).unsqueeze(-1)
    return groups.flatten(1).to(dtype)


def pack(codes: UInt8[Tensor, "rows columns"], bits: int) -> UInt8[Tensor, "rows bytes"]:
    """Codes of a row one behind the other, the first in the lowest bits; a row ends with a whole chunk.

    A chunk is the shortest run of codes that fills whole bytes: 2 codes at 4 bits, 8 at 3, 5 and 7, 4 at 2 and 6.

    Raises:
        ValueError: bits outside 2 to 8, or a code that does not fit.
    """
    check_bits(bits)
    if codes.numel() and int(codes.max()) >= 2**bits:
        raise ValueError(f"codes go up to {int(codes.max())}: {bits} bits hold 0 to {2**bits - 1}")
    count, size = _chunk(bits)
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % count)).unflatten(1, (-1, count))
    packed = codes.new_zeros(*padded.shape[:2], size)
    for place in range(count):
        byte, shift = divmod(place * bits, 8)
        packed[..., byte] |= padded[..., place] << shift
        if shift + bits > 8:
            packed[..., byte + 1] |= padded[..., place] >> (8 - shift)
    return packed.flatten(1)


def unpack(packed: UInt8[Tensor, "rows bytes"], bits: int, columns: int) -> UInt8[Tensor, "rows columns"]:
    """The codes that `pack` was given.

    Raises:
        ValueError: bits outside 2 to 8, or rows of another length.
    """
    check_bits(bits)
    if packed.shape[1] != packed_size(columns, bits):
        raise ValueError(
            f"packed has {packed.shape[1]} bytes in a row: {columns} codes of {bits} bits take "
            f"{packed_size(columns, bits)}"
        )
    if bits == 8:
        return packed
    count, size = _chunk(bits)
    chunks = packed.unflatten(1, (-1, size))
    codes = packed.new_empty(*chunks.shape[:2], count)
    for place in range(count):
        byte, shift = divmod(place * bits, 8)
        code = chunks[..., byte] >> shift
        if shift + bits > 8:
            code |= chunks[..., byte + 1] << (8 - shift)
        torch.bitwise_and(code, 2**bits - 1, out=codes[..., place])
    return codes.flatten(1)[:, :columns]


def packed_size(columns: int, bits: int) -> int:
    """Bytes of a packed row."""
    count, size = _chunk(bits)
    return math.ceil(columns / count) * size


def check_bits(bits: Any, name: str = "") -> None:
    """Raise a ValueError unless bits are 2 to 8; `name` is the layer's, where there is one."""
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"{name + ': ' if name else ''}bits={bits!r}: whole numbers from 2 to 8 are accepted")


def wide(matrix: Tensor) -> Tensor:
    """A matrix in float64 if it is, in float32 otherwise."""
    return matrix if matrix.dtype == torch.float64 else matrix.to(torch.float32)


def _chunk(bits: int) -> tuple[int, int]:
    """Codes and bytes of a chunk."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _fits_half(scales: Tensor) -> Tensor:
    return (scales >= _HALF[0]) & (scales <= _HALF[1])
