"""What a spectrogram with one chirp looks like: extents, grid, ranges of its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

Domain = Literal["plane", "stft"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
KINDS = ("linear", "exponential")

#: One row per spectrogram: times and durations in seconds, frequencies in Hz.
LABELS = np.dtype(
    [
        ("onset_time", "f8"),
        ("onset_frequency", "f8"),
        ("offset_frequency", "f8"),
        ("duration", "f8"),
        ("kind", "U11"),
        ("noise", "f8"),
    ]
)
#: What a network can learn to predict, with its unit.
UNITS = {"onset_time": "s", "onset_frequency": "Hz", "offset_frequency": "Hz", "duration": "s"}
TARGETS = ("onset_time", "onset_frequency", "offset_frequency")


@dataclass(frozen=True)
class ChirpSpectrogramConfig:
    """A spectrogram with one chirp; the defaults are those of the official generator.

    Row k of a spectrogram covers the frequencies from k to k + 1 times `max_frequency / n_freq`: row 0 begins at 0 Hz
    and is the top row of a tensor, the bottom row of a picture.

    Args:
        duration: length of the spectrogram in seconds. Default 60.
        max_frequency: its highest frequency in Hz. Default 100.
        n_time: columns. Default 128.
        n_freq: rows. Default 128.
        max_chirp_duration: longest chirp in seconds. Default 15.
        min_chirp_duration: shortest chirp in seconds. Default 1.
        max_band: largest change of frequency in Hz. Default 30.
        noise: lowest and highest level of the noise, beside a ridge of height 1. Default (0.09, 0.3).
        smooth_sigma: standard deviation in bins of the Gaussian filter after the noise; 0 does not smooth. Default 1.
        kinds: kinds of sweep to draw from. Default both.
        domain: "plane" (default) draws the ridge into the time-frequency plane, as the official generator does;
            "stft" synthesises the waveform with white noise and takes its short-time Fourier transform.

    Raises:
        ValueError: a value out of range; the message has the numbers.
    """

    duration: float | int = 60.0
    max_frequency: float | int = 100.0
    n_time: int = 128
    n_freq: int = 128
    max_chirp_duration: float | int = 15.0
    min_chirp_duration: float | int = 1.0
    max_band: float | int = 30.0
    noise: tuple[float, float] = (0.09, 0.3)
    smooth_sigma: float | int = 1.0
    kinds: tuple[str, ...] = KINDS
    domain: str = "plane"

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise", tuple(self.noise))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        for name in ("duration", "max_frequency", "n_time", "n_freq", "min_chirp_duration"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name)}: a positive number is needed")
        if not 0 <= self.max_band < math.inf:
            raise ValueError(f"max_band={self.max_band}: a frequency in Hz of at least 0 is needed")
        if not 0 <= self.smooth_sigma < math.inf:
            raise ValueError(f"smooth_sigma={self.smooth_sigma}: a number of bins of at least 0 is needed")
        if not self.min_chirp_duration <= self.max_chirp_duration <= self.duration:
            raise ValueError(
                f"max_chirp_duration={self.max_chirp_duration}: chirps last from "
                f"min_chirp_duration={self.min_chirp_duration} to duration={self.duration} seconds"
            )
        if (bins := self.min_chirp_duration / self.time_step) < 1:
            raise ValueError(
                f"n_time={self.n_time} over duration={self.duration} gives the shortest chirp of "
                f"{self.min_chirp_duration} s {bins:.2g} time bins; at least one is needed: raise n_time or "
                "min_chirp_duration, or shorten the duration"
            )
        low, high = self.noise
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"noise={self.noise}: a lowest and a highest level of at least 0 are needed")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds={self.kinds}: some of {', '.join(KINDS)} are accepted")
        if self.domain not in DOMAINS:
            raise ValueError(f"domain={self.domain!r}: use one of {', '.join(map(repr, DOMAINS))}")

    @property
    def time_step(self) -> float:
        """Width of a column in seconds."""
        return self.duration / self.n_time

    @property
    def frequency_step(self) -> float:
        """Height of a row in Hz."""
        return self.max_frequency / self.n_freq

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-like."""
        return asdict(self) | {"noise": list(self.noise), "kinds": list(self.kinds)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ChirpSpectrogramConfig:
        """What `to_dict` gave."""
        tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**tuples)


