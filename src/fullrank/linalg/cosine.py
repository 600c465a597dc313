"""The orthonormal discrete cosine transform (DCT-II) of matrices, exact in every size, and single rows of its basis."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TABLES = 64  # sizes whose factors are kept


def dct2(matrix: Float[Tensor, "... p q"]) -> Float[Tensor, "... p q"]:
    """C_p X C_q^T: the two-dimensional orthonormal DCT-II, by fast Fourier transforms; its own adjoint's inverse.

    Args:
        matrix: any sizes, also odd ones; half precision is computed in float32.

    Returns:
        In float32, or float64 for float64.

    Source: Makhoul, "A fast cosine transform in one and two dimensions", 1980.
    """
    return _dct(_dct(_wide(matrix)).mT).mT


def idct2(spectrum: Float[Tensor, "... p q"]) -> Float[Tensor, "... p q"]:
    """C_p^T S C_q: the inverse of `dct2`, and its adjoint.

    Args:
        spectrum: any sizes, also odd ones; half precision is computed in float32.

    Returns:
        In float32, or float64 for float64.
    """
    return _idct(_idct(_wide(spectrum)).mT).mT


def cosine_rows(
    frequencies: Int[Tensor, "k"], size: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "k size"]:
    """Rows of the orthonormal DCT-II matrix C_n: c_u[j] = sqrt(2/n) cos(pi (2j+1) u / (2n)), and 1/sqrt(n) for u = 0.

    The angles are reduced in whole numbers and evaluated in float64, so that no digit is lost at any size.

    Args:
        frequencies: rows that are wanted, each from 0 to size - 1.
        size: n.
        dtype: of the result.

    Raises:
        ValueError: a frequency out of range.
    """
    u = frequencies.to(torch.int64)
    if u.numel() and not (int(u.min()) >= 0 and int(u.max()) < size):
        raise ValueError(f"frequencies from {int(u.min())} to {int(u.max())}: 0 to {size - 1} are accepted")
    steps = torch.arange(size, device=u.device) * 2 + 1
    angles = (u[:, None] * steps) % (4 * size)
    rows = torch.cos(angles.double() * (math.pi / (2 * size))) * math.sqrt(2 / size)
    return torch.where(u[:, None] == 0, 1 / math.sqrt(size), rows).to(dtype)


def _dct(x: Tensor) -> Tensor:
    """Along the last axis."""
    n = x.shape[-1]
    if n == 1:
        return x
    turn, scale, _, _ = _factors(n, x.dtype, x.device)
    v = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    c = torch.fft.rfft(v) * turn.conj()
    # X_k = Re c_k, and X_{N-k} = -Im c_k, because the transform of real numbers is conjugate symmetric
    return torch.cat([c.real, -c.imag[..., 1 : (n + 1) // 2].flip(-1)], -1) * scale


def _idct(X: Tensor) -> Tensor:
    """Along the last axis."""
    n = X.shape[-1]
    if n == 1:
        return X
    turn, _, inverse, odd = _factors(n, X.dtype, X.device)
    Z = X * inverse
    mirrored = torch.cat([torch.zeros_like(Z[..., :1]), Z.flip(-1)], -1)[..., : n // 2 + 1]  # Z_{N-k}, Z_N = 0
    V = torch.complex(Z[..., : n // 2 + 1], -mirrored) * turn
    v = torch.fft.irfft(V, n=n)
    return v[..., odd]


@lru_cache(_TABLES)
def _factors(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """exp(i pi k / 2N) for half the frequencies, both scalings, and where each entry of the inverse is found."""
    k = torch.arange(n // 2 + 1, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(k), math.pi * k / (2 * n))
    scale = torch.full((n,), math.sqrt(2 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1 / n)
    places = torch.empty(n, dtype=torch.long)
    places[::2] = torch.arange((n + 1) // 2)
    places[1::2] = torch.arange(n - 1, (n - 1) - n // 2, -1)
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return turn.to(device, complex_dtype), scale.to(device, dtype), (1 / scale).to(device, dtype), places.to(device)


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
