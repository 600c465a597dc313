"""Index, search and ask by the address of a server."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("opensearchpy")

from fullrank.search import OpenSearchRetriever, QdrantRetriever
from fullrank.search.addresses import is_address, retriever_at

from ..search.fake_opensearch import FakeOpenSearch
from ..search.fake_server import serving

DOCUMENTS = [
    {"id": "a", "text": "The rank of a matrix is the number of its independent rows.", "title": "Matrix"},
    {"id": "b", "text": "Search engines rank documents by their relevance."},
]


@pytest.fixture
def address(monkeypatch):
    for name in ("OPENSEARCH_USERNAME", "OPENSEARCH_PASSWORD", "QDRANT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serving(FakeOpenSearch()) as server:
        yield f"opensearch+{server.url}/papers"


@pytest.fixture
def corpus(folders):
    file = folders / "corpus.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return file


def test_from_documents_to_an_answer(fullrank, address, corpus, folders):
    assert "2 documents in" in fullrank("index", corpus, "--out", address, "--stemming", "en").out
    found = fullrank("search", address, "rows of a matrix", "--why", "--json").json
    assert [row["id"] for row in found] == ["a"]
    assert sum(found[0]["why"].values()) == pytest.approx(found[0]["score"])
    (folders / "queries.tsv").write_text("q1\trelevance\n")
    assert fullrank("search", address, "--queries", "queries.tsv", "-o", "run.trec").code == 0
    assert (folders / "run.trec").read_text().split()[2] == "b"
    assert "number of its independent rows" in fullrank("ask", address, "What is the rank of a matrix?").out


def test_nothing_is_replaced_and_more_is_added(fullrank, address, corpus, folders):
    assert fullrank("index", corpus, "--out", address).code == 0
    again = fullrank("index", corpus, "--out", address)
    assert again.code == 2
    assert "name another one, or add --add" in again.err
    (folders / "more.jsonl").write_text('{"id": "c", "text": "Cats sleep."}\n')
    assert "3 documents in" in fullrank("index", "more.jsonl", "--out", address, "--add").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "{address}", "matrix"), "has no index 'papers'"),
        (("search", "{address}", "matrix", "--method", "dense"), "leave the method out"),
        (("index", "corpus.jsonl", "--out", "{address}", "--meaning"), "leave out --method and --meaning"),
        (("search", "opensearch+http://localhost:9", "matrix"), "the name of the index, such as"),
        (("search", "http://localhost:9200/papers", "matrix"), "the kind of the server"),
        (("search", "ftp://localhost/papers", "matrix"), "the kind of the server"),
    ],
)
def test_bad_addresses_are_said_in_one_line(fullrank, address, corpus, arguments, message):
    outcome = fullrank(*(argument.format(address=address) for argument in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_address_names_the_retriever():
    pytest.importorskip("qdrant_client")
    assert isinstance(retriever_at("opensearch+https://example.org:9200/a-b", stemming="en"), OpenSearchRetriever)
    found = retriever_at("qdrant+http://localhost:6333/team/papers", exact=True)
    assert isinstance(found, QdrantRetriever)
    assert found.name == "papers"
    assert is_address("qdrant+http://localhost:6333/papers")
    assert not is_address("my-index")
    assert not is_address("C:/indexes/papers")
