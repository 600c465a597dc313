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


def test_by_hand():
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
        (lambda: ap_correlation("ab", "ac"), "not the same items"),
        (lambda: ap_correlation("a", "a"), "1 items are too few"),
        (lambda: rank_biased_overlap("aa", "a"), "stands twice"),
        (lambda: rank_biased_overlap("a", "a", 1.0), "p=1.0"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
