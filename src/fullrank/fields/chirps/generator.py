"""Synthetic spectrograms with one chirp whose onset and frequencies are known (Bahador and Lankarany 2025).

The official generator draws straight into the time-frequency plane. For every time bin b of the chirp

    r = k0 + (k1 - k0) s   or   k0 (k1 / k0)^s,   s = (b - b0) / (b1 - b0)

is the ridge's row, the five rows around it take exp(-(f - r)²), and the picture is the field smoothed by a Gaussian,

    Z = G_F (ridge + η ε) G_Tᵀ,

which is two products with small matrices: a Gaussian filter with reflected borders is linear along each axis.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from fullrank.fields.chirps.configuration import (
    LABELS,
    TARGETS,
    ChirpSpectrogramConfig,
    check_labels,
    check_targets,
    sample_labels,
)

_REACH = np.arange(-2, 3)  # rows around the ridge that the official generator draws
_CHUNK = 32  # spectrograms drawn at once, so that they stay in the cache


def generate_chirps(
    n: int,
    config: ChirpSpectrogramConfig | None = None,
    rng: np.random.Generator | int = 0,
    out: Literal["array", "torch"] = "array",
    device: str | torch.device = "cpu",
) -> tuple[Any, np.ndarray]:
    """Spectrograms with one chirp each, and their labels.

    On the CPU every spectrogram has a random stream of its own, spawned from `rng`: however many are asked for at
    once, the i-th is the same. On another device the noise is drawn there, for the whole batch.

    Args:
        n: how many.
        config: default the official one.
        rng: a NumPy generator or a seed.
        out: "array" for NumPy, "torch" for a tensor.
        device: where to draw; another one than "cpu" needs out="torch" and domain="plane".

    Returns:
        Z, (n, n_freq, n_time) float32, and the labels, (n,) of dtype `LABELS`.

    Raises:
        ValueError: `n` is negative, or `out` or `device` does not fit.
    """
    config = config or ChirpSpectrogramConfig()
    if n < 0:
        raise ValueError(f"n={n}: a number of spectrograms of at least 0 is needed")
    if out not in ("array", "torch"):
        raise ValueError(f"out={out!r}: use 'array' or 'torch'")
    if torch.device(device).type != "cpu":
        return _generate_on_device(n, config, np.random.default_rng(rng), out, torch.device(device))
    streams = np.random.default_rng(rng).spawn(n)
    labels = np.empty(n, LABELS)
    Z = torch.empty(n, config.n_freq, config.n_time)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        labels[part], Z[part] = _draw(streams[part], config)
    return (Z.numpy() if out == "array" else Z), labels


class ChirpDataset(torch.utils.data.Dataset):
    """Spectrograms by number, drawn when they are asked for; none is kept.

    Example i depends on (seed, i) alone, so that any number of workers and any order give the same examples.

    Args:
        n: how many.
        seed: of the data set.
        config: default the official one.
        targets: which labels to give, some of onset_time, onset_frequency, offset_frequency, duration.
        render: "array" (default) gives spectrograms, "figure" pictures with axes and title as the official generator
            saves them (tens of milliseconds each).

    Raises:
        ValueError: `n` is negative, or a target or way to render is unknown.
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        config: ChirpSpectrogramConfig | None = None,
        targets: tuple[str, ...] = TARGETS,
        render: Literal["array", "figure"] = "array",
    ) -> None:
        if n < 0:
            raise ValueError(f"n={n}: a number of spectrograms of at least 0 is needed")
        if render not in ("array", "figure"):
            raise ValueError(f"render={render!r}: use 'array' or 'figure'")
        check_targets(tuple(targets))
        self.render = render
        self.n, self.seed, self.targets = n, seed, tuple(targets)
        self.config = config or ChirpSpectrogramConfig()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Spectrogram (n_freq, n_time), or picture (3, 480, 640) in [0, 1], float32; its targets float64.

        Raises:
            IndexError: beyond the end.
        """
        (Z,), labels = self.batch([index])
        y = torch.tensor([float(labels[name][0]) for name in self.targets], dtype=torch.float64)
        if self.render == "array":
            return torch.from_numpy(Z), y
        from fullrank.fields.chirps.figures import render_figure  # brings matplotlib

        picture = render_figure(Z, self.config, str(labels["kind"][0]), self._index(index) + 1)
        return torch.from_numpy(picture).permute(2, 0, 1) / 255, y

    def batch(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        """Several at once, faster: (len(indices), n_freq, n_time) float32 and labels of dtype `LABELS`."""
        indices = [self._index(int(index)) for index in indices]
        streams = [np.random.default_rng(np.random.SeedSequence((self.seed, index))) for index in indices]
        parts = [_draw(streams[start : start + _CHUNK], self.config) for start in range(0, len(indices), _CHUNK)]
        if not parts:
            return np.empty((0, self.config.n_freq, self.config.n_time), np.float32), np.empty(0, LABELS)
        labels, pictures = zip(*parts, strict=True)
        return torch.cat(pictures).numpy(), np.concatenate(labels)

    def labels(self) -> np.ndarray:
        """All labels, (n,) of dtype `LABELS`, without drawing a spectrogram."""
        streams = (np.random.default_rng(np.random.SeedSequence((self.seed, index))) for index in range(self.n))
        uniform = np.array([stream.random(6) for stream in streams]).reshape(-1, 6)
        return sample_labels(uniform, self.config)

    def export_png(self, folder: str | Path) -> Path:
        """Write pictures and labels in the layout of the official generator, see `figures.export_png`.

        Args:
            folder: made where it is missing.

        Raises:
            FileExistsError: the folder has pictures or a table already.
        """
        from fullrank.fields.chirps.figures import export_png  # brings matplotlib

        return export_png(self, folder)

    def _index(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise IndexError(f"index {index} of a data set of {self.n} spectrograms")
        return index % self.n


def draw_ridges(
    labels: np.ndarray,
    config: ChirpSpectrogramConfig | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Float[Tensor, "n freq time"]:
    """The ridges alone, before noise and smoothing: at most five rows of a column are not zero.

    An exponential sweep to 0 Hz drops to row 0 after its first bin, as in the official generator.

    Args:
        labels: (n,) of dtype `LABELS`.
        config: extents and grid; default the official ones.
        dtype: of the result.
        device: of the result.

    Raises:
        ValueError: a chirp leaves the spectrogram or is shorter than a time bin.
    """
    config = config or ChirpSpectrogramConfig()
    Z = torch.zeros(len(labels), config.n_freq, config.n_time, dtype=dtype, device=device)
    return _add_ridges(Z, labels, config)


def _add_ridges(Z: Tensor, labels: np.ndarray, config: ChirpSpectrogramConfig) -> Tensor:
    """Add the five rows around every ridge, in place."""
    check_labels(labels, config)
    example, column, r = ridge_rows(labels, config)
    rows = np.floor(r).astype(np.int64)[:, None] + _REACH
    inside = (rows >= 0) & (rows < config.n_freq)
    heights = np.exp(-((rows - r[:, None]) ** 2))[inside]
    flat = ((example[:, None] * config.n_freq + rows) * config.n_time + column[:, None])[inside]
    Z.view(-1)[torch.from_numpy(flat).to(Z.device)] += torch.from_numpy(heights).to(Z)  # every place once
    return Z


def ridge_rows(labels: np.ndarray, config: ChirpSpectrogramConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the ridges run: for every time bin of every chirp its number, the column, and the row r (float)."""
    # Bins are floors: a label lies anywhere within its bin.
    first = np.floor(labels["onset_time"] * config.n_time / config.duration).astype(np.int64)
    length = np.floor(labels["duration"] * config.n_time / config.duration).astype(np.int64)
    k0 = np.floor(labels["onset_frequency"] * config.n_freq / config.max_frequency)
    k1 = np.floor(labels["offset_frequency"] * config.n_freq / config.max_frequency)
    exponential = labels["kind"] == "exponential"
    k0 = np.where(exponential & (k0 == 0), 1.0, k0)
    step = np.arange(length.max(initial=0))
    example, step = np.nonzero(step < length[:, None])
    s = step / length[example]
    start, end = k0[example], k1[example]
    bent = exponential[example]
    ratio = np.divide(end, start, out=np.ones_like(end), where=bent)
    r = np.where(bent, start * ratio**s, start + (end - start) * s)
    column = first[example] + step
    fits = column < config.n_time  # a chirp that ends with the spectrogram may floor to one bin more
    return example[fits], column[fits], np.clip(r[fits], 0, config.n_freq - 1)


