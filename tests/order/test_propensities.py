"""Examination that is known, estimated from simulated clicks, and what inverse propensities make of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.order import ClickSimulator, estimate_propensities, make_objective
from fullrank.order.ultr_ranker import ULTRRanker

RANKS = 6
TRUE = ClickSimulator().propensities(RANKS) / ClickSimulator().propensities(1)


@pytest.fixture(scope="module")
def collection():
    """Features and grades of the documents of 40 queries."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 8, 3)).astype(np.float32)
    return features, np.clip(np.round(features[..., 0] * 1.5 + 1.5), 0, 4).astype(int)


def ranked(collection, sessions, rankers, rng):
    """Lists of good, bad or random rankers, with what was clicked; the query decides nothing about the ranker."""
    features, grades = collection
    query = rng.integers(len(features), size=sessions)
    order = np.stack([np.argsort(-(features @ weights), axis=1)[:, :RANKS] for weights in rankers])
    documents = order[rng.integers(len(rankers), size=sessions), query]
    return documents, query, clicked(grades[query[:, None], documents], rng)


def clicked(grades, rng):
    return ClickSimulator().simulate(grades, rng).clicks


RANKERS = ([1.0, 0.5, 0.0], [0.6, -1.0, 0.3], [0.8, 0.3, 1.0])


@pytest.mark.parametrize("method", ["harvest", "adjacent", "em", "dla"])
@pytest.mark.parametrize("unequal", [False, True])
def test_rankers_that_differ_tell_the_examination(collection, method, unequal):
    rng = np.random.default_rng(1)
    documents, query, clicks = ranked(collection, 60_000, RANKERS, rng)
    mask = np.arange(RANKS) < rng.integers(2, RANKS + 1, size=len(query))[:, None] if unequal else None
    clicks = clicks if mask is None else clicks * mask
    found = estimate_propensities(clicks, documents, query, mask, method)
    np.testing.assert_allclose(found, TRUE, atol=0.07)
    assert np.abs(found - TRUE).mean() < 0.035


def test_shuffled_lists_tell_the_examination(collection):
    rng = np.random.default_rng(2)
    _, grades = collection
    query = rng.integers(len(grades), size=60_000)
    lengths = rng.integers(2, RANKS + 1, size=len(query))
    mask = np.arange(RANKS) < lengths[:, None]
    # Long lists are of better documents, which a ratio of all clicks would take for examination.
    shown = np.where(mask, rng.permuted(grades[query], axis=1)[:, :RANKS] // (5 - lengths[:, None] // 2), 0)
    found = estimate_propensities(clicked(shown, rng) * mask, mask=mask, method="shuffle")
    np.testing.assert_allclose(found, TRUE, atol=0.05)


def test_swaps_tell_the_examination(collection):
    rng = np.random.default_rng(3)
    features, grades = collection
    query = rng.integers(len(grades), size=60_000)
    documents = np.argsort(-features[..., 0], axis=1)[query, :RANKS]
    swapped = rng.integers(1, RANKS + 1, size=len(query))
    rows = np.arange(len(query))
    first = documents[:, 0].copy()
    documents[:, 0] = documents[rows, swapped - 1]
    documents[rows, swapped - 1] = first
    clicks = clicked(grades[query[:, None], documents], rng)
    found = estimate_propensities(clicks, method="swap", swapped=swapped)
    np.testing.assert_allclose(found, TRUE, atol=0.05)


def test_estimated_propensities_rank_as_the_true_ones_do(collection):
    rng = np.random.default_rng(4)
    features, grades = collection
    documents, query, clicks = ranked(collection, 12_000, RANKERS, rng)
    found = estimate_propensities(clicks, documents, query)
    lists = torch.from_numpy(features[query[:, None], documents])
    everything = features.reshape(-1, 3), grades.ravel(), np.repeat(np.arange(40), 8)
    weights, scores = [], []
    for objective in (make_objective("ips", RANKS, e) for e in (found, TRUE)):
        ranker = ULTRRanker(objective, epochs=2, lr=0.2).fit_lists(lists, clicks)
        weights.append(ranker.scorer_.weight.detach().numpy().ravel())
        scores.append(ranker.score(*everything))
    assert scores[0] == pytest.approx(scores[1], abs=0.005)
    assert scores[0] > 0.97
    assert np.dot(*weights) / np.prod([np.linalg.norm(w) for w in weights]) > 0.999


def test_dual_learning_agrees_with_expectation_maximisation_on_lists_that_all_differ():
    rng = np.random.default_rng(6)
    sessions = 20_000
    documents = np.argsort(rng.random((sessions, 8)), axis=1)[:, :RANKS]
    mask = np.arange(RANKS) < rng.integers(1, RANKS + 1, size=sessions)[:, None]
    clicks = clicked(np.array([0, 4, 1, 3, 2, 0, 4, 1])[documents], rng) * mask
    found = estimate_propensities(clicks, documents, mask=mask, method="dla")
    np.testing.assert_allclose(found, TRUE, atol=0.04)
    np.testing.assert_allclose(found, estimate_propensities(clicks, documents, mask=mask, method="em"), atol=0.04)
    again, other = (
        estimate_propensities(clicks, documents, mask=mask, method="dla", random_state=seed) for seed in (0, 1)
    )
    assert np.array_equal(found, again)
    np.testing.assert_allclose(found, other, atol=0.02)
    assert not np.array_equal(found, other)


def test_dual_learning_is_not_misled_by_users_who_click_more():
    """Every user clicks on anything, or on little: harvesting from so few documents takes that for relevance."""
    rng = np.random.default_rng(7)
    ranker = rng.integers(2, size=40_000)
    documents = np.where(ranker[:, None], [[1, 0, 2]], [[0, 1, 2]])
    documents[:10_000] = [2, 0, 1]
    eager = np.where(ranker, 1.0, 0.3)
    eager[:10_000] = 0.6
    clicks = rng.random((40_000, 3)) < eager[:, None] * np.array([1, 0.6, 0.3]) * np.array([0.9, 0.6, 0.4])[documents]
    found = estimate_propensities(clicks, documents, method="dla")
    np.testing.assert_allclose(found, [1, 0.6, 0.3], atol=0.04)
    assert np.abs(estimate_propensities(clicks, documents, method="em") - [1, 0.6, 0.3]).max() > 0.1


def test_dual_learning_of_one_rank_and_of_one_without_clicks():
    assert estimate_propensities(np.array([[1], [0]]), np.array([[1], [2]]), method="dla").tolist() == [1]
    documents = np.tile([[1, 2, 3], [2, 3, 1], [3, 1, 2]], (100, 1))
    clicks = np.tile([[1, 1, 0], [1, 0, 0], [0, 1, 0]], (100, 1))
    found = estimate_propensities(clicks, documents, method="dla")
    assert found[0] == 1
    assert found[2] < 0.005


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.floats(0.05, 1), min_size=1, max_size=5),
    st.lists(st.floats(0.1, 0.9), min_size=5, max_size=5),
    st.sampled_from(["harvest", "adjacent"]),
)
def test_expected_clicks_give_the_truth(examination, relevance, method):
    """Every document at every rank, clicked in exact proportion."""
    ranks, repeats = len(examination), 400
    documents = np.repeat([np.roll(np.arange(5), shift)[:ranks] for shift in range(5)], repeats, axis=0)
    share = np.tile(np.arange(repeats) / repeats, 5)[:, None]
    clicks = share < np.minimum(1, np.sort(examination)[::-1]) * np.array(relevance)[documents]
    found = estimate_propensities(clicks, documents, method=method)
    expected = np.sort(examination)[::-1]
    np.testing.assert_allclose(found, np.maximum(expected / expected[0], 1e-3), atol=0.02 / expected[0])


