"""Orthogonal wavelet transforms along the last axis, periodic, of any size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank._optional import require
from fullrank.linalg.tables import kept

_EXAMPLES = "haar, db2, db4, sym4, coif1"


def dwt(x: Float[Tensor, "... n"], wavelet: str = "haar", levels: int = 1) -> Float[Tensor, "... padded"]:
    """Coefficients of an orthogonal wavelet: the coarsest approximation, then details from coarse to fine.

    The signal is continued periodically, after zeros at its end up to a multiple of 2^levels. The transform is a matrix
    T (padded x n) with T^T T = I: `dwt(torch.eye(n)).mT`.

    Args:
        x: half precision is computed in float32.
        wavelet: an orthogonal one of PyWavelets, such as "haar" or "db4".
        levels: how often the approximation is split again.

    Raises:
        ValueError: an unknown wavelet, one that is not orthogonal, or fewer than one level.
        MissingExtra: PyWavelets is not installed.
    """
    sizes = band_sizes(x.shape[-1], levels)
    approximation = torch.nn.functional.pad(_wide(x), (0, sum(sizes) - x.shape[-1]))
    details = []
    for _ in range(levels):
        approximation, detail = _split(approximation, wavelet)
        details.append(detail)
    return torch.cat([approximation, *reversed(details)], -1)


def idwt(
    coefficients: Float[Tensor, "... padded"], size: int, wavelet: str = "haar", levels: int = 1
) -> Float[Tensor, "... n"]:
    """T^T c: the signal of given coefficients; the inverse of `dwt`, and its adjoint.

    Args:
        coefficients: in the order of `dwt`.
        size: of the signal; what was zeros at its end is cut off.
        wavelet: see `dwt`.
        levels: see `dwt`.

    Raises:
        ValueError: see `dwt`, or coefficients that are not as many as a signal of that size has.
        MissingExtra: PyWavelets is not installed.
    """
    sizes = band_sizes(size, levels)
    if coefficients.shape[-1] != sum(sizes):
        raise ValueError(
            f"{coefficients.shape[-1]} coefficients, but a signal of size={size} has {sum(sizes)} at levels={levels}"
        )
    approximation, *details = _wide(coefficients).split(sizes, -1)
    for detail in details:
        approximation = _join(approximation, detail, wavelet)
    return approximation[..., :size]


def band_sizes(size: int, levels: int) -> list[int]:
    """How many coefficients each band has, in the order of `dwt`; together a multiple of 2^levels.

    Raises:
        ValueError: fewer than one level, or an empty signal.
    """
    if levels < 1:
        raise ValueError(f"levels={levels}: at least 1 is accepted")
    if size < 1:
        raise ValueError(f"size={size}: a signal has at least one entry")
    padded = -(-size // 2**levels) * 2**levels
    return [padded >> levels, *(padded >> level for level in range(levels, 0, -1))]


def _split(x: Tensor, wavelet: str) -> tuple[Tensor, Tensor]:
    """One level: low_k = sum_j h_j x_(2k + s - j), the same with the high-pass filter."""
    filters, places, _, _ = _tables(wavelet, x.shape[-1], x.dtype, x.device)
    both = x[..., places] @ filters
    return both[..., 0], both[..., 1]


def _join(low: Tensor, high: Tensor, wavelet: str) -> Tensor:
    """The adjoint of `_split`: even and odd entries each from every other coefficient of the filters."""
    n = 2 * low.shape[-1]
    _, _, phases, places = _tables(wavelet, n, low.dtype, low.device)
    bands = torch.stack([low, high], -1)  # (..., n/2, 2)
    even, odd = (
        torch.einsum("...kjb,jb->...k", bands[..., place, :], phase)
        for place, phase in zip(places, phases, strict=True)
    )
    return torch.stack([even, odd], -1).flatten(-2)


@kept(128)
def _tables(
    wavelet: str, n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Filters and where they read: (L, 2) and (n/2, L) to split, then (L/2, 2) and (n/2, L/2) by phase to join."""
    h, g = _filters(wavelet)
    both = torch.tensor([h, g], dtype=dtype, device=device).mT  # (L, 2)
    length = len(h)
    shift = length // 2
    k, j = torch.arange(n // 2, device=device)[:, None], torch.arange(length, device=device)
    places = (2 * k + shift - j) % n
    phases, phase_places = [], []
    for phase in (0, 1):  # x_(2m + phase) meets the filter entries with 2k + shift - j = 2m + phase
        own = slice((shift + phase) % 2, None, 2)
        phases.append(both[own])
        phase_places.append((2 * k + phase - shift + j[own]) // 2 % (n // 2))
    return both, places, (phases[0], phases[1]), (phase_places[0], phase_places[1])


@torch.compiler.assume_constant_result
def _filters(wavelet: str) -> tuple[list[float], list[float]]:
    pywt = require("pywt", "adapt")
    try:
        found = pywt.Wavelet(wavelet)
    except (AttributeError, ValueError):  # no name, or an unknown one
        raise ValueError(
            f"wavelet={wavelet!r} is not known; accepted are orthogonal ones, such as {_EXAMPLES}"
        ) from None
    if not found.orthogonal:
        raise ValueError(
            f"wavelet={wavelet!r} is not orthogonal, so T^T is not its inverse; take one such as {_EXAMPLES}"
        )
    return found.dec_lo, found.dec_hi


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
