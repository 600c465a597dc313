"""LoCA's sparse cosine series: its matrix, its product with activations, and the gradients of amplitudes and places."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fullrank.linalg import cosine_rows, dct, dct2_at, sparse_idct2
from fullrank.linalg.tables import kept

Transform = Literal["auto", "fft", "gemm", "sparse", "factored"]

CLAMP_MAX = 0.999
_TABLE = 4096  # the largest basis that is kept as a matrix
_BLOCK = 256  # tokens that are transformed together
# Flops of matrix products in the time of one unit of other work, measured on CPU cores: a cell in the transform of a
# matrix, an entry of a token in its transform, a number that is gathered.
_CELL, _ENTRY, _PAIR = 400, 330, 100


def locate(theta: Float[Tensor, "2 k"], shape: tuple[int, int], clamp_max: float = CLAMP_MAX) -> Int[Tensor, "2 k"]:
    """The cells of normalised places: round(clamp(theta, 0, clamp_max) * (p - 1, q - 1)), halves to even; 0 for NaN.

    Args:
        theta: row 0 along the outputs, row 1 along the inputs.
        shape: (p, q).
        clamp_max: largest place; default 0.999.

    Source: the authors' code.
    """
    return (theta.nan_to_num(0).clamp(0, clamp_max) * grid_steps(theta, shape)).round().to(torch.int32)


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
        if self.transform != "gemm":
            return sparse_idct2(self.scale * a, u, v, self.shape)
        S = a.new_zeros(p, q).index_put_((u, v), a, accumulate=True)  # cells that coincide add up
        return self.scale * _basis(p, a.dtype, a.device).mT @ S @ _basis(q, a.dtype, a.device)

    def factored(self, tokens: int, k: int, beside_W0: bool = True) -> bool:
        """Whether thin products are cheaper than the matrix, which either has a product of its own or W0's."""
        if self.transform != "auto":
            return self.transform == "factored"
        p, q = self.shape
        built = (2 * tokens * beside_W0 + _CELL) * p * q
        return max(p, q) <= _TABLE and (2 * tokens + _PAIR) * k * (p + q) < built

    def entries(self, gradient: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """s K at [u, v], with K = C_p G C_q^T."""
        if self.transform != "gemm":
            return self.scale * dct2_at(gradient, u, v)
        p, q = self.shape
        left, right = (_basis(n, gradient.dtype, gradient.device) for n in (p, q))
        return self.scale * (left @ gradient @ right.mT)[u, v]

    def entries_of_product(self, g: Tensor, x: Tensor, indices: Tensor, moving: bool) -> Tensor:
        """`entries` of g^T x at the places and, where these move, beside them; in the cheapest of three ways."""
        match self._cheapest(len(x), indices.shape[1], moving):
            case "factored":
                return self.scale * _entries_by_rows(g, x, indices, moving)
            case "tokens":
                return self.scale * _entries_by_tokens(g, x, indices, moving)
            case _:
                return self.entries(_wide(g.mT @ x), *_beside(indices, self.shape, moving))

    def _cheapest(self, tokens: int, k: int, moving: bool) -> str:
        if self.transform != "auto":
            return self.transform
        p, q = self.shape
        costs = {
            "matrix": (2 * tokens + _CELL) * p * q,
            "tokens": tokens * (_ENTRY * (p + q) + _PAIR * k * (5 if moving else 1)),
        }
        if max(p, q) <= _TABLE:
            costs["factored"] = (2 * tokens + _PAIR) * k * (p + q) * (3 if moving else 1)
        return min(costs, key=lambda way: costs[way])


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
    """x dW^T, or with W0 x (W0 + dW)^T + b0, or without x dW itself.

    Keeps x, a and the places for the backward pass, and no (p, q) matrix but W0.
    """

    generate_vmap_rule = True  # torch.func differentiates and maps over samples

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        x: Tensor | None,
        a: Tensor,
        theta: Tensor,
        indices: Tensor,
        series: CosineSeries,
        W0: Tensor | None = None,
        b0: Tensor | None = None,
    ) -> Tensor:
        """The product, chosen between the built matrix and thin ones."""
        if x is None:
            return series.build(_wide(a), indices).to(a.dtype)
        if W0 is None and series.factored(x[..., 0].numel(), len(a)):
            C, D = _factors(series, a, indices, x.dtype)
            return (x @ D.mT) @ C
        return nn.functional.linear(x, _changed(series, a, indices, W0).to(x.dtype), b0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the backward pass needs."""
        x, a, theta, indices, ctx.series, *W0 = inputs
        ctx.save_for_backward(x, a, theta, indices, W0[0] if W0 else None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of x, of the amplitudes, and the surrogate of the places."""
        x, a, theta, indices, W0 = ctx.saved_tensors
        series: CosineSeries = ctx.series
        for_x, for_a, for_theta = ctx.needs_input_grad[:3]
        learning, moving = for_a and series.trained[0], for_theta and series.trained[1]
        grad_x = K = None
        if x is None:
            K = series.entries(_wide(g), *_beside(indices, series.shape, moving))
        elif learning or moving:
            K = series.entries_of_product(_tokens(g), _tokens(x), indices, moving)
        if for_x and W0 is None and series.factored(g[..., 0].numel(), len(a)):
            C, D = _factors(series, a, indices, g.dtype)
            grad_x = (g @ C.mT) @ D
        elif for_x:
            grad_x = g @ _changed(series, a, indices, W0).to(g.dtype)
        grad_a = torch.zeros_like(a) if for_a else None
        grad_theta = torch.zeros_like(theta) if for_theta else None
        if K is not None and learning:
            grad_a = K[0].to(a.dtype)
        if K is not None and moving:
            grad_theta = _move(K, _wide(a), theta, series).to(theta.dtype)
        return grad_x, grad_a, grad_theta, None, None, None, None


def _changed(series: CosineSeries, a: Tensor, indices: Tensor, W0: Tensor | None) -> Tensor:
    dW = series.build(_wide(a), indices)
    return dW if W0 is None else dW.add_(W0)


def _factors(series: CosineSeries, a: Tensor, indices: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The rows s a_i c_{u_i} and d_{v_i}: dW is the product of the first, transposed, and the second."""
    (p, q), (u, v) = series.shape, indices.long()
    wide = _wide(a)
    return (series.scale * wide[:, None] * _rows(u, p, wide.dtype)).to(dtype), _rows(v, q, wide.dtype).to(dtype)


def _move(K: Tensor, a: Tensor, theta: Tensor, series: CosineSeries) -> Tensor:
    """dL/dtheta: the central difference between neighbouring cells, clamped, times d cell / d theta."""
    along = torch.stack([K[1] - K[2], K[3] - K[4]]) * (a / 2)
    if series.clip is not None:
        along = along.clamp(-series.clip, series.clip)
    inside = (theta >= 0) & (theta <= series.clamp_max)
    return torch.where(inside, along * grid_steps(theta, series.shape), 0)


def _beside(indices: Tensor, shape: tuple[int, int], moving: bool) -> tuple[Tensor, Tensor]:
    """(u, v), (1, k), or (5, k) with the cells below, above, right and left; the border stands for what is behind."""
    u, v = indices.long()
    if not moving:
        return u[None], v[None]
    below, above = _neighbours(u, shape[0])
    right, left = _neighbours(v, shape[1])
    return torch.stack([u, below, above, u, u]), torch.stack([v, v, v, right, left])


def _neighbours(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return (places + 1).clamp(max=size - 1), (places - 1).clamp(min=0)


def _entries_by_rows(g: Tensor, x: Tensor, indices: Tensor, moving: bool) -> Tensor:
    """K[u, v] = sum_t (g_t . c_u) (x_t . d_v) by products with single rows of the bases."""

    def along(rows: Tensor, frequencies: Tensor) -> Tensor:
        n = rows.shape[1]
        return _wide(rows @ _rows(frequencies, n, _wide(rows).dtype).to(rows.dtype).mT)

    return _dots(partial(along, g), partial(along, x), indices, (g.shape[1], x.shape[1]), moving)


def _entries_by_tokens(g: Tensor, x: Tensor, indices: Tensor, moving: bool) -> Tensor:
    """The same by transforming every token, a block of tokens at a time so that it stays in the cache."""
    shape, total = (g.shape[1], x.shape[1]), torch.zeros((), device=x.device)
    for slopes, tokens in zip(g.split(_BLOCK), x.split(_BLOCK), strict=True):
        G, X = dct(slopes), dct(tokens)
        total = total + _dots(partial(G.index_select, 1), partial(X.index_select, 1), indices, shape, moving)
    return total


def _dots(
    left: Callable[[Tensor], Tensor],
    right: Callable[[Tensor], Tensor],
    indices: Tensor,
    shape: tuple[int, int],
    moving: bool,
) -> Tensor:
    """Sums over tokens of left(u) right(v), for the cells of `_beside` in their order."""
    u, v = indices.long()
    at_u, at_v = left(u), right(v)
    if not moving:
        return (at_u * at_v).sum(0)[None]
    vertical = [(left(beside) * at_v).sum(0) for beside in _neighbours(u, shape[0])]
    horizontal = [(at_u * right(beside)).sum(0) for beside in _neighbours(v, shape[1])]
    return torch.stack([(at_u * at_v).sum(0), *vertical, *horizontal])


def grid_steps(places: Tensor, shape: tuple[int, int]) -> Tensor:
    """(p - 1, q - 1) as a column, on the device of the places."""
    return torch.tensor(shape, device=places.device)[:, None] - 1


def _tokens(activations: Tensor) -> Tensor:
    """(tokens, features), also of a single vector."""
    return activations.reshape(-1, activations.shape[-1])


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _rows(frequencies: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    if n > _TABLE or torch.compiler.is_compiling():
        return cosine_rows(frequencies, n, dtype)
    return _basis(n, dtype, frequencies.device)[frequencies]


@kept(8)
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return cosine_rows(torch.arange(n, device=device), n, dtype)
