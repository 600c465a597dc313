"""Signals and files: spectrograms of known waveforms, WAV and EDF, windows, the bundled network, reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import edfio
import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import welch
from scipy.signal.windows import tukey

from fullrank import _optional
from fullrank._optional import MissingExtra
from fullrank.fields import chirps
from fullrank.fields.chirps import (
    LABELS,
    Chirp,
    ChirpReport,
    ChirpSpectrogramConfig,
    WindowResult,
    bundled_model,
    find_ridge,
    localize,
    localize_recording,
    read_recording,
    spectrogram_grid,
    synthesize,
)
from fullrank.fields.chirps.localizing import BUNDLED, noise_scores

FS = 256.0


def sweep(onset=12.0, f0=60.0, f1=38.0, duration=9.0, kind="linear", noise=0.12, seed=0, fs=FS):
    """A minute with one sweep."""
    labels = np.zeros(1, LABELS)
    for name, value in zip(LABELS.names, (onset, f0, f1, duration, kind, noise), strict=True):
        labels[name] = value
    return synthesize(labels[0], np.random.default_rng(seed), ChirpSpectrogramConfig(), fs)


@pytest.fixture
def recording(tmp_path):
    """Two channels of 150 s: sweeps at 12 s and 90 s in the first, a flat line in the second."""
    noise = 0.6 * np.random.default_rng(2).standard_normal(30 * 256)
    x = np.concatenate([sweep(), sweep(onset=30, f0=10, f1=30, seed=1), noise])
    signals = [
        edfio.EdfSignal(x, FS, label="EEG Fp1", physical_dimension="uV"),
        edfio.EdfSignal(np.zeros(150 * 100), 100, label="ECG", physical_dimension="mV", physical_range=(-1, 1)),
    ]
    edfio.Edf(signals).write(tmp_path / "night.edf")
    return tmp_path / "night.edf"


# --- spectrograms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [64, 128])
@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_a_waveform_appears_where_it_is(grid, kind):
    config = ChirpSpectrogramConfig(n_time=grid, n_freq=grid, domain="stft")
    found = find_ridge(spectrogram_grid(sweep(kind=kind), FS, config), config).in_units(config)
    assert found["onset_time"] == pytest.approx(12, abs=1)
    assert found["onset_frequency"] == pytest.approx(60, abs=3)
    assert found["offset_frequency"] == pytest.approx(38, abs=3)
    assert found["duration"] == pytest.approx(9, abs=1.5)


def test_other_sampling_frequencies_see_the_same():
    config = ChirpSpectrogramConfig(n_time=64, n_freq=64)
    answers = []
    for fs in (256.0, 1000.0, 8000.0):
        answers.append(find_ridge(spectrogram_grid(sweep(fs=fs, noise=0.05), fs, config), config))
    for answer in answers[1:]:
        assert abs(answer.first - answers[0].first) <= 1
        assert abs(answer.onset_row - answers[0].onset_row) <= 1.5


def test_a_background_that_falls_with_frequency_is_levelled():
    rng = np.random.default_rng(0)
    brown = np.cumsum(rng.standard_normal(60 * 256))
    Z = spectrogram_grid(brown, FS, ChirpSpectrogramConfig(n_time=64, n_freq=64))
    assert 0.8 < np.median(Z[:8]) / np.median(Z[-8:]) < 1.25


@pytest.mark.parametrize(
    ("signal", "fs", "options", "message"),
    [
        (np.zeros((2, 100)), 10, {}, "one channel"),
        (np.zeros(0), 10, {}, "one channel"),
        (np.ones(600), 10, {}, r"signal is constant \(1\)"),
        (np.arange(600.0), 0, {}, "fs=0: a positive sampling frequency"),
        (np.array([1.0, np.nan] * 300), 10, {}, r"signal\[1\] is nan"),
        (np.arange(600.0), 20, {}, "the signal lasts 30 s: duration=60 s is needed"),
        (np.arange(6000.0), 100, {}, "max_frequency=100 Hz: a signal of 100 samples a second reaches to 50 Hz"),
    ],
)
def test_signals_that_do_not_fit(signal, fs, options, message):
    with pytest.raises(ValueError, match=message):
        spectrogram_grid(signal, fs, ChirpSpectrogramConfig(**options))


def test_an_exponential_sweep_to_zero_has_no_waveform():
    with pytest.raises(ValueError, match="from 60 to 0 Hz has no waveform: both must be above 0"):
        sweep(f1=0.0, kind="exponential")


# --- files ------------------------------------------------------------------------------------------------------------


def test_edf(recording):
    found = read_recording(recording)
    first, second = found.channels
    assert (first.name, first.fs, first.samples, first.unit, first.duration) == ("EEG Fp1", 256, 150 * 256, "uV", 150)
    assert (second.name, second.fs, second.samples) == ("ECG", 100, 15_000)
    np.testing.assert_allclose(first.read(0, 60 * 256), sweep(), atol=1e-3)
    assert found.choose(["ecg", "1"]) == (second, first)
    with pytest.raises(LookupError, match=r"no channel 'Cz'; it has EEG Fp1, ECG"):
        found.choose(["Cz"])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_wav(tmp_path, dtype):
    x = sweep()[: 256 * 20]
    scale = 1 if dtype is np.float32 else np.iinfo(dtype).max / 2.5 / np.abs(x).max()
    shift = 128 if dtype is np.uint8 else 0
    stereo = np.stack([x, -x], axis=1) * scale + shift
    wavfile.write(tmp_path / "a.wav", 256, stereo.astype(dtype))
    left, right = read_recording(tmp_path / "a.WAV" if (tmp_path / "a.WAV").exists() else tmp_path / "a.wav").channels
    assert (left.name, right.name, left.fs) == ("left", "right", 256)
    correlation = np.corrcoef(left.read(0, left.samples), x)[0, 1]
    assert correlation > (0.99 if dtype is np.uint8 else 0.9999)


def test_windows_cover_everything(recording):
    channel = read_recording(recording).channels[0]
    starts = [(start, len(samples)) for start, samples in channel.windows(60)]
    assert starts == [(0, 60 * 256), (60, 60 * 256), (90, 60 * 256)]
    assert [start for start, _ in channel.windows(50)] == [0, 50, 100]
    assert [(start, len(samples)) for start, samples in channel.windows(1000)] == [(0, 150 * 256)]


def test_files_that_cannot_be_read(tmp_path, recording):
    whole = recording.read_bytes()
    files = {
        "a.txt": (b"x", r"files whose names end in \.wav or \.edf are read"),
        "b.wav": (b"RIFF", "no WAV file that can be read"),
        "c.wav": (b"", "no WAV file that can be read"),
        "d.edf": (b"hello", "no EDF file that can be read"),
        "e.edf": (whole[:300], "no EDF file that can be read"),
    }
    for name, (content, message) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}"):
            read_recording(path)
    with pytest.raises(FileNotFoundError):
        read_recording(tmp_path / "none.edf")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(IsADirectoryError):
        read_recording(tmp_path / "folder.wav")


def test_what_to_install(monkeypatch, recording):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(_optional, "import_module", missing)
    with pytest.raises(MissingExtra, match=r'edfio is not installed: pip install "fullrank\[fields\]"'):
        read_recording(recording)
    with pytest.raises(MissingExtra, match=r'transformers is not installed: pip install "fullrank\[fields\]"'):
        chirps.__getattr__("ChirpLocalizer")


# --- the bundled network ----------------------------------------------------------------------------------------------


def test_the_bundled_network_is_small_and_complete():
    model = bundled_model()
    assert set(model.config.targets) == {"onset_time", "onset_frequency", "offset_frequency", "duration"}
    weights = BUNDLED / "model.safetensors"
    assert weights.stat().st_size < 2e6


@pytest.mark.parametrize(
    ("duration", "fs", "highest"), [(300, 256, 100), (600, 256, 100), (1800, 256, 100), (9, 8000, 4000)]
)
def test_long_signals_and_high_frequencies(duration, fs, highest):
    """Sweeps that are much thinner than a bin of the grid."""
    t = np.arange(duration * fs) / fs
    onset, length, f0, f1 = 0.35 * duration, 0.2 * duration, 0.3 * highest, 0.5 * highest
    since = t - onset
    phase = 2 * np.pi * (f0 * since + (f1 - f0) / (2 * length) * since**2)
    x = np.where((since >= 0) & (since < length), np.sin(phase), 0) + np.random.default_rng(0).normal(size=len(t))
    found = localize(x, fs, max_frequency=highest)
    assert found["score"] > 8 * noise_scores()["network"]
    assert found["onset_time"] == pytest.approx(onset, abs=0.03 * duration)
    assert found["onset_frequency"] == pytest.approx(f0, abs=0.04 * highest)
    assert found["offset_frequency"] == pytest.approx(f1, abs=0.04 * highest)


def test_localize():
    found = localize(sweep(), FS)
    assert found["onset_time"] == pytest.approx(12, abs=4)
    assert found["onset_frequency"] == pytest.approx(60, abs=16)
    assert found["offset_frequency"] == pytest.approx(38, abs=16)
    assert found["score"] > noise_scores()["network"]
    # The same picture in other units: a tenth of the time, ten times the frequencies.
    faster = localize(sweep(), 10 * FS, max_frequency=1000)
    assert faster["onset_time"] == pytest.approx(found["onset_time"] / 10, rel=1e-3)
    assert faster["onset_frequency"] == pytest.approx(10 * found["onset_frequency"], rel=1e-3)


@pytest.mark.parametrize(
    ("signal", "options", "message"),
    [
        (np.zeros(1000), {}, "signal is constant"),
        (np.arange(50.0), {}, "a window has 50 samples: at least 64"),
        (np.arange(1000.0), {"max_frequency": 200}, "max_frequency=200 Hz: .* reaches to 128 Hz"),
    ],
)
def test_signals_that_cannot_be_localised(signal, options, message):
    with pytest.raises(ValueError, match=message):
        localize(signal, FS, **options)


def test_a_recording_becomes_a_report(recording, tmp_path):
    progress = []
    report = localize_recording(read_recording(recording), on_progress=lambda *args: progress.append(args))
    assert progress == [(0, 2, "channel EEG Fp1"), (1, 2, "channel ECG"), (2, 2, "done")]
    assert [(w.channel, w.start) for w in report.windows] == [
        ("EEG Fp1", 0), ("EEG Fp1", 60), ("EEG Fp1", 90), ("ECG", 0), ("ECG", 60), ("ECG", 90)
    ]  # fmt: skip
    assert [window.network is None for window in report.windows] == [False] * 3 + [True] * 3
    first, second = report.windows[:2]
    assert first.ridge.onset_time == pytest.approx(12, abs=1)
    assert second.ridge.onset_time == pytest.approx(90, abs=1.5)
    assert second.ridge.offset_frequency == pytest.approx(30, abs=3)
    assert report.found(first)
    html = report.save(tmp_path / "report.html").read_text()
    assert html.startswith("<!doctype html>")
    assert html.count("data:image/svg+xml;base64,") == 3
    assert "constant signal" in html
    assert "http" not in html.replace("http-equiv", "")
    saved = json.loads(report.save(tmp_path / "report.json").read_text())
    assert saved["windows"][0]["stands_out"] is True
    assert saved["windows"][3]["network"] is None
    assert report.save(tmp_path / "report.csv").read_text().count("\n") == 7
    assert report.save(tmp_path / "report.parquet").stat().st_size > 0
    with pytest.raises(ValueError, match=r"names no format"):
        report.save(tmp_path / "report.png")
    for window in (0, np.inf):
        with pytest.raises(ValueError, match=f"window={window}: a positive number of seconds"):
            localize_recording(read_recording(recording), window=window)


def test_reports_are_joined_and_names_are_escaped():
    chirp = Chirp(1.0, 10.0, 20.0, 3.0, 9.0)
    Z = np.random.default_rng(0).random((8, 8))
    window = WindowResult("<b>.edf", "<i>", 0.0, 60.0, 100.0, chirp, chirp)
    scores = {"network": 4.0, "ridge": 5.0}
    joined = ChirpReport.join([ChirpReport((window,), {0: Z}, scores)] * 2)
    assert len(joined.windows) == 2
    assert set(joined.grids) == {0, 1}
    html = joined.to_html()
    assert "<b>.edf" not in html
    assert "<i>" not in html
    assert "&lt;b&gt;.edf" in html
    assert not joined.to_html(fragment=True).startswith("<!doctype")


# --- a real chirp -----------------------------------------------------------------------------------------------------


def test_two_black_holes():
    """GW150914 at Hanford, whitened: the ridge detector finds the rising sweep within 0.1 s of the listed time."""
    (channel,) = read_recording(Path(__file__).parent / "gw150914" / "h1.wav").channels
    fs, strain = channel.fs, channel.read(0, channel.samples)
    spectrum_at, power = welch(strain, fs, nperseg=int(2 * fs))
    spectrum = np.fft.rfft(strain * tukey(len(strain), 0.1))
    spectrum /= np.sqrt(np.interp(np.fft.rfftfreq(len(strain), 1 / fs), spectrum_at, power))
    white = np.fft.irfft(spectrum, len(strain))
    event, half = 4.0, 0.25
    config = ChirpSpectrogramConfig(
        duration=2 * half, max_frequency=400, n_time=64, n_freq=64, min_chirp_duration=0.0125, max_chirp_duration=0.15,
        max_band=250, domain="stft",
    )  # fmt: skip
    part = white[round((event - half) * fs) : round((event + half) * fs)]
    ridge = find_ridge(spectrogram_grid(part, fs, config), config)
    found = ridge.in_units(config)
    assert abs(found["onset_time"] - half) < 0.1
    assert 20 < found["onset_frequency"] < 100
    assert found["offset_frequency"] > 1.5 * found["onset_frequency"]
    assert ridge.contrast > 15
