"""LoCA's sparse cosine series: its matrix, its product with activations, and the gradients of amplitudes and places."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fullrank.linalg import cosine_rows, dct2, idct2

Transform = Literal["auto", "fft", "gemm", "sparse", "factored"]
Cells = Callable[[int, int], Tensor]

CLAMP_MAX = 0.999
_TABLE = 4096  # the largest basis that is kept as a matrix
_BUILD = 2000  # flops of matrix products in the time that the fast transform takes for one cell


def locate(theta: Float[Tensor, "2 k"], shape: tuple[int, int], clamp_max: float = CLAMP_MAX) -> Int[Tensor, "2 k"]:
    """The cells of normalised places: round(clamp(theta, 0, clamp_max) * (p - 1, q - 1)), halves to even.

    Args:
        theta: row 0 along the outputs, row 1 along the inputs.
        shape: (p, q).
        clamp_max: largest place; default 0.999.

    Source: the authors' code.
    """
    return (theta.clamp(0, clamp_max) * grid_steps(theta, shape)).round().to(torch.int32)


class CosineSeries(NamedTuple):
    """A sparse cosine series on a (p, q) grid, as a matrix and as a linear map; every way of computing it is exact.

    Attributes:
        shape: (p, q).
        scale: s.
        transform: see `LocaConfig`.
        clip: bound of a place's gradient per cell, or None.
        clamp_max: largest place.
        trained: whether amplitudes and places get their gradients; zeros otherwise.
    """

    shape: tuple[int, int]
    scale: float = 1.0
    transform: Transform = "auto"
    clip: float | None = 1.0
    clamp_max: float = CLAMP_MAX
    trained: tuple[bool, bool] = (True, True)

    def build(self, a: Tensor, indices: Tensor) -> Tensor:
        """dW = s C_p^T S C_q."""
        (p, q), (u, v) = self.shape, indices.long()
        if self.transform == "sparse":
            return self.scale * (_rows(u, p, a.dtype).mT * a) @ _rows(v, q, a.dtype)
        S = a.new_zeros(p, q).index_put_((u, v), a, accumulate=True)  # cells that coincide add up
        if self.transform == "gemm":
            return self.scale * _basis(p, a.dtype, a.device).mT @ S @ _basis(q, a.dtype, a.device)
        return self.scale * idct2(S)

    def factored(self, tokens: int, k: int, products: int = 1) -> bool:
        """Whether `products` pairs of thin products are cheaper than building the matrix."""
        if self.transform != "auto":
            return self.transform == "factored"
        p, q = self.shape
        return max(p, q) <= _TABLE and 2 * tokens * k * (p + q) * products < (2 * tokens + _BUILD) * p * q

    def spectrum_of(self, gradient: Tensor) -> Tensor:
        """K = C_p G C_q^T."""
        if self.transform != "gemm":
            return dct2(gradient)
        p, q = self.shape
        left, right = (_basis(n, gradient.dtype, gradient.device) for n in (p, q))
        return left @ gradient @ right.mT


def loca_delta(
    spectrum: Float[Tensor, "k"],
    locations: Float[Tensor, "2 k"],
    shape: tuple[int, int],
    *,
    scale: float = 1.0,
    transform: Transform = "auto",
    location_grad_clip: float | None = 1.0,
    clamp_max: float = CLAMP_MAX,
) -> Float[Tensor, "p q"]:
    """The change dW = s C_p^T S C_q of amplitudes at normalised places, differentiable in both.

    Args:
        spectrum: a.
        locations: theta; its gradient is the surrogate, clamped half differences of neighbouring cells.
        shape: (p, q).
        scale, transform, location_grad_clip, clamp_max: see `LocaConfig`; "auto" and "factored" build by "fft".

    Source: the authors' code, with an exact basis.
    """
    series = CosineSeries(shape, scale, transform, location_grad_clip, clamp_max)
    return cast(
        Tensor, ApplySeries.apply(None, spectrum, locations, locate(locations.detach(), shape, clamp_max), series)
    )


class ApplySeries(torch.autograd.Function):
    """x dW^T, or dW itself without x. Keeps x, a and the places for the backward pass, and no (p, q) matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor | None, a: Tensor, theta: Tensor, indices: Tensor, series: CosineSeries) -> Tensor:
        """x dW^T, chosen between the built matrix and the thin products."""
        ctx.save_for_backward(x, a, theta, indices)
        ctx.series = series
        wide = _wide(a)
        if x is None:
            return series.build(wide, indices).to(a.dtype)
        if series.factored(x[..., 0].numel(), len(a)):
            (p, q), (u, v) = series.shape, indices.long()
            C, D = _rows(u, p, wide.dtype), _rows(v, q, wide.dtype)
            return (((x @ D.to(x.dtype).mT) * (series.scale * wide).to(x.dtype)) @ C.to(x.dtype)).to(x.dtype)
        return x @ series.build(wide, indices).to(x.dtype).mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of x, of the amplitudes, and the surrogate of the places."""
        x, a, theta, indices = ctx.saved_tensors
        series: CosineSeries = ctx.series
        for_x, for_a, for_theta = ctx.needs_input_grad[:3]
        moving = for_theta and series.trained[1]
        if x is None:
            grad_x, cell = None, _cells(series.scale * series.spectrum_of(_wide(g)), indices)
        elif series.factored(x[..., 0].numel(), len(a), products=3 if moving else 1):
            grad_x, cell = _thin(x, a, indices, g, series, for_x)
        else:
            grad_x = g @ series.build(_wide(a), indices).to(g.dtype) if for_x else None
            Gamma = series.scale * _wide(g.flatten(0, -2).mT @ x.flatten(0, -2))
            cell = _cells(series.spectrum_of(Gamma), indices) if moving or series.trained[0] else _none
        grad_a = grad_theta = None
        if for_a:
            grad_a = cell(0, 0).to(a.dtype) if series.trained[0] else torch.zeros_like(a)
        if for_theta:
            grad_theta = _move(cell, _wide(a), theta, series).to(theta.dtype) if moving else torch.zeros_like(theta)
        return grad_x, grad_a, grad_theta, None, None


def _move(cell: Cells, a: Tensor, theta: Tensor, series: CosineSeries) -> Tensor:
    """dL/dtheta: the central difference between neighbouring cells, clamped, times d cell / d theta."""
    along = torch.stack([cell(1, 0) - cell(-1, 0), cell(0, 1) - cell(0, -1)]) * (a / 2)
    if series.clip is not None:
        along = along.clamp(-series.clip, series.clip)
    inside = (theta >= 0) & (theta <= series.clamp_max)
    return torch.where(inside, along * grid_steps(theta, series.shape), 0)


def _cells(K: Tensor, indices: Tensor) -> Cells:
    """K at the places and beside them; the border stands for what lies behind it."""
    (p, q), (u, v) = K.shape, indices.long()
    return lambda du, dv: K[(u + du).clamp(0, p - 1), (v + dv).clamp(0, q - 1)]


def _none(du: int, dv: int) -> Tensor:
    raise RuntimeError("no parameter of the series is trained")


def _thin(
    x: Tensor, a: Tensor, indices: Tensor, g: Tensor, series: CosineSeries, for_x: bool
) -> tuple[Tensor | None, Cells]:
    """The gradient of x and K at the places, K[u, v] = s sum_t (g_t . c_u) (x_t . d_v), without a (p, q) matrix."""
    (p, q), (u, v) = series.shape, indices.long()
    tokens, slopes = x.flatten(0, -2), g.flatten(0, -2)

    @lru_cache
    def left(du: int) -> Tensor:
        return slopes @ _rows((u + du).clamp(0, p - 1), p, torch.promote_types(a.dtype, torch.float32)).to(g.dtype).mT

    @lru_cache
    def right(dv: int) -> Tensor:
        return tokens @ _rows((v + dv).clamp(0, q - 1), q, torch.promote_types(a.dtype, torch.float32)).to(x.dtype).mT

    def cell(du: int, dv: int) -> Tensor:
        return series.scale * (_wide(left(du)) * _wide(right(dv))).sum(0)

    if not for_x:
        return None, cell
    D = _rows(v, q, _wide(a).dtype).to(g.dtype)
    return ((left(0) * (series.scale * _wide(a)).to(g.dtype)) @ D).reshape(x.shape), cell


def grid_steps(places: Tensor, shape: tuple[int, int]) -> Tensor:
    """(p - 1, q - 1) as a column, on the device of the places."""
    return torch.tensor(shape, device=places.device)[:, None] - 1


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _rows(frequencies: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    if n > _TABLE:
        return cosine_rows(frequencies, n, dtype)
    return _basis(n, dtype, frequencies.device)[frequencies]


@lru_cache(8)
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return cosine_rows(torch.arange(n, device=device), n, dtype)
