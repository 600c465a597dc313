"""G-Rank against independent derivations, and against counting from scratch."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search.click_log import ClickLog
from fullrank.search.g_rank import GRank, positional_distance, top_item_share

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
@given(ROWS, st.sampled_from(["paper", "code"]), st.sampled_from(["items", "pairs"]), st.integers(0, 20))
def test_counting_row_by_row_is_counting_from_scratch(rows, variant, match, forgotten):
    ranker = GRank(3, 0.5, variant, match, node_id=0)
    for row in rows:
        ranker.partial_fit([row])
    ranker.evict(forgotten)
    left = rows[forgotten:]
    fresh = GRank(3, 0.5, variant, match, node_id=0).fit(left)
    assert ranker.n_rows_ == len(left)
    assert ranker.known_nodes_ == fresh.known_nodes_
    for node in ranker.known_nodes_:
        expected = by_definition(left, 0, node, 3, variant, match)
        assert ranker.raw_similarity(node) == pytest.approx(expected)
        assert ranker.similarity(node) == fresh.similarity(node)
    for term in range(5):
        assert ranker.rank(term) == fresh.rank(term)
        for item, score in zip(*ranker.rank(term), strict=True):
            if ranker.score(term):
                assert sum(ranker.explain(term, item).values()) == pytest.approx(score)


def test_metadata_noise_and_queries_of_several_terms():
    catalogue = {"a": ["rock"], "b": ["rock", "live"], "c": ["jazz"]}
    ranker = GRank(isolation=1, node_id="me", catalogue=catalogue).fit([("you", "rock", "c"), ("you", "rock", "c")])
    assert ranker.rank("rock")[0] == ["a", "b", "c"]
    assert GRank(isolation=1, node_id="me", metadata_first=False, catalogue=catalogue).fit([("you", "rock", "c")]).rank(
        "rock"
    )[0] == ["c", "a", "b"]
    assert ranker.rank("unknown")[0] == ["c"]
    assert ranker.rank(["rock", "jazz"])[1] == [2.0, 0.0, 0.0]
    assert ranker.order("rock", ["c", "b"]) == [1, 0]
    by_text = GRank(matcher=lambda query, item: query in item).fit([(0, "ro", "rock"), (0, "ro", "jazz")])
    assert by_text.rank("ro")[0] == ["rock", "jazz"]
    noisy = GRank(isolation=1, noise=1.0, catalogue=catalogue, seed=3)
    assert noisy.rank("rock")[0] == ["b", "a"]
    assert GRank().rank("nothing") == ([], [])


def test_rows_come_once_and_conflicts_are_counted():
    ranker = GRank(isolation=1).partial_fit([(1, "t", "a", 0), (1, "t", "a", 0), (1, "t", "b", 0), (1, "t", "a", 1)])
    assert ranker.rank("t") == (["a"], [2.0])
    assert ranker.n_conflicts_ == 1
    assert GRank(max_rows=2).fit([(1, "t", letter) for letter in "abc"]).rank("t")[0] == ["b", "c"]


def test_a_saved_ranker_ranks_the_same(tmp_path):
    ranker = GRank(isolation=0.5, node_id="me", match="pairs").fit(
        [("me", "t", "a"), ("you", "t", "b"), ("you", "u", "a")]
    )
    again = GRank.load(ranker.save(tmp_path / "ranker"))
    assert again.rank("t") == ranker.rank("t")
    assert again.similarity() == ranker.similarity()
    (tmp_path / "ranker").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged, or no saved GRank"):
        GRank.load(tmp_path / "ranker")


@settings(max_examples=20, deadline=None)
@given(ROWS)
def test_a_log_survives_its_forms(rows):
    log = ClickLog()
    for row in rows:
        log.append(*row)
    again = ClickLog.from_bytes(log.to_bytes())
    assert list(again) == list(log)
    assert ClickLog().merge(log) == list(log)
    assert log.merge(again) == []
    assert log.since(len(rows) // 2) == list(log)[len(rows) // 2 :]
    assert log.nbytes <= 50 * len(rows)


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet", "log.bin"])
def test_a_log_on_disk(name, tmp_path):
    log = ClickLog()
    log.merge([("me", "t", "a", 0), ("you", "u", "b", 7)])
    assert list(ClickLog.load(log.save(tmp_path / name))) == list(log)


def test_bad_logs(tmp_path):
    log = ClickLog()
    with pytest.raises(ValueError, match="item=None"):
        log.append(1, "t", None)
    with pytest.raises(ValueError, match="number=-1"):
        log.append(1, "t", "a", -1)
    with pytest.raises(ValueError, match="row 1 is "):
        log.merge([(1, "t", "a", 0), (1, "t")])
    with pytest.raises(ValueError, match="position=-1"):
        log.since(-1)
    with pytest.raises(IndexError, match="the log has 1 rows"):
        log[5]
    with pytest.raises(ValueError, match="no click log"):
        ClickLog.from_bytes(b"zip")
    with pytest.raises(ValueError, match="is damaged"):
        ClickLog.from_bytes(log.to_bytes()[:-3])
    (tmp_path / "log.jsonl").write_text('{"node": 1, "term": 2, "item": 3, "number": 0}\n{"node": 1}\n')
    with pytest.raises(ValueError, match="line 2: node, term, item and number"):
        ClickLog.load(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="line 1 is no JSON"):
        ClickLog.load(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GRank(top_k=0), "top_k=0"),
        (lambda: GRank(isolation=-1), "isolation=-1"),
        (lambda: GRank(isolation=float("nan")), "isolation=nan"),
        (lambda: GRank(noise=2), "noise=2"),
        (lambda: GRank(max_rows=0), "max_rows=0"),
        (lambda: GRank(variant="upside-down"), "variant='upside-down' is not known; accepted: paper, code"),
        (lambda: GRank(match="terms"), "match='terms'"),
        (lambda: GRank().partial_fit([(1, "t")]), "row 0 is (1, 't')"),
        (lambda: GRank().partial_fit(["abc"]), "row 0 is 'abc'"),
        (lambda: GRank(catalogue={"a": ["t"]}).partial_fit([(1, "t", "z")]), "row 0 clicks 'z'"),
        (lambda: GRank().partial_fit([(1, None, "z")]), "row 0: term=None"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_unknown_nodes_and_queries(unchecked):
    with pytest.raises(LookupError, match="node 7 has no row in the log; known are 0"):
        GRank().similarity(7)
    with pytest.raises(TypeError, match="is dict; a term, or a list of terms"):
        GRank().rank({"a": 1})
    assert GRank().similarity() == {0: 0.0}


def test_measures():
    assert positional_distance("abc", "cab") == 4
    assert top_item_share(["ab", "ba", "", "c"], ["a", "a", "a", ""]) == pytest.approx(1 / 3)
