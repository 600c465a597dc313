"""Robust PCA: a matrix as the sum of a low-rank and a sparse one, without training (Candès et al. 2011).

    min |L|_* + lambda |S|_1  subject to  L + S = M        (principal component pursuit)

solved by the inexact augmented Lagrangian method (Lin, Chen and Ma 2010, algorithm 5):

    L <- U shrink(Sigma, 1/mu) V^T   of  U Sigma V^T = M - S + Y/mu
    S <- shrink(M - L + Y/mu, lambda/mu)
    Y <- Y + mu (M - L - S),   mu <- min(rho mu, mu_max)
"""

from __future__ import annotations

import math
import warnings
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fullrank.linalg.finite import require_finite
from fullrank.linalg.svd import SVD, power_of_two, svd

Method = Literal["ialm", "randomized"]

_GROWTH = 1.5  # rho
_CEILING = 1e7  # mu_max over the first mu
_START = 1.25  # the first mu, times 1 / |M|_2
_FIRST_RANK = 10  # of the randomised SVD
_RANK_SHARE = 0.2  # of the smaller side, from which on the exact SVD is the cheaper one


class RobustPCA(NamedTuple):
    """A decomposition M = L + S, and how it was reached. Reports have the leading axes of the matrix.

    Attributes:
        low_rank: L, the shape and dtype of M.
        sparse: S, the shape and dtype of M.
        rank: of L.
        iterations: until the residual was small enough.
        residual: |M - L - S|_F / |M|_F.
        converged: whether the residual reached the tolerance.
    """

    low_rank: Float[Tensor, "*batch m n"]
    sparse: Float[Tensor, "*batch m n"]
    rank: Int[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]


def robust_pca(
    matrix: Float[Tensor, "*batch m n"],
    lam: float | None = None,
    method: Method = "ialm",
    tolerance: float | None = None,
    max_iterations: int = 500,
    generator: torch.Generator | None = None,
) -> RobustPCA:
    """Split matrices into a low-rank and a sparse part by principal component pursuit.

    Args:
        matrix: any leading batch shape, any floating dtype; half precision is computed in float32.
        lam: weight of the sparse part; default 1 / sqrt(max(m, n)), right for sparse entries at random places.
        method: "ialm" takes exact SVDs; "randomized" takes a randomised SVD of a rank that follows the iterates, and
            exact ones only where that rank is above a fifth of the smaller side: faster for large matrices whose
            low-rank part is low in rank indeed.
        tolerance: relative residual to stop at; default 1e-7 for float64 and 1e-6 otherwise.
        max_iterations: at most so many.
        generator: source of randomness of the randomised SVD; seeded with 0 by default.

    Returns:
        `RobustPCA`. Where an item did not converge, a RuntimeWarning says so and `converged` is False.

    Raises:
        ValueError: NaN or infinite entries, no matrix, integers, or an argument out of range.
    """
    _check(matrix, lam, method, tolerance, max_iterations)
    M = matrix.detach().to(torch.float64 if matrix.dtype == torch.float64 else torch.float32)
    M = M.reshape(-1, *matrix.shape[-2:])
    lam = 1 / math.sqrt(max(M.shape[-2:])) if lam is None else lam
    tolerance = tolerance or (1e-7 if M.dtype == torch.float64 else 1e-6)
    scale = power_of_two(M)
    shrink_rank = _Exact() if method == "ialm" else _Randomized(generator)
    solved = _solve(M / scale, lam, tolerance, max_iterations, shrink_rank)
    if not bool(solved.converged.all()):
        warnings.warn(
            f"robust_pca: {int((~solved.converged).sum())} of {len(M)} matrices did not reach the relative residual "
            f"{tolerance:g} in {max_iterations} iterations (worst {float(solved.residual.max()):.2g}): raise "
            "max_iterations or tolerance",
            RuntimeWarning,
            stacklevel=2,
        )
    parts = ((part * scale).reshape(matrix.shape).to(matrix.dtype) for part in (solved.low_rank, solved.sparse))
    return RobustPCA(*parts, *(report.reshape(matrix.shape[:-2]) for report in solved[2:]))


