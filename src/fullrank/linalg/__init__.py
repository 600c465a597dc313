"""Matrices in, matrices out: singular value decompositions. No modules, no files, no printing."""

from fullrank.linalg.finite import require_finite
from fullrank.linalg.in_place import eigenvalues_in_place, singular_values_in_place
from fullrank.linalg.svd import SVD, singular_values, singular_values_of_rows, svd

__all__ = [
    "SVD",
    "eigenvalues_in_place",
    "require_finite",
    "singular_values",
    "singular_values_in_place",
    "singular_values_of_rows",
    "svd",
]