def add_noise(
    ridges: Float[Tensor, "n freq time"],
    noise: Float[Tensor, "n freq time"],
    level: Float[Tensor, "n"],
    smooth_sigma: float | int = 1.0,
) -> Float[Tensor, "n freq time"]:
    """Z = G_F (ridge + η ε) G_Tᵀ.

    Args:
        ridges: from `draw_ridges`.
        noise: ε, standard normal.
        level: η.
        smooth_sigma: of the Gaussian filter, in bins.
    """
    return smooth(ridges + level[:, None, None] * noise, smooth_sigma)


def smooth(Z: Float[Tensor, "n freq time"], sigma: float | int) -> Float[Tensor, "n freq time"]:
    """SciPy's `gaussian_filter` with its defaults (reflected borders, cut at four sigma); `sigma` 0 changes nothing."""
    if sigma == 0:
        return Z
    G_F, G_T = (torch.from_numpy(gaussian_matrix(size, sigma)).to(Z) for size in Z.shape[1:])
    return G_F @ Z @ G_T.mT


@lru_cache
def gaussian_matrix(size: int, sigma: float | int) -> np.ndarray:
    """The Gaussian filter along an axis, (size, size); the identity where `sigma` is 0."""
    if sigma == 0:
        return np.eye(size)
    return gaussian_filter1d(np.eye(size), sigma, axis=0)


def _draw(streams: list[np.random.Generator], config: ChirpSpectrogramConfig) -> tuple[np.ndarray, Tensor]:
    """Labels and pictures, each from its own stream."""
    if config.domain == "stft":
        from fullrank.fields.chirps.waveform import draw_waveform_spectrograms

        return draw_waveform_spectrograms(streams, config)
    labels = sample_labels(np.array([stream.random(6) for stream in streams]).reshape(-1, 6), config)
    noise = np.empty((len(streams), config.n_freq, config.n_time), np.float32)
    for stream, field, level in zip(streams, noise, labels["noise"].astype(np.float32), strict=True):
        stream.standard_normal(dtype=np.float32, out=field)
        field *= level
    return labels, smooth(_add_ridges(torch.from_numpy(noise), labels, config), config.smooth_sigma)


def _generate_on_device(
    n: int, config: ChirpSpectrogramConfig, rng: np.random.Generator, out: str, device: torch.device
) -> tuple[Tensor, np.ndarray]:
    if out != "torch" or config.domain != "plane":
        raise ValueError(f"device={str(device)!r}: needs out='torch' and domain='plane'")
    labels = sample_labels(rng.random((n, 6)), config)
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    noise = torch.randn(n, config.n_freq, config.n_time, device=device, generator=generator)
    noise *= torch.tensor(labels["noise"].astype(np.float32), device=device)[:, None, None]
    return smooth(_add_ridges(noise, labels, config), config.smooth_sigma), labels
