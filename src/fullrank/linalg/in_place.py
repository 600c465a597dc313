"""LAPACK in place: eigenvalues and singular values that take the matrix itself as their workspace.

`torch.linalg` copies its argument first. Here nothing is copied, so a matrix that fills most of the memory can still be
decomposed; its entries are lost.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from numpy.linalg import LinAlgError
from scipy.linalg import eigvalsh, lapack
from torch import Tensor

from fullrank.linalg.finite import require_finite


def singular_values_in_place(matrix: Float[Tensor, "m n"], name: str = "matrix") -> Float[Tensor, "k"]:
    """All singular values of a matrix, descending, k = min(m, n); the matrix is overwritten.

    Args:
        matrix: float32 or float64, contiguous, on the CPU, without gradient.
        name: how errors call the matrix.

    Returns:
        In the matrix' dtype.

    Raises:
        ValueError: NaN or infinite entries (with the position of the first), or a matrix that cannot be overwritten.
        numpy.linalg.LinAlgError: LAPACK did not converge.
    """
    _check(matrix, name)
    require_finite(matrix, name)
    columns = matrix.numpy().T  # LAPACK stores by columns; a transpose has the same singular values
    gesdd, gesdd_lwork = lapack.get_lapack_funcs(("gesdd", "gesdd_lwork"), (columns,))
    length, _ = gesdd_lwork(*columns.shape, compute_uv=0)
    _, values, _, info = gesdd(columns, compute_uv=0, lwork=int(length), overwrite_a=1)
    if info:
        raise LinAlgError(f"the singular values of {name} did not converge (gesdd: info={info})")
    return torch.from_numpy(values)


def eigenvalues_in_place(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """All eigenvalues of a symmetric matrix, ascending; only its lower triangle is read, and all is overwritten.

    Args:
        matrix: float32 or float64, contiguous, on the CPU, without gradient, finite.

    Raises:
        ValueError: a matrix that cannot be overwritten.
    """
    _check(matrix, "matrix")
    # the transpose is in Fortran's order, and its upper triangle is the lower one here
    values = eigvalsh(matrix.numpy().T, lower=False, overwrite_a=True, check_finite=False, driver="evd")
    return torch.from_numpy(values)


def _check(matrix: Tensor, name: str) -> None:
    in_place = matrix.device.type == "cpu" and matrix.is_contiguous() and not matrix.requires_grad
    if in_place and matrix.dtype in (torch.float32, torch.float64):
        return
    raise ValueError(
        f"{name} ({matrix.dtype}, {matrix.device}) cannot be overwritten: a contiguous float32 or float64 matrix on "
        "the CPU without gradient is accepted; singular_values takes any other"
    )
