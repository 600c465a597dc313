"""The names of Rankify, and what it gets wrong."""

from __future__ import annotations

import json

import pytest

from fullrank.search import PointwiseReranker
from fullrank.search.rankify import (
    Answer,
    Context,
    Dataset,
    Document,
    Generator,
    Metrics,
    Question,
    Reranking,
    Retriever,
    pipeline,
)

from .conftest import HashEncoder

CORPUS = [
    {"id": "p1", "title": "Paris", "contents": "Paris is the capital of France."},
    {"id": "p2", "title": "Rome", "contents": "Rome is the capital of Italy."},
    {"id": 3, "text": "Cats sleep."},
]


def documents():
    return [
        Document("What is the capital of France?", "Paris", id=7),
        Document(Question("Who sleeps?"), ["Cats"], id="q"),
    ]


def test_retrieve_rerank_generate_and_measure():
    found = Retriever("bm25", n_docs=2).index(CORPUS).retrieve(documents())
    assert [context.id for context in found[0].contexts] == ["p1", "p2"]
    assert [context.has_answer for context in found[0].contexts] == [True, False]
    before = Generator("extractive").generate(found)
    assert before[0] == "Paris is the capital of France."
    by_italy = PointwiseReranker(lambda query, texts: [float("Italy" in text) for text in texts])
    reordered = Reranking(by_italy).rank(found)
    assert [context.id for context in reordered[0].reorder_contexts] == ["p2", "p1"]
    assert [context.id for context in reordered[0].contexts] == ["p1", "p2"]
    assert Generator("extractive", n_contexts=1).generate(found)[0] == "Rome is the capital of Italy."
    metrics = Metrics(found)
    assert metrics.calculate_retrieval_metrics([1, 2], use_reordered=True) == {"top_1": 0.0, "top_2": 50.0}
    assert metrics.calculate_retrieval_metrics([1])["top_1"] == 50
    measured = metrics.calculate_generation_metrics(["Paris", "the dogs"])
    assert measured["exact_match"] == 50
    trec = metrics.calculate_trec_metrics([10], [100], [1], {"7": {"p1": 1}})
    assert trec["mrr@1"] == 1


def test_plain_strings_ids_and_questions_stay_what_they_are():
    document = Document("No mark", "one answer")
    assert document.answers.answers == ["one answer"]
    assert document.id is None
    assert document.question.question == "No mark"
    assert Answer("").answers == []
    assert Answer(7).answers == ["7"]


def test_hybrid_keeps_ids_and_answers():
    found = Retriever("hybrid", n_docs=3, encoder_name=HashEncoder()).index(CORPUS).retrieve(documents())
    assert {context.id for context in found[0].contexts} == {"p1", "p2", "3"}
    assert any(context.has_answer for context in found[0].contexts)


def test_files(tmp_path):
    found = Retriever("bm25").index(CORPUS).retrieve(documents())
    for name in ("data.json", "data.jsonl"):
        Dataset.save_documents(found, tmp_path / name, save_text=True)
        again = Dataset.load_dataset(tmp_path / name)
        assert [d.to_dict(save_text=True) for d in again] == [d.to_dict(save_text=True) for d in found]
    (tmp_path / "bad.json").write_text(json.dumps([{"answers": []}]))
    with pytest.raises(ValueError, match="entry 1: the entry has no question"):
        Dataset.load_dataset(tmp_path / "bad.json")


def test_pipelines():
    result = pipeline("rag", top_k=1)("What is the capital of Italy?", CORPUS)
    assert result.answers == ["Rome is the capital of Italy."]
    assert result.metadata["sources"] == ("p2",)
    several = pipeline("search", n_docs=1)(["capital of France", "cats"], CORPUS)
    assert [r.documents[0].contexts[0].id for r in several] == ["p1", "3"]
    better = pipeline("rerank", reranker="bi-encoder", reranker_model=HashEncoder(), top_k=1)("capital", CORPUS)
    assert len(better.documents[0].reorder_contexts) == 1


def test_bad_calls(unchecked):
    for call, words in [
        (lambda: Retriever("bm52"), "method='bm52' is not known.*did you mean bm25"),
        (lambda: Reranking("monot6"), "method='monot6' is not known"),
        (lambda: Reranking("monot5"), "needs a model"),
        (lambda: Generator("basic-rag"), "needs a model"),
        (lambda: pipeline("translate"), "task='translate'"),
        (lambda: Metrics([]).top_k_accuracy(1), "leaves nothing to measure"),
        (lambda: Context(score="x"), "score='x' is no number"),
        (lambda: Context(text="x").to_document(), "has no id"),
        (lambda: Context(id=1).to_document(), "has no text"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(RuntimeError, match=r"call index\(corpus\) first"):
        Retriever().search("x")
