"""G-Rank against independent derivations, and against counting from scratch."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import Document, GRank, Reranker
from fullrank.search.network_agreement import positional_distance, top_item_share

VARIANTS = {"paper": ("paper", "items"), "paper_pairs": ("paper", "pairs"), "code": ("code", "items")}


@pytest.mark.golden("g-rank")
def test_agrees_with_the_derivation(case):
    spec = case.spec
    rows = [tuple(row) for row in spec["clicklog"]]
    tolerance = spec["tolerance"]
    for name, known in spec["variants"].items():
        variant, match = VARIANTS[name]
        for node in range(spec["n_nodes"]):
            ranker = GRank(spec["top_k"], variant=variant, match=match, node_id=node).fit(rows)
            raw = [ranker.raw_similarity(other) for other in range(spec["n_nodes"])]
            assert raw == pytest.approx(known["similarity_raw"][node], abs=tolerance)
            normal = [ranker.similarity(other) for other in range(spec["n_nodes"])]
            assert normal == pytest.approx(known["similarity"][node], abs=tolerance)
        for isolation, by_node in known["ranking_of_nodes_0_and_1_per_query"].items():
            for node, by_term in enumerate(by_node):
                ranker = GRank(spec["top_k"], float(isolation), variant, match, node_id=node).fit(rows)
                for term, expected in enumerate(by_term):
                    items, scores = ranker.rank(term)
                    positive = [(item, score) for item, score in zip(items, scores, strict=True) if score > 0]
                    assert [item for item, _ in positive] == [item for item, _ in expected]
                    assert [score for _, score in positive] == pytest.approx([s for _, s in expected], abs=1e-9)
    if spec["n_terms"] <= spec["top_k"]:
        code = [
            [
                GRank(spec["top_k"], variant="code", node_id=i).fit(rows).raw_similarity(j)
                for j in range(spec["n_nodes"])
            ]
            for i in range(spec["n_nodes"])
        ]
        np.testing.assert_allclose(code, spec["official_similarity"], atol=tolerance)
    distances = spec["list_distance"]
    assert [
        positional_distance(order, reference)
        for order, reference in zip(distances["node0_order"], distances["global_order"], strict=True)
    ] == distances["official"]


def by_definition(rows, i, j, top_k, variant, match):
    """S_i(j) from the formula's words."""
    counts = [Counter(t for n, t, _ in rows if n == node) for node in (i, j)]
    tops = [{t for t, _ in sorted(count.items(), key=lambda entry: (-entry[1], entry[0]))[:top_k]} for count in counts]
    shared = counts[0].keys() & counts[1].keys()
    if not shared:
        return 0.0
    clicked = [{(t, k) if match == "pairs" else k for n, t, k in rows if n == node and t in shared} for node in (i, j)]
    union = {k for n, _, k in rows if n in (i, j)}
    kappa_t, kappa_m = len(tops[0] & tops[1]), len(clicked[0] & clicked[1])
    return (kappa_t + kappa_m**2 if variant == "paper" else kappa_m + kappa_t**2) / len(union)


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["paper", "code"]), st.sampled_from(["items", "pairs"]), st.integers(0, 20), st.booleans())
def test_counting_row_by_row_is_counting_from_scratch(rows, variant, match, forgotten, looked_at):
    ranker = GRank(3, 0.5, variant, match, node_id=0)
    for row in rows:
        ranker.partial_fit([row])
        if looked_at:  # what was computed before must not stay
            ranker.similarity()
    ranker.evict(forgotten)
    left = sorted(rows, key=lambda row: row[0] == 0)[forgotten:]  # the owner's rows go last
    fresh = GRank(3, 0.5, variant, match, node_id=0).fit(left)
    assert ranker.n_rows_ == len(left)
    assert ranker.known_nodes_ == fresh.known_nodes_
    for node in ranker.known_nodes_:
        expected = by_definition(left, 0, node, 3, variant, match)
        assert ranker.raw_similarity(node) == pytest.approx(expected)
        assert ranker.similarity(node) == fresh.similarity(node)
    for term in range(5):
        items, scores = ranker.rank(term)
        expected = Counter()
        for node, searched, item in left:
            expected[item] += (ranker.similarity(node) + 0.5) * (searched == term)
        assert ranker.score(term, range(6)) == pytest.approx({item: expected[item] for item in range(6)})
        assert items == fresh.rank(term).items
        assert scores == pytest.approx(fresh.rank(term).scores)
        for item in items if ranker.score(term) else ():
            assert sum(ranker.explain(term, item).values()) == pytest.approx(ranker.score(term)[item])


