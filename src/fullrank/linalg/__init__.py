"""Matrices in, matrices out: singular value decompositions. No modules, no files, no printing."""

from fullrank.linalg.finite import require_finite
from fullrank.linalg.svd import SVD, singular_values, singular_values_of_rows, svd

__all__ = ["SVD", "require_finite", "singular_values", "singular_values_of_rows", "svd"]
