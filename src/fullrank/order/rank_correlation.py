"""How alike two rankings are: Kendall's tau-b, weighted tau, rank-biased overlap, and the correlation of precision."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Item = Hashable


def kendall_tau(first: Mapping[Item, float], second: Mapping[Item, float]) -> float:
    """Kendall's tau-b of two score maps over the same items, which allows for ties.

    Raises:
        ValueError: other items, or fewer than two.
    """
    x, y = _aligned(first, second)
    found: Any = stats.kendalltau(x, y, variant="b")
    return float(found[0])


def weighted_tau(first: Mapping[Item, float], second: Mapping[Item, float]) -> float:
    """Vigna's weighted tau: exchanges near the top weigh more, by 1 / (rank + 1), in either order, averaged.

    Raises:
        ValueError: see `kendall_tau`.
    """
    x, y = _aligned(first, second)
    found: Any = stats.weightedtau(x, y)
    return float(found[0])


def ap_correlation(order: Sequence[Item], reference: Sequence[Item], symmetric: bool = False) -> float:
    """tau_AP of an order with a reference, both without ties (Yilmaz, Aslam and Robertson 2008).

    2 / (n - 1) sum_{i > 1} (items above i in the order that are above it in the reference) / (i - 1) - 1.

    Args:
        order: items, best first.
        reference: the same items.
        symmetric: the mean of both directions.

    Raises:
        ValueError: other items, one twice, or fewer than two.
    """
    if len(set(order)) != len(order) or set(order) != set(reference) or len(reference) != len(order):
        raise ValueError("order and reference are not the same items, each once")
    if len(order) < 2:
        raise ValueError(f"{len(order)} items are too few to compare; at least 2 are needed")
    if symmetric:
        return (ap_correlation(order, reference) + ap_correlation(reference, order)) / 2
    places = {item: place for place, item in enumerate(reference)}
    ranks = np.array([places[item] for item in order])
    above = [(ranks[:i] < ranks[i]).sum() / i for i in range(1, len(ranks))]
    return float(2 * np.mean(above) - 1)


def rank_biased_overlap(first: Sequence[Item], second: Sequence[Item], p: float = 0.9) -> float:
    """RBO, extrapolated beyond what is seen (Webber, Moffat and Zobel 2010, equation 32); lists of any length.

    Args:
        first: items, best first, each once.
        second: the same, of any length.
        p: how far down one reads; 0.9 puts 86 % of the weight on the first ten.

    Raises:
        ValueError: p outside (0, 1), or an item twice.
    """
    if not 0 < p < 1:
        raise ValueError(f"p={p} is not accepted; it lies between 0 and 1")
    if len(set(first)) != len(first) or len(set(second)) != len(second):
        raise ValueError("an item stands twice in an order")
    short, long = sorted((first, second), key=len)
    s, l = len(short), len(long)  # noqa: E741  (the paper's letters)
    if s == 0:
        return float(l == 0)
    seen_short: set[Item] = set()
    seen_long: set[Item] = set()
    overlap = np.zeros(l + 1)
    for d in range(1, l + 1):
        seen_long.add(long[d - 1])
        if d <= s:
            seen_short.add(short[d - 1])
        overlap[d] = len(seen_short & seen_long)
    x_s, x_l = overlap[s], overlap[l]
    d = np.arange(1, l + 1)
    agreement = (overlap[1:] / d * p**d).sum()
    tail = d[s:]
    missing = (x_s * (tail - s) / (s * tail) * p**tail).sum()
    return float((1 - p) / p * (agreement + missing) + ((x_l - x_s) / l + x_s / s) * p**l)


def _aligned(first: Mapping[Item, float], second: Mapping[Item, float]) -> tuple[np.ndarray, np.ndarray]:
    if first.keys() != second.keys():
        odd = list(set(first) ^ set(second))[:3]
        raise ValueError(f"the score maps have other items: {', '.join(map(repr, odd))}, ...")
    if len(first) < 2:
        raise ValueError(f"{len(first)} items are too few to compare; at least 2 are needed")
    items = list(first)
    return np.array([first[item] for item in items]), np.array([second[item] for item in items])
