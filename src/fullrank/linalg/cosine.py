"""The orthonormal discrete cosine transform (DCT-II), exact in every size, whole or at single frequencies."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fullrank.linalg.tables import kept

_TABLES = 64  # sizes whose factors are kept


def dct(signals: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """C_n x along the last axis.

    Args:
        signals: any size, also odd ones; half precision is computed in float32.

    Returns:
        In float32, or float64 for float64.

    Source: Makhoul, "A fast cosine transform in one and two dimensions", 1980.
    """
    x = _wide(signals)
    if not x.numel():
        return x  # Fourier transforms of no signals fail on CPUs
    axis = _axis(x.shape[-1], x.dtype, x.device)
    return _real_frequencies(torch.fft.rfft(x.index_select(-1, axis.order)), axis)


def dct2(matrix: Float[Tensor, "... p q"]) -> Float[Tensor, "... p q"]:
    """C_p X C_q^T: the two-dimensional orthonormal DCT-II, by one fast Fourier transform; its adjoint's inverse.

    Args:
        matrix: any sizes, also odd ones; half precision is computed in float32.

    Returns:
        In float32, or float64 for float64.

    Source: Makhoul, as above.
    """
    x = _wide(matrix)
    rows, columns = (_axis(n, x.dtype, x.device) for n in x.shape[-2:])
    V = _reordered_spectrum(x, rows, columns)
    # cos a cos b is half of cos (a + b) + cos (a - b), and the second is found at the negative frequency
    turned = V * (rows.turn.conj() * rows.scale / 2)[:, None]
    turned = turned + V.index_select(-2, rows.negative) * (rows.turn * rows.scale / 2)[:, None]
    return _real_frequencies(turned, columns)


def dct2_at(
    matrix: Float[Tensor, "p q"], u: Int[Tensor, "*places"], v: Int[Tensor, "*places"]
) -> Float[Tensor, "*places"]:
    """Single entries [u, v] of `dct2`: what follows the Fourier transform is done for these alone.

    Args:
        matrix: see `dct2`.
        u: frequencies along the columns, from 0 to p - 1.
        v: frequencies along the rows, from 0 to q - 1.
    """
    x = _wide(matrix)
    rows, columns = (_axis(n, x.dtype, x.device) for n in x.shape)
    V = _reordered_spectrum(x, rows, columns)
    column, turn = columns.half[v], columns.turn_half[v]
    both = rows.turn[u].conj() * V[u, column] + rows.turn[u] * V[rows.negative[u], column]
    return (turn.conj() * both).real * (rows.scale[u] * columns.scale[v] / 2)


def idct2(spectrum: Float[Tensor, "... p q"]) -> Float[Tensor, "... p q"]:
    """C_p^T S C_q: the inverse of `dct2`, and its adjoint.

    Args:
        spectrum: any sizes, also odd ones; half precision is computed in float32.

    Returns:
        In float32, or float64 for float64.
    """
    S = _wide(spectrum)
    rows, columns = (_axis(n, S.dtype, S.device) for n in S.shape[-2:])
    Z = S / (rows.scale[:, None] * columns.scale)
    half = S.shape[-1] // 2 + 1
    V = torch.complex(Z[..., :half], -_mirrored(Z, -1)[..., :half]) * columns.turn[:half]
    V = (V - 1j * _mirrored(V, -2)) * rows.turn[:, None]
    return _reordered_signal(V.mT, rows, columns)


def sparse_idct2(
    values: Float[Tensor, "k"], u: Int[Tensor, "k"], v: Int[Tensor, "k"], shape: tuple[int, int]
) -> Float[Tensor, "p q"]:
    """`idct2` of a spectrum with few entries: what precedes the Fourier transform is done for these alone.

    Args:
        values: of the entries; those at the same place add up.
        u: their rows, from 0 to p - 1.
        v: their columns, from 0 to q - 1.
        shape: (p, q).
    """
    a = _wide(values)
    rows, columns = (_axis(n, a.dtype, a.device) for n in shape)
    p, q = shape
    entry, line = columns.unscaled_half[v] * a, columns.half[v] * p
    at, below = entry * rows.unscaled[u], entry * rows.unscaled_negative[u]
    V = entry.new_zeros((q // 2 + 1) * p)
    V = V.index_add(0, torch.cat([line + u, line + rows.negative[u]]), torch.cat([at, below]))
    return _reordered_signal(V.view(-1, p), rows, columns)


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
    readable = u.numel() > 0 and not u.is_meta and not torch.compiler.is_compiling()
    if readable and not (int(u.min()) >= 0 and int(u.max()) < size):
        raise ValueError(f"frequencies from {int(u.min())} to {int(u.max())}: 0 to {size - 1} are accepted")
    steps = torch.arange(size, device=u.device) * 2 + 1
    angles = (u[:, None] * steps) % (4 * size)
    rows = torch.cos(angles.double() * (math.pi / (2 * size))) * math.sqrt(2 / size)
    return torch.where(u[:, None] == 0, 1 / math.sqrt(size), rows).to(dtype)


class _Axis(NamedTuple):
    """What one axis of n entries needs.

    Attributes:
        turn: exp(i pi k / 2n) for every frequency k.
        scale: sqrt(2/n), and sqrt(1/n) for frequency 0.
        order: the even entries, then the odd ones backwards.
        places: where each entry is found in that order.
        negative: -k modulo n.
        half: where the half spectrum of real numbers holds frequency k, up to conjugation.
        turn_half: the turn of k as it is there.
        unscaled, unscaled_negative: turn / scale of k, and of -k, which frequency 0 does not have.
        unscaled_half: turn_half / scale; twice the real part for the middle frequency, which is its own negative.
    """

    turn: Tensor
    scale: Tensor
    order: Tensor
    places: Tensor
    negative: Tensor
    half: Tensor
    turn_half: Tensor
    unscaled: Tensor
    unscaled_negative: Tensor
    unscaled_half: Tensor


@kept(_TABLES)
def _axis(n: int, dtype: torch.dtype, device: torch.device) -> _Axis:
    k = torch.arange(n)
    turn = torch.polar(torch.ones(n, dtype=torch.float64), math.pi * k.double() / (2 * n))
    scale = torch.full((n,), math.sqrt(2 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1 / n)
    order = torch.cat([k[::2], k[1::2].flip(0)])
    turn_half = torch.where(2 * k <= n, turn, turn.conj().resolve_conj())
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return _Axis(
        turn.to(device, complex_dtype),
        scale.to(device, dtype),
        order.to(device),
        order.argsort().to(device),
        (-k % n).to(device),
        torch.minimum(k, n - k).to(device),
        turn_half.to(device, complex_dtype),
        (turn / scale).to(device, complex_dtype),
        torch.where(k == 0, 0, turn.conj() / scale).to(device, complex_dtype),
        (torch.where(2 * k == n, turn_half + turn_half.conj(), turn_half) / scale).to(device, complex_dtype),
    )


def _reordered_spectrum(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    return torch.fft.rfft2(x.index_select(-2, rows.order).index_select(-1, columns.order))


def _reordered_signal(transposed: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    # one axis after the other, both contiguous: irfft2 strides through the first, twice as long at 2048
    half = torch.fft.ifft(transposed.contiguous()).mT.contiguous()
    v = torch.fft.irfft(half.index_select(-2, rows.places), n=len(columns.turn))
    return v.index_select(-1, columns.places)


def _real_frequencies(V: Tensor, axis: _Axis) -> Tensor:
    """The cosine frequencies along the last axis from the half spectrum of reordered real numbers."""
    n, half = len(axis.turn), V.shape[-1]
    c = V * (axis.turn.conj() * axis.scale)[:half]
    # X_k = Re c_k, and X_{n-k} = -Im c_k, because the transform of real numbers is conjugate symmetric
    return torch.cat([c.real, -c.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def _mirrored(Z: Tensor, axis: int) -> Tensor:
    """Z_{n-k}, with Z_n = 0."""
    rest = Z.narrow(axis, 1, Z.shape[axis] - 1).flip(axis)
    return torch.cat([torch.zeros_like(Z.narrow(axis, 0, 1)), rest], axis)


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
