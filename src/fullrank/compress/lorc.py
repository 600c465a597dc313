"""LoRC (ZeroQuant-V2, Yao et al. 2023, arXiv 2303.08302): what quantisation takes from a weight, kept in low rank.

    W ≈ Q(W) + B A,   B A = the best rank-m approximation of E = W - Q(W)

With a scale S on the input side the error that counts is E S: the mean |x| of every input (LQER, arXiv 2402.02446), the
root of its mean square, or the root of mean x x^T, which gives the least expected error of the output (QERA, arXiv
2410.06040).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.compress.layers import Targets, patterned
from fullrank.compress.plain_numbers import Whole, is_whole, make_plain
from fullrank.compress.quantization import Grid, GridName, QuantizedWeight, SymmetricMode, check_bits, wide
from fullrank.compress.quantized_linear import Activations, Factors, LowRankDtype
from fullrank.linalg import require_finite
from fullrank.linalg import svd as truncated_svd

Quantizer = Literal["rtn", "gptq", "zeroquant-local"]
Scaling = Literal["none", "lqer", "diag", "exact"]
Decomposition = Literal["randomized", "exact"]

# Directions of a scale below this part of the largest count as inputs that never occur.
_SINGULAR = 1e-6


@dataclass(frozen=True)
class LoRCConfig:
    """How a model is quantised and compensated.

    Args:
        bits: of a weight's codes, 2 to 8.
        group_size: inputs that share a scale; -1 for one scale a row.
        sym: a grid symmetric about 0.
        quantizer: "rtn" rounds to nearest; "gptq" and "zeroquant-local" need calibration data.
        rank: m, directions of the error that are kept; 0 for the bare quantiser.
        scaling: of the error, see the module: "none" is LoRC, "lqer", "diag" and "exact" need calibration data.
        lowrank_dtype: of the factors; "int8" has one scale for every direction.
        iterations: 1 is LoRC; more alternate between quantising W - B A and compensating (LoftQ, arXiv 2310.08659).
        target_modules: see `select_layers`.
        exclude_modules: see `select_layers`.
        rank_pattern: another rank for layers whose name ends with, or matches as a regular expression, a key.
        bits_pattern: other bits, likewise.
        grid: see `Grid`.
        sym_mode: see `Grid`.
        svd: "randomized" finds the leading directions by block Krylov iteration, "exact" decomposes in full.
        activations: of the layers' inputs: None keeps them, "int8" rounds every token to a symmetric grid of its own,
            "int8-asymmetric" to one from its least to its largest value.

    Raises:
        ValueError: bits outside 2 to 8, a negative rank, no iteration, or an unknown name.
    """

    bits: int = 4
    group_size: int = 128
    sym: bool = False
    quantizer: Quantizer = "rtn"
    rank: Whole = 8
    scaling: Scaling = "none"
    lowrank_dtype: LowRankDtype = "int8"
    iterations: int = 1
    target_modules: Targets = "all-linear"
    exclude_modules: Targets = ("lm_head",)
    rank_pattern: Mapping[str, Whole] = field(default_factory=dict)
    bits_pattern: Mapping[str, int] = field(default_factory=dict)
    grid: GridName = "standard"
    sym_mode: SymmetricMode = "absmax"
    svd: Decomposition = "randomized"
    activations: Activations = None

    def __post_init__(self) -> None:
        make_plain(self)
        accepted = {
            "quantizer": get_args(Quantizer),
            "scaling": get_args(Scaling),
            "lowrank_dtype": get_args(LowRankDtype),
            "svd": get_args(Decomposition),
            "activations": (None, "int8", "int8-asymmetric"),
        }
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known; accepted: {', '.join(map(str, values))}"
                )
        if not is_whole(self.iterations, 1):
            raise ValueError(f"iterations={self.iterations!r}: 1 (LoRC) or more is accepted")
        for rank in (self.rank, *self.rank_pattern.values()):
            if not is_whole(rank, 0):
                raise ValueError(f"rank={rank!r}: 0 (no compensation) or more is accepted")
        for bits in self.bits_pattern.values():
            check_bits(bits)
        self.grid_of("")  # refuses bad bits and groups

    @property
    def needs_data(self) -> bool:
        """Whether calibration data are needed."""
        return self.quantizer != "rtn" or (self.scaling != "none" and self._any_rank)

    @property
    def _any_rank(self) -> bool:
        return bool(self.rank > 0) or any(rank > 0 for rank in self.rank_pattern.values())

    def grid_of(self, layer: str) -> Grid:
        """The grid of a layer's weight."""
        bits = patterned(self.bits_pattern, layer, self.bits)
        return Grid(bits, self.group_size, self.sym, self.grid, self.sym_mode)

    def rank_of(self, layer: str) -> int:
        """The rank of a layer's compensation."""
        return int(patterned(self.rank_pattern, layer, self.rank))

    def to_dict(self) -> dict[str, Any]:
        """JSON-like."""
        return asdict(self)


