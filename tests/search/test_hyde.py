from __future__ import annotations

import numpy as np
import pytest

from fullrank.search import DenseRetriever, HyDERetriever, Retriever

from .conftest import HashEncoder, collection

TEXTS = [f"text {number}" for number in range(20)]


class Writes:
    """Writes numbered passages, and remembers what it was asked."""

    def __init__(self, *passages: str) -> None:
        self.passages, self.prompts, self.options = passages, [], {}

    def complete(self, prompts, *, max_new_tokens=128, temperature=0.0, stop=(), seed=0):
        self.prompts += prompts
        self.options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        return [self.passages[number % len(self.passages)] for number in range(len(prompts))]


def dense(dim: int = 16) -> DenseRetriever:
    return DenseRetriever(HashEncoder(dim)).build(collection(TEXTS))


def unit(text):
    vector = HashEncoder().encode([text])[0].astype(np.float64)
    return vector / np.linalg.norm(vector)


def by_definition(*texts):
    mean = np.mean([unit(text) for text in texts], axis=0)
    return {f"d{number}": float(mean @ unit(text) / np.linalg.norm(mean)) for number, text in enumerate(TEXTS)}


def test_the_mean_holds_the_query_not_the_prompt():
    model = Writes("first passage", "second passage")
    retriever = HyDERetriever(dense(), model, passages=2, max_new_tokens=9, seed=3)
    assert isinstance(retriever, Retriever)
    run = retriever.search(["what is rank", "who"], 20)
    for query, found in zip(["what is rank", "who"], run.values(), strict=True):
        assert found == pytest.approx(by_definition(query, "first passage", "second passage"), abs=1e-5)
    assert len(model.prompts) == 4
    assert ["what is rank" in prompt for prompt in model.prompts] == [True, True, False, False]
    assert model.options == {"max_new_tokens": 9, "temperature": 0.7, "seed": 3}


def test_a_passage_that_answers_is_found_though_the_query_is_not_like_it():
    retriever = HyDERetriever(dense(64), lambda prompt: " text 7\n", passages=5)
    assert next(iter(retriever.search("query", 3)["0"])) == "d7"


def test_empty_passages_are_left_out():
    model = Writes("  ", "passage", "")
    found = HyDERetriever(dense(), model, passages=3).search("query", 20)["0"]
    assert found == pytest.approx(by_definition("query", "passage"), abs=1e-5)
    silent = HyDERetriever(dense(), Writes("\n")).search("query", 20)
    assert silent["0"] == pytest.approx(dense().search("query", 20)["0"], abs=1e-5)


def test_a_blank_query_finds_nothing_and_asks_nobody():
    model = Writes("passage")
    retriever = HyDERetriever(dense(), model, passages=1)
    with pytest.warns(UserWarning, match="queries 'a', 'b' have no tokens") as told:
        assert retriever.search({"a": " ", "b": ""}) == {"a": {}, "b": {}}
    assert len(told) == 1
    assert model.prompts == []
    with pytest.warns(UserWarning, match="query 'a' has no tokens"):
        assert list(retriever.search({"a": " ", "b": "x", "c": "y"}, 1)) == ["a", "b", "c"]


def test_braces_of_a_query_are_text():
    model = Writes("passage")
    HyDERetriever(dense(), model, passages=1, prompt="{other} {question}").search("{contexts} {0}")
    assert model.prompts == ["{other} {contexts} {0}"]


def test_every_backend_searches_its_vectors(tmp_path):
    pytest.importorskip("faiss")
    flat = DenseRetriever(HashEncoder(), "flat").build(collection(TEXTS))
    found = HyDERetriever(flat, Writes("passage")).search("query", 20)["0"]
    assert found == pytest.approx(HyDERetriever(dense(), Writes("passage")).search("query", 20)["0"], abs=1e-5)


def test_bad_inputs(unchecked):
    with pytest.raises(TypeError, match="retriever=3 is int; one that searches vectors is needed, such as DenseRetri"):
        HyDERetriever(3, Writes("x"))
    with pytest.raises(TypeError, match="model=3 cannot be asked"):
        HyDERetriever(dense(), 3)
    for options, message in (
        ({"passages": 0}, "passages=0 is not accepted"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is not accepted"),
        ({"temperature": 0.0}, "temperature=0.0 is not accepted for 8 passages; give one above 0"),
        ({"temperature": -1.0, "passages": 1}, "temperature=-1.0 is not accepted"),
        ({"prompt": "write"}, "prompt='write' has no place for the query; put {question} where it belongs"),
    ):
        with pytest.raises(ValueError, match=message):
            HyDERetriever(dense(), Writes("x"), **options)
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        HyDERetriever(dense(), Writes("x")).search("query", 0)
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        HyDERetriever(DenseRetriever(HashEncoder()), Writes("x")).search("query")
