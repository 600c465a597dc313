"""Measures of padded lists, against the benchmark's own numbers and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import dcg_score, ndcg_score

from fullrank.order.list_measures import benchmark_table, dcg, err, ndcg, padded_lists, pnr


@pytest.mark.golden("baidu-ultr", kind="benchmark metrics")
def test_agrees_with_the_benchmark(case):
    spec = case.spec
    lists = [[tuple(entry) for entry in query] for query in spec["queries"]]
    tolerance = spec["tolerance"]
    cuts = sorted({int(name.partition("@")[2]) for name in spec["results"] if "@" in name})
    found = benchmark_table(lists, cuts)
    for name, value in spec["results"].items():
        if name != "pnr":
            assert found[name.removeprefix("all_")] == pytest.approx(value, abs=tolerance, nan_ok=True), name
    assert found["pnr"] == pytest.approx(spec["results"]["pnr"], abs=tolerance)
    scores, grades, mask = padded_lists(lists)
    by_list = dcg(scores, grades, 10, mask=mask, ties="last")
    assert by_list == pytest.approx([query["dcg10"] for query in spec["per_query"]], abs=tolerance)


def test_is_scikit_learn():
    rng = np.random.default_rng(0)
    scores, grades = rng.standard_normal((20, 8)), rng.integers(0, 5, (20, 8))
    gains = 2.0**grades - 1
    assert dcg(scores, grades, 5).mean() == pytest.approx(dcg_score(gains, scores, k=5))
    assert ndcg(scores, grades, 5).mean() == pytest.approx(ndcg_score(gains, scores, k=5))
    assert ndcg(scores, grades, gain="linear").mean() == pytest.approx(ndcg_score(grades, scores))


def test_padding_ties_and_lists_without_relevant_documents():
    scores, grades = np.array([[1.0, 1.0, 0.5]]), np.array([[0, 2, 1]])
    assert dcg(scores, grades, 1) == 0
    assert dcg(scores, grades, 1, ties="last") == 3
    padded = np.pad(scores, ((0, 0), (0, 2)), constant_values=9), np.pad(grades, ((0, 0), (0, 2)))
    mask = np.array([[True, True, True, False, False]])
    assert ndcg(*padded, mask=mask) == pytest.approx(ndcg(scores, grades))
    assert err(*padded, mask=mask) == pytest.approx(err(scores, grades))
    assert pnr(*padded, mask=mask) == pnr(scores, grades) == (1, 1)
    nothing = np.zeros((1, 3), dtype=int)
    assert np.isnan(ndcg(scores, nothing))
    assert ndcg(scores, nothing, empty="zero") == 0
    assert err(np.array([[2.0, 1.0]]), np.array([[4, 4]])) == pytest.approx(15 / 16 + 1 / 16 * 15 / 16 / 2)


def test_bands_are_tables_of_their_queries():
    frequent, middling = [(1.0, 2), (0.5, 4)], [(1.0, 0), (2.0, 1), (2.0, 3)]
    table = benchmark_table([frequent, middling, frequent], [1, 3], buckets=[0, 5, 2])
    names = [name for name in table if "_" not in name]
    assert list(table) == [*names, *(f"{band}_{name}" for band in ("high", "mid") for name in names)]
    for band, lists in (("high", [frequent, frequent]), ("mid", [middling])):
        alone = benchmark_table(lists, [1, 3])
        assert [table[f"{band}_{name}"] for name in alone] == pytest.approx(list(alone.values()), nan_ok=True)
    assert table["dcg@1"] == pytest.approx((2 * table["high_dcg@1"] + table["mid_dcg@1"]) / 3)
    assert np.isnan(table["high_ndcg@3"])  # no list is that long
    assert not np.isnan(benchmark_table([frequent], [3], official=False)["ndcg@3"])


def test_bad_calls(unchecked):
    scores = np.zeros((1, 2))
    for call, words in [
        (lambda: dcg(scores, np.zeros((1, 3), dtype=int)), "do not fit"),
        (lambda: dcg(scores, np.array([[0, -1]])), r"grades\[0, 1\] is -1"),
        (lambda: dcg(np.array([[np.nan, 0]]), np.array([[0, 1]])), r"scores\[0, 0\] is nan"),
        (lambda: dcg(scores, np.array([[0, 1]]), gain="cubic"), "gain='cubic'"),
        (lambda: dcg(scores, np.array([[0, 1]]), ties="random"), "ties='random'"),
        (lambda: dcg(scores, np.array([[0, 1]]), 0), "k=0"),
        (lambda: ndcg(scores, np.array([[0, 1]]), empty="drop"), "empty='drop' is not known; accepted: skip, zero"),
        (lambda: err(scores, np.array([[0, 5]])), "a grade of 5, above top_grade=4"),
        (lambda: pnr(scores, np.array([[0, -1]])), r"grades\[0, 1\] is -1; grades are 0 or more"),
        (lambda: benchmark_table([]), r"lists=\[\]"),
        (lambda: benchmark_table([[(1.0, 1)]], [0]), "k=0"),
        (lambda: benchmark_table([[(1.0, 1)]], buckets=[]), "0 buckets for 1 lists"),
        (lambda: benchmark_table([[(1.0, 1)]], buckets=[10]), "bucket 10 is not known"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
