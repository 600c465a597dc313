"""LDU decomposition with partial pivoting."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fullrank.linalg.finite import require_finite


class LDU(NamedTuple):
    """W[permutation] = L diag(d) U, with k = min(m, n).

    Attributes:
        permutation: (m,) the row of W that each row of L belongs to.
        L: (m, k) unit lower triangular or trapezoidal.
        d: (k,) pivots, with their signs; 1 where a pivot was too small to divide by.
        U: (k, n) upper triangular or trapezoidal, its diagonal 1 where the pivot was divided out.
        small_pivots: how many pivots were too small.
    """

    permutation: Int[Tensor, "m"]
    L: Float[Tensor, "m k"]
    d: Float[Tensor, "k"]
    U: Float[Tensor, "k n"]
    small_pivots: int


def ldu(matrix: Float[Tensor, "m n"], pivot_floor: float = 1e-6, name: str = "matrix") -> LDU:
    """Lower, diagonal and upper factors of a matrix, by elimination with partial pivoting.

    The product is the matrix even where it lacks rank: a row whose pivot is at most `pivot_floor` times the largest one
    is kept as it is, with 1 on the diagonal.

    Args:
        matrix: any shape with two axes; half precision is computed in float32.
        pivot_floor: relative size below which a pivot is not divided by.
        name: how errors call the matrix.

    Raises:
        ValueError: NaN or infinite entries (with the position of the first), or a negative `pivot_floor`.
    """
    if pivot_floor < 0:
        raise ValueError(f"pivot_floor={pivot_floor}: 0 or more is accepted, such as 1e-6")
    wide = matrix.detach() if matrix.dtype == torch.float64 else matrix.detach().float()
    require_finite(wide, name)
    compact, pivots, _ = torch.linalg.lu_factor_ex(wide)  # a zero pivot is no error here
    P, L, upper = torch.lu_unpack(compact, pivots)
    pivot = upper.diagonal()
    largest = pivot.abs().max() if pivot.numel() else pivot.new_zeros(())
    usable = pivot.abs() > pivot_floor * largest
    d = torch.where(usable, pivot, torch.ones_like(pivot))
    permutation = P.mT.argmax(1)
    return LDU(permutation, L, d, upper / d[:, None], int((~usable).sum()))
