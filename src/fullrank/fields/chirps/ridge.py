"""A classical detector beside the network: a matched filter for sweeps, and the likeliest ends and rows.

The Gaussian filter of the generator is undone, so that the noise is white, and the rows are correlated with the ridge's
cross-section exp(-x²). Sums along straight segments of many slopes and lengths, each over its standard deviation, are a
matched filter for sweeps; the largest is where the ridge is. From there the rows at both ends, linear or exponential
between them, and the two ends are moved until the likelihood of a ridge in white noise is greatest. Bins are floors of
the true values, so that half a bin is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import correlate1d

from fullrank.fields.chirps.configuration import TARGETS, ChirpSpectrogramConfig, check_targets
from fullrank.fields.chirps.generator import gaussian_matrix

_PROFILE = np.exp(-(np.arange(-2.0, 3.0) ** 2))  # the ridge's cross-section
_REGULAR = 1e-6  # keeps what the filter has erased from being raised beyond measure
_AROUND = np.arange(-3.0, 4.0)  # rows by which an end is moved at once
_ROUNDS = 8  # of moving the ends, at most
_LONGER = 1.4  # from one length of the bank to the next
_APART = 3  # rows between neighbouring slopes, over the longest segment that fits


@dataclass(frozen=True)
class Ridge:
    """A ridge in a spectrogram, in bins.

    Attributes:
        first: its first column.
        length: its columns.
        onset_row: row in the first column.
        offset_row: row in the column after the last.
        kind: "linear" or "exponential", whichever fits better.
        contrast: sum along the best straight segment over its standard deviation in noise.
    """

    first: int
    length: int
    onset_row: float
    offset_row: float
    kind: str
    contrast: float

    def in_units(self, config: ChirpSpectrogramConfig) -> dict[str, float]:
        """Onset, frequencies and duration in seconds and Hz, within the spectrogram."""
        half = 0.5  # a row's centre; and drawn in the plane, a time lies anywhere in its bin
        late = half if config.domain == "plane" else 0.0
        f0, f1 = ((row + half) * config.frequency_step for row in (self.onset_row, self.offset_row))
        return {
            "onset_time": float(np.clip((self.first + late) * config.time_step, 0, config.duration)),
            "onset_frequency": float(np.clip(f0, 0, config.max_frequency)),
            "offset_frequency": float(np.clip(f1, 0, config.max_frequency)),
            "duration": (self.length + late) * config.time_step,
        }


def ridge_baseline(
    Z: ArrayLike, config: ChirpSpectrogramConfig | None = None, targets: tuple[str, ...] = TARGETS
) -> np.ndarray:
    """Targets of every spectrogram, without any learning.

    Args:
        Z: (n, n_freq, n_time) spectrograms.
        config: their extents and the range of sweeps; default those of the official generator.
        targets: some of onset_time, onset_frequency, offset_frequency, duration.

    Returns:
        (n, len(targets)) in seconds and Hz.

    Raises:
        ValueError: spectrograms of another grid, values that are not finite, or a constant spectrogram.
    """
    config = config or ChirpSpectrogramConfig()
    check_targets(tuple(targets))
    Z = np.asarray(Z)
    if Z.ndim != 3:
        raise ValueError(f"Z has the shape {Z.shape}: (n, {config.n_freq}, {config.n_time}) is needed")
    rows = [find_ridge(picture, config).in_units(config) for picture in Z]
    return np.array([[row[name] for name in targets] for row in rows]).reshape(-1, len(targets))


def find_ridge(Z: ArrayLike, config: ChirpSpectrogramConfig | None = None) -> Ridge:
    """The strongest sweep of one spectrogram.

    Args:
        Z: (n_freq, n_time).
        config: see `ridge_baseline`.

    Raises:
        ValueError: a spectrogram of another grid, constant, or with values that are not finite.
    """
    config = config or ChirpSpectrogramConfig()
    height = standardised(Z, config)
    first, length, row, slope, contrast = _strongest_segment(height, config)

    ends = np.array([row, row + slope * length])
    kind = "linear"
    for _ in range(_ROUNDS):
        before = (kind, first, length, *ends)
        kind, ends = _likeliest_rows(height, first, length, ends, config.kinds)
        first, length, ends = _likeliest_ends(height, first, length, ends, kind)
        if (kind, first, length, *ends) == before:
            break
    return Ridge(first, length, float(ends[0]), float(ends[1]), kind, contrast)


def standardised(Z: ArrayLike, config: ChirpSpectrogramConfig) -> np.ndarray:
    """The correlation with the ridge's cross-section in every place, over the noise: white along time, deviation 1.

    Raises:
        ValueError: a spectrogram of another grid, constant, or with values that are not finite.
    """
    Z = np.asarray(Z, dtype=np.float64)
    if Z.shape != (config.n_freq, config.n_time):
        raise ValueError(f"a spectrogram has the shape {Z.shape}: ({config.n_freq}, {config.n_time}) is needed")
    if not np.isfinite(Z).all():
        raise ValueError("the spectrogram has values that are NaN or infinite")
    if not Z.max() > Z.min():
        raise ValueError(f"the spectrogram is constant ({Z.flat[0]:g}): there is no ridge to find")
    U_F, U_T = (_unfilter(size, config.smooth_sigma) for size in Z.shape)
    white = U_F @ (Z - np.median(Z)) @ U_T.T
    white -= np.median(white)
    noise = 1.4826 * np.median(np.abs(white)) + 1e-3 * white.max()  # a picture without noise has some too
    return correlate1d(white / noise, _PROFILE / np.linalg.norm(_PROFILE), axis=0, mode="constant")


@lru_cache(maxsize=32)
def _unfilter(size: int, sigma: float | int) -> np.ndarray:
    """(GᵀG + λI)⁻¹ Gᵀ for the Gaussian filter G along an axis."""
    G = gaussian_matrix(size, sigma)
    return np.linalg.solve(G.T @ G + _REGULAR * np.eye(size), G.T)


def _strongest_segment(height: np.ndarray, config: ChirpSpectrogramConfig) -> tuple[int, int, float, float, float]:
    """(first column, length, row at the first column, rows per column, sum over its deviation)."""
    F, T = height.shape
    bank, padding = _bank(F, T, config)
    padded = np.zeros((F + padding, T), np.float32)
    padded[:F] = height
    best = (-np.inf, 0.0, 0, 0, 0)
    sums = np.zeros((F + padding, T + 1), np.float32)
    for slope, places, lengths in bank:
        np.cumsum(padded.ravel()[places], axis=1, out=sums[:, 1:])
        for length in lengths:
            along = sums[:, length:] - sums[:, : T + 1 - length]
            at = int(along.argmax())
            strength = float(along.flat[at]) / length**0.5
            if strength > best[0]:
                best = (strength, slope, length, *divmod(at, T + 1 - length))
    contrast, slope, length, sheared, first = best
    row = (sheared + round(slope * first)) % (F + padding)
    return first, length, float(row), slope, contrast


@lru_cache(maxsize=8)
def _bank(F: int, T: int, config: ChirpSpectrogramConfig):
    """Slopes, the places of a picture sheared by each, and the lengths of its segments.

    The picture is padded with as many rows as the longest sweep crosses, and sheared cyclically: a segment that leaves
    it meets the padding and not the other side.
    """
    band = config.max_band / config.frequency_step
    shortest = max(1, int(config.min_chirp_duration / config.time_step))
    longest = max(shortest, min(T, int(config.max_chirp_duration / config.time_step)))
    lengths = [shortest]
    while lengths[-1] < longest:
        lengths.append(min(longest, max(lengths[-1] + 1, round(_LONGER * lengths[-1]))))
    padding = int(np.ceil(band)) + 8
    slopes = [0.0]
    while slopes[-1] < band / shortest:
        length = min(longest, band / slopes[-1] if slopes[-1] else longest)
        slopes.append(slopes[-1] + _APART / max(length, 1))
    bank = []
    rows, columns = np.arange(F + padding)[:, None], np.arange(T)
    for slope in (*slopes, *(-slope for slope in slopes[1:])):
        places = (rows + np.round(slope * columns).astype(int)) % (F + padding) * T + columns
        fitting = [length for length in lengths if abs(slope) * length <= band + 4] or [shortest]
        bank.append((slope, places, fitting))
    return bank, padding


def sweep_rows(kind: str, ends: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Rows (..., len(s)) of sweeps between the rows `ends` (..., 2) at the places s: 0 at the onset, 1 at the end."""
    k0, k1 = ends[..., :1], ends[..., 1:]
    if kind == "linear":
        return k0 + (k1 - k0) * s
    k0, k1 = np.maximum(k0, 0.5), np.maximum(k1, 0.5)  # an exponential sweep never reaches row 0
    return k0 * (k1 / k0) ** s


