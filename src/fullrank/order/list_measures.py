"""Measures of scored lists as learning to rank has them: padded arrays of scores and grades, a list a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

Gain = Literal["exp2", "linear"]
Ties = Literal["first", "last"]
Empty = Literal["skip", "zero"]
Grades = Int[np.ndarray, "lists ranks"]
Scores = Float[np.ndarray, "lists ranks"]
Mask = Bool[np.ndarray, "lists ranks"]
_OFFICIAL_EPS = 1e-8


def ranked_grades(
    scores: Scores, grades: Grades, mask: Mask | None = None, ties: Ties = "first"
) -> tuple[Grades, Int[np.ndarray, " lists"]]:
    """Grades by rank, and how many documents each list has; 0 behind them.

    Args:
        scores: higher is better.
        grades: 0 or more.
        mask: where there is a document; default everywhere.
        ties: whether the "first" or the "last" of equal scores in the list ranks higher.

    Raises:
        ValueError: shapes that differ, a negative grade, or a score that is NaN.
    """
    if scores.shape != grades.shape or scores.ndim != 2 or (mask is not None and mask.shape != scores.shape):
        raise ValueError(f"scores of shape {scores.shape} and grades of {grades.shape} do not fit; (lists, ranks) each")
    if ties not in get_args(Ties):
        raise ValueError(f"ties={ties!r} is not known; accepted: first, last")
    there = np.ones(scores.shape, dtype=bool) if mask is None else mask
    for name, wrong in (("scores", np.isnan(scores) & there), ("grades", (grades < 0) & there)):
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"{name}[{row}, {column}] is {(scores if name == 'scores' else grades)[row, column]}")
    places = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.lexsort((places if ties == "first" else -places, np.where(there, -scores, np.inf)), axis=1)
    return np.take_along_axis(np.where(there, grades, 0), order, axis=1), there.sum(1)


def dcg(
    scores: Scores,
    grades: Grades,
    k: int | None = None,
    gain: Gain = "exp2",
    mask: Mask | None = None,
    ties: Ties = "first",
) -> Float[np.ndarray, " lists"]:
    """DCG@k = sum_{i <= k} gain_i / log2(i + 1), of every list."""
    return _discounted(ranked_grades(scores, grades, mask, ties)[0], k, gain)


def ndcg(
    scores: Scores,
    grades: Grades,
    k: int | None = None,
    gain: Gain = "exp2",
    mask: Mask | None = None,
    ties: Ties = "first",
    empty: Empty = "skip",
) -> Float[np.ndarray, " lists"]:
    """DCG@k over that of the best order; a list without a relevant document is NaN ("skip") or 0 ("zero")."""
    ranked, _ = ranked_grades(scores, grades, mask, ties)
    ideal = _discounted(-np.sort(-ranked, axis=1), k, gain)
    worst = np.nan if empty == "skip" else 0.0
    return np.divide(_discounted(ranked, k, gain), ideal, out=np.full(len(ranked), worst), where=ideal > 0)


def err(
    scores: Scores,
    grades: Grades,
    k: int | None = None,
    top_grade: int = 4,
    mask: Mask | None = None,
    ties: Ties = "first",
) -> Float[np.ndarray, " lists"]:
    """ERR@k: a reader stops at rank i with probability (2^g - 1) / 2^`top_grade`."""
    stop = (np.exp2(ranked_grades(scores, grades, mask, ties)[0][:, :k]) - 1) / 2**top_grade
    reading = np.cumprod(np.concatenate([np.ones((len(stop), 1)), 1 - stop[:, :-1]], axis=1), axis=1)
    return (reading * stop / np.arange(1, stop.shape[1] + 1)).sum(1)


def pnr(scores: Scores, grades: Grades, mask: Mask | None = None) -> tuple[int, int]:
    """Concordant and discordant pairs over all lists; ties of score or grade are neither. Their quotient is PNR."""
    there = np.ones(scores.shape, dtype=bool) if mask is None else mask
    concordant = discordant = 0
    for s, g, m in zip(scores, grades, there, strict=True):
        agreement = np.sign(s[m][:, None] - s[m]) * np.sign(g[m][:, None] - g[m])
        concordant += int((agreement > 0).sum()) // 2
        discordant += int((agreement < 0).sum()) // 2
    return concordant, discordant


def benchmark_table(
    lists: Sequence[Sequence[tuple[float, int]]], ks: Sequence[int] = (1, 3, 5, 10), official: bool = True
) -> dict[str, float]:
    """The measures of the Baidu-ULTR benchmark: means of DCG@k, nDCG@k and ERR@k, and PNR.

    Args:
        lists: (score, grade) of every document of every query.
        ks: cut-offs.
        official: as the published code: the later of equal scores ranks higher, lists shorter than k are left out of
            nDCG@k and ERR@k, and lists without a relevant document have an nDCG of 0. Otherwise the first of equal
            scores ranks higher, short lists count, and lists without a relevant document are left out.

    Raises:
        ValueError: no lists.
    """
    if not lists:
        raise ValueError("lists=[] leaves nothing to measure; give at least one")
    scores, grades, mask = padded_lists(lists)
    ties: Ties = "last" if official else "first"
    lengths = mask.sum(1)
    table: dict[str, float] = {}
    for k in ks:
        long = lengths >= k if official else np.ones(len(lists), dtype=bool)
        gained = dcg(scores, grades, k, mask=mask, ties=ties)
        ideal = _discounted(-np.sort(-np.where(mask, grades, 0), axis=1), k, "exp2")
        normal = gained / (ideal + _OFFICIAL_EPS) if official else ndcg(scores, grades, k, mask=mask, ties=ties)
        table[f"dcg@{k}"] = float(gained.mean())
        table[f"ndcg@{k}"] = _mean(normal[long])
        table[f"err@{k}"] = _mean(err(scores, grades, k, mask=mask, ties=ties)[long])
    concordant, discordant = pnr(scores, grades, mask)
    table["pnr"] = concordant / (discordant + _OFFICIAL_EPS)
    return table


def padded_lists(lists: Sequence[Sequence[tuple[float, int]]]) -> tuple[Any, Any, Any]:
    """Scores, grades and mask of lists of any length."""
    width = max(1, *map(len, lists)) if lists else 1
    scores, grades = np.zeros((len(lists), width)), np.zeros((len(lists), width), dtype=np.int64)
    mask = np.zeros((len(lists), width), dtype=bool)
    for row, entries in enumerate(lists):
        for column, (score, grade) in enumerate(entries):
            scores[row, column], grades[row, column], mask[row, column] = score, grade, True
    return scores, grades, mask


def _discounted(ranked: Grades, k: int | None, gain: Gain) -> Float[np.ndarray, " lists"]:
    if gain not in get_args(Gain):
        raise ValueError(f"gain={gain!r} is not known; accepted: exp2 (2^grade - 1), linear")
    first = ranked[:, :k].astype(np.float64)
    worth = np.exp2(first) - 1 if gain == "exp2" else first
    return (worth / np.log2(np.arange(2, first.shape[1] + 2))).sum(1)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
