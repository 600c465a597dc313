"""Adapt a model, compare methods: what is offered, done, saved and refused."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fullrank import papers
from fullrank.adapt import METHODS, AdaptReport
from fullrank.hub import Settings, create_app
from fullrank.hub.adapter_choices import ADAPTER_PAPERS, LIMITS
from fullrank.hub.worker import WORK, Progress

from .reading import read

_WORDS = ["good", "bad", "fine", "poor", "film", "play", "story", "actor"]
_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def _tiny_bert(folder: Path) -> None:
    """A folder as Hugging Face keeps it: two small layers and a tokenizer of a few words."""
    words = {word: number for number, word in enumerate([*_SPECIAL.values(), *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # pyright: ignore
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    _tiny_bert(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, bert: Path) -> Path:
    """What the operator allows: a model and a file of examples."""
    folder = tmp_path / "allowed"
    shutil.copytree(bert, folder / "bert")
    rows = [f"{word} {noun}\t{label}" for label, word in enumerate(_WORDS[:2]) for noun in _WORDS[4:]]
    (folder / "reviews.tsv").write_text("\n".join(["text\tlabel", *rows * 4]) + "\n")
    return folder


@pytest.fixture
def client(tmp_path: Path, folder: Path) -> TestClient:
    """A client of a hub that starts no job by itself."""
    return TestClient(create_app(Settings(tmp_path / "runs", (folder,))), base_url="http://127.0.0.1")


_ADAPTATION = {"model": "bert", "file": "reviews.tsv", "method": "hydra", "size": 2, "examples": 20, "epochs": 4}
_COMPARISON = {
    "model": "bert", "file": "reviews.tsv", "methods": ["lora", "hydra"], "budget": 300, "seeds": 2, "examples": 16,
    "epochs": 1,
}  # fmt: skip


def _asked(client: TestClient, address: str, form: dict[str, Any]) -> int:
    answer = client.post(address, data=form, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return int(answer.headers["location"].removeprefix("/jobs/"))


def _work(client: Any, number: int) -> None:
    """Do a job as its worker does, in this process."""
    jobs = client.app.state.jobs
    job = jobs.store.job(number)
    progress = Progress(jobs.folder(job) / "state.json")
    try:
        WORK[job.kind](vars(job), progress, jobs.folder(job))
    except ValueError as error:
        jobs.store.move(number, "failed", str(error))
    else:
        jobs.store.move(number, "finished")


def _error(page: str) -> str:
    """The sentence of an error's page, its first letter as it was."""
    sentence = re.findall(r"</h1><p>(.*?)</p>", page)[0]
    return html.unescape(sentence[:1].lower() + sentence[1:])


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not check():
        assert time.monotonic() < deadline, "waited for 200 s"
        time.sleep(0.1)


