"""Segments that are joined while an index grows and shrinks."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import BM25Retriever, Document, index_folder
from fullrank.search.segments import Segment, counted_segment, weighted_segment
from fullrank.search.token_segments import TokenSegment

from .conftest import collection

WORDS = ["aa", "bb", "cc cc", "dd ee", "", "ée 天气", "aa aa bb"]
QUERIES = ["aa", "bb cc", "aa ee ee zz", "天气"]

texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
steps = st.lists(st.tuples(st.booleans(), st.dictionaries(st.integers(0, 12), texts, max_size=6)), max_size=12)


def few(retriever: BM25Retriever) -> bool:
    """Whether no two neighbours had to be joined."""
    sizes = [len(segment) for segment in retriever._segments]
    limit = retriever.segment_size
    return max(sizes) <= limit and all(a > 2 * b or a + b > limit for a, b in itertools.pairwise(sizes))


@settings(max_examples=60, deadline=None)
@given(steps=steps, size=st.integers(1, 12), variant=st.sampled_from(["lucene", "bm25+"]))
def test_scores_are_exactly_those_of_an_index_that_was_built_at_once(steps, size, variant):
    present = {"0": "aa bb"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BM25Retriever, "segment_size", size)
        grown = BM25Retriever(variant, stopwords=None).build([Document("0", "aa bb")])
        for adds, found in steps:
            if adds:
                new = {str(number): text for number, text in found.items()}
                grown.add(Document(id, text) for id, text in new.items())
                present = {id: text for id, text in present.items() if id not in new} | new
            elif gone := {str(number) for number in found if str(number) in present and len(present) > len(found)}:
                grown.delete(gone)
                present = {id: text for id, text in present.items() if id not in gone}
            assert few(grown)
    if not any(text.strip() for text in present.values()):
        return
    at_once = BM25Retriever(variant, stopwords=None).build([Document(id, text) for id, text in present.items()])
    assert grown.search(QUERIES, 20) == at_once.search(QUERIES, 20)
    assert [(id, document.text) for id, document in grown.documents.items()] == list(present.items())


@pytest.mark.parametrize("cuts", [[2], [1, 2], [0, 6], [3, 3, 3]])
def test_joined_segments_are_one_that_was_made_at_once(cuts):
    documents = collection(["b a b", "", "天 é", "a c", "é é a", ""])
    bounds = list(itertools.pairwise([0, *cuts, len(documents)]))

    def counted(start=0, end=None):
        return counted_segment(documents[start:end], str.split)

    def weighted(start=0, end=None):
        found = [{word: len(word) / 2 for word in each.text.split()} for each in documents[start:end]]
        return weighted_segment(documents[start:end], found)

    for make in (counted, weighted):
        joined, whole = Segment.joined([make(start, end) for start, end in bounds]), make()
        joined.check()
        assert list(joined.terms) == list(whole.terms)
        assert list(joined.ids) == list(whole.ids)
        for name, values in whole._arrays.items():
            assert joined._arrays[name].dtype == values.dtype
            np.testing.assert_array_equal(joined._arrays[name], values)
        assert [joined.document(number) for number in range(6)] == documents


def test_joined_token_vectors():
    vectors = np.arange(12, dtype=np.float16).reshape(6, 2)
    first = TokenSegment(["a", "b"], np.array([0, 0, 4]), vectors[:4])
    joined = TokenSegment.joined([first, TokenSegment(["c"], np.array([0, 2]), vectors[4:])])
    assert joined.ids == ["a", "b", "c"]
    assert joined.starts.tolist() == [0, 0, 4, 6]
    assert joined.vectors.dtype == np.float16
    np.testing.assert_array_equal(joined.vectors, vectors)


def test_an_index_that_grows_by_one_document_at_a_time_has_few_segments(tmp_path):
    folder = BM25Retriever().build([Document("0", "rank")]).save(tmp_path / "index")
    for number in range(1, 64):
        BM25Retriever.load(folder).add([Document(f"{number}", f"rank number{number}")], tmp_path / "new").save(folder)
        assert len(list(folder.rglob("texts.bin"))) <= 6
    grown = BM25Retriever.load(folder)
    assert grown.search("rank number7", 99) == BM25Retriever().build(grown.documents.values()).search(
        "rank number7", 99
    )


def test_whoever_reads_keeps_what_was_joined_and_deleted_meanwhile(tmp_path):
    folder = BM25Retriever().build([Document("a", "rank")]).save(tmp_path)
    reader = BM25Retriever.load(folder)
    old = next(folder.glob("index-*"))
    BM25Retriever.load(folder).add([Document("b", "rank")]).save(folder)
    assert not old.exists()
    assert len(BM25Retriever.load(folder)._segments) == 1
    assert set(reader.search("rank")["0"]) == {"a"}
    assert reader.documents["a"].text == "rank"
    reader.add([Document("c", "rank")])  # joins files that are deleted
    assert set(reader.search("rank")["0"]) == {"a", "c"}


def _join_and_die(folder: Path, step: str) -> None:
    setattr(index_folder, step, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    BM25Retriever.load(folder).add([Document("c", "rank")]).save(folder)


@pytest.mark.parametrize("step", ["_flush", "write_json"])
def test_a_kill_while_joined_segments_are_saved_leaves_those_before(tmp_path, step):
    folder = BM25Retriever().build(collection(["rank", "rank"])).save(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=_join_and_die, args=(folder, step))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    opened = BM25Retriever.load(folder)
    assert set(opened.search("rank")["0"]) == {"d0", "d1"}
    opened.add([Document("c", "rank")]).save(folder)
    assert set(BM25Retriever.load(folder).search("rank")["0"]) == {"d0", "d1", "c"}
    assert len(list(folder.glob("index-*"))) == 1


def test_a_disk_that_is_full_while_segments_are_joined_changes_nothing(monkeypatch):
    retriever = BM25Retriever().build([Document("a", "rank"), Document("z", "rank")])

    def full(segments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Segment, "joined", full)
    with pytest.raises(OSError, match="No space left"):
        retriever.add([Document("a", "matrix"), Document("b", "rank")])
    assert retriever.search("rank")["0"].keys() == {"a", "z"}
