"""Tests of significance and correlations of rankings, against SciPy and by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fullrank.order import evaluate
from fullrank.order.rank_correlation import ap_correlation, kendall_tau, rank_biased_overlap, weighted_tau
from fullrank.order.significance import compare, holm, paired_test

VALUES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=20)


@settings(max_examples=25, deadline=None)
@given(VALUES)
def test_the_paired_test_is_students(pairs):
    first, second = ({str(n): pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))
    found = paired_test(first, second)
    a, b = np.array(pairs).T
    if np.ptp(a - b) > 1e-9:
        assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-6)
    assert found.mean == pytest.approx((a - b).mean())
    mirrored = paired_test(second, first)
    assert (mirrored.wins, mirrored.losses) == (found.losses, found.wins)


def test_randomisation_agrees_with_students_and_repeats():
    rng = np.random.default_rng(0)
    first = {str(n): float(value) for n, value in enumerate(rng.normal(0.3, 1, 40))}
    zero = dict.fromkeys(first, 0.0)
    random = paired_test(first, zero, "randomization")
    assert random == paired_test(first, zero, "randomization")
    assert random.p == pytest.approx(paired_test(first, zero).p, abs=0.03)
    assert paired_test(first, first).p == 1


def test_holm_and_the_table():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    qrels = {f"q{n}": {"a": 1} for n in range(6)}
    good = {f"q{n}": {"a": 2.0, "b": 1.0} for n in range(6)}
    poor = {f"q{n}": {"a": float(n % 2), "b": 0.5} for n in range(6)}
    systems = {name: evaluate(qrels, run, "RR") for name, run in (("good", good), ("poor", poor), ("same", good))}
    rows = compare(systems, "poor", "RR")
    assert [row["system"] for row in rows] == ["good", "same"]
    assert rows[0]["difference"] == pytest.approx(0.25)
    with pytest.raises(LookupError, match="baseline='best'"):
        compare(systems, "best", "RR")
    with pytest.raises(LookupError, match="good was not measured by 'AP'"):
        compare(systems, "poor", "AP")


def test_differences_without_spread_and_with_hardly_any():
    same = paired_test({str(n): 1.0 for n in range(5)}, {str(n): 0.5 for n in range(5)})
    assert same == (0.5, 0.0, 5, 0)
    nearly = paired_test({"a": 0.3, "b": 0.4, "c": 0.5}, {"a": 0.2, "b": 0.3, "c": 0.4})
    assert nearly.p < 1e-20


def test_randomisation_counts_the_signs():
    # All eight signs of three equal differences: two of them, all plus and all minus, sum up as far from 0.
    three = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}
    zero = dict.fromkeys(three, 0.0)
    assert paired_test(three, zero, "randomization").p == pytest.approx(2 / 8, abs=0.02)
    assert paired_test(three, zero, "randomization", seed=1) != paired_test(three, zero, "randomization", seed=2)
    many = {str(n): float(n % 3 - 1) for n in range(300_000)}
    assert 0 < paired_test(many, dict.fromkeys(many, 0.0), "randomization", rounds=20).p <= 1


ORDERS = st.permutations(list(range(7)))


@settings(max_examples=25, deadline=None)
@given(ORDERS, ORDERS)
def test_correlations_have_their_bounds(first, second):
    scores = [{item: -float(order.index(item)) for item in order} for order in (first, second)]
    assert kendall_tau(*scores) == pytest.approx(
        stats.kendalltau(*([s[i] for i in range(7)] for s in scores)).statistic
    )
    assert -1 - 1e-9 <= weighted_tau(*scores) <= 1 + 1e-9
    assert ap_correlation(first, first) == 1
    assert ap_correlation(first, first[::-1]) == -1
    assert ap_correlation(first, second, symmetric=True) == pytest.approx(ap_correlation(second, first, symmetric=True))
    assert rank_biased_overlap(first, first) == pytest.approx(1)
    assert rank_biased_overlap(first, second) == pytest.approx(rank_biased_overlap(second, first))
    assert 0 <= rank_biased_overlap(first, second[:3]) <= 1 + 1e-9


SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3).map(float), min_size=1)


@settings(max_examples=25, deadline=None)
@given(ORDERS, ORDERS)
def test_a_ranking_is_its_scores(first, second):
    scores = [{item: -float(order.index(item)) for item in reversed(order)} for order in (first, second)]
    for measure in (kendall_tau, weighted_tau, ap_correlation, rank_biased_overlap):
        assert measure(first, second) == pytest.approx(measure(*scores))
        assert measure(first, scores[1]) == pytest.approx(measure(scores[0], second))


@settings(max_examples=25, deadline=None)
@given(SCORES, SCORES, st.floats(0.1, 0.95))
def test_overlap_with_ties(first, second, p):
    overlap = rank_biased_overlap(first, second, p)
    assert -1e-12 <= overlap <= 1 + 1e-9
    assert overlap == pytest.approx(rank_biased_overlap(second, first, p))
    assert rank_biased_overlap(first, first, p) == pytest.approx(1)
    assert (overlap > 0) == bool(first.keys() & second.keys())


@settings(max_examples=25, deadline=None)
@given(ORDERS, ORDERS, st.integers(1, 7))
def test_overlap_is_equation_32(first, second, s):
    L, S, p = first, second[:s], 0.8
    l, X = len(L), [len(set(L[:d]) & set(S[:d])) for d in range(len(L) + 1)]  # noqa: E741
    agreement = sum(X[d] / d * p**d for d in range(1, l + 1))
    missing = sum(X[s] * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    known = (1 - p) / p * (agreement + missing) + ((X[l] - X[s]) / l + X[s] / s) * p**l
    assert rank_biased_overlap(L, S, p) == pytest.approx(known)


def test_by_hand():
    # a, then b and c tied; against a, b, c: agreement 1, then 2 * 2 / (3 + 2), then 1.
    tied = {"a": 2.0, "b": 1.0, "c": 1.0}
    assert rank_biased_overlap(tied, "abc", p=0.5) == pytest.approx(0.5 * (1 + 0.5 * 0.8 + 0.25) + 0.125)
    assert kendall_tau(tied, "abc") == pytest.approx(2 / (2 * 3) ** 0.5)
    assert np.isnan(kendall_tau(dict.fromkeys("abc", 1.0), "abc"))
    assert ap_correlation("abc", "acb") == pytest.approx(2 / 2 * (1 / 1 + 1 / 2) - 1)
    assert rank_biased_overlap("abc", "xyz") == 0
    assert rank_biased_overlap("", "") == 1
    assert rank_biased_overlap("", "a") == 0
    # Depth 1 agrees by 1, depth 2 by 1/2; what follows as at the last depth.
    assert rank_biased_overlap("ab", "ac", p=0.5) == pytest.approx(0.5 / 0.5 * (0.5 + 0.5 * 0.25) + 0.5 * 0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_test({"a": 1.0, "b": 1.0}, {"a": 1.0}), "other queries: 'b'"),
        (lambda: paired_test({"a": 1.0}, {"a": 1.0}), "1 queries are too few"),
        (lambda: paired_test({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, "sign"), "test='sign'"),
        (lambda: kendall_tau({1: 1.0}, {2: 1.0}), "other items"),
        (lambda: kendall_tau({1: 1.0}, {1: 1.0}), "1 items are too few"),
        (lambda: ap_correlation("ab", "ac"), "other items"),
        (lambda: ap_correlation("ab", {"a": 1.0, "b": 1.0}), "reference has ties"),
        (lambda: weighted_tau("ab", {"a": 1.0, "b": float("nan")}), "the score of 'b' is NaN"),
        (lambda: kendall_tau("aab", "ab"), "'a' stands twice"),
        (lambda: paired_test({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, "randomization", 0), "rounds=0"),
        (lambda: ap_correlation("a", "a"), "1 items are too few"),
        (lambda: rank_biased_overlap("aa", "a"), "stands twice"),
        (lambda: rank_biased_overlap("a", "a", 1.0), "p=1.0"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
