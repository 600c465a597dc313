"""Re-rankers by scores, comparisons and names, and over whole runs."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.order import evaluate
from fullrank.search import (
    RERANKERS,
    Document,
    EchoRankReranker,
    PairwiseReranker,
    PointwiseReranker,
    Ranking,
    Reranker,
    Run,
    SlidingWindowReranker,
    TournamentReranker,
    rankify,
    rerank_run,
    reranker,
)
from fullrank.search.answering import reorder_all
from fullrank.search.model_scorers import CrossEncoderScorer
from fullrank.search.pointwise import ModelScorer
from fullrank.search.rerankers import as_reranker

from .conftest import collection
from .tiny_models import classifier, tokenizer


def worth(text):
    return int(text.split()[-1])


def better(query, a, b):
    return 0.5 if worth(a) == worth(b) else float(worth(a) > worth(b))


class Worths(ModelScorer):
    """The number at the end of a text, and what was asked together."""

    def __init__(self):
        self.asked: list[int] = []

    def score_pairs(self, queries, texts):
        self.asked.append(len(texts))
        return [float(worth(text)) for text in texts]


STRATEGIES = ["all-pairs", "sliding", "heapsort"]


@pytest.mark.parametrize(("strategy", "calls"), [("all-pairs", 45), ("sliding", 45), ("heapsort", 40)])
def test_comparisons_find_the_order(strategy, calls):
    texts = [f"text {(7 * place) % 10}" for place in range(10)]
    made = PairwiseReranker(better, strategy)
    assert [worth(texts[place]) for place in made.order("q", texts)] == list(range(9, -1, -1))
    assert made.calls <= calls
    assert PairwiseReranker(better, strategy).order("q", ["text 1"] * 4) == [0, 1, 2, 3]
    assert PairwiseReranker(better, strategy).order("q", []) == []
    assert isinstance(made, Reranker)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12), st.sampled_from(STRATEGIES))
def test_the_best_come_first_and_the_rest_keeps_its_order(worths, top_k, strategy):
    texts = [f"text {value}" for value in worths]
    made = PairwiseReranker(better, strategy, top_k)
    order = made.order("q", texts)
    assert sorted(order) == list(range(len(texts)))
    best = sorted(range(len(texts)), key=lambda place: -worths[place])
    assert order[:top_k] == best[:top_k]
    if strategy == "heapsort":
        assert order[top_k:] == sorted(order[top_k:])
    n, k = len(texts), min(top_k, len(texts))
    most = {"all-pairs": n * (n - 1) / 2, "sliding": k * (n - 1), "heapsort": 2 * n + 2 * k * math.log2(max(n, 2))}
    assert made.calls <= max(most[strategy], 0)


def test_pairs_go_to_the_model_together_and_only_once():
    class Pairs:
        asked: tuple[int, ...] = ()

        def compare_pairs(self, query, pairs):
            self.asked += (len(pairs),)
            return [better(query, a, b) for a, b in pairs]

    texts = [f"text {value}" for value in (3, 1, 2)]
    pairs = Pairs()
    ranking = PairwiseReranker(pairs).rerank("q", collection(texts))
    assert pairs.asked == (3,)
    assert ranking.scores == (2, 1, 0)  # what they won
    sliding = PairwiseReranker(pairs, "sliding", top_k=2)
    assert sliding.rerank("q", collection(texts)).scores == (3, 2, 1)
    assert sliding.calls == 2  # the second pass asks for nothing new


def test_one_pass_decides_one_place():
    texts = [f"text {value}" for value in (1, 4, 2, 3)]
    assert PairwiseReranker(better, "sliding", top_k=1).order("q", texts) == [1, 0, 3, 2]


@pytest.mark.parametrize("n", [20, 50, 100])
@pytest.mark.parametrize("method", ["windows", "tournament", "heapsort", "sliding", "all-pairs"])
def test_a_perfect_judge_reaches_the_best_measure(n, method):
    relevance = [1.0 if place % 10 == 9 else 0.0 for place in range(n)]
    by_relevance = {f"d{place}": value for place, value in enumerate(relevance)}

    def order(query, texts):
        return sorted(range(len(texts)), key=lambda place: -relevance[int(texts[place])])

    def compare(query, a, b):
        return (1 + relevance[int(a)] - relevance[int(b)]) / 2

    made = {
        "windows": lambda: SlidingWindowReranker(order, 20, 10),
        "tournament": lambda: TournamentReranker(order),
        **{name: lambda name=name: PairwiseReranker(compare, name) for name in STRATEGIES},
    }[method]()
    documents = collection([str(place) for place in range(n)])
    first = {"q": {document.id: float(-place) for place, document in enumerate(documents)}}
    run = rerank_run(made, {"q": "query"}, documents, first)
    assert evaluate({"q": {id: int(value) for id, value in by_relevance.items()}}, run, "nDCG@10")["nDCG@10"] == 1


def test_runs_keep_their_ids_and_what_lies_below():
    documents = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(5)}
    run = {"q": {f"d{n}": float(-n) for n in range(5)}, "empty": {}}
    by_worth = PointwiseReranker(lambda query, texts: [worth(text) for text in texts])
    better_run = rerank_run(by_worth, {"q": "x", "empty": "y"}, documents, run, k=3)
    assert better_run.ranking("q") == [("d2", 2), ("d1", 1), ("d0", 0), ("d3", -1), ("d4", -2)]
    assert better_run["empty"] == {}
    assert isinstance(by_worth, Reranker)
    assert rerank_run(by_worth, {"q": "x", "empty": "y"}, list(documents.values()), run, k=3) == better_run
    numbered = rerank_run(by_worth, {"1": "x"}, documents, {1: {f"d{n}": n for n in range(5)}})
    assert list(numbered) == ["1"]
    with pytest.raises(ValueError, match="query 'q', whose text is not among the queries"):
        rerank_run(by_worth, {}, documents, run)
    with pytest.raises(ValueError, match="document 'd1' of the run is not among the documents"):
        rerank_run(by_worth, {"q": "x"}, {"d0": documents["d0"]}, run)
    with pytest.raises(ValueError, match="k=0"):
        rerank_run(by_worth, {"q": "x"}, documents, run, k=0)


def test_listwise_scores_belong_to_places():
    documents = collection([f"text {n}" for n in range(5)])
    run = {"q": {f"d{n}": float(-n) for n in range(5)}}
    backwards = SlidingWindowReranker(lambda query, texts: list(range(len(texts)))[::-1])
    found = rerank_run(backwards, ["x"], documents, {"0": run["q"]}, k=3)
    assert found.ranking("0") == [("d2", 3), ("d1", 2), ("d0", 1), ("d3", 0), ("d4", -1)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.integers(1, 30))
def test_the_order_survives_in_the_scores(values, k):
    """Ties too: a run breaks them by id, a re-ranker by the order that it got."""
    texts = [str(place) for place in range(len(values))]
    documents = collection(texts)
    scorer = PointwiseReranker(lambda query, texts: [values[int(text)] for text in texts])
    first = {"q": {document.id: -float(place) for place, document in enumerate(documents)}}
    found = rerank_run(scorer, {"q": "x"}, documents, first, k)
    best = sorted(range(min(k, len(values))), key=lambda place: -values[place])
    order = [f"d{place}" for place in [*best, *range(len(best), len(values))]]
    assert [id for id, _ in found.ranking("q")] == order
    assert [id for id, _ in Run.from_trec(found.to_trec()).ranking("q")] == order
    highest = found.ranking("q")[0][1]
    assert highest == np.float32(max(values[: len(best)]))


def test_scorers_get_the_pairs_of_many_queries_together(monkeypatch):
    scorer = Worths()
    documents = collection([f"text {n}" for n in range(6)])
    queries = {f"q{n}": "x" for n in range(5)}
    run = {query: {f"d{n}": float(-n) for n in range(6)} for query in queries}
    together = rerank_run(PointwiseReranker(scorer), queries, documents, run, k=4)
    assert scorer.asked == [20]
    monkeypatch.setattr("fullrank.search.answering._PAIRS", 8)
    assert rerank_run(PointwiseReranker(scorer), queries, documents, run, k=4) == together
    assert scorer.asked[1:] == [8, 8, 4]
    assert together.ranking("q4")[0] == ("d3", 3)
    rankings = [Ranking("x", tuple(documents[:4]), (4.0, 3.0, 2.0, 1.0))] * 2
    scorer.asked.clear()
    assert [r.documents[0].id for r in reorder_all(PointwiseReranker(scorer), rankings)] == ["d3", "d3"]
    assert scorer.asked == [8]
    real = PointwiseReranker(CrossEncoderScorer(classifier(1), tokenizer(), batch_size=4))
    whole = rerank_run(real, {"q0": "aa", "q1": "bb cc"}, documents, {id: run[id] for id in ("q0", "q1")})
    for id, query in (("q0", "aa"), ("q1", "bb cc")):
        ranking = real.rerank(query, documents)
        assert [found for found, _ in whole.ranking(id)] == [document.id for document in ranking.documents]


def test_a_reranker_that_loses_documents_is_told():
    class Loses:
        def rerank(self, query, documents):
            return Ranking(query, tuple(documents[:1]), (1.0,))

    documents = collection(["a", "b"])
    with pytest.raises(ValueError, match="gave 1 documents for 2"):
        rerank_run(Loses(), {"q": "x"}, documents, {"q": {"d0": 1, "d1": 0}})


@pytest.mark.parametrize("name", sorted(RERANKERS))
def test_no_name_loads_a_model_before_it_is_used(name):
    options = {} if name in ("bi-encoder", "sesa") else {"local_files_only": True}  # which load from here alone
    made = reranker(name, "/nowhere/model", **options)
    assert isinstance(made, Reranker)
    assert made.rerank("q", []).documents == ()
    with pytest.raises(OSError, match="/nowhere/model"):
        made.rerank("q", collection(["a", "b"]))


class Lengths:
    """Likes long texts."""

    def score(self, query, texts):
        return [len(text) for text in texts]

    def compare(self, query, a, b):
        return float(len(a) > len(b))

    def order(self, query, texts):
        return sorted(range(len(texts)), key=lambda place: -len(texts[place]))


@pytest.mark.parametrize("name", ["score", "compare", "order"])
def test_a_model_of_ones_own_finds_its_reranker(name):
    model = type("Model", (), {name: getattr(Lengths, name)})()
    documents = collection(["aa", "bbbb", "ccc"])
    for made in (reranker(model), as_reranker(model), rankify.Reranking(model).reranker):
        assert [document.id for document in made.rerank("q", documents).documents] == ["d1", "d2", "d0"]
        assert as_reranker(made) is made
    by_function = reranker(Lengths().score)
    assert isinstance(by_function, PointwiseReranker)
    with pytest.raises(TypeError, match=r"3 is int; a name of cross-encoder, .*, or an object with rerank\(query, doc"):
        reranker(3)
    with pytest.raises(ValueError, match=r"model, window: for a method by name; .* is an object"):
        reranker(model, "name", window=3)


def test_names_of_others():
    for name, kind in [
        ("Sentence_Transformer_Reranker", PointwiseReranker),
        ("vicuna_reranker", SlidingWindowReranker),
        ("incontext_reranker", PointwiseReranker),
        ("ecorank", EchoRankReranker),
    ]:
        assert isinstance(reranker(name, "m"), kind)
    for wrong, near in [("monot6", "monot5"), ("rank-gpt", "rankgpt"), ("crossencoder", "cross-encoder")]:
        with pytest.raises(ValueError, match=f"method='{wrong}' is not known; accepted: cross-encoder.*{near}"):
            reranker(wrong, "x")
    with pytest.raises(ValueError, match="method='monot5' needs a model"):
        reranker("monot5")
    with pytest.raises(ValueError, match="method='bi-encoder' takes no option max_length; leave it out"):
        reranker("bi-encoder", max_length=3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: PointwiseReranker(lambda q, t: [1.0]).rerank("q", d), "1 scores for 2 documents"),
        (lambda d: PointwiseReranker(lambda q, t: [1.0, float("nan")]).rerank("q", d), "'q': the score of 'd1' is nan"),
        (lambda d: PointwiseReranker(lambda q, t: [float("inf"), 1.0]).rerank("q", d), "'q': the score of 'd0' is inf"),
        (lambda d: PairwiseReranker(better, "quick"), "strategy='quick'"),
        (lambda d: PairwiseReranker(better, top_k=0), "top_k=0"),
        (lambda d: PairwiseReranker(lambda q, a, b: 2.0).rerank("q", d), "query 'q': a comparison gave 2.0"),
        (lambda d: PairwiseReranker(lambda q, a, b: math.nan).rerank("q", d), "query 'q': a comparison gave nan"),
        (lambda d: PairwiseReranker(Miscounts()).rerank("q", d), "gave 2 comparisons for 1 pairs"),
        (lambda d: PointwiseReranker(Miscounts()).rerank_all(["q"], [d]), "gave 3 scores for 2 pairs"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(collection(["a", "b"]))
    with pytest.raises(TypeError, match="an object with score"):
        PointwiseReranker(3)
    with pytest.raises(TypeError, match="a function of"):
        PairwiseReranker(3)


class Miscounts(ModelScorer):
    """One too many."""

    def score_pairs(self, queries, texts):
        return [0.0] * (len(texts) + 1)

    def compare_pairs(self, query, pairs):
        return [0.5] * (len(pairs) + 1)
