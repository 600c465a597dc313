"""Index, search, rerank, evaluate and ask from the command."""

from __future__ import annotations

import json

import pytest

DOCUMENTS = [
    {"id": "a", "contents": "The rank of a matrix is the number of its independent rows.", "title": "Matrix"},
    {"id": "b", "text": "Search engines rank documents by their relevance."},
    {"id": "c", "text": "Cats sleep most of the day."},
]


@pytest.fixture
def corpus(folders):
    file = folders / "corpus.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (folders / "queries.tsv").write_text("q1\tmatrix rank\nq2\tcats\n")
    (folders / "qrels.txt").write_text("q1 0 a 1\nq1 0 b 0\nq2 0 c 1\n")
    return file


def test_from_documents_to_measures(fullrank, corpus, folders):
    assert "3 documents in idx" in fullrank("index", corpus, "--out", "idx", "--stemming", "en").out
    found = fullrank("search", "idx", "ranked matrix rows", "--why", "--json").json
    assert found[0]["id"] == "a"
    assert sum(found[0]["why"].values()) == pytest.approx(found[0]["score"])
    assert "Matrix: The rank" in fullrank("search", "idx", "matrix").out
    assert "nothing was found" in fullrank("search", "idx", "zebra").out
    for name in ("run.trec", "run.jsonl", "run.parquet"):
        assert fullrank("search", "idx", "--queries", "queries.tsv", "-o", name).code == 0
    measured = [
        fullrank("evaluate", "qrels.txt", name, "-m", "RR", "-m", "nDCG@10", "--json").json[0]["measures"]
        for name in ("run.trec", "run.jsonl", "run.parquet")
    ]
    assert measured == [{"RR": 1.0, "nDCG@10": 1.0}] * 3
    out = fullrank("evaluate", "qrels.txt", "run.trec", "run.jsonl", "--per-query").out
    assert "q2" in out
    assert fullrank("search", "idx", "--queries", "queries.tsv").out.startswith("q1 Q0 a 1 ")


def test_documents_are_added_and_malformed_lines_told(fullrank, corpus, folders):
    fullrank("index", corpus, "--out", "idx")
    (folders / "more.jsonl").write_text('{"id": "d", "text": "A zebra."}\nnot json\n{"text": "no id"}\n{"id": "e"}\n')
    outcome = fullrank("index", "more.jsonl", "--out", "idx", "--add")
    assert outcome.code == 0
    assert "4 documents" in outcome.out
    assert "3 lines could not be read" in outcome.err
    assert "line 2 is no JSON object" in outcome.err
    assert fullrank("search", "idx", "zebra", "--json").json[0]["id"] == "d"
    assert "line 2 is no JSON object" in fullrank("index", "more.jsonl", "--out", "new", "--strict").complaint


def test_meaning_is_indexed_and_reranks(fullrank, corpus, folders):
    assert fullrank("index", corpus, "--out", "idx", "--meaning").code == 0
    found = fullrank("search", "idx", "felines at rest", "--mode", "semantic", "--json").json
    assert found[0]["id"] == "c"
    assert fullrank("search", "idx", "felines at rest", "-k", 1, "--json").json[0]["id"] == "c"
    fullrank("search", "idx", "--queries", "queries.tsv", "-o", "run.trec", "--mode", "keyword")
    outcome = fullrank("rerank", "run.trec", "--index", "idx", "--queries", "queries.tsv", "-o", "better.trec")
    assert outcome.code == 0
    assert (folders / "better.trec").read_text().startswith("q1 Q0 ")
    answer = fullrank("ask", "idx", "What do cats do?", "--json").json
    assert answer == {"answer": "Cats sleep most of the day.", "sources": ["c"]}
    assert "[c] Cats sleep" in fullrank("ask", "idx", "What do cats do?").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("index", "none.jsonl", "--out", "new"), "none.jsonl: No such file"),
        (("index", "corpus.jsonl", "--out", "idx"), "idx: An index is there; name another folder, or add --add"),
        (("index", "corpus.jsonl", "--out", "new", "--add"), "new: No index is there to add to"),
        (("index", "corpus.jsonl", "--out", "new", "--stemming", "klingon"), "stemming='klingon' is not known"),
        (("index", "queries.pdf", "--out", "new"), "files that end in .jsonl"),
        (("search", "idx"), "give one query, or a file of them"),
        (("search", "nowhere", "x"), "nowhere holds no index"),
        (
            ("search", "idx", "x", "--mode", "semantic"),
            "idx has no index of the method 'dense': fullrank index ... --method dense",
        ),
        (("search", "idx", "x", "-o", "queries.tsv"), "queries.tsv: File exists"),
        (("evaluate", "qrels.txt", "queries.tsv"), "has 3 columns, 6 are expected"),
        (("evaluate", "qrels.txt", "qrels.txt", "-m", "nDCG@x"), "has 4 columns"),
        (
            ("rerank", "x", "--index", "idx", "--queries", "queries.tsv", "-o", "y", "--method", "monot5"),
            "needs a model",
        ),
        (("ask", "nowhere", "why?"), "nowhere holds no index"),
    ],
)
def test_bad_input(fullrank, corpus, arguments, words):
    fullrank("index", corpus, "--out", "idx")
    assert words in fullrank(*arguments).complaint
