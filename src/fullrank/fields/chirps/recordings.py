"""Recordings from files: WAV through SciPy, EDF and EDF+ through edfio, and the windows that they are looked at in."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from fullrank._optional import require

FORMATS = (".wav", ".edf")


@dataclass(frozen=True)
class Channel:
    """One channel of a recording.

    Attributes:
        name: as the file has it.
        fs: samples a second.
        samples: how many.
        unit: of the samples, such as "uV"; empty where the file does not say.
        read: gives the samples from one number up to another, float64.
    """

    name: str
    fs: float
    samples: int
    unit: str
    read: Callable[[int, int], np.ndarray]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.fs

    def windows(self, length: float | int) -> Iterator[tuple[float, np.ndarray]]:
        """(start in seconds, samples) of consecutive windows.

        The last one ends with the recording, and overlaps the one before where the recording is no multiple of the
        length; a recording that is shorter is one window.

        Args:
            length: in seconds.
        """
        size = min(round(length * self.fs), self.samples)
        starts = list(range(0, self.samples - size + 1, size))
        if starts[-1] + size < self.samples:
            starts.append(self.samples - size)
        return ((start / self.fs, self.read(start, start + size)) for start in starts)


@dataclass(frozen=True)
class Recording:
    """A file with its channels; samples are read when they are needed.

    Attributes:
        path: where it lies.
        channels: in the order of the file.
    """

    path: Path
    channels: tuple[Channel, ...]

    def choose(self, names: Sequence[str]) -> tuple[Channel, ...]:
        """The channels of these names or numbers (from 1); all without any.

        Raises:
            LookupError: there is no such channel; the message lists those that there are.
        """
        if not names:
            return self.channels
        return tuple(self._channel(name) for name in names)

    def _channel(self, name: str) -> Channel:
        wanted = name.strip().casefold()
        for channel in self.channels:
            if channel.name.casefold() == wanted:
                return channel
        if wanted.isdigit() and 1 <= int(wanted) <= len(self.channels):
            return self.channels[int(wanted) - 1]
        raise LookupError(
            f"{self.path} has no channel {name!r}; it has {', '.join(channel.name for channel in self.channels)}"
        )


def read_recording(path: str | Path) -> Recording:
    """Open a WAV, EDF or EDF+ file.

    Raises:
        ValueError: another format, a damaged file, or one without samples; the message names the file.
        FileNotFoundError: there is no such file.
        MissingExtra: an EDF file, and edfio is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: files whose names end in {' or '.join(FORMATS)} are read")
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    with path.open("rb"):  # a file that is missing or closed to us is an error of the system, with its name
        pass
    channels = _wav_channels(path) if path.suffix.lower() == ".wav" else _edf_channels(path)
    channels = tuple(channel for channel in channels if channel.samples)
    if not channels:
        raise ValueError(f"{path}: the file holds no samples")
    return Recording(path, channels)


def _wav_channels(path: Path) -> tuple[Channel, ...]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are no samples
            fs, samples = wavfile.read(path)
    except (ValueError, EOFError, OSError, struct.error) as error:
        raise ValueError(f"{path}: no WAV file that can be read: {error}") from error
    if samples.ndim == 1:
        samples = samples[:, None]
    count = int(samples.shape[-1])

    def reader(column: int) -> Callable[[int, int], np.ndarray]:
        return lambda start, stop: samples[start:stop, column].astype(np.float64)

    names = ["mono"] if count == 1 else ["left", "right"] if count == 2 else [str(i + 1) for i in range(count)]
    return tuple(Channel(name, float(fs), len(samples), "", reader(i)) for i, name in enumerate(names))


def _edf_channels(path: Path) -> tuple[Channel, ...]:
    edfio = require("edfio", "fields")
    try:
        edf = edfio.read_edf(path)
        continuous = edf.is_continuous
    except (ValueError, KeyError, IndexError, EOFError, OSError) as error:
        raise ValueError(f"{path}: no EDF file that can be read: {error}") from error
    if not continuous:
        raise ValueError(f"{path}: the recording has gaps, so that its times would be wrong; cut it into parts without")

    def reader(signal: Any) -> Callable[[int, int], np.ndarray]:
        def read(start: int, stop: int) -> np.ndarray:
            fs = signal.sampling_frequency
            return np.asarray(signal.get_data_slice(start / fs, stop / fs), dtype=np.float64)

        return read

    return tuple(
        Channel(
            signal.label or str(i + 1),
            float(signal.sampling_frequency),
            signal.samples_per_data_record * edf.num_data_records,
            signal.physical_dimension,
            reader(signal),
        )
        for i, signal in enumerate(edf.signals)
    )