@pytest.mark.parametrize("address", ["/adapt", "/adapt?method=loca", "/compare-adapters"])
def test_the_forms_are_well_formed_and_labelled(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert read(answer.text).problems == []
    for method in METHODS.values():
        assert method.summary.split("'")[0] in answer.text


def test_what_is_offered(client: TestClient) -> None:
    offered = client.get("/adapt.json").json()
    assert offered["models"] == ["all-MiniLM-L6-v2", "bert"]
    assert [method["name"] for method in offered["methods"]] == list(METHODS)
    assert {item["name"]: item["task"] for item in offered["data_sets"]}["stsb"] == "pairs"
    assert "vaswani" not in [item["name"] for item in offered["data_sets"]]
    assert offered["limits"] == {limit.name: getattr(LIMITS, limit.name) for limit in fields(LIMITS)}
    assert 'value="loca" checked' in client.get("/adapt?method=loca").text
    assert client.get("/compare-adapters.json").json()["comparisons"] == []


def test_papers_of_methods_lead_to_the_form(client: TestClient) -> None:
    assert set(METHODS) & {paper.slug for paper in papers.catalogue()} == ADAPTER_PAPERS
    assert "/adapt?method=loca" in read(client.get("/papers/loca").text).links
    assert not any("/adapt?" in link for link in read(client.get("/papers/rankme").text).links)


def test_a_model_is_adapted_and_the_adapter_saved(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = _asked(client, "/adaptations", _ADAPTATION)
    assert _asked(client, "/adaptations", _ADAPTATION) == number, "the same is not asked for twice"
    assert "waiting for the job before it" in client.get(f"/jobs/{number}").text
    _work(client, number)

    page = client.get(f"/jobs/{number}")
    assert page.url.path == f"/adaptations/{number}"
    assert read(page.text).problems == []
    assert "Adaptation of bert to reviews.tsv with hydra" in client.get("/adapt").text
    for link in read(page.text).links:
        assert client.get(link).status_code == 200, link

    report = client.get(f"/adaptations/{number}.json").json()["report"]
    assert report["configuration"]["r"] == 2
    assert report["labels"] == ["0", "1"]
    assert f"{report['adapter_parameters']:,} parameters" in page.text
    saved = client.get(f"/adaptations/{number}/report.json")
    assert saved.json() == report
    assert saved.headers["content-disposition"] == 'attachment; filename="bert-hydra-reviews-report.json"'

    archive = client.get(f"/adaptations/{number}/adapter.zip")
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        assert not [name for name in files.namelist() if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        files.extractall(tmp_path)
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as tensors:
        assert any("hydra" in name for name in tensors.keys())  # noqa: SIM118 - it is no dictionary
    assert AdaptReport.load(tmp_path / "adapter" / "report.json").to_dict() == report
    monkeypatch.chdir(tmp_path)
    loaded: dict[str, Any] = {}
    exec(read(page.text).code, loaded)
    answer = loaded["model"](**loaded["tokenizer"]("good film", return_tensors="pt"))
    assert answer.logits.shape == (1, 2)
    assert loaded["model"].config.id2label == {0: "0", 1: "1"}


def test_methods_are_compared_and_the_comparison_saved(client: TestClient) -> None:
    number = _asked(client, "/comparisons", _COMPARISON)
    _work(client, number)
    page = client.get(f"/jobs/{number}")
    assert page.url.path == f"/comparisons/{number}"
    assert read(page.text).problems == []
    compared = client.get(f"/comparisons/{number}.json").json()["comparison"]
    assert {row["method"] for row in compared["methods"]} == {"lora", "hydra"}
    assert (compared["model"], compared["data"], compared["seeds"]) == ("bert", "reviews.tsv", [0, 1])
    assert all(150 <= row["parameters"] <= 600 for row in compared["methods"])
    for row in compared["methods"]:
        assert f"{row['parameters']:,}" in page.text
    assert client.get(f"/comparisons/{number}/comparison.json").json() == compared
    assert client.get(f"/comparisons/{number}/comparison.csv").text.startswith("method,size,parameters,accuracy")
    assert client.get(f"/comparisons/{number}/comparison.parquet").content.startswith(b"PAR1")
    figure = client.get(f"/comparisons/{number}/figure.svg")
    assert figure.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in figure.headers["content-security-policy"]
    assert b"hydra" in figure.content


def test_a_failure_is_shown_in_words_and_can_be_tried_again(client: TestClient, folder: Path) -> None:
    number = _asked(client, "/adaptations", _ADAPTATION)
    whole = (folder / "reviews.tsv").read_text()
    (folder / "reviews.tsv").write_text("sentence\tgrade\ngood film\t1\n")  # while the job waits
    refused = client.post("/adaptations", data=_ADAPTATION)
    assert (refused.status_code, "grade, sentence, which pose no task" in refused.text) == (422, True)
    _work(client, number)
    page = client.get(f"/jobs/{number}").text
    assert "grade, sentence, which pose no task" in page
    (folder / "reviews.tsv").write_text(whole)
    again = client.post("/adaptations", data=read(page).hidden, follow_redirects=False)
    repeated = client.get(f"{again.headers['location']}.json").json()
    assert repeated["id"] != number
    assert repeated["options"] == client.get(f"/jobs/{number}.json").json()["options"]
    assert client.get(f"/adaptations/{number}").status_code == 404


def test_an_encoder_does_not_learn_to_continue_a_text(client: TestClient) -> None:
    number = _asked(client, "/adaptations", _ADAPTATION | {"file": "", "data": "tinyshakespeare"})
    _work(client, number)
    assert "sees the words that follow" in client.get(f"/jobs/{number}").text


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"method": "lorra"}, 422, "did you mean 'lora'"),
        ({"file": "", "data": "stbs"}, 422, "no data set 'stbs'"),
        ({"file": "", "data": "vaswani"}, 422, "no data set 'vaswani' to train on"),
        ({"file": ""}, 422, "no data is named"),
        ({"file": "/etc/passwd"}, 403, "outside the folders"),
        ({"file": "../secret.tsv"}, 403, "outside the folders"),
        ({"file": "missing.tsv"}, 404, "is not there"),
        ({"file": "bert/config.json"}, 422, "no file of examples"),
        ({"file": "a\0.tsv"}, 422, "zero byte"),
        ({"model": ""}, 422, "no model is named"),
        ({"path": "/etc"}, 403, "outside the folders"),
        ({"model": "reviews.tsv"}, 422, "no Hugging Face folder"),
        ({"examples": LIMITS.examples + 1}, 422, f"less than or equal to {LIMITS.examples}"),
        ({"examples": "many"}, 422, "valid integer"),
        ({"epochs": 0}, 422, "greater than or equal to 1"),
        ({"size": 8, "budget": 1000}, 422, "give one of them"),
        ({"size": "", "budget": 0}, 422, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_done_is_refused(client: TestClient, changed: dict[str, Any], status: int, words: str) -> None:
    answer = client.post("/adaptations", data=_ADAPTATION | changed)
    assert answer.status_code == status
    assert words in _error(answer.text)
    assert client.get("/adapt.json").json()["adaptations"] == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"methods": []}, "no method is chosen"),
        ({"methods": ["lora", "x"]}, "no adapter method 'x'"),
        ({"seeds": 6}, "less than or equal to 5"),
        ({"budget": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(client: TestClient, changed: dict[str, Any], words: str) -> None:
    answer = client.post("/comparisons", data=_COMPARISON | changed)
    assert answer.status_code == 422
    assert words in _error(answer.text)


def test_a_file_that_is_too_large_is_refused(client: TestClient, folder: Path) -> None:
    with (folder / "large.tsv").open("wb") as file:
        file.truncate(65 * 2**20)  # a hole, which takes no room
    answer = client.post("/adaptations", data=_ADAPTATION | {"file": "large.tsv"})
    assert answer.status_code == 422
    assert "at most 64 are read" in answer.text


def test_links_to_outside_are_refused(client: TestClient, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.tsv").write_text("text\tlabel\n")
    (folder / "link.tsv").symlink_to(tmp_path / "secret.tsv")
    assert client.post("/adaptations", data=_ADAPTATION | {"file": "link.tsv"}).status_code == 403


def test_another_sites_page_can_start_nothing(client: TestClient) -> None:
    for address in ("/adaptations", "/comparisons"):
        assert client.post(address, data=_ADAPTATION, headers={"Origin": "http://evil.example"}).status_code == 403


def test_a_missing_extra_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fullrank.adapt")
    monkeypatch.setitem(sys.modules, "peft", None)
    for answer in (client.get("/adapt"), client.post("/adaptations", data=_ADAPTATION)):
        assert answer.status_code == 501
        assert 'pip install "fullrank[adapt]"' in read(answer.text).text


def test_a_worker_adapts_and_another_is_cancelled(tmp_path: Path, folder: Path) -> None:
    settings = Settings(tmp_path / "runs", (folder,), workers=2)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        cancelled = _asked(client, "/comparisons", _COMPARISON)
        number = _asked(client, "/adaptations", _ADAPTATION)
        _until(lambda: client.get(f"/jobs/{cancelled}.json").json()["state"] == "running")
        client.post(f"/jobs/{cancelled}/cancel")
        _until(lambda: client.get(f"/jobs/{cancelled}.json").json()["state"] == "cancelled")
        with client.stream("GET", f"/jobs/{number}/events") as events:
            standings = [json.loads(line.removeprefix("data: ")) for line in events.iter_lines() if line]
        assert standings[-1]["state"] == "finished", standings[-1]
        assert any(standing["progress"]["text"] for standing in standings)
        assert client.get(f"/adaptations/{number}.json").json()["report"]["steps"] == 4
