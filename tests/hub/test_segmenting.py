"""Segment an image: what is offered, found and refused."""

from __future__ import annotations

import html
import io
import re
import shlex

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from fullrank.hub import Settings, create_app, segmenting

# FastAPI hands over Starlette's class of an upload where its own is declared.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def client(tmp_path):
    return TestClient(create_app(Settings(tmp_path / "runs", ())), base_url="http://127.0.0.1")


def picture(height=20, width=24):
    values = np.add.outer(np.linspace(20, 60, height), np.linspace(0, 40, width))
    values[3, 4] = values[height - 2, 9] = 255
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def send(client, content, address="/segment", name="plate.png", **fields):
    return client.post(address, files={"image": (name, content)}, data={"method": "robust-pca"} | fields)


def test_the_form(client):
    page = client.get("/segment").text
    assert "Segment an image" in page
    assert 'type="file"' in page
    assert set(client.get("/segment.json").json()["methods"]) == {"rpcanet", "robust-pca"}


def test_an_image_is_taken_apart(client):
    answer = send(client, picture())
    assert answer.status_code == 200
    assert answer.text.count("data:image/png;base64,") == 4
    assert "2 connected parts" in answer.text
    found = send(client, picture(), "/segment.json").json()
    assert found["method"] == "robust-pca"
    assert found["images"][0]["objects"] == 2
    assert send(client, picture(), "/segment.json", threshold=0.01).json()["threshold"] == 0.01


def test_the_command_that_sends_the_same_image_can_be_copied(client):
    def command(name):
        return re.search(r"<code>(curl .*)</code>", send(client, picture(), name=name).text)[1]

    assert html.unescape(command("plate.png")) == "curl -F image=@plate.png http://127.0.0.1/segment.json"
    words = shlex.split(html.unescape(command("it's my plate; $(ls).png")))
    assert words[:3] == ["curl", "-F", 'image=@"it\'s my plate; $(ls).png"']


def test_refusals(client, monkeypatch):
    def refused(status, content=b"no picture", **fields):
        answer = send(client, content, "/segment.json", **fields)
        assert answer.status_code == status
        return answer.json()["error"]

    assert refused(422) == "plate.png cannot be read: it is no image; PNG, JPEG and TIFF are accepted"
    assert "1001 x 1000 pixels: at most 1,000,000" in refused(422, picture(1001, 1000))
    assert "Method" in refused(422, picture(), method="magic")
    assert "Threshold" in refused(422, picture(), threshold=2)
    assert client.post("/segment.json", data={"method": "robust-pca"}).json()["error"] == "Image: Field required"
    assert send(client, bytes(9 * 1024**2)).status_code == 413
    with segmenting._ONE_IMAGE:
        assert "another image is being segmented" in refused(429, picture()).lower()
    assert "&lt;b&gt;" in send(client, picture(), name="<b>.png").text
    assert "<b>" not in send(client, picture(), name="<b>.png").text