@settings(max_examples=20, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_come_does_not_matter(rows, random):
    keyed = [(*row, number) for number, row in enumerate(rows)]
    one = GRank(2, 1.0, node_id=0).fit(keyed)
    random.shuffle(keyed)
    other = GRank(2, 1.0, node_id=0).fit(keyed + keyed[::2])
    assert one.similarity() == other.similarity()
    assert [one.rank(term).items for term in range(5)] == [other.rank(term).items for term in range(5)]


def test_top_terms_of_equal_count_are_taken_by_value():
    rows = [(0, term, 0) for term in (9, 10, 2)] + [(1, term, 0) for term in (2, 9)]
    assert GRank(2).fit(rows).raw_similarity(1) == (2 + 1) / 1  # {2, 9} of both, though 10 came before 2, and is "10"


def test_a_stranger_never_counts_as_much_as_the_owner():
    own = [("me", term, item) for term in "tu" for item in range(4)]
    ranker = GRank(node_id="me").fit([*own, ("stranger", "t", 0), ("twin", "t", 0)])
    assert ranker.similarity("me") == 1.0
    assert 0 < ranker.similarity("stranger") == ranker.similarity("twin") < 0.5
    assert GRank(node_id="me").fit([("you", "t", 0)]).similarity() == {"me": 0.0, "you": 0.0}


def test_sums_of_the_same_weights_are_ties():
    nodes = [("a", 3), ("b", 5), ("c", 7)]
    own = [("me", term, term) for term in range(9)]
    shared = [(node, term, term) for node, count in nodes for term in range(count)]
    clicks = [(node, "q", item) for item, order in ((2, nodes), (1, nodes[::-1])) for node, _ in order]
    items, scores = GRank(node_id="me").fit([*own, *shared, *clicks]).rank("q")
    assert items == [1, 2]
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)


def test_items_that_match_the_query_come_first():
    catalogue = {"a": ["rock"], "b": ["rock", "live"], "c": ["jazz"]}
    clicks = [("you", "rock", "c"), ("you", "rock", "c")]
    ranker = GRank(isolation=1, node_id="me", catalogue=catalogue).fit(clicks)
    assert ranker.rank("rock") == (["a", "b", "c"], [0.0, 0.0, 2.0])
    assert ranker.rank("rock", 1).items == ["a"]
    assert GRank(isolation=1, metadata_first=False, catalogue=catalogue).fit(clicks).rank("rock").items == [
        "c", "a", "b",
    ]  # fmt: skip
    assert ranker.order("rock", ["c", "b", "a", "c"]) == [1, 2, 0, 3]
    by_text = GRank(isolation=1, matcher=lambda query, item: query in item).fit([(1, "ro", "jazz"), (1, "ro", "rock")])
    assert by_text.rank("ro").items == ["rock", "jazz"]
    assert GRank(matcher=lambda query, item: query in item, library=["rock", "jazz"]).rank("ro").items == ["rock"]


def test_a_term_without_clicks_finds_the_library_then_the_log_then_what_is_popular():
    catalogue = {"a": ["rock"], "b": ["rock", "live"], "c": ["jazz"], "d": ["rock"]}
    ranker = GRank(isolation=1, catalogue=catalogue, library=["a", "c"])
    assert ranker.rank("rock") == (["a"], [0.0])
    ranker.partial_fit([(1, "live", "b"), (1, "live", "c"), (2, "jazz", "c"), (1, "live", "a")])
    assert ranker.rank("rock").items == ["a", "b"]
    assert ranker.rank("unknown").items == ["c", "a", "b"]
    alone = GRank(isolation=0, catalogue=catalogue, library=["a"]).fit([(1, "rock", "d")])
    assert alone.rank("rock").items == ["a", "d"]  # nobody alike has clicked under it
    assert GRank().rank("nothing") == ([], [])


def test_queries_and_rows_of_several_terms():
    ranker = GRank(isolation=1).fit([(1, ["rock", "live"], "a"), (1, "rock", "b"), (2, ("rock",), "a")])
    assert ranker.score("rock") == {"a": 2.0, "b": 1.0}
    assert ranker.score(["rock", "live"]) == {"a": 3.0, "b": 1.0}
    assert ranker.explain(["rock", "live"], "a") == {1: 2.0, 2: 1.0}
    assert ranker.n_rows_ == 3
    ranker.evict(1)
    assert ranker.score(["rock", "live"]) == {"a": 1.0, "b": 1.0}
    loud = GRank(isolation=1).fit([(1, ["rock"] * 64, "a")])  # one row is one click, however often it names its term
    assert loud.score("rock") == {"a": 1.0}
    assert loud.partial_fit([(0, "rock", "b")]).evict(1).score("rock") == {"b": 2.0}


