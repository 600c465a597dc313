"""Chirps as waveforms in white noise, and their spectrograms: `domain="stft"`."""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import chirp
from torch import Tensor

from fullrank.fields.chirps.configuration import ChirpSpectrogramConfig, check_labels, sample_labels
from fullrank.fields.chirps.spectrogram import spectrogram_grid, window_deviation

_SAMPLES_PER_CYCLE = 2.56  # of the highest frequency


def synthesize(
    labels: np.ndarray | np.void,
    rng: np.random.Generator,
    config: ChirpSpectrogramConfig,
    fs: float | int | None = None,
) -> np.ndarray:
    """The waveform of one chirp of amplitude 1, in white noise.

    The noise is such that its mean amplitude in a bin of the spectrogram is `noise` beside that of a steady tone.

    Args:
        labels: one row of dtype `LABELS`.
        rng: draws the noise and the phase.
        config: extents; ranges do not matter.
        fs: sampling frequency in Hz; default 2.56 times `max_frequency`.

    Returns:
        (samples,) float64.

    Raises:
        ValueError: a chirp that does not fit, or an exponential one from or to 0 Hz, whose logarithm does not exist.
    """
    check_labels(np.atleast_1d(labels), config)
    fs = fs or _SAMPLES_PER_CYCLE * config.max_frequency
    f0, f1 = float(labels["onset_frequency"]), float(labels["offset_frequency"])
    exponential = labels["kind"] == "exponential"
    if exponential and min(f0, f1) <= 0:
        raise ValueError(
            f"an exponential sweep from {f0:g} to {f1:g} Hz has no waveform: both must be above 0; draw it in the "
            "'plane' domain, or make it linear"
        )
    t = np.arange(round(config.duration * fs)) / fs - float(labels["onset_time"])
    d = float(labels["duration"])
    inside = (t >= 0) & (t < d)
    signal = np.zeros(len(t))
    method = "logarithmic" if exponential else "linear"
    signal[inside] = chirp(t[inside], f0, d, f1, method, phi=int(rng.integers(360)))
    # A tone has the amplitude Σw / 2 in the transform by a window w, white noise of deviation σ the mean square σ² Σw².
    deviation = window_deviation(config) * fs
    sum_w, sum_w2 = deviation * np.sqrt(2 * np.pi), deviation * np.sqrt(np.pi)
    return signal + float(labels["noise"]) * sum_w / (2 * np.sqrt(sum_w2)) * rng.standard_normal(len(t))


def draw_waveform_spectrograms(
    streams: list[np.random.Generator], config: ChirpSpectrogramConfig
) -> tuple[np.ndarray, Tensor]:
    """Labels and spectrograms (n, n_freq, n_time), each from its own stream."""
    labels = sample_labels(np.array([stream.random(6) for stream in streams]).reshape(-1, 6), config)
    fs = _SAMPLES_PER_CYCLE * config.max_frequency
    Z = np.empty((len(streams), config.n_freq, config.n_time), np.float32)
    for field, row, stream in zip(Z, labels, streams, strict=True):
        field[:] = spectrogram_grid(synthesize(row, stream, config, fs), fs, config)
    return labels, torch.from_numpy(Z)
