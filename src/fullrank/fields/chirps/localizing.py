"""Find chirps in real signals: window by window, with a network and with the ridge detector beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fullrank._optional import require
from fullrank._saving import save
from fullrank.fields.chirps.configuration import ChirpSpectrogramConfig
from fullrank.fields.chirps.recordings import Channel, Recording
from fullrank.fields.chirps.ridge import contrast_along, find_ridge, standardised
from fullrank.fields.chirps.spectrogram import check_signal, spectrogram_grid

if TYPE_CHECKING:
    from fullrank.fields.chirps.regressor import ViTForChirpRegression

BUNDLED = Path(__file__).parent / "weights"
MAX_FREQUENCY = 100.0  # Hz, as in the paper; less where a signal does not reach it
WINDOW = 60.0  # s, as in the paper
PICTURES = 24  # windows that a report shows
_SHORTEST = 64  # samples that a window needs
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Chirp:
    """Where a sweep is, and how far it stands out.

    Attributes:
        onset_time: seconds from the beginning of the recording.
        onset_frequency: Hz.
        offset_frequency: Hz, when it ends.
        duration: seconds.
        score: sum of the spectrogram along the sweep, in standard deviations of the window's noise.
    """

    onset_time: float
    onset_frequency: float
    offset_frequency: float
    duration: float
    score: float


@dataclass(frozen=True)
class WindowResult:
    """What was found in one window.

    Attributes:
        file: its name.
        channel: its name.
        start: seconds from the beginning of the recording.
        length: seconds.
        max_frequency: up to which it was looked at, in Hz.
        network: the network's answer; None where the signal is constant.
        ridge: the ridge detector's answer; None likewise.
    """

    file: str
    channel: str
    start: float
    length: float
    max_frequency: float
    network: Chirp | None
    ridge: Chirp | None


@dataclass(frozen=True)
class ChirpReport:
    """All windows of one or several files.

    Attributes:
        windows: by file, channel and time.
        grids: number of a window -> its spectrogram, for the windows that stand out most.
        noise_score: what a window of white noise alone stays below in 99 of 100 cases; by who answers.
    """

    windows: tuple[WindowResult, ...]
    grids: dict[int, np.ndarray]
    noise_score: dict[str, float]

    @classmethod
    def join(cls, reports: Sequence[ChirpReport]) -> ChirpReport:
        """Several reports as one."""
        windows: list[WindowResult] = []
        grids: dict[int, np.ndarray] = {}
        for report in reports:
            grids |= {len(windows) + number: Z for number, Z in report.grids.items()}
            windows += report.windows
        return cls(tuple(windows), _strongest(grids, windows), noise_scores())

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(dict.fromkeys(window.file for window in self.windows))

    def found(self, window: WindowResult) -> bool:
        """Whether the sweep of the network or of the ridge detector stands out more than noise does."""
        return any(chirp is not None and chirp.score > self.noise_score[who] for who, chirp in _answers(window))

    def to_dict(self) -> dict[str, Any]:
        """All but the spectrograms, JSON-like."""
        return {
            "noise_score": self.noise_score,
            "windows": [asdict(window) | {"stands_out": self.found(window)} for window in self.windows],
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row per window."""
        names = tuple(Chirp.__dataclass_fields__)
        return [
            {name: getattr(window, name) for name in ("file", "channel", "start", "length", "max_frequency")}
            | {f"{who}_{name}": getattr(chirp, name, None) for who, chirp in _answers(window) for name in names}
            | {"stands_out": self.found(window)}
            for window in self.windows
        ]

    def to_html(self, fragment: bool = False) -> str:
        """One self-contained page with a picture of each window that stands out most.

        Args:
            fragment: only the content with its style, to embed in another page.
        """
        from fullrank.fields.chirps.report_html import render_report  # brings Jinja and matplotlib

        return render_report(self, fragment)

    def save(self, path: str | Path) -> Path:
        """Write .html, .json, .csv or .parquet, atomically.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


def localize(
    signal: ArrayLike,
    fs: float | int,
    max_frequency: float | int | None = None,
    model: ViTForChirpRegression | None = None,
) -> dict[str, float]:
    """Where the strongest sweep of a signal is.

    The whole signal is one window. The bundled network knows spectrograms of 60 s and 100 Hz; what it sees is a grid
    without units, so that other lengths and frequencies are as good, as long as the sweep covers a like share of them:
    up to a quarter of the time and 30 % of the frequencies.

    Args:
        signal: (samples,).
        fs: sampling frequency in Hz.
        max_frequency: highest frequency looked at; default 100 Hz, or half of `fs` where that is less.
        model: a trained network; default the bundled one.

    Returns:
        onset_time (s from the beginning), onset_frequency and offset_frequency (Hz), duration (s), and score.

    Raises:
        ValueError: a signal that is too short, not finite or constant, or a frequency that it does not reach.
        MissingExtra: transformers or peft is not installed.
    """
    model = model or bundled_model()
    x = check_signal(signal, fs)
    config = _config_for(model, len(x), fs, max_frequency)
    Z = spectrogram_grid(x, fs, config)
    (prediction,) = model.predict(Z[None])
    return asdict(_from_network(model, prediction, Z, config, 0.0))


def localize_recording(
    recording: Recording,
    channels: Sequence[str] = (),
    window: float | int = WINDOW,
    max_frequency: float | int | None = None,
    model: ViTForChirpRegression | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> ChirpReport:
    """Look at every window of a recording.

    Args:
        recording: from `read_recording`.
        channels: names or numbers; default all.
        window: length in seconds. Default 60.
        max_frequency: see `localize`.
        model: see `localize`.
        on_progress: called with (done, total, text) after every channel's windows.

    Raises:
        LookupError: there is no such channel.
        ValueError: a window that is too short, or a frequency that a channel does not reach.
        MissingExtra: transformers or peft is not installed.
    """
    if not 0 < window < np.inf:
        raise ValueError(f"window={window}: a positive number of seconds is needed")
    model = model or bundled_model()
    chosen = recording.choose(channels)
    windows: list[WindowResult] = []
    grids: dict[int, np.ndarray] = {}
    for done, channel in enumerate(chosen):
        on_progress(done, len(chosen), f"channel {channel.name}")
        for result, Z in _channel_windows(recording.path.name, channel, window, max_frequency, model):
            if Z is not None:
                grids[len(windows)] = Z
            windows.append(result)
        grids = _strongest(grids, windows)
    on_progress(len(chosen), len(chosen), "done")
    return ChirpReport(tuple(windows), grids, noise_scores())


@lru_cache(maxsize=1)
def bundled_model() -> ViTForChirpRegression:
    """The network that comes with the package, trained by scripts/train_chirps.py on generated spectrograms.

    Raises:
        MissingExtra: transformers or peft is not installed.
    """
    require("transformers", "fields")
    require("peft", "fields")
    from fullrank.fields.chirps.regressor import ViTForChirpRegression

    return ViTForChirpRegression.from_pretrained(BUNDLED)


@lru_cache(maxsize=1)
def noise_scores() -> dict[str, float]:
    """Scores that white noise alone stays below in 99 of 100 windows, of the network and of the ridge detector."""
    import json

    return json.loads((BUNDLED / "noise_scores.json").read_text())


def _channel_windows(
    file: str, channel: Channel, length: float | int, max_frequency: float | int | None, model: ViTForChirpRegression
) -> list[tuple[WindowResult, np.ndarray | None]]:
    """(result, spectrogram) of every window; a constant one has neither answer nor spectrogram."""
    starts, grids = [], []
    config = _config_for(model, min(round(length * channel.fs), channel.samples), channel.fs, max_frequency)
    for start, samples in channel.windows(length):
        starts.append(start)
        flat = samples.max() == samples.min()
        grids.append(None if flat else spectrogram_grid(samples, channel.fs, config))
    alive = [Z for Z in grids if Z is not None]
    predictions = iter(model.predict(np.stack(alive)) if alive else ())
    results = []
    for start, Z in zip(starts, grids, strict=True):
        network = ridge = None
        if Z is not None:
            network = _from_network(model, next(predictions), Z, config, start)
            ridge = _from_ridge(Z, config, start)
        extents = (start, float(config.duration), float(config.max_frequency))
        results.append((WindowResult(file, channel.name, *extents, network, ridge), Z))
    return results


def _config_for(
    model: ViTForChirpRegression, samples: int, fs: float | int, max_frequency: float | int | None
) -> ChirpSpectrogramConfig:
    """The model's grid over the extents of a signal; the ranges of sweeps scale with them."""
    trained = model.spectrogram
    if trained is None:
        raise ValueError("the model does not say what spectrograms it was trained on: set model.spectrogram")
    if samples < _SHORTEST:
        raise ValueError(f"a window has {samples} samples: at least {_SHORTEST} are needed; use a longer one")
    limit = min(MAX_FREQUENCY, fs / 2) if max_frequency is None else max_frequency
    if not 0 < limit <= fs / 2:
        raise ValueError(f"max_frequency={limit:g} Hz: a signal of {fs:g} samples a second reaches to {fs / 2:g} Hz")
    duration = samples / fs
    longer, higher = duration / trained.duration, limit / trained.max_frequency
    return replace(
        trained,
        duration=duration,
        max_frequency=limit,
        max_chirp_duration=trained.max_chirp_duration * longer,
        min_chirp_duration=trained.min_chirp_duration * longer,
        max_band=trained.max_band * higher,
        domain="stft",
    )


