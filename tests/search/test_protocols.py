import pytest

from fullrank.search import Document, Ranking


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


def test_a_ranking_has_one_score_per_document():
    document = Document("x", "text")
    assert Ranking("q", (document,), (1.0,)).scores == (1.0,)
    with pytest.raises(ValueError, match="2 scores for 1 documents"):
        Ranking("q", (document,), (1.0, 2.0))
