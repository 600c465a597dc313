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
#: How often the queries of a bucket are asked, from bucket 0 for the most frequent to 9.
BANDS = {"high": range(3), "mid": range(3, 7), "low": range(7, 10)}


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
    if ties not in get_args(Ties):
        raise ValueError(f"ties={ties!r} is not known; accepted: first, last")
    there = _checked(scores, grades, mask)
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
    if empty not in get_args(Empty):
        raise ValueError(f"empty={empty!r} is not known; accepted: skip, zero")
    ranked, _ = ranked_grades(scores, grades, mask, ties)
    ideal = _discounted(_best_first(ranked), k, gain)
    return _normal(_discounted(ranked, k, gain), ideal, np.nan if empty == "skip" else 0.0)


def err(
    scores: Scores,
    grades: Grades,
    k: int | None = None,
    top_grade: int = 4,
    mask: Mask | None = None,
    ties: Ties = "first",
) -> Float[np.ndarray, " lists"]:
    """ERR@k: a reader stops at rank i with probability (2^g - 1) / 2^`top_grade`."""
    return _reciprocal(ranked_grades(scores, grades, mask, ties)[0], k, top_grade)


def pnr(scores: Scores, grades: Grades, mask: Mask | None = None) -> tuple[int, int]:
    """Concordant and discordant pairs over all lists; ties of score or grade are neither. Their quotient is PNR."""
    there = _checked(scores, grades, mask)
    concordant = discordant = 0
    for s, g, m in zip(scores, grades, there, strict=True):
        agreement = np.sign(s[m][:, None] - s[m]) * np.sign(g[m][:, None] - g[m])
        concordant += int((agreement > 0).sum()) // 2
        discordant += int((agreement < 0).sum()) // 2
    return concordant, discordant


def benchmark_table(
    lists: Sequence[Sequence[tuple[float, int]]],
    ks: Sequence[int] = (1, 3, 5, 10),
    official: bool = True,
    buckets: Sequence[int] | None = None,
) -> dict[str, float]:
    """The measures of the Baidu-ULTR benchmark: means of DCG@k, nDCG@k and ERR@k, and PNR.

    Args:
        lists: (score, grade) of every document of every query.
        ks: cut-offs.
        official: as the published code: the later of equal scores ranks higher, lists shorter than k are left out of
            nDCG@k and ERR@k, and lists without a relevant document have an nDCG of 0. Otherwise the first of equal
            scores ranks higher, short lists count, and lists without a relevant document are left out.
        buckets: of the queries' frequency, 0 to 9; then the measures of the frequent, the middling and the rare
            queries follow, as "high_dcg@1", "mid_dcg@1", "low_dcg@1", ..., where there are any.

    Returns:
        Means by name; NaN where no list counts.

    Raises:
        ValueError: no lists, a k below 1, another number of buckets than of lists, a bucket outside 0 to 9, or a grade
            outside 0 to 4.
    """
    if not lists:
        raise ValueError("lists=[] leaves nothing to measure; give at least one")
    table = _benchmark_row(lists, ks, official)
    for band, members in _banded(lists, buckets).items():
        table |= {f"{band}_{name}": value for name, value in _benchmark_row(members, ks, official).items()}
    return table


def _banded(
    lists: Sequence[Sequence[tuple[float, int]]], buckets: Sequence[int] | None
) -> dict[str, list[Sequence[tuple[float, int]]]]:
    """The lists of every band that has some."""
    if buckets is None:
        return {}
    if len(buckets) != len(lists):
        raise ValueError(f"{len(buckets)} buckets for {len(lists)} lists; one each is needed")
    unknown = next((bucket for bucket in buckets if bucket not in range(10)), None)
    if unknown is not None:
        raise ValueError(f"bucket {unknown!r} is not known; there are 0 (the most frequent queries) to 9")
    bands = {
        band: [entries for entries, bucket in zip(lists, buckets, strict=True) if bucket in of]
        for band, of in BANDS.items()
    }
    return {band: members for band, members in bands.items() if members}


def _benchmark_row(lists: Sequence[Sequence[tuple[float, int]]], ks: Sequence[int], official: bool) -> dict[str, float]:
    scores, grades, mask = padded_lists(lists)
    ranked, lengths = ranked_grades(scores, grades, mask, "last" if official else "first")
    best = _best_first(ranked)
    table: dict[str, float] = {}
    for k in ks:
        long = lengths >= k if official else np.ones(len(lists), dtype=bool)
        gained, ideal = _discounted(ranked, k, "exp2"), _discounted(best, k, "exp2")
        normal = gained / (ideal + _OFFICIAL_EPS) if official else _normal(gained, ideal, np.nan)
        table[f"dcg@{k}"] = float(gained.mean())
        table[f"ndcg@{k}"] = _mean(normal[long])
        table[f"err@{k}"] = _mean(_reciprocal(ranked, k)[long])
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


def _checked(scores: Scores, grades: Grades, mask: Mask | None) -> Mask:
    """Where there is a document, if scores and grades can be measured."""
    if scores.shape != grades.shape or scores.ndim != 2 or (mask is not None and mask.shape != scores.shape):
        raise ValueError(f"scores of shape {scores.shape} and grades of {grades.shape} do not fit; (lists, ranks) each")
    there = np.ones(scores.shape, dtype=bool) if mask is None else mask
    for name, values, wrong in (("scores", scores, np.isnan(scores)), ("grades", grades, grades < 0)):
        if (wrong & there).any():
            row, column = np.argwhere(wrong & there)[0].tolist()
            accepted = "a number is needed" if name == "scores" else "grades are 0 or more"
            raise ValueError(f"{name}[{row}, {column}] is {values[row, column]}; {accepted}")
    return there


def _first(ranked: Grades, k: int | None) -> Int[np.ndarray, "lists first"]:
    if k is not None and k < 1:
        raise ValueError(f"k={k} is not accepted; at least 1 is needed, or None for all ranks")
    return ranked[:, :k]


def _discounted(ranked: Grades, k: int | None, gain: Gain) -> Float[np.ndarray, " lists"]:
    if gain not in get_args(Gain):
        raise ValueError(f"gain={gain!r} is not known; accepted: exp2 (2^grade - 1), linear")
    first = _first(ranked, k).astype(np.float64)
    worth = np.exp2(first) - 1 if gain == "exp2" else first
    return (worth / np.log2(np.arange(2, first.shape[1] + 2))).sum(1)


def _reciprocal(ranked: Grades, k: int | None, top_grade: int = 4) -> Float[np.ndarray, " lists"]:
    if ranked.max(initial=0) > top_grade:
        raise ValueError(f"there is a grade of {ranked.max()}, above top_grade={top_grade}; give the highest there is")
    stop = (np.exp2(_first(ranked, k)) - 1) / 2**top_grade
    reading = np.cumprod(np.concatenate([np.ones((len(stop), 1)), 1 - stop[:, :-1]], axis=1), axis=1)
    return (reading * stop / np.arange(1, stop.shape[1] + 1)).sum(1)


def _best_first(ranked: Grades) -> Grades:
    return -np.sort(-ranked, axis=1)


def _normal(gained: np.ndarray, ideal: np.ndarray, worst: float) -> Float[np.ndarray, " lists"]:
    """A gain over the ideal one; `worst` where that is nothing."""
    return np.divide(gained, ideal, out=np.full(len(gained), worst), where=ideal > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