def _check(matrix: Tensor, lam: float | None, method: str, tolerance: float | None, max_iterations: int) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not known; accepted: {', '.join(map(repr, get_args(Method)))}")
    if matrix.ndim < 2 or 0 in matrix.shape:
        raise ValueError(f"matrix has shape {tuple(matrix.shape)}: (..., rows, columns) with entries is accepted")
    if not matrix.is_floating_point():
        raise ValueError(f"matrix has dtype {matrix.dtype}: a floating dtype is needed; convert with .float() first")
    require_finite(matrix)
    for name, value in (("lam", lam), ("tolerance", tolerance)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: use a positive number")
    if max_iterations < 1:
        raise ValueError(f"max_iterations={max_iterations}: use at least 1")


def _solve(M: Tensor, lam: float, tolerance: float, max_iterations: int, shrink_rank: _Exact) -> RobustPCA:
    """Iterate a stack of matrices, each until it has converged."""
    size = M.flatten(1).norm(dim=1)
    found = RobustPCA(
        torch.zeros_like(M),
        torch.zeros_like(M),
        torch.zeros(len(M), dtype=torch.long, device=M.device),
        torch.zeros(len(M), dtype=torch.long, device=M.device),
        torch.zeros_like(size),
        size == 0,  # a matrix of zeros is its own decomposition
    )
    active = (size > 0).nonzero().squeeze(1)
    if len(active) == 0:
        return found
    D, size = M[active], size[active]
    norm = torch.linalg.matrix_norm(D, 2)
    largest = D.abs().amax((1, 2)) / lam
    Y = D / torch.maximum(norm, largest)[:, None, None]  # the dual start of the paper
    mu, ceiling = _START / norm, _START / norm * _CEILING
    S = torch.zeros_like(D)
    for iteration in range(1, max_iterations + 1):
        step = 1 / mu[:, None, None]
        L, rank = shrink_rank(D - S + Y * step, 1 / mu)
        S = _shrink(D - L + Y * step, lam * step)
        rest = D - L - S
        residual = rest.flatten(1).norm(dim=1) / size
        done = residual <= tolerance
        if iteration == max_iterations or bool(done.any()):
            ended = torch.ones_like(done) if iteration == max_iterations else done
            places = active[ended]
            values = (L, S, rank, torch.full_like(rank, iteration), residual, done)
            for kept, value in zip(found, values, strict=True):
                kept[places] = value[ended]
            if bool(ended.all()):
                return found
        go = ~done
        Y = (Y + mu[:, None, None] * rest)[go]
        mu = torch.minimum(_GROWTH * mu, ceiling)[go]
        D, S, active, size, ceiling = D[go], S[go], active[go], size[go], ceiling[go]
    raise AssertionError("the last iteration ends all")


class _Exact:
    """Singular values shrunk by way of all of them."""

    def __call__(self, X: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """The shrunken matrices, and their ranks."""
        return _shrunken(SVD(*torch.linalg.svd(X, full_matrices=False)), threshold)


class _Randomized(_Exact):
    """Singular values shrunk by way of the leading ones; how many were above the threshold tells how many to ask for
    next time, and one below it is the proof that none was missed."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.asked = _FIRST_RANK

    def __call__(self, X: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """The shrunken matrices, and their ranks."""
        while self.asked <= _RANK_SHARE * min(X.shape[-2:]):
            factors = svd(X, self.asked, "randomized", self.generator)
            if bool((factors.S[:, -1] <= threshold).all()):
                break
            self.asked *= 2
        else:
            factors = SVD(*torch.linalg.svd(X, full_matrices=False))
        L, rank = _shrunken(factors, threshold)
        self.asked = int(rank.max()) + 2
        return L, rank


def _shrunken(factors: SVD, threshold: Tensor) -> tuple[Tensor, Tensor]:
    S = (factors.S - threshold[:, None]).clamp_min(0)
    kept = S > 0
    leading = int(kept.sum(1).max())
    return SVD(factors.U[..., :leading], S[:, :leading], factors.Vh[:, :leading]).reconstruct(), kept.sum(1)


def _shrink(values: Tensor, threshold: Tensor) -> Tensor:
    """The proximal operator of the absolute value."""
    return values.sign() * (values.abs() - threshold).clamp_min(0)
