"""How alike two rankings are: Kendall's tau-b, weighted tau, rank-biased overlap, and the correlation of precision.

A ranking is a sequence of items, best first, each once, or a mapping from items to scores, higher is better, where
equal scores are ties.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Item = TypeVar("Item", bound=Hashable)


def kendall_tau(first: Mapping[Item, float] | Sequence[Item], second: Mapping[Item, float] | Sequence[Item]) -> float:
    """Kendall's tau-b of two rankings of the same items, which allows for ties; NaN if one of them is all ties.

    Raises:
        ValueError: other items, fewer than two, one twice, or a score that is NaN.
    """
    found: Any = stats.kendalltau(*_aligned(first, second), variant="b")
    return float(found[0])


def weighted_tau(first: Mapping[Item, float] | Sequence[Item], second: Mapping[Item, float] | Sequence[Item]) -> float:
    """Vigna's weighted tau: exchanges near the top weigh more, by 1 / (rank + 1), in either order, averaged.

    Raises:
        ValueError: see `kendall_tau`.
    """
    found: Any = stats.weightedtau(*_aligned(first, second))
    return float(found[0])


def ap_correlation(
    ranking: Mapping[Item, float] | Sequence[Item],
    reference: Mapping[Item, float] | Sequence[Item],
    symmetric: bool = False,
) -> float:
    """tau_AP of a ranking with a reference, both without ties (Yilmaz, Aslam and Robertson 2008).

    2 / (n - 1) sum_{i > 1} (items above i in the ranking that are above it in the reference) / (i - 1) - 1.

    Args:
        ranking: of items.
        reference: of the same items.
        symmetric: the mean of both directions.

    Raises:
        ValueError: see `kendall_tau`; or a tie.
    """
    ours, theirs = _aligned(ranking, reference)
    for name, scores in (("ranking", ours), ("reference", theirs)):
        if len(np.unique(scores)) < len(scores):
            raise ValueError(f"{name} has ties, for which tau_AP has no place; kendall_tau and weighted_tau allow them")
    if symmetric:
        return (_ap_correlation(ours, theirs) + _ap_correlation(theirs, ours)) / 2
    return _ap_correlation(ours, theirs)


def rank_biased_overlap(
    first: Mapping[Item, float] | Sequence[Item], second: Mapping[Item, float] | Sequence[Item], p: float = 0.9
) -> float:
    """RBO, extrapolated beyond what is seen (Webber, Moffat and Zobel 2010, equation 32); rankings of any length.

    Tied items share the first of their ranks, and agreement is 2 |S n L| / (|S| + |L|) of what both have down to a
    depth, as the paper treats ties.

    Args:
        first: of items.
        second: of items, more or fewer of them, and others.
        p: how far down one reads; 0.9 puts 86 % of the weight on the first ten.

    Raises:
        ValueError: p outside (0, 1), an item twice, or a score that is NaN.
    """
    if not 0 < p < 1:
        raise ValueError(f"p={p} is not accepted; it lies between 0 and 1")
    short, long = sorted((_ranks(first), _ranks(second)), key=len)
    s, l = len(short), len(long)  # noqa: E741  (the paper's letters)
    if s == 0:
        return float(l == 0)
    d = np.arange(1, l + 1)
    X = _down_to_each((max(rank, long[item]) for item, rank in short.items() if item in long), l)  # |S n L|
    S, L = _down_to_each(short.values(), l), _down_to_each(long.values(), l)
    # Below its end, the shorter goes on with one item a rank, as many of them in both as down to its end.
    A_s = 2 * X[s - 1] / (S[s - 1] + L[s - 1])
    unseen = np.maximum(d - s, 0)
    A = 2 * (X + unseen * A_s) / (S + unseen + L)
    return float((1 - p) / p * (A * p**d).sum() + A[-1] * p**l)


def _ap_correlation(scores: Float[np.ndarray, " items"], reference: Float[np.ndarray, " items"]) -> float:
    by_rank = reference[np.argsort(-scores)]
    above = [(by_rank[:i] > by_rank[i]).sum() / i for i in range(1, len(by_rank))]
    return float(2 * np.mean(above) - 1)


def _down_to_each(ranks: Iterable[int], depth: int) -> Int[np.ndarray, " depth"]:
    """How many ranks are at most 1, 2, ..., depth."""
    return np.cumsum(np.bincount(np.fromiter(ranks, np.int64), minlength=depth + 1)[1:])


def _ranks(ranking: Mapping[Item, float] | Sequence[Item]) -> dict[Item, int]:
    """Ranks from 1; those of equal scores are the first of theirs."""
    scores = _scores(ranking)
    ranks = stats.rankdata([-score for score in scores.values()], method="min")
    return dict(zip(scores, ranks.astype(int).tolist(), strict=True))


def _aligned(
    first: Mapping[Item, float] | Sequence[Item], second: Mapping[Item, float] | Sequence[Item]
) -> tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]:
    """Scores of the same items, in the same order."""
    x, y = _scores(first), _scores(second)
    if x.keys() != y.keys():
        odd = list(x.keys() ^ y.keys())[:3]
        raise ValueError(f"the rankings have other items: {', '.join(map(repr, odd))}, ...; they need the same")
    if len(x) < 2:
        raise ValueError(f"{len(x)} items are too few to compare; at least 2 are needed")
    return np.array(list(x.values()), dtype=float), np.array([y[item] for item in x], dtype=float)


def _scores(ranking: Mapping[Item, float] | Sequence[Item]) -> Mapping[Item, float]:
    if isinstance(ranking, Mapping):
        wrong = next((item for item, score in ranking.items() if np.isnan(score)), None)
        if wrong is not None:
            raise ValueError(f"the score of {wrong!r} is NaN; a ranking needs numbers")
        return ranking
    scores = {item: -float(place) for place, item in enumerate(ranking)}
    if len(scores) < len(ranking):
        twice = next(item for place, item in enumerate(ranking) if scores[item] != -place)
        raise ValueError(f"{twice!r} stands twice in a ranking; each item stands once")
    return scores
