"""Find chirps: what is offered, found and refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy.io import wavfile
from scipy.signal import chirp

from fullrank.hub import Settings, chirping, create_app

# FastAPI hands over Starlette's class of an upload where its own is declared.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def client(tmp_path):
    return TestClient(create_app(Settings(tmp_path / "runs", ())), base_url="http://127.0.0.1")


def recording(seconds=60, fs=128):
    """A sweep from 20 to 40 Hz at 25 s."""
    t = np.arange(seconds * fs) / fs
    x = np.where((t > 25) & (t < 35), chirp(t - 25, 20, 10, 40), 0) + np.random.default_rng(0).standard_normal(len(t))
    buffer = io.BytesIO()
    wavfile.write(buffer, fs, x.astype(np.float32))
    return buffer.getvalue()


def send(client, content, address="/chirps", name="night.wav", **fields):
    return client.post(address, files={"recording": (name, content)}, data=fields)


def test_the_form(client):
    page = client.get("/chirps").text
    assert "Find chirps" in page
    assert 'type="file"' in page


def test_a_sweep_is_found(client):
    answer = send(client, recording())
    assert answer.status_code == 200
    assert "Chirps in night.wav" in answer.text
    assert answer.text.count("data:image/") == 1
    (window,) = send(client, recording(), "/chirps.json", max_frequency=60).json()["windows"]
    assert window["file"] == "night.wav"
    assert window["ridge"]["onset_time"] == pytest.approx(25, abs=1)
    assert window["stands_out"]


def test_refusals(client):
    def refused(status, content=b"no sound", **fields):
        answer = send(client, content, "/chirps.json", **fields)
        assert answer.status_code == status
        return answer.json()["error"]

    assert refused(422).startswith("night.wav: no WAV file that can be read")
    assert "files whose names end in .wav or .edf" in refused(422, name="night.mp3")
    assert refused(404, recording(2), channels="Cz") == "night.wav has no channel 'Cz'; it has mono"
    assert "are more than the 200 that are read here" in refused(422, recording(300), window=1)
    assert "Window" in refused(422, recording(2), window=0)
    assert client.post("/chirps.json", data={}).json()["error"] == "Recording: Field required"
    assert send(client, bytes(9 * 1024**2)).status_code == 413
    with chirping._ONE_RECORDING:
        assert "another recording is being read" in refused(429, recording(2)).lower()
    assert "<i>" not in send(client, recording(), name="<i>.wav").text
    assert send(client, recording(), name="../../night.wav").status_code == 200
