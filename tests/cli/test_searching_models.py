"""Indexes that a model makes, from the command."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from fullrank.search import FunctionModel, TransformersModel, readers
from fullrank.search.colbert import ColBERT

from ..search.tiny_models import bert_config, llama, masked, tokenizer

DOCUMENTS = [{"id": "a", "text": "aa bb cc"}, {"id": "b", "text": "dd ee"}, {"id": "c", "text": "aa dd ff"}]


@pytest.fixture
def corpus(folders):
    (folders / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (folders / "more.jsonl").write_text('{"id": "d", "text": "zz aa"}\n')
    return "corpus.jsonl"


@pytest.fixture
def models(folders):
    torch.manual_seed(0)
    for name, model in (("splade", masked()), ("colbert", ColBERT(bert_config(), dim=128))):
        model.save_pretrained(folders / name)
        tokenizer().save_pretrained(folders / name)


@pytest.mark.parametrize("method", ["splade", "colbert"])
def test_an_index_of_a_model_is_made_searched_and_extended(fullrank, corpus, models, folders, method):
    made = fullrank("index", corpus, "--out", "idx", "--method", method, "--model", method, "--offline")
    assert made.code == 0, made.err
    assert not (folders / "idx" / "building").exists()
    found = fullrank("search", "idx", "aa", "--method", method, "--why", "--json").json
    assert {row["id"] for row in found} == {"a", "b", "c"}
    if method == "splade":
        assert sum(found[0]["why"].values()) == pytest.approx(found[0]["score"])
    assert {row["id"] for row in fullrank("search", "idx", "aa", "--json").json} == {"a", "c"}
    assert fullrank("index", "more.jsonl", "--out", "idx", "--add").code == 0
    assert {row["id"] for row in fullrank("search", "idx", "aa", "--mode", method, "--json").json} == set("abcd")
    again = fullrank("index", "more.jsonl", "--out", "idx", "--add", "--method", method, "--model", method)
    assert f"idx has an index of {method} already" in again.complaint


def test_an_index_of_a_model_is_made_later_of_all_documents(fullrank, corpus, models):
    fullrank("index", corpus, "--out", "idx")
    assert fullrank("index", "more.jsonl", "--out", "idx", "--add", "--method", "splade", "--model", "splade").code == 0
    found = fullrank("search", "idx", "aa", "--method", "splade", "--json").json
    assert {row["id"] for row in found} == set("abcd")


def test_imagined_passages_of_a_server(fullrank, corpus, server):
    address, requests = server
    fullrank("index", corpus, "--out", "idx", "--method", "dense")
    found = fullrank("search", "idx", "aa", "--method", "hyde", "--model", address, "--json").json
    assert {row["id"] for row in found} == {"a", "b", "c"}
    assert len(requests) == 8
    assert all("Question: aa" in request["messages"][0]["content"] for request in requests)
    dense = fullrank("search", "idx", "aa", "--method", "dense", "--json").json
    assert sorted(row["score"] for row in found) != sorted(row["score"] for row in dense)


def test_a_question_is_answered_from_what_the_reader_imagined(fullrank, corpus, server):
    address, requests = server
    fullrank("index", corpus, "--out", "idx", "--method", "dense")
    asked = ("ask", "idx", "aa", "--mode", "hyde", "--reader", address, "--model", "named", "-k", 2, "--json")
    assert fullrank(*asked).json["answer"] == "Final Answer: 2 passages"
    assert [request["model"] for request in requests] == ["named"] * 9
    assert "'span' writes nothing" in fullrank("ask", "idx", "aa", "--mode", "hyde", "--reader", "span").complaint


@pytest.fixture
def loaded(folders, monkeypatch):
    """A language model in the folder `writer`; gives the options of every time that it is loaded."""
    llama().save_pretrained(folders / "writer")
    tokenizer().save_pretrained(folders / "writer")
    times = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def counted(name, **options):
        times.append(options)
        return load(name, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", counted)
    return times


def test_a_reader_that_imagines_and_answers_is_loaded_once(fullrank, corpus, loaded):
    fullrank("index", corpus, "--out", "idx", "--method", "dense")
    asked = fullrank("ask", "idx", "aa", "--mode", "hyde", "--reader", "writer", "-k", 2, "--json")
    assert asked.code == 0, asked.err
    assert len(asked.json["sources"]) == 2
    assert len(loaded) == 1


def test_the_model_that_imagines_is_loaded_as_it_is_told(fullrank, corpus, monkeypatch):
    times = []

    def opened(place, **options):
        times.append((place, options))
        return FunctionModel(lambda prompt: "aa")

    monkeypatch.setattr(readers, "open_language_model", opened)
    fullrank("index", corpus, "--out", "idx", "--method", "dense")
    for model in ("writer", "http://localhost:1/v1"):
        search = ("search", "idx", "aa", "--method", "hyde", "--model", model, "--device", "cpu", "--offline")
        assert fullrank(*search).code == 0
    assert times == [("writer", {"device": "cpu", "local_files_only": True}), ("http://localhost:1/v1", {})]


@pytest.mark.parametrize("device", ["nowhere", "cuda:77"])
def test_a_device_that_is_not_there(fullrank, corpus, device):
    complaint = fullrank("index", corpus, "--out", "new", "--method", "dense", "--device", device).complaint
    assert f"device='{device}' cannot be used (" in complaint
    assert "accepted: cpu, and where this machine has them cuda, cuda:1 or mps" in complaint
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used"):
        _ = TransformersModel("writer", device=device).model


def test_a_model_that_cannot_be_loaded_leaves_no_index(fullrank, corpus, folders):
    asked = ("index", corpus, "--out", "idx", "--method", "splade", "--model", "nowhere", "--offline")
    assert "model='nowhere' cannot be loaded" in fullrank(*asked).complaint
    assert not (folders / "idx" / "retriever.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("index", "corpus.jsonl", "--out", "new", "--method", "splade"), "method='splade' needs a model"),
        (("index", "corpus.jsonl", "--out", "new", "--model", "splade"), "makes no index without its method"),
        (("search", "idx", "aa", "--method", "splade"), "idx has no index of the method 'splade'"),
        (("search", "idx", "aa", "--method", "hyde"), "asks a language model; --method hyde --model FOLDER"),
        (("search", "idx", "aa", "--model", "writer"), "asks a language model; --method hyde --model FOLDER"),
    ],
)
def test_bad_input(fullrank, corpus, arguments, words):
    fullrank("index", corpus, "--out", "idx")
    assert words in fullrank(*arguments).complaint
