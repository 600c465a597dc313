"""`QuantizedLinear`: a linear layer with packed integer weights and a compensation of low rank beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from fullrank.compress.kinds import Description, LayerKind, place_of, register_kind
from fullrank.compress.packed_matmul import packed_linear
from fullrank.compress.quantization import QuantizedWeight, check_bits, dequantize, pack, packed_size, unpack

Activations = Literal["int8", "int8-asymmetric"] | None
LowRankDtype = Literal["int8", "float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class Factors:
    """B diag(s) A as it is stored.

    Attributes:
        A: (rank, in).
        B: (out, rank).
        scales: s by direction, (rank,), of int8 factors; None for floating-point ones.
    """

    A: Float[Tensor, "rank in"] | Int8[Tensor, "rank in"]
    B: Float[Tensor, "out rank"] | Int8[Tensor, "out rank"]
    scales: Float[Tensor, "rank"] | None = None

    @property
    def rank(self) -> int:
        """Directions."""
        return self.A.shape[0]

    @classmethod
    def rounded(
        cls, A: Float[Tensor, "rank in"], B: Float[Tensor, "out rank"], E: Float[Tensor, "out in"], dtype: LowRankDtype
    ) -> Factors:
        """Round B, fit A to the rounded B by least squares, min ||E - B A||_F, and round A.

        Args:
            A: (rank, in); its directions that are 0, as those of dead inputs, are fitted too.
            B: (out, rank), balanced with A.
            E: the error that the product stands for.
            dtype: "int8" has one scale for every direction, the product of that of a row of A and a column of B.
        """
        if dtype != "int8" or not len(A):
            stored = torch.float16 if dtype == "int8" else getattr(torch, dtype)
            return cls(A.to(stored), B.to(stored))
        B8, b = _int8(B, dim=0)
        rounded = B8.to(E.dtype) * b
        A = torch.linalg.lstsq(rounded, E).solution if _independent(rounded) else A
        A8, a = _int8(A, dim=1)
        return cls(A8, B8, (a.squeeze(1) * b.squeeze(0)).to(torch.float32))

    def floats(self) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """A and B with the scales in B, in float32."""
        B = self.B.to(torch.float32)
        return self.A.to(torch.float32), B if self.scales is None else B * self.scales.to(torch.float32)

    def product(self) -> Float[Tensor, "out in"]:
        """B diag(s) A, in float32."""
        A, B = self.floats()
        return B @ A


class QuantizedLinear(nn.Module):
    """y = x W'^T + (x A^T) diag(s) B^T + b with W' = s (q - z) in packed codes of 2 to 8 bits.

    W' is never unpacked whole: a product takes it a block of rows at a time, in both directions. Codes and factors do
    not train; gradients reach x and b. Tokens in bfloat16 are multiplied fastest on CPUs, with a second copy of the
    codes in memory (see `packed_linear`).

    With int8 activations the product with W' takes each token rounded to a grid of its own; the compensation, which is
    thin, takes the token as it came.

    Args:
        in_features: size of x.
        out_features: size of y.
        bits: of a code, 2 to 8.
        groups: scales of a row.
        rank: of the compensation, or 0.
        bias: whether there is a b.
        zeros: dtype of the zero points, "uint8" or "int32"; None for a symmetric grid.
        scales: dtype of the scales.
        lowrank_dtype: of A and B.
        activations: None, "int8" (symmetric) or "int8-asymmetric".
        device: of everything.
        dtype: of b.

    Attributes:
        dtype: of b, and of the dense layer that comes back.
        qweight: packed codes, (out, bytes), see `pack`.
        scales: (out, groups).
        zeros: (out, groups), or None.
        lorc_A: (rank, in), or None.
        lorc_B: (out, rank), or None.
        lorc_scales: by direction, (rank,), of int8 factors, or None.

    Raises:
        ValueError: bits outside 2 to 8, or groups that do not divide the inputs.
    """

    qweight: Tensor
    scales: Tensor
    zeros: Tensor | None
    lorc_A: Tensor | None  # noqa: N815
    lorc_B: Tensor | None  # noqa: N815
    lorc_scales: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        groups: int = 1,
        rank: int = 0,
        bias: bool = True,
        zeros: str | None = None,
        scales: str = "float16",
        lowrank_dtype: LowRankDtype = "int8",
        activations: Activations = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_bits(bits)
        if groups < 1 or in_features % groups:
            raise ValueError(f"groups={groups} does not divide in_features={in_features} into equal groups")
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.groups, self.rank, self.activations = bits, groups, rank, activations
        self.lowrank_dtype: LowRankDtype = lowrank_dtype
        self.dtype = dtype or torch.get_default_dtype()

        def empty(shape: tuple[int, ...], kind: str, wanted: bool = True) -> Tensor | None:
            return torch.zeros(shape, dtype=getattr(torch, kind), device=device) if wanted else None

        self.register_buffer("qweight", empty((out_features, packed_size(in_features, bits)), "uint8"))
        self.register_buffer("scales", empty((out_features, groups), scales))
        self.register_buffer("zeros", empty((out_features, groups), zeros or "uint8", zeros is not None))
        self.register_buffer("lorc_A", empty((rank, in_features), lowrank_dtype, rank > 0))
        self.register_buffer("lorc_B", empty((out_features, rank), lowrank_dtype, rank > 0))
        self.register_buffer("lorc_scales", empty((rank,), "float32", rank > 0 and lowrank_dtype == "int8"))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        quantized: QuantizedWeight,
        factors: Factors | None = None,
        activations: Activations = None,
    ) -> QuantizedLinear:
        """The layer with this quantised weight, its compensation, and a copy of a linear layer's bias."""
        bias = linear.bias
        made = cls(
            linear.in_features,
            linear.out_features,
            quantized.bits,
            quantized.scales.shape[1],
            factors.rank if factors is not None else 0,
            bias=bias is not None,
            zeros=None if quantized.zeros is None else _name(quantized.zeros),
            scales=_name(quantized.scales),
            lowrank_dtype=_name(factors.A) if factors is not None and factors.rank else "int8",  # pyright: ignore[reportArgumentType]
            activations=activations,
            device=quantized.codes.device,
            dtype=linear.weight.dtype,
        )
        made.qweight.copy_(pack(quantized.codes, quantized.bits))
        made.scales.copy_(quantized.scales)
        if made.zeros is not None and quantized.zeros is not None:
            made.zeros.copy_(quantized.zeros)
        if factors is not None and made.lorc_A is not None and made.lorc_B is not None:
            made.lorc_A.copy_(factors.A)
            made.lorc_B.copy_(factors.B)
            if made.lorc_scales is not None and factors.scales is not None:
                made.lorc_scales.copy_(factors.scales)
        if bias is not None and made.bias is not None:
            made.bias.data.copy_(bias.detach())
            made.bias.requires_grad_(bias.requires_grad)
        return made.train(linear.training)

    @property
    def packed_values(self) -> int:
        """Numbers that the buffers stand for: codes and factors."""
        return self.in_features * self.out_features + self.rank * (self.in_features + self.out_features)

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes, scales, zero points and factors for every entry of the weight."""
        size = sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())
        return 8 * size / (self.in_features * self.out_features)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """W' x + B diag(s) A x + b over any leading shape, in the dtype of x."""
        y = packed_linear(self._activated(x), self.qweight, self.scales, self.zeros, self.bits)
        if self.lorc_A is not None and self.lorc_B is not None:
            y = y + self._compensation(x, self.lorc_A, self.lorc_B).to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dequantize(self, compensated: bool = True) -> Float[Tensor, "out in"]:
        """The weight that the layer stands for, in float32: W' + B diag(s) A, or W' alone."""
        codes = unpack(self.qweight, self.bits, self.in_features)
        weight = dequantize(codes, self.scales, self.zeros, self.bits)
        factors = self.factors
        return weight if factors is None or not compensated else weight + factors.product()

    weight = dequantize  # as every compressed layer says it

    @property
    def factors(self) -> Factors | None:
        """The compensation, or None."""
        if self.lorc_A is None or self.lorc_B is None:
            return None
        return Factors(self.lorc_A, self.lorc_B, self.lorc_scales)

    def to_linear(self, compensated: bool = True) -> nn.Linear:
        """A dense layer with the weight of `dequantize`."""
        place: dict[str, Any] = {"device": self.qweight.device, "dtype": self.dtype}
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, **place)
        with torch.no_grad():
            linear.weight.copy_(self.dequantize(compensated))
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear.train(self.training)

    @torch.no_grad()
    def error_report(
        self, x: Float[Tensor, "*batch in"], weight: Float[Tensor, "out in"] | None = None
    ) -> dict[str, float]:
        """Errors of the weight and of the outputs for x, with and without the compensation.

        Args:
            x: inputs.
            weight: the original weight, which the layer does not keep.

        Returns:
            "weight" and "output" (mean squares), the same "without compensation", and "bits per weight".

        Raises:
            ValueError: no original weight.
        """
        if weight is None:
            raise ValueError(
                "weight is missing: this layer holds the quantised weight only, and errors are differences from the "
                "original; pass the weight (out, in) of the layer it was made from"
            )
        x, report = x.float(), {}
        for name, compensated in (("", True), (" without compensation", False)):
            error = weight.float() - self.dequantize(compensated)
            report[f"weight{name}"] = float(error.square().mean())
            report[f"output{name}"] = float((x @ error.mT).square().mean())
        return report | {"bits per weight": self.bits_per_weight}

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, "
            f"groups={self.groups}, rank={self.rank}, bias={self.bias is not None}"
        )

    def _compensation(self, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """B diag(s) A x; in float32 on CPUs, whose products in half precision are several times slower."""
        dtype = torch.float32 if x.device.type == "cpu" and x.dtype.itemsize == 2 else x.dtype
        thin = x.to(dtype) @ A.to(dtype).mT
        if self.lorc_scales is not None:
            thin = thin * self.lorc_scales.to(dtype)
        return thin @ B.to(dtype).mT

    def _activated(self, x: Tensor) -> Tensor:
        """The input of the product with W': as it came, or every token on a grid of 8 bits."""
        if self.activations is None:
            return x
        return round_tokens(x, symmetric=self.activations == "int8")


def round_tokens(x: Float[Tensor, "*batch in"], symmetric: bool = True) -> Float[Tensor, "*batch in"]:
    """Every token on an 8-bit grid of its own; gradients pass straight through.

    Args:
        x: tokens, the last axis the features.
        symmetric: steps of max|x| / 127 about 0; otherwise 255 steps from the least to the largest value, 0 included.
    """
    values = x.detach().float()
    if symmetric:
        peak = values.abs().amax(-1, keepdim=True)
        step = torch.where(peak > 0, peak / 127, 1.0)
        rounded = (values / step).round() * step
    else:
        low, high = values.amin(-1, keepdim=True).clamp_max(0), values.amax(-1, keepdim=True).clamp_min(0)
        step = torch.where(high > low, (high - low) / 255, 1.0)
        zero = (-low / step).round()
        rounded = (((values / step).round() + zero).clamp(0, 255) - zero) * step
    rounded = rounded.to(x.dtype)
    return x + (rounded - x).detach() if x.requires_grad else rounded


def _int8(matrix: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Symmetric codes along an axis, with their steps."""
    peak = matrix.abs().amax(dim, keepdim=True)
    step = torch.where(peak > 0, peak / 127, 1.0)
    return (matrix / step).round().to(torch.int8), step


def _independent(columns: Tensor) -> bool:
    """Whether columns have a least-squares solution that is worth having."""
    values = torch.linalg.svdvals(columns.double())
    return bool(values[-1] > 1e-5 * values[0])


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _describe(layer: QuantizedLinear) -> Description:
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bits": layer.bits,
        "groups": layer.groups,
        "rank": layer.rank,
        "bias": layer.bias is not None,
        "zeros": None if layer.zeros is None else _name(layer.zeros),
        "scales": _name(layer.scales),
        "lowrank_dtype": layer.lowrank_dtype,
        "activations": layer.activations,
    }


def _build(options: dict[str, Any], place: nn.Module) -> nn.Module:
    return QuantizedLinear(**options, **place_of(place))


register_kind(LayerKind("quantized-linear", QuantizedLinear, _describe, _build))
