"""Finding chirps from the command."""

from __future__ import annotations

import edfio
import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import chirp


@pytest.fixture
def files(folders):
    """A minute with a sweep from 20 to 40 Hz at 25 s, as WAV and EDF."""
    t = np.arange(60 * 256) / 256
    x = np.where((t > 25) & (t < 35), chirp(t - 25, 20, 10, 40), 0) + np.random.default_rng(0).standard_normal(len(t))
    wavfile.write(folders / "a.wav", 256, x.astype(np.float32))
    edfio.Edf([edfio.EdfSignal(x, 256, label=label) for label in ("Fp1", "Cz")]).write(folders / "b.edf")
    return folders / "a.wav", folders / "b.edf"


def test_a_table_and_a_report(fullrank, files, folders):
    outcome = fullrank("chirps", *files, "-o", "report.html", "-o", "report.csv")
    assert outcome.code == 0
    assert "onset Hz" in outcome.out
    assert "Fp1" in outcome.out
    assert "3 of 3 windows have a sweep that stands out" in outcome.out
    assert "wrote report.html" in outcome.err
    assert (folders / "report.html").read_text().count("<img") == 3
    assert len((folders / "report.csv").read_text().splitlines()) == 4


def test_json(fullrank, files):
    found = fullrank("chirps", files[1], "--channel", "Cz", "--json").json["windows"]
    assert [window["channel"] for window in found] == ["Cz"]
    assert found[0]["ridge"]["onset_time"] == pytest.approx(25, abs=1)
    assert found[0]["ridge"]["onset_frequency"] == pytest.approx(20, abs=3)
    assert found[0]["network"]["onset_time"] == pytest.approx(25, abs=4)
    assert set(found[0]["network"]) == {"onset_time", "onset_frequency", "offset_frequency", "duration", "score"}


def test_shorter_windows(fullrank, files):
    outcome = fullrank("chirps", files[0], "--window", 30, "--max-frequency", 60, "--json")
    assert [(window["start"], window["max_frequency"]) for window in outcome.json["windows"]] == [(0, 60), (30, 60)]


def test_nothing_is_overwritten_unasked(fullrank, files, folders):
    (folders / "report.html").write_text("mine")
    complaint = fullrank("chirps", files[0], "-o", "report.html").complaint
    assert complaint == "report.html: File exists; name another one, or add --overwrite"
    assert (folders / "report.html").read_text() == "mine"
    assert fullrank("chirps", files[0], "-o", "report.html", "--overwrite").code == 0
    assert "doctype" in (folders / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.wav",), "none.wav: No such file"),
        (("bad.edf",), "bad.edf: no EDF file that can be read"),
        (("a.wav", "bad.edf"), "bad.edf: no EDF file that can be read"),
        (("notes.txt",), "notes.txt: files whose names end in .wav or .edf are read"),
        (("b.edf", "--channel", "Oz"), "b.edf has no channel 'Oz'; it has Fp1, Cz"),
        (("a.wav", "--window", "0"), "window=0.0: a positive number of seconds"),
        (("a.wav", "--window", "0.1"), "a window has 26 samples: at least 64"),
        (("a.wav", "--max-frequency", "500"), "max_frequency=500 Hz: a signal of 256 samples a second"),
        (("a.wav", "-o", "report.pdf"), "report.pdf: a name that ends in .html"),
    ],
)
def test_bad_input_is_one_sentence(fullrank, files, folders, arguments, words):
    (folders / "bad.edf").write_bytes(b"hello")
    (folders / "notes.txt").write_text("notes")
    assert words in fullrank("chirps", *arguments).complaint
