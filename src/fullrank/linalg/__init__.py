"""Matrices in, matrices out: SVDs, LDU, cosine and wavelet transforms. No modules, no files, no printing."""

from fullrank.linalg.cosine import cosine_rows, dct, dct2, dct2_at, idct2, sparse_idct2
from fullrank.linalg.finite import require_finite
from fullrank.linalg.in_place import eigenvalues_in_place, singular_values_in_place
from fullrank.linalg.ldu import LDU, ldu
from fullrank.linalg.robust_pca import RobustPCA, robust_pca
from fullrank.linalg.state import State, state_of
from fullrank.linalg.svd import SVD, singular_values, singular_values_of_rows, svd
from fullrank.linalg.wavelets import band_sizes, dwt, idwt
from fullrank.linalg.weighted_svd import weighted_svd

__all__ = [
    "LDU",
    "RobustPCA",
    "SVD",
    "State",
    "band_sizes",
    "cosine_rows",
    "dct",
    "dct2",
    "dct2_at",
    "dwt",
    "eigenvalues_in_place",
    "idct2",
    "idwt",
    "ldu",
    "require_finite",
    "robust_pca",
    "singular_values",
    "singular_values_in_place",
    "singular_values_of_rows",
    "sparse_idct2",
    "state_of",
    "svd",
    "weighted_svd",
]
