"""Index, search, rerank, evaluate and ask from the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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
        (("index", "corpus.jsonl", "--out", "qrels.txt"), "qrels.txt: A file is there; name a folder"),
        (("index", "broken.parquet", "--out", "new"), "broken.parquet is no Parquet file, or damaged"),
        (("search", "idx", "--queries", "latin.tsv"), "latin.tsv, line 1 is not UTF-8"),
        (("search", "idx", "  "), "query='  ' asks for nothing; give some words"),
        (("ask", "idx", ""), "question='' asks for nothing; give some words"),
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
    Path("broken.parquet").write_text("PAR1")
    Path("latin.tsv").write_bytes(b"q1\tcaf\xe9\n")
    assert words in fullrank(*arguments).complaint
    assert not Path("new").exists()  # nothing half made is left


def test_lines_that_cannot_be_read_are_told_whatever_happens(fullrank, folders):
    (folders / "none.jsonl").write_bytes(b'{"id": "a", "text": "caf\xe9"}\n{\n')
    outcome = fullrank("index", "none.jsonl", "--out", "idx")
    assert outcome.code == 2
    assert "line 1 is no JSON object" in outcome.err
    assert "2 lines could not be read and had to be left out" in outcome.err
    assert "documents=[] leaves nothing to index" in outcome.err
    (folders / "some.tsv").write_bytes(b"a\tcaf\xe9\nb\tone\ttwo\tthree\nc\tall fine\n")
    outcome = fullrank("index", "some.tsv", "--out", "idx")
    assert "1 document in idx" in outcome.out
    assert "line 1 is not UTF-8" in outcome.err
    assert "line 2: 4 columns" in outcome.err


def test_text_of_others_is_shown_as_text(fullrank, folders):
    """Half characters, commands to terminals, and what looks like markup."""
    texts = {"[b]": "[red]zebra[/red] [/]", "odd": "zebra \ud800 \x1b[31mred\x07", "long": "zebra " * 300_000}
    lines = [json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()]
    (folders / "corpus.jsonl").write_text("".join(lines))
    assert "3 documents in idx" in fullrank("index", "corpus.jsonl", "--out", "idx").out
    out = fullrank("search", "idx", "zebra", "--why").out
    assert "[b]" in out
    assert "[red]zebra[/red] [/]" in out
    assert "zebra ? �[31mred�" in out
    assert len(out) < 3000
    assert {row["text"] for row in fullrank("search", "idx", "zebra", "--json").json} >= {texts["[b]"]}
    answer = fullrank("ask", "idx", "Which zebra is red?", "-k", 1).out
    assert "\x1b" not in answer


def test_blank_queries_of_a_file_are_told(fullrank, corpus, folders):
    fullrank("index", corpus, "--out", "idx")
    (folders / "queries.tsv").write_text("q1\tcats\nq2\t \nq3\tthe of\n")
    outcome = fullrank("search", "idx", "--queries", "queries.tsv")
    assert outcome.out.startswith("q1 Q0 c 1 ")
    assert outcome.err.splitlines() == [
        "blank, and so without results: query q2",
        "without words to look for, and so without results: query q3",
    ]


def test_meaning_of_documents_that_were_there_is_indexed_too(fullrank, corpus, folders):
    fullrank("index", corpus, "--out", "idx")
    (folders / "more.jsonl").write_text('{"id": "d", "text": "A zebra."}\n')
    assert "4 documents" in fullrank("index", "more.jsonl", "--out", "idx", "--add", "--meaning").out
    found = fullrank("search", "idx", "felines at rest", "--mode", "semantic", "--json").json
    assert (found[0]["id"], len(found)) == ("c", 4)


def test_an_index_that_is_stopped_leaves_nothing_and_has_one_builder(fullrank, folders):
    endless = folders / "endless.jsonl"
    os.mkfifo(endless)
    command = [sys.executable, "-m", "fullrank", "index", "endless.jsonl", "--out", "idx"]
    # The pipe opens as soon as the process reads from it.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, endless.open("w") as pipe:
        pipe.write('{"id": "a", "text": "one"}\n')
        pipe.flush()
        assert "Another process builds an index there" in fullrank("index", "q.jsonl", "--out", "idx").complaint
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err == "stopped\n"
    assert not (folders / "idx").exists()
