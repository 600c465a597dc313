"""Solvers that give two factors of a weight: W (out, in) ≈ B A, as Greenformers offers them.

The library factors the transpose, W^T ≈ U V; A = U^T and B = V^T here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.linalg import svd

_EPS = 1e-9


class Factors(NamedTuple):
    """W ≈ B A.

    Attributes:
        A: (rank, in), acts first.
        B: (out, rank).
    """

    A: Float[Tensor, "rank in"]
    B: Float[Tensor, "out rank"]


def exact(W: Float[Tensor, "out in"], rank: int, num_iter: int, generator: torch.Generator) -> Factors:
    """The best approximation; the singular values go into A."""
    U, S, Vh = svd(W, rank, method="gram" if W.dtype != torch.float64 else "exact")
    return Factors(S.unsqueeze(-1) * Vh, U)


def randomized(
    W: Float[Tensor, "out in"], rank: int, num_iter: int, generator: torch.Generator, oversample: int = 8
) -> Factors:
    """Subspace iteration (Halko, Martinsson and Tropp 2011); `oversample=0` is the library's `torch.svd_lowrank`."""
    wide = W.to(torch.promote_types(W.dtype, torch.float32)).mT
    width = min(rank + oversample, *wide.shape)
    test = torch.randn(wide.shape[1], width, generator=generator, dtype=wide.dtype).to(wide.device)
    Q = torch.linalg.qr(wide @ test).Q
    for _ in range(num_iter):
        Q = torch.linalg.qr(wide.mT @ Q).Q
        Q = torch.linalg.qr(wide @ Q).Q
    U, S, Vh = torch.linalg.svd(Q.mT @ wide, full_matrices=False)
    return Factors(((Q @ U)[:, :rank] * S[:rank]).mT, Vh[:rank].mT)


def semi_nmf(W: Float[Tensor, "out in"], rank: int, num_iter: int, generator: torch.Generator) -> Factors:
    """Semi-non-negative matrix factorisation (Ding, Li and Jordan 2010): W^T ≈ U H with H >= 0.

    U = X H^T (H H^T)^-1, then H <- H * sqrt(((U^T X)^+ + (U^T U)^- H) / ((U^T X)^- + (U^T U)^+ H + 1e-9)).
    """
    X = W.to(torch.float64).mT
    H = torch.rand(rank, X.shape[1], generator=generator, dtype=torch.float64).to(X.device) + _EPS
    for _ in range(num_iter):
        U = _least_squares(X, H)
        UX, UU = U.mT @ X, U.mT @ U
        numerator = _positive(UX) + _negative(UU) @ H
        H = H * (numerator / (_negative(UX) + _positive(UU) @ H + _EPS)).sqrt()
    return Factors(_least_squares(X, H).mT.to(W.dtype), H.mT.to(W.dtype))


def nmf(W: Float[Tensor, "out in"], rank: int, num_iter: int, generator: torch.Generator) -> Factors:
    """Non-negative matrix factorisation by multiplicative updates (Lee and Seung 2001).

    Raises:
        ValueError: W has a negative entry.
    """
    X = W.to(torch.float64).mT
    if bool((X < 0).any()):
        raise ValueError(
            f'solver="nmf" needs a non-negative matrix, this one has {float(X.min()):.3g}: use "snmf", whose first '
            "factor may be negative"
        )
    shape = {"generator": generator, "dtype": torch.float64}
    U = torch.rand(X.shape[0], rank, **shape).to(X.device) + _EPS
    H = torch.rand(rank, X.shape[1], **shape).to(X.device) + _EPS
    for _ in range(num_iter):
        H = H * (U.mT @ X) / (U.mT @ U @ H + _EPS)
        U = U * (X @ H.mT) / (U @ (H @ H.mT) + _EPS)
    return Factors(U.mT.to(W.dtype), H.mT.to(W.dtype))


Solver = Callable[[Tensor, int, int, torch.Generator], Factors]
SOLVERS: dict[str, Solver] = {"svd": exact, "randomized": randomized, "snmf": semi_nmf, "nmf": nmf}


def _least_squares(X: Tensor, H: Tensor) -> Tensor:
    """X H^T (H H^T)^-1."""
    return torch.linalg.lstsq(H.mT, X.mT).solution.mT


def _positive(x: Tensor) -> Tensor:
    return (x.abs() + x) / 2


def _negative(x: Tensor) -> Tensor:
    return (x.abs() - x) / 2