def contrast_along(height: np.ndarray, first: float, length: float, ends: np.ndarray) -> float:
    """How far a sweep given from elsewhere stands above the noise, in standard deviations.

    The sweep may be off by two rows and a column; of the places nearby, the best counts.

    Args:
        height: from `standardised`.
        first: column of the onset.
        length: columns.
        ends: (2,) rows at the onset and at the end.
    """
    start, count = round(first), max(1, round(length))
    rows, columns = np.meshgrid(np.arange(-2.0, 3.0), np.arange(-1, 2), indexing="ij")
    moved = np.clip(ends + rows.reshape(-1, 1), 0, len(height) - 1)
    at = start + columns.reshape(-1, 1) + np.arange(count)
    at = np.clip(at, 0, height.shape[1] - 1)
    s = np.arange(count) / count
    sums = [_along(height, sweep_rows(kind, moved, s), at).sum(axis=-1).max() for kind in ("linear", "exponential")]
    return float(max(sums) / np.sqrt(count))


def _likeliest_rows(
    height: np.ndarray, first: int, length: int, ends: np.ndarray, kinds: tuple[str, ...]
) -> tuple[str, np.ndarray]:
    """The kind and the rows at both ends, near the present ones, along which the sum is largest."""
    columns = first + np.arange(length)
    moved = np.stack(np.meshgrid(ends[0] + _AROUND, ends[1] + _AROUND, indexing="ij"), axis=-1).reshape(-1, 2)
    moved = np.clip(moved, 0, len(height) - 1)
    best: tuple[float, str, np.ndarray] = (-np.inf, "", ends)
    for kind in kinds:
        sums = _along(height, sweep_rows(kind, moved, np.arange(length) / length), columns).sum(axis=-1)
        if sums.max() > best[0] + 1e-9:
            best = (float(sums.max()), kind, moved[sums.argmax()])
    return best[1], best[2]


