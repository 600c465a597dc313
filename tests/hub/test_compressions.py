"""Compress a model, compare compressors: what is offered, done, saved and refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

import fullrank
from fullrank.hub import Settings, create_app
from fullrank.hub.worker import WORK, Progress

from ..adapt.folders import encoder_folder, labelled_file
from .reading import read

_COMPRESSION = {"model": "bert", "file": "reviews.tsv", "method": "fwsvd", "keep": 50, "examples": 20, "recover": 1}
_FRONTIER = {"model": "bert", "file": "reviews.tsv", "methods": ["svd", "whiten"], "examples": 16}


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    """A client of a hub that starts no job by itself."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    encoder_folder(folder / "bert")
    labelled_file(folder / "reviews.tsv")
    (folder / "broken.tsv").write_text("text\tlabel\nonly text\n")
    return TestClient(create_app(Settings(tmp_path / "runs", (folder,))), base_url="http://127.0.0.1")


def _done(client: Any, address: str, form: dict[str, Any]) -> int:
    """Ask for a job and do it as its worker does, in this process."""
    answer = client.post(address, data=form, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    number = int(answer.headers["location"].removeprefix("/jobs/"))
    jobs = client.app.state.jobs
    job = jobs.store.job(number)
    WORK[job.kind](vars(job), Progress(jobs.folder(job) / "state.json"), jobs.folder(job))
    jobs.store.move(number, "finished")
    return number


@pytest.mark.parametrize("address", ["/compress", "/compress?method=whiten", "/compare-compressors"])
def test_the_forms_are_well_formed_and_offer_the_methods(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert read(answer.text).problems == []
    offered = client.get("/compress.json").json()
    assert {"svd", "fwsvd", "whiten"} <= {method["name"] for method in offered["methods"]}


def test_a_model_is_compressed_and_saved(client: TestClient, tmp_path: Path) -> None:
    number = _done(client, "/compressions", _COMPRESSION)
    page = client.get(f"/jobs/{number}")
    assert page.url.path == f"/compressions/{number}"
    assert read(page.text).problems == []
    for link in read(page.text).links:
        assert client.get(link).status_code == 200, link
    report = client.get(f"/compressions/{number}.json").json()["report"]
    assert f"{report['compression']['parameters_after']:,}" in page.text
    assert client.get(f"/compressions/{number}/report.json").json() == report
    archive = client.get(f"/compressions/{number}/model.zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        files.extractall(tmp_path)
    model = fullrank.load(tmp_path / "model")
    assert model(input_ids=torch.tensor([[3, 4]])).logits.shape == (1, 2)
    assert "Compression of bert with fwsvd" in client.get("/compress").text


def test_methods_are_compared(client: TestClient) -> None:
    number = _done(client, "/frontiers", _FRONTIER)
    page = client.get(f"/jobs/{number}")
    assert page.url.path == f"/frontiers/{number}"
    assert read(page.text).problems == []
    rows = client.get(f"/frontiers/{number}.json").json()["rows"]
    assert {row["method"] for row in rows} == {"svd", "whiten"}
    assert any(row["on_frontier"] for row in rows)
    assert '<th scope="col" class="words">Size</th>' in page.text  # above words, which stand to the left
    assert b"whiten" in client.get(f"/frontiers/{number}/figure.svg").content
    assert client.get(f"/frontiers/{number}/comparison.csv").text.startswith("method,setting")
    assert client.get(f"/frontiers/{number}/comparison.parquet").content.startswith(b"PAR1")


@pytest.mark.parametrize(
    ("address", "change", "words"),
    [
        ("/compressions", {"method": "magic"}, "no method &#39;magic&#39;"),
        ("/compressions", {"keep": 0}, "Keep"),
        ("/compressions", {"model": "../secret"}, ""),
        ("/compressions", {"file": "", "data": "nothing"}, "no data set"),
        ("/compressions", {"file": "broken.tsv"}, "line 2: it has not as many fields as the header"),
        ("/compressions", {"file": "", "data": "wikitext2"}, "cannot be asked for causal-lm"),
        ("/compressions", {"method": "rtn", "bits": 9}, "Bits"),
        ("/compressions", {"recover": -1}, "Recover"),
        ("/frontiers", {"file": "broken.tsv"}, "line 2: it has not as many fields as the header"),
        ("/frontiers", {"file": "", "data": "wikitext2"}, "cannot be asked for causal-lm"),
        ("/frontiers", {"methods": []}, "o method is chosen"),
    ],
)
def test_wrong_answers_are_refused(client: TestClient, address: str, change: dict[str, Any], words: str) -> None:
    form = (_COMPRESSION if address == "/compressions" else _FRONTIER) | change
    answer = client.post(address, data=form, follow_redirects=False)
    assert 400 <= answer.status_code < 500
    assert words in answer.text
    assert client.get("/runs.json").json()["jobs"] == []


@pytest.mark.parametrize("change", [{}, {"method": "rtn", "bits": 8, "recover": 0}])
def test_a_compression_that_was_cancelled_can_be_asked_for_again(client: TestClient, change: dict[str, Any]) -> None:
    first = client.post("/compressions", data=_COMPRESSION | change, follow_redirects=False).headers["location"]
    page = client.post(f"{first}/cancel")
    answer = client.post("/compressions", data=read(page.text).hidden, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    again = answer.headers["location"]
    assert again != first
    assert client.get(f"{again}.json").json()["options"] == client.get(f"{first}.json").json()["options"]