def _from_network(
    model: ViTForChirpRegression, prediction: np.ndarray, Z: np.ndarray, config: ChirpSpectrogramConfig, start: float
) -> Chirp:
    trained = model.spectrogram
    assert trained is not None
    longer = config.duration / trained.duration
    higher = config.max_frequency / trained.max_frequency
    scale = {"onset_time": longer, "duration": longer, "onset_frequency": higher, "offset_frequency": higher}
    found = {name: float(value) * scale[name] for name, value in zip(model.config.targets, prediction, strict=True)}
    if missing := set(scale) - set(found):
        raise ValueError(f"the model does not predict {', '.join(sorted(missing))}: train it with all four targets")
    onset = float(np.clip(found["onset_time"], 0, config.duration))
    ends = np.clip([found["onset_frequency"], found["offset_frequency"]], 0, config.max_frequency)
    duration = float(np.clip(found["duration"], config.time_step, max(config.duration - onset, config.time_step)))
    score = score_of(Z, config, onset, float(ends[0]), float(ends[1]), duration)
    return Chirp(start + onset, float(ends[0]), float(ends[1]), duration, score)


def score_of(
    Z: np.ndarray,
    config: ChirpSpectrogramConfig,
    onset_time: float,
    onset_frequency: float,
    offset_frequency: float,
    duration: float,
) -> float:
    """How far a spectrogram stands above its noise along a sweep, in standard deviations.

    Args:
        Z: (n_freq, n_time).
        config: its extents.
        onset_time, onset_frequency, offset_frequency, duration: of the sweep, in seconds and Hz.
    """
    rows = np.array([onset_frequency, offset_frequency]) / config.frequency_step - 0.5
    first, length = onset_time / config.time_step, duration / config.time_step
    return contrast_along(standardised(Z, config), first, length, rows)


def _from_ridge(Z: np.ndarray, config: ChirpSpectrogramConfig, start: float) -> Chirp:
    ridge = find_ridge(Z, config)
    found = ridge.in_units(config)
    return Chirp(**found | {"onset_time": start + found["onset_time"]}, score=ridge.contrast)


def _strongest(grids: dict[int, np.ndarray], windows: Sequence[WindowResult]) -> dict[int, np.ndarray]:
    def score(number: int) -> float:
        return max((chirp.score for _, chirp in _answers(windows[number]) if chirp is not None), default=-np.inf)

    return {number: grids[number] for number in sorted(grids, key=score, reverse=True)[:PICTURES]}


def _answers(window: WindowResult) -> tuple[tuple[str, Chirp | None], ...]:
    return ("network", window.network), ("ridge", window.ridge)