def test_rerank_as_the_retrievers_companion():
    documents = [Document("d1", "rank of a matrix"), Document("d2", "rank of a tensor"), Document("d3", "cats")]
    ranker = GRank(isolation=1).fit([(1, ["tensor", "rank"], "d2"), (2, "cats", "d3")])
    assert isinstance(ranker, Reranker)
    ranking = ranker.rerank("Tensor rank", documents)
    assert [document.id for document in ranking.documents] == ["d2", "d1", "d3"]
    assert ranking.scores == (2.0, 0.0, 0.0)


def test_noise_swaps_what_is_shown_and_nothing_else():
    rows = [(0, "t", item) for item in "abcd" for _ in range(ord(item))]
    calm, noisy = GRank().fit(rows), GRank(noise=1.0, seed=3).fit(rows)
    shown = noisy.rank("t")
    assert shown.items != calm.rank("t").items
    assert dict(zip(*shown, strict=True)) == dict(zip(*calm.rank("t"), strict=True))
    assert noisy.score("t") == calm.score("t")
    assert GRank(noise=1.0, seed=3).fit(rows).rank("t") == shown


def test_rows_come_once_and_conflicts_are_counted():
    ranker = GRank(isolation=1).partial_fit([(1, "t", "a", 0), (1, "t", "a", 0), (1, "t", "b", 0), (1, "t", "a", 1)])
    assert ranker.rank("t") == (["a"], [2.0])
    assert ranker.n_conflicts_ == 1


def test_the_oldest_rows_of_others_go_first_and_do_not_come_back():
    ranker = GRank(isolation=1, max_rows=16, node_id="me")
    own = [("me", "t", "mine")] * 4
    ranker.partial_fit(own).partial_fit([("you", "t", f"item {number}") for number in range(12)])
    assert ranker.n_rows_ == 16
    ranker.partial_fit([("you", "t", "item 12")])
    assert ranker.n_rows_ == 15  # a sixteenth, and what is too much
    assert set(ranker.score("t")) == {"mine", *(f"item {number}" for number in range(2, 13))}
    assert ranker.score("t")["mine"] == 8.0
    ranker.partial_fit([("you", "t", "item 0", 0)])
    assert ranker.score("t", ["item 0"]) == {"item 0": 0.0}
    assert ranker.log.n_stale == 1
    assert GRank(max_rows=2).fit(own[:1] + [(0, "u", "a")] * 3).n_rows_ == 2  # nothing of others is left


def test_a_window_of_time_by_the_owners_clock():
    ranker = GRank(isolation=1, window=10, node_id="me")
    ranker.partial_fit([("me", "t", "a", 0, 100), ("you", "t", "b", 0, 95), ("you", "t", "c", 1, 10**9)])
    ranker.partial_fit([("you", "t", "old", 2, 89)])
    assert set(ranker.score("t")) == {"a", "b", "c"}  # what claims to come from the future pushes nothing out
    ranker.partial_fit([("me", "u", "a", 1, 106)])
    assert set(ranker.score("t")) == {"a", "c"}


def test_names_that_nobody_uses_are_forgotten():
    ranker = GRank(isolation=1, max_rows=64, node_id="me").fit([("me", "t", "mine")])
    for number in range(1500):
        ranker.partial_fit([(f"sybil {number}", "t", f"item {number}")])
    assert sum(map(len, ranker.log.vocabulary)) < 1500
    assert ranker.score("t", ["mine", "item 1499"]) == {"mine": 2.0, "item 1499": pytest.approx(1.25)}
    assert ranker.log.position == 1501
    assert len(ranker.log.since(1499)) == 2
    assert ranker.partial_fit([("me", "t", "mine")]).log.next_number("me") == 2


def test_a_saved_ranker_ranks_the_same(tmp_path):
    options = {"isolation": 0.5, "node_id": "me", "match": "pairs", "max_rows": 32, "library": ["a", "c"]}
    ranker = GRank(**options).fit([("me", "t", "a"), ("you", "t", "b"), ("you", ("u", "v"), "a"), ("you", 3, "a")])
    ranker.evict(1).partial_fit([("you", "u", "b", 2)])
    again = GRank.load(ranker.save(tmp_path / "ranker.npz"))
    assert list(again.log) == list(ranker.log)
    assert again.rank(["t", "u"]) == ranker.rank(["t", "u"])
    assert again.similarity() == ranker.similarity()
    assert (again.n_conflicts_, again.metadata.library) == (1, {"a", "c"})
    assert again.partial_fit([("you", "t", "b", 0)]).n_rows_ == ranker.n_rows_  # forgotten before it was saved
    assert again.log.next_number("me") == 1
    with pytest.raises(TypeError, match=r"1\.5 is float; only text .* whole numbers"):
        GRank().fit([(0, "t", 1.5)]).save(tmp_path / "other.npz")


