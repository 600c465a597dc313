"""Rankify's retrievers that a model makes: by name, from a corpus and from a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullrank.search import (
    BM25Retriever,
    ColBERTEncoder,
    DenseRetriever,
    HyDERetriever,
    SpladeEncoder,
    protocols,
)
from fullrank.search.colbert import ColBERT
from fullrank.search.embedding_scorers import LateInteractionScorer, SparseScorer
from fullrank.search.model_indexes import model_index, open_model_index
from fullrank.search.rankify import Document, Retriever, pipeline

from .conftest import HashEncoder
from .tiny_models import bert_config, masked, tokenizer

CORPUS = [
    {"id": "x", "title": "aa", "text": "bb cc"},
    {"id": "y", "text": "dd ee"},
    {"id": "z", "text": "aa dd"},
]
TEXTS = ["aa bb cc", "dd ee", "aa dd"]
OPTIONS = {"colbert": {"query_length": 8}, "splade": {}}


def model(method):
    torch.manual_seed(0)
    return masked() if method == "splade" else ColBERT(bert_config(), dim=8).eval()


def expected(method, query):
    scorer = SparseScorer if method == "splade" else LateInteractionScorer
    scores = scorer(model(method), tokenizer(), **OPTIONS[method]).score(query, TEXTS)
    return dict(zip("xyz", scores, strict=True))


@pytest.mark.parametrize("method", ["colbert", "splade"])
def test_methods_of_tokens(method):
    options = {"tokenizer": tokenizer(), **OPTIONS[method]}
    retriever = Retriever(method, n_docs=3, encoder_name=model(method), **options).index(CORPUS)
    (document,) = retriever.retrieve([Document("aa ee", ["dd ee"], id="q")])
    found = {context.id: context.score for context in document.contexts}
    assert found == pytest.approx(expected(method, "aa ee"), abs=0.02)
    assert {context.id for context in document.contexts if context.has_answer} == {"y"}
    assert next(context for context in document.contexts if context.id == "x").title == "aa"


@pytest.mark.parametrize("method", ["colbert", "splade"])
def test_a_folder_knows_its_model(method, tmp_path):
    model(method).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    options = {**OPTIONS[method], **({"dim": 8} if method == "colbert" else {})}
    documents = [protocols.Document(id, text) for id, text in zip("xyz", TEXTS, strict=True)]
    BM25Retriever().build(documents).save(tmp_path / "index")
    with pytest.raises(
        ValueError, match=f"has no index of the method '{method}': fullrank index ... --method {method}"
    ):
        Retriever(method, index_folder=tmp_path / "index")
    model_index(method, tmp_path / "model", **options).build(documents).save(tmp_path / "index" / method)
    found = pipeline("search", method, index_folder=tmp_path / "index")("aa ee").documents[0].contexts
    assert {context.id: context.score for context in found} == pytest.approx(expected(method, "aa ee"), abs=0.02)
    opened = open_model_index(tmp_path / "index", method, batch_size=1)
    assert opened.encoder.pretrained.batch_size == 1


@pytest.mark.parametrize("method", ["bm25", "dense", "hybrid"])
def test_an_index_is_saved_and_opened(method, tmp_path):
    encoder = None if method == "bm25" else HashEncoder()
    made = Retriever(method, n_docs=2, encoder_name=encoder)
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        made.save_pretrained(tmp_path)
    folder = made.index(CORPUS).save_pretrained(tmp_path / "index")
    opened = Retriever.load(folder, method, n_docs=2, encoder_name=encoder)
    assert opened.search(["aa ee", "dd"]) == made.search(["aa ee", "dd"])
    assert {id: document.searched for id, document in opened.documents.items()} == dict(zip("xyz", TEXTS, strict=True))
    again = Retriever.load(opened.save_pretrained(tmp_path / "again"), method, encoder_name=encoder)
    assert again.search("aa ee") == made.search("aa ee")
    if method != "bm25":
        with pytest.raises(ValueError, match=r"index holds an index of the method 'dense' too; name another folder"):
            Retriever().index(CORPUS).save_pretrained(folder)
    assert set(BM25Retriever.load(BM25Retriever.load(folder).save_pretrained(tmp_path / "words")).documents) == {*"xyz"}


def test_hyde_searches_with_what_is_imagined():
    asked = []

    def writes(prompt):
        asked.append(prompt)
        return "dd ee"

    retriever = Retriever("hyde", 3, encoder_name=HashEncoder(), model=writes, passages=2).index(CORPUS)
    found = retriever.retrieve([Document("what is it")])[0].contexts
    vectors = [vector / np.linalg.norm(vector) for vector in HashEncoder().encode(["what is it", "dd ee", "dd ee"])]
    mean = np.mean(vectors, axis=0)
    for context, text in ((context, TEXTS["xyz".index(context.id)]) for context in found):
        vector = HashEncoder().encode([text])[0]
        cosine = vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean)
        assert context.score == pytest.approx(float(cosine), abs=1e-5)
    assert found[0].id == "y"
    assert len(asked) == 2


def test_hyde_on_a_server_and_over_a_folder(tmp_path):
    pytest.importorskip("openai")
    documents = [protocols.Document("x", "aa"), protocols.Document("y", "bb")]
    BM25Retriever().build(documents).save(tmp_path)
    DenseRetriever(HashEncoder()).build(documents).save(tmp_path / "meaning")
    options = {"model": "m", "base_url": "http://localhost:1/v1"}
    made = Retriever("hyde", 1, tmp_path, HashEncoder(), passages=3, **options)._retriever
    assert isinstance(made, HyDERetriever)
    assert (repr(made.model), made.passages) == ("ServerModel('http://localhost:1/v1', model='m')", 3)


def test_options_reach_dense_and_hybrid():
    pytest.importorskip("faiss")
    dense = Retriever("dense", 2, encoder_name=HashEncoder(), backend="flat").index(CORPUS)
    exact = Retriever("bge", 2, encoder_name=HashEncoder()).index(CORPUS)
    assert dense._retriever.backend == "flat"
    assert list(dense.search("q")["0"]) == list(exact.search("q")["0"])
    hybrid = Retriever("hybrid", 2, encoder_name=HashEncoder(), weights=[1.0, 0.0]).index(CORPUS)
    assert hybrid._retriever.weights == [1.0, 0.0]


def test_bad_inputs():
    with pytest.raises(ValueError, match='method="hyde" needs a language model that writes passages'):
        Retriever("hyde")
    with pytest.raises(ValueError, match="method='splade' needs a model: an object, a name or a folder"):
        Retriever("splade").index(CORPUS)
    for method, encoder in (("splade", SpladeEncoder(masked(), tokenizer())), ("colbert", ColBERTEncoder("x"))):
        with pytest.raises(ValueError, match="device: options of an encoder, but it is an object that is made already"):
            Retriever(method, encoder_name=encoder, device="cpu").index(CORPUS)