def _likeliest_ends(
    height: np.ndarray, first: int, length: int, ends: np.ndarray, kind: str
) -> tuple[int, int, np.ndarray]:
    """First column, length and end rows of the likeliest box along a sweep in white noise.

    A box of height a from b0 to b1 is likeliest where the sum of (height - a / 2) is largest.
    """
    T = height.shape[1]
    reach = np.arange(max(0, first - length), min(T, first + 2 * length + 1))
    profile = _along(height, sweep_rows(kind, ends, (reach - first) / length), reach)
    level = profile[(reach >= first) & (reach < first + length)].mean() / 2
    sums = np.concatenate([[0.0], np.cumsum(profile - level)])
    lowest = np.minimum.accumulate(sums)[:-1]
    end = int((sums[1:] - lowest).argmax()) + 1
    begin = int(sums[:end].argmin())
    s = np.array([reach[begin] - first, reach[begin] + end - begin - first]) / length
    return int(reach[begin]), end - begin, sweep_rows(kind, ends, s)


def _along(height: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Height at rows (..., len(columns)) between the bins; zero outside of the spectrogram."""
    low = np.floor(rows)
    above = rows - low
    low = low.astype(int)
    parts = []
    for row, share in ((low, 1 - above), (low + 1, above)):
        inside = (row >= 0) & (row < len(height))
        parts.append(np.where(inside, height[np.clip(row, 0, len(height) - 1), columns], 0) * share)
    return parts[0] + parts[1]
