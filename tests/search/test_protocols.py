import numpy as np
import pytest

from fullrank.search import BM25Retriever, Document, Ranking
from fullrank.search.protocols import named


def test_a_title_is_searched_before_the_text():
    assert Document("x", "text").searched == "text"
    assert Document("x", "text", title="Title").searched == "Title text"


def test_documents_that_are_none(unchecked):
    with pytest.raises(ValueError, match="id='' is empty"):
        Document("", "text")
    with pytest.raises(TypeError, match=r"id=7 is int; a document's id is text: str\(id\)"):
        Document(7, "text")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="document 'x': text=None is NoneType"):
        Document("x", None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="document 'x': title=3 is int"):
        Document("x", "text", 3)  # pyright: ignore[reportArgumentType]


def test_queries_in_every_form(unchecked):
    assert named("a") == {"0": "a"}
    assert named(iter(["a", "b"])) == {"0": "a", "1": "b"}
    assert named({1: "a", "x": ""}) == {"1": "a", "x": ""}
    for queries, words in [
        (None, "queries=None is NoneType; a text, texts, or texts by id are needed"),
        (["a", None], "query '1' is None, of NoneType; text is needed"),
        ({"q": 3}, "query 'q' is 3, of int; text is needed"),
    ]:
        with pytest.raises(TypeError, match=words):
            BM25Retriever().build([Document("d", "rank")]).search(queries)
    with pytest.raises(ValueError, match="two query ids have the same text"):
        named({1: "a", "1": "b"})


def test_collections_and_numbers_that_are_none(unchecked):
    for documents in (["a text"], [{"id": "a", "text": "b"}], "text", [Document("d", "rank"), None]):
        with pytest.raises(TypeError, match=r"documents hold .*, which is .*; Document\(id, text\) is needed"):
            BM25Retriever().build(documents)
    retriever = BM25Retriever().build([Document("d", "rank")])
    for k in (1.5, None, "3"):
        with pytest.raises(TypeError, match=rf"k={k!r} is \w+; a whole number of at least 1 is needed"):
            retriever.search("rank", k)
    assert set(retriever.search("rank", np.int64(2))["0"]) == {"d"}
    for k1 in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"k1={k1} is not accepted"):
            BM25Retriever(k1=k1)


def test_a_ranking_has_one_score_per_document():
    document = Document("x", "text")
    assert Ranking("q", (document,), (1.0,)).scores == (1.0,)
    with pytest.raises(ValueError, match="2 scores for 1 documents"):
        Ranking("q", (document,), (1.0, 2.0))
