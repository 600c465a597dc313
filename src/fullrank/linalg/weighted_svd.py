"""The best low-rank matrix when errors do not weigh the same: min ||L (M - X) R||_F over X of rank r."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.linalg.finite import require_finite
from fullrank.linalg.svd import SVD, direct_factors, signed


def weighted_svd(
    matrix: Float[Tensor, "m n"],
    rank: int | None = None,
    *,
    left: Float[Tensor, "m"] | Float[Tensor, "m m"] | None = None,
    right: Float[Tensor, "n"] | Float[Tensor, "n n"] | None = None,
    method: Literal["auto", "exact"] = "auto",
) -> SVD:
    """Factors X = U diag(S) Vh of rank r with the least ||L (M - X) R||_F (Eckart and Young on L M R).

    The squared weighted error is the sum of the squared singular values of L M R that were left out. U and Vh are
    orthonormal in the weights, (L U)^T L U = 1, and not in themselves.

    Args:
        matrix: M, any floating dtype; computed in float64.
        rank: r; all min(m, n) by default.
        left: L, a vector (m,) of non-negative weights for rows, a regular matrix (m, m), or None for no weights. A row
            of weight zero costs nothing and becomes zero.
        right: R, likewise for columns, (n,) or (n, n).
        method: "exact"; "auto" takes eigenvectors of the smaller Gram matrix where they are good to about 1e-6, and
            the exact route otherwise.

    Returns:
        `SVD(U, S, Vh)`; float64 for float64 input, float32 otherwise. S are the singular values of L M R.

    Raises:
        ValueError: NaN or infinite entries, `rank` outside 1..min(m, n), or weights that do not fit the matrix, are
            negative, or cannot be inverted.
    """
    require_finite(matrix, "matrix")
    rows, columns = matrix.shape
    if rank is not None and not 1 <= rank <= min(rows, columns):
        raise ValueError(
            f"rank={rank} does not fit a matrix of shape {(rows, columns)}: 1 to {min(rows, columns)} is accepted"
        )
    L, R = (_checked(name, weight, size) for name, weight, size in (("left", left, rows), ("right", right, columns)))
    scaled = matrix.to(torch.float64)
    if L is not None:
        scaled = L.unsqueeze(-1) * scaled if L.ndim == 1 else L @ scaled
    if R is not None:
        scaled = scaled * R if R.ndim == 1 else scaled @ R
    U, S, Vh = signed(direct_factors(scaled, rank or min(rows, columns), method == "auto"))
    if L is not None:
        U = _inverse_scales(L).unsqueeze(-1) * U if L.ndim == 1 else _solve("left", L, U)
    if R is not None:
        Vh = Vh * _inverse_scales(R) if R.ndim == 1 else _solve("right", R.mT, Vh.mT).mT
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    return SVD(U.to(dtype), S.to(dtype), Vh.to(dtype))


def _inverse_scales(weights: Tensor) -> Tensor:
    return torch.where(weights > 0, 1 / weights, 0.0)


def _solve(name: str, weights: Tensor, factor: Tensor) -> Tensor:
    try:
        return torch.linalg.solve(weights, factor)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise ValueError(
            f"{name} is a singular matrix: add a small multiple of the identity, such as 1e-6 of its mean diagonal"
        ) from error


def _checked(name: str, weight: Tensor | None, size: int) -> Tensor | None:
    if weight is None:
        return None
    if weight.shape not in ((size,), (size, size)):
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}: ({size},) or ({size}, {size}) fits the matrix; weights of the "
            f"other side go to {'right' if name == 'left' else 'left'}"
        )
    require_finite(weight.reshape(1, -1), name)
    if weight.ndim == 1 and bool((weight < 0).any()):
        raise ValueError(f"{name} has a negative weight, {float(weight.min()):.3g}: weights are at least 0")
    return weight.to(torch.float64)