def test_numbers_of_numpy_and_tuples_are_names_as_others_are(tmp_path):
    items = np.array([10, 2])
    ranker = GRank(node_id=("host", 1), library=[("host", 7)], isolation=np.float64(0.5))
    ranker.fit([(("host", 1), "t", item) for item in items]).partial_fit([(node, "t", 10) for node in np.arange(2)])
    assert ranker.rank("t").items == [10, 2]
    assert GRank().fit([(0, "t", item) for item in items]).rank("t").items == [2, 10]
    assert GRank(catalogue={item: ["t"] for item in items}).rank("t").items == [2, 10]
    ranker.evict(1)
    again = GRank.load(ranker.save(tmp_path / "ranker.npz"))
    assert again.node_id == ("host", 1)
    assert again.rank("t") == ranker.rank("t")
    assert again.metadata.library == {("host", 7)}
    assert again.log.forgotten == ranker.log.forgotten


@pytest.mark.parametrize("damage", [lambda content: b"nothing", lambda content: content[:-30], lambda content: b""])
def test_damaged_files(damage, tmp_path):
    path = GRank().fit([(0, "t", "a")]).save(tmp_path / "ranker.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="is damaged, or no saved GRank"):
        GRank.load(path)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GRank(top_k=0), "top_k=0"),
        (lambda: GRank(isolation=-1), "isolation=-1"),
        (lambda: GRank(isolation=float("nan")), "isolation=nan"),
        (lambda: GRank(noise=2), "noise=2"),
        (lambda: GRank(max_rows=0), "max_rows=0"),
        (lambda: GRank(window=-1), "window=-1"),
        (lambda: GRank(variant="upside-down"), "variant='upside-down' is not known; accepted: paper, code"),
        (lambda: GRank(match="terms"), "match='terms'"),
        (lambda: GRank(catalogue={"a": ["t"]}, library=["z"]), "library has 'z'"),
        (lambda: GRank().rank("t", 0), "k=0"),
        (lambda: GRank().evict(-1), "count=-1"),
        (lambda: GRank().partial_fit([(1, "t", "a"), (1, "t")]), "row 1 is (1, 't'): (node, term, item)"),
        (lambda: GRank().partial_fit(["abc"]), "row 0 is 'abc'"),
        (lambda: GRank().partial_fit([(1, "t", "a", 0, 0, 0)]), "row 0 is"),
        (lambda: GRank().partial_fit([(1, "t", "a", 2**31)]), "number=2147483648"),
        (lambda: GRank().partial_fit([{"node": 1, "term": "t", "item": "a", "key": 1}]), "'key' is no column"),
        (lambda: GRank().partial_fit([{"node": 1, "term": "t"}]), "item is missing"),
        (lambda: GRank(catalogue={"a": ["t"]}).partial_fit([(1, "t", "a"), (1, "t", "z")]), "row 1 clicks 'z'"),
        (lambda: GRank().partial_fit([(1, None, "z")]), "term is missing"),
        (lambda: GRank().partial_fit([(1, "t", "a"), (1, [], "z")]), "row 1 is (1, [], 'z'): term is missing"),
        (lambda: GRank().partial_fit([(1, ["t", None], "z")]), "term is missing"),
        (lambda: GRank().partial_fit([(float("nan"), "t", "z")]), "node is missing"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_a_bad_row_leaves_nothing_behind():
    ranker = GRank(catalogue={"a": ["t"]})
    for rows in ([(1, "t", "a"), (1, "t")], [(1, "t", "a"), (1, "t", "z")]):
        with pytest.raises(ValueError, match="row 1"):
            ranker.partial_fit(rows)
    assert ranker.n_rows_ == 0


def test_unknown_nodes_and_queries(unchecked):
    with pytest.raises(LookupError, match="node 7 has no row in the log; known are 0"):
        GRank().similarity(7)
    with pytest.raises(LookupError, match="node 7 has no row"):
        GRank().raw_similarity(7)
    for query in ({"a": 1}, None, 1.5, ["a", None]):
        with pytest.raises(TypeError, match="a list of terms is needed"):
            GRank().rank(query)
    assert GRank().similarity() == {0: 0.0}  # an empty union is 0, not 0 / 0


def test_measures():
    assert positional_distance("abc", "cab") == 4
    assert top_item_share(["ab", "ba", "", "c"], ["a", "a", "a", ""]) == pytest.approx(1 / 3)
    assert top_item_share([], []) == 0.0