def test_order_of_sessions_changes_nothing(collection):
    rng = np.random.default_rng(5)
    documents, query, clicks = ranked(collection, 3_000, RANKERS, rng)
    order = rng.permutation(len(query))
    for method in ("harvest", "adjacent", "em", "dla"):
        expected = estimate_propensities(clicks, documents, query, method=method)
        found = estimate_propensities(clicks[order], documents[order], query[order], method=method)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        make_objective("ips", RANKS, found)


CLICKS, DOCUMENTS = np.array([[1, 1], [0, 1]]), np.array([[1, 2], [2, 1]])


def test_more_examined_than_the_first_is_told():
    with pytest.warns(UserWarning, match=r"rank 2 appears to be examined 2\.00 times as much as the first; 1 is used"):
        assert estimate_propensities(CLICKS, method="shuffle").tolist() == [1, 1]
    silent = np.array([[1, 0], [1, 0]])
    assert estimate_propensities(silent, method="shuffle").tolist() == [1, 1e-3]
    assert estimate_propensities(silent, method="randomization").tolist() == [1, 1e-3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: estimate_propensities(CLICKS, method="random"),
            "method='random' is not known; accepted: randomization, shuffle",
        ),
        (lambda: estimate_propensities(CLICKS), "method='harvest' needs documents"),
        (lambda: estimate_propensities(CLICKS, method="swap"), "method='swap' needs swapped"),
        (lambda: estimate_propensities(CLICKS, method="swap", swapped=[1]), "swapped is int64 of shape (1,)"),
        (lambda: estimate_propensities(CLICKS, method="swap", swapped=[1, 3]), "swapped[1] is 3; a rank from 1"),
        (
            lambda: estimate_propensities(CLICKS, method="swap", swapped=[1, 1]),
            "rank 2 needs sessions with",
        ),
        (
            lambda: estimate_propensities(np.array([[0, 1], [0, 1]]), method="swap", swapped=[1, 2]),
            "no click at rank 1 to compare rank 2 with",
        ),
        (
            lambda: estimate_propensities(np.array([[0, 1]]), method="shuffle"),
            "no list of 1 documents or more has a click at rank 1",
        ),
        (lambda: estimate_propensities(CLICKS, np.array([[1, 2], [1, 2]])), "no documents connect rank 2 with rank 1"),
        (
            lambda: estimate_propensities(np.array([[0, 1], [0, 1]]), DOCUMENTS),
            "no document that was also seen at another rank was clicked at rank 1",
        ),
        (lambda: estimate_propensities(CLICKS, method="dla"), "method='dla' needs documents"),
        (
            lambda: estimate_propensities(CLICKS, np.array([[1, 2], [1, 2]]), method="dla"),
            "no documents connect rank 2 with rank 1",
        ),
        (
            lambda: estimate_propensities(np.array([[0, 1], [0, 1]]), DOCUMENTS, method="dla"),
            "no document was clicked at rank 1",
        ),
        (
            lambda: estimate_propensities(CLICKS, np.array([[1, 2], [1, 2]]), method="adjacent"),
            "ranks 1 and 2: no document was seen at both; method='harvest' compares others",
        ),
        (
            lambda: estimate_propensities(np.array([[0, 1], [0, 1]]), DOCUMENTS, method="adjacent"),
            "ranks 1 and 2: no document was clicked at the first of them",
        ),
        (lambda: estimate_propensities(CLICKS, DOCUMENTS, mask=np.zeros((2, 2), bool)), "2 sessions hold no document"),
        (lambda: estimate_propensities(CLICKS * 2, DOCUMENTS), "clicks[0, 0] is 2; a click is 0 or 1"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
