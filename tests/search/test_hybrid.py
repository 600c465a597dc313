import pytest

from fullrank.search import BM25Retriever, DenseRetriever, HybridRetriever, Retriever, Run, reciprocal_rank_fusion

from .conftest import HashEncoder


class Remembers:
    """Finds the same for every query, and remembers how much it was asked for."""

    def __init__(self, *ids: str) -> None:
        self.ids, self.depths = ids, []

    def search(self, queries, k=10):
        self.depths.append(k)
        return Run({"0": {id: -rank for rank, id in enumerate(self.ids[:k])}})


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
def test_it_fuses_what_its_retrievers_find(documents):
    keyword, meaning = BM25Retriever().build(documents), DenseRetriever(HashEncoder()).build(documents)
    hybrid = HybridRetriever([keyword, meaning], k0=10, weights=[1.0, 0.5])
    assert isinstance(hybrid, Retriever)
    queries = {"a": "matrix rank", "b": "zebra", "c": ""}
    expected = reciprocal_rank_fusion([keyword.search(queries, 100), meaning.search(queries, 100)], 10, [1.0, 0.5])
    found = hybrid.search(queries, 3)
    assert found == expected.top(3)
    assert list(found["a"]) == [document for document, _ in expected.ranking("a", 3)]
    assert found["c"] == {}


def test_a_query_that_no_retriever_can_read_is_told_of_once(documents):
    hybrid = HybridRetriever([BM25Retriever().build(documents), DenseRetriever(HashEncoder()).build(documents)])
    with pytest.warns(UserWarning, match="^query 'blank' has no tokens") as told:
        found = hybrid.search({"stop": "the of", "blank": " "})
    assert len(told) == 1
    assert (bool(found["stop"]), found["blank"]) == (True, {})


def test_depth_decides_what_can_be_found():
    first, second = Remembers("a", "b", "x"), Remembers("c", "d", "x")
    assert list(HybridRetriever([first, second], depth=3).search("q", 1)["0"]) == ["x"]
    assert list(HybridRetriever([first, second], depth=2).search("q", 1)["0"]) == ["c"]
    assert next(iter(HybridRetriever([first, second], depth=1).search("q", 3)["0"])) == "x"
    assert first.depths == second.depths == [3, 2, 3]


def test_bad_inputs(documents):
    keyword = BM25Retriever().build(documents)
    with pytest.raises(ValueError, match="leaves nothing to fuse; give at least one"):
        HybridRetriever([])
    with pytest.raises(ValueError, match="weights has 2 entries for 1 retrievers"):
        HybridRetriever([keyword], weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        HybridRetriever([keyword]).search("rank", 0)
    with pytest.raises(ValueError, match="k0=-1 is not accepted"):
        HybridRetriever([keyword], k0=-1).search("rank")