def sample_labels(uniform: np.ndarray, config: ChirpSpectrogramConfig) -> np.ndarray:
    """Labels from six uniform numbers in [0, 1) each, used in the official order: t0, δ, f0, f1 - f0, kind, η.

    In the "stft" domain, where an exponential sweep would touch 0 Hz its end is the centre of the lowest bin.

    Args:
        uniform: (n, 6).
        config: the ranges.

    Returns:
        (n,) of dtype `LABELS`.
    """
    t, d, f, band, kind, noise = uniform.T
    labels = np.empty(len(uniform), LABELS)
    labels["onset_time"] = t * (config.duration - config.max_chirp_duration)
    labels["duration"] = config.min_chirp_duration + d * (config.max_chirp_duration - config.min_chirp_duration)
    labels["onset_frequency"] = f * config.max_frequency
    change = (2 * band - 1) * config.max_band
    labels["offset_frequency"] = np.clip(labels["onset_frequency"] + change, 0, config.max_frequency)
    labels["kind"] = np.array(config.kinds)[(kind * len(config.kinds)).astype(int)]
    if config.domain == "stft":
        lowest = np.where(labels["kind"] == "exponential", config.frequency_step / 2, 0)
        for name in ("onset_frequency", "offset_frequency"):
            labels[name] = np.maximum(labels[name], lowest)
    low, high = config.noise
    labels["noise"] = low + noise * (high - low)
    return labels


def check_labels(labels: np.ndarray, config: ChirpSpectrogramConfig) -> None:
    """Check that chirps can be drawn.

    Args:
        labels: (n,) of dtype `LABELS`.
        config: extents and grid.

    Raises:
        ValueError: a chirp leaves the spectrogram, lasts less than a time bin, or has an unknown kind.
    """
    t0, d = labels["onset_time"], labels["duration"]
    numbers = ("onset_time", "onset_frequency", "offset_frequency", "duration", "noise")
    for name in numbers:
        _refuse(~np.isfinite(labels[name]), lambda i, name=name: f"{name}={labels[name][i]} of chirp {i} is not finite")
    _refuse(d <= 0, lambda i: f"duration={d[i]:g} of chirp {i}: a positive number of seconds is needed")
    _refuse(
        (t0 < 0) | (t0 + d > config.duration * (1 + 1e-12)),
        lambda i: (
            f"onset_time={t0[i]:g} and duration={d[i]:g} of chirp {i} reach from {t0[i]:g} to {t0[i] + d[i]:g} s: the "
            f"spectrogram reaches from 0 to {config.duration:g} s"
        ),
    )
    _refuse(
        d * config.n_time / config.duration < 1,
        lambda i: (
            f"duration={d[i]:g} of chirp {i} is less than one time bin of {config.time_step:g} s: nothing would be "
            "drawn; lengthen it or raise n_time"
        ),
    )
    for name in ("onset_frequency", "offset_frequency"):
        f = labels[name]
        _refuse(
            (f < 0) | (f > config.max_frequency),
            lambda i, f=f, name=name: (
                f"{name}={f[i]:g} of chirp {i}: 0 to max_frequency={config.max_frequency:g} Hz is accepted"
            ),
        )
    kind = labels["kind"]
    _refuse(~np.isin(kind, KINDS), lambda i: f"kind={str(kind[i])!r} of chirp {i}: accepted are {', '.join(KINDS)}")


def _refuse(bad: np.ndarray, message: Callable[[int], str]) -> None:
    if bad.any():
        raise ValueError(message(int(bad.argmax())))


def target_matrix(labels: np.ndarray, targets: tuple[str, ...] = TARGETS) -> np.ndarray:
    """Columns of the labels as a matrix.

    Args:
        labels: (n,) of dtype `LABELS`.
        targets: some of `UNITS`.

    Returns:
        (n, len(targets)) float64.

    Raises:
        ValueError: an unknown target.
    """
    check_targets(targets)
    return np.stack([labels[name] for name in targets], axis=1)


def check_targets(targets: tuple[str, ...]) -> None:
    """Raise ValueError where a target is unknown, named twice, or there is none."""
    if not targets or len(set(targets)) < len(targets) or (set(targets) - set(UNITS)):
        raise ValueError(f"targets={tuple(targets)}: some of {', '.join(UNITS)} are accepted, each once")