@dataclass(frozen=True)
class Compensated:
    """A layer's weight, quantised and compensated.

    Attributes:
        quantized: Q(W), or what the last iteration quantised.
        factors: of the compensation, in the dtype that they are stored in.
        dead_inputs: directions of the inputs that the scale does not see.
    """

    quantized: QuantizedWeight
    factors: Factors
    dead_inputs: int = 0


def lorc_factors(
    weight: Float[Tensor, "out in"],
    quantized_weight: Float[Tensor, "out in"],
    rank: int,
    scale: Float[Tensor, "in"] | Float[Tensor, "in in"] | None = None,
    *,
    svd: Decomposition = "randomized",
    generator: torch.Generator | None = None,
    name: str = "weight",
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """A and B with the least ||(W - W' - B A) S||_F, for the weight W' of any quantiser, dequantised.

    They are a LoRA adapter of r = rank, alpha = rank over the quantised layer. Directions of S that vanish weigh
    nothing: A has no part in them.

    Args:
        weight: W, the original; half precision is computed in float32.
        quantized_weight: W'.
        rank: 0 to min(out, in).
        scale: S by input, (in,), or a symmetric matrix (in, in); None weighs all alike.
        svd: "randomized" (block Krylov iteration, seeded) or "exact".
        generator: of the randomised SVD.
        name: of the layer, in errors.

    Returns:
        A and B, row i of A as long as column i of B; float64 where a weight is, float32 otherwise.

    Raises:
        TypeError: one of the weights is missing or no tensor of floating point.
        ValueError: shapes, rank or scale do not fit, or something is not finite.

    Source: steps 1 to 3 of LoRC; equations of QERA with a scale.
    """
    _check_weights(weight, quantized_weight, name)
    _check_rank(rank, weight.shape, name)
    dtype = torch.promote_types(wide(weight).dtype, wide(quantized_weight).dtype)
    E = weight.to(dtype) - quantized_weight.to(dtype)
    if rank == 0:
        return E.new_zeros(0, E.shape[1]), E.new_zeros(E.shape[0], 0)
    if scale is None:
        return balanced(*_leading(E, rank, svd, generator))
    S = _checked_scale(scale, E, name)
    inverse, _ = pseudo_inverse(S)
    A, B = _leading(_right(E, S), rank, svd, generator)
    return balanced(_right(A, inverse.to(dtype)), B)


def compensate(
    weight: Float[Tensor, "out in"],
    quantize: Callable[[Tensor], QuantizedWeight],
    rank: int,
    scale: Tensor | None = None,
    *,
    lowrank_dtype: LowRankDtype = "int8",
    iterations: int = 1,
    svd: Decomposition = "randomized",
    name: str = "weight",
) -> Compensated:
    """Quantise a weight and compensate what is lost, as it will be stored.

    Args:
        weight: W.
        quantize: Q.
        rank: 0 to min(out, in).
        scale: S, see `lorc_factors`.
        lowrank_dtype: of the stored factors. After B is rounded A is fitted to it by least squares, so that only A's
            own rounding is lost.
        iterations: see `LoRCConfig`.
        svd: see `lorc_factors`.
        name: of the layer, in errors.

    Raises:
        ValueError: see `lorc_factors`.
    """
    _check_rank(rank, weight.shape, name)
    W = wide(weight)
    quantized = quantize(W)
    A, B = lorc_factors(W, quantized.dequantize(W.dtype), rank, scale, svd=svd, name=name)
    for _ in range(iterations - 1):
        quantized = quantize(W - B @ A)
        A, B = lorc_factors(W, quantized.dequantize(W.dtype), rank, scale, svd=svd, name=name)
    dead = 0 if scale is None else pseudo_inverse(scale)[1]
    E = W - quantized.dequantize(W.dtype)
    return Compensated(quantized, Factors.rounded(A, B, E, lowrank_dtype), dead)


def balanced(
    A: Float[Tensor, "rank in"], B: Float[Tensor, "out rank"]
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """The same product with row i of A as long as column i of B."""
    a, b = A.norm(dim=1), B.norm(dim=0)
    ratio = torch.where((a > 0) & (b > 0), (b / a.clamp_min(torch.finfo(A.dtype).tiny)).sqrt(), 1.0)
    return A * ratio.unsqueeze(1), B / ratio


def input_scale(scaling: Scaling, statistics: Any) -> Tensor | None:
    """S of a scaling from a layer's `LayerStatistics`."""
    if scaling == "lqer":
        return statistics.mean_abs
    if scaling == "diag":
        return statistics.mean_square.sqrt()
    if scaling == "exact":
        moments = statistics.moments
        values, vectors = torch.linalg.eigh(moments.to(torch.float64))
        noise = len(moments) * torch.finfo(torch.float32).eps * values[-1]  # of sums in single precision
        return (vectors * torch.where(values > noise, values, 0.0).sqrt()) @ vectors.mT
    return None


def pseudo_inverse(scale: Tensor) -> tuple[Tensor, int]:
    """The pseudo-inverse of a scale, (in,) or symmetric (in, in), and how many of its directions vanish."""
    if scale.ndim == 1:
        alive = scale > _SINGULAR * scale.max()
        return torch.where(alive, 1 / torch.where(alive, scale, 1.0), 0.0), int((~alive).sum())
    values, vectors = torch.linalg.eigh(scale.to(torch.float64))
    alive = values.abs() > _SINGULAR * values.abs().max()
    inverse = torch.where(alive, 1 / torch.where(alive, values, 1.0), 0.0)
    return ((vectors * inverse) @ vectors.mT).to(scale.dtype), int((~alive).sum())


def _leading(E: Tensor, rank: int, method: Decomposition, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    # The spectrum of rounding errors is nearly flat.
    U, S, Vh = truncated_svd(E, rank, "krylov" if method == "randomized" else "exact", generator)
    return S.unsqueeze(1) * Vh, U


def _right(matrix: Tensor, scale: Tensor) -> Tensor:
    """The matrix times a scale on its input side."""
    return matrix * scale if scale.ndim == 1 else matrix @ scale


def _check_weights(weight: Any, quantized_weight: Any, name: str) -> None:
    for argument, value in (("weight", weight), ("quantized_weight", quantized_weight)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{name}: {argument} is {kind}: LoRC needs the original weight and the quantised one, both dequantised "
                "to floating point; a model that was loaded quantised has lost the original, load that too"
            )
    if weight.ndim != 2 or weight.shape != quantized_weight.shape:
        raise ValueError(
            f"{name}: weight has shape {tuple(weight.shape)}, quantized_weight {tuple(quantized_weight.shape)}: two "
            "matrices (out, in) of one shape are needed; a Conv1D's weight is transposed"
        )
    require_finite(weight, name)
    require_finite(quantized_weight, f"the quantised {name}")


def _check_rank(rank: int, shape: Sequence[int], name: str) -> None:
    if not is_whole(rank, 0) or rank > min(shape):
        raise ValueError(f"{name}: rank={rank!r} does not fit its shape {tuple(shape)}: 0 to {min(shape)} is accepted")


def _checked_scale(scale: Tensor, E: Tensor, name: str) -> Tensor:
    inputs = E.shape[1]
    if scale.shape not in ((inputs,), (inputs, inputs)):
        raise ValueError(f"{name}: scale has shape {tuple(scale.shape)}: ({inputs},) or ({inputs}, {inputs}) fits")
    require_finite(scale, f"the scale of {name}")
    if scale.ndim == 1 and bool((scale < 0).any()):
        raise ValueError(f"{name}: scale has a negative entry, {float(scale.min()):.3g}: scales are at least 0")
    return scale.to(E)
