"""From a signal to the grid that detectors read: a Gaussian short-time Fourier transform, flattened and smoothed.

The window is the Gaussian whose spread is the same number of bins in time and in frequency, σ_t / Δt = σ_f / Δf, where
σ_t σ_f = 1 / 4π: it favours neither steep nor flat sweeps. Every row is divided by its median over time, so that a
background that falls with frequency, as that of brain and machine signals does, becomes level.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import map_coordinates
from scipy.signal import ShortTimeFFT, resample_poly
from scipy.signal.windows import gaussian

from fullrank.fields.chirps.configuration import ChirpSpectrogramConfig
from fullrank.fields.chirps.generator import gaussian_matrix

_FINER = 2  # transforms a column, and frequencies a row, before interpolation at the bins' centres
_SPREAD = 4  # of the window on each side, in standard deviations
_WIDE = 4  # a bin is cut into parts of at least so many standard deviations of the window
_OVERSAMPLING = 3  # of the highest frequency, below which a signal is not thinned further


def spectrogram_grid(signal: ArrayLike, fs: float | int, config: ChirpSpectrogramConfig) -> np.ndarray:
    """The spectrogram of a signal on a configuration's grid.

    Args:
        signal: (samples,), the `config.duration` seconds that the grid covers.
        fs: sampling frequency in Hz.
        config: extents and grid; the smoothing is the generator's.

    Returns:
        (n_freq, n_time) float32, amplitude over the median of its row.

    Raises:
        ValueError: a signal that is not one-dimensional, not finite, constant, or of another length; or a grid that
            reaches beyond half the sampling frequency.
    """
    x = check_signal(signal, fs)
    if abs(len(x) / fs - config.duration) > 1.5 / fs + 1e-6 * config.duration:
        raise ValueError(f"the signal lasts {len(x) / fs:g} s: duration={config.duration:g} s is needed")
    if config.max_frequency > fs / 2 * (1 + 1e-9):
        raise ValueError(
            f"max_frequency={config.max_frequency:g} Hz: a signal of {fs:g} samples a second reaches to {fs / 2:g} Hz"
        )
    x = x - x.mean()
    if (thinning := int(fs / (_OVERSAMPLING * config.max_frequency))) > 1:
        x, fs = resample_poly(x, 1, thinning), fs / thinning
    amplitude = _amplitude(x, fs, config)
    median = np.median(amplitude, axis=1, keepdims=True)
    floor = max(1e-6 * float(median.max()), np.finfo(float).tiny)
    smoothing = [gaussian_matrix(size, config.smooth_sigma) for size in amplitude.shape]
    return (smoothing[0] @ (amplitude / np.maximum(median, floor)) @ smoothing[1].T).astype(np.float32)


def check_signal(signal: ArrayLike, fs: float | int) -> np.ndarray:
    """A signal as (samples,) float64.

    Raises:
        ValueError: not one-dimensional, not finite, or constant; or a sampling frequency that is not positive.
    """
    x = np.asarray(signal, dtype=np.float64)
    if not (fs > 0 and math.isfinite(fs)):
        raise ValueError(f"fs={fs}: a positive sampling frequency in Hz is needed")
    if x.ndim != 1 or not len(x):
        raise ValueError(f"signal has the shape {x.shape}: one channel, (samples,), is needed")
    if len(bad := np.flatnonzero(~np.isfinite(x))):
        raise ValueError(f"signal[{bad[0]}] is {x[bad[0]]}: finite samples are needed; cut or fill the gap first")
    if x.max() == x.min():
        raise ValueError(f"signal is constant ({x[0]:g}): there is nothing to find in it")
    return x


def window_deviation(config: ChirpSpectrogramConfig) -> float:
    """σ_t in seconds."""
    return math.sqrt(config.time_step / (4 * math.pi * config.frequency_step))


def _amplitude(x: np.ndarray, fs: float | int, config: ChirpSpectrogramConfig) -> np.ndarray:
    """|STFT| at the centres of the bins, (n_freq, n_time).

    Bins that are much wider than the window in time, and so higher than it in frequency, are cut into equal parts, of
    which they are the root mean square: a sweep may pass beside their centres. Columns are taken some at a time, so
    that memory grows with the number of parts and not with its square.
    """
    parts = max(1, int(config.time_step / (_WIDE * window_deviation(config))))
    finer = replace(config, n_time=config.n_time * parts, n_freq=config.n_freq * parts)
    deviation = window_deviation(finer) * fs
    window = gaussian(2 * math.ceil(_SPREAD * deviation) + 1, deviation)
    hop = max(1, int(finer.time_step * fs / _FINER))
    bins = max(len(window), math.ceil(_FINER * fs / finer.frequency_step))
    transform = ShortTimeFFT(window, hop, fs, mfft=bins + bins % 2, scale_to="magnitude")
    # Reflected ends: zeros beyond them would be an edge, and an edge is a vertical line.
    around = min(len(window), len(x) - 1)
    padded = np.pad(x, around, mode="reflect")
    frames = ((np.arange(finer.n_time) + 0.5) * finer.time_step * fs + around) / hop
    frequencies = (np.arange(finer.n_freq) + 0.5) * finer.frequency_step / transform.delta_f
    columns = []
    for some in np.split(frames, range(0, len(frames), max(1, config.n_time // parts) * parts)[1:]):
        first = int(some[0]) - 1
        S = np.abs(transform.stft(padded, p0=first, p1=int(some[-1]) + 3))
        at = np.meshgrid(frequencies, some - first, indexing="ij")
        fine = map_coordinates(S, at, order=1, mode="nearest").reshape(config.n_freq, parts, -1, parts)
        columns.append(np.sqrt(np.square(fine).mean((1, 3))))
    return np.concatenate(columns, 1)
