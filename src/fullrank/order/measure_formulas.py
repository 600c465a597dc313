"""The measures themselves, each for all queries at once, exact to NIST's trec_eval where it has them.

R is the number of relevant documents of a query in the judgements, rel_i whether the document at rank i is relevant.
Documents without a judgement are not relevant.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from fullrank.order.judged_rankings import JudgedRankings

Gains = Literal["linear", "exp2"]
Values = Float[np.ndarray, " queries"]
_INFAP_EPSILON = 1e-5


def precision(rankings: JudgedRankings, cutoff: int, rel: int = 1) -> Values:
    """P@k: relevant documents among the first k, over k."""
    return rankings.total(rankings.relevant(rel) & _within(rankings, cutoff)) / cutoff


def recall(rankings: JudgedRankings, cutoff: int, rel: int = 1) -> Values:
    """R@k: relevant documents among the first k, over R."""
    found = rankings.total(rankings.relevant(rel) & _within(rankings, cutoff))
    return _over(found, rankings.relevant_count(rel))


def success(rankings: JudgedRankings, cutoff: int, rel: int = 1) -> Values:
    """Success@k: 1 where one of the first k is relevant."""
    return (rankings.total(rankings.relevant(rel) & _within(rankings, cutoff)) > 0).astype(np.float64)


def reciprocal_rank(rankings: JudgedRankings, cutoff: int | None = None, rel: int = 1) -> Values:
    """RR@k: 1 over the rank of the first relevant document."""
    relevant = rankings.relevant(rel) & _within(rankings, cutoff)
    first = relevant & (rankings.so_far(relevant) == 1)
    return rankings.total(first / rankings.rank)


def average_precision(rankings: JudgedRankings, cutoff: int | None = None, rel: int = 1) -> Values:
    """AP@k = 1/R sum_{i <= k, rel_i} P@i."""
    relevant = rankings.relevant(rel)
    at_hits = np.where(relevant & _within(rankings, cutoff), rankings.so_far(relevant) / rankings.rank, 0)
    return _over(rankings.total(at_hits), rankings.relevant_count(rel))


def r_precision(rankings: JudgedRankings, rel: int = 1) -> Values:
    """Rprec = P@R."""
    R = rankings.relevant_count(rel)
    return _over(rankings.total(rankings.relevant(rel) & (rankings.rank <= R[rankings.query])), R)


def dcg(rankings: JudgedRankings, cutoff: int | None = None, gains: Gains = "linear") -> Values:
    """DCG@k = sum_{i <= k} gain_i / log2(i + 1)."""
    gained = np.where(_within(rankings, cutoff) & rankings.judged, _gain(rankings.grade, gains), 0)
    return rankings.total(gained / np.log2(rankings.rank + 1))


def ndcg(rankings: JudgedRankings, cutoff: int | None = None, gains: Gains = "linear") -> Values:
    """nDCG@k: DCG@k over that of all judged documents in the best order."""
    starts = np.searchsorted(rankings.pool_query, np.arange(rankings.count))
    rank = np.arange(len(rankings.pool_query)) - starts[rankings.pool_query] + 1
    gained = np.where(_first(rank, cutoff), _gain(rankings.pool_grade, gains), 0)
    ideal = np.bincount(rankings.pool_query, weights=gained / np.log2(rank + 1), minlength=rankings.count)
    return _over(dcg(rankings, cutoff, gains), ideal)


def bpref(rankings: JudgedRankings, rel: int = 1) -> Values:
    """bpref = 1/R sum_r (1 - min(n_above, R) / min(R, N)), over the judged documents alone."""
    R, N = rankings.relevant_count(rel), rankings.nonrelevant_count(rel)
    relevant = rankings.relevant(rel)
    above = rankings.so_far(_nonrelevant(rankings, rel))
    bound = np.minimum(R, N)[rankings.query]
    lost = np.where(above > 0, np.minimum(above, R[rankings.query]) / np.maximum(bound, 1), 0)
    return _over(rankings.total(np.where(relevant, 1 - lost, 0)), R)


def inferred_average_precision(rankings: JudgedRankings, rel: int = 1) -> Values:
    """infAP (Yilmaz and Aslam 2006) with trec_eval's constant of 1e-5; negative grades are the unjudged of the pool."""
    relevant = rankings.relevant(rel)
    before = rankings.rank - 1  # documents above
    earlier = rankings.so_far(relevant) - 1
    nonrelevant = rankings.so_far(_nonrelevant(rankings, rel))
    unjudged = rankings.so_far(rankings.judged & (rankings.grade < 0))
    pooled = (earlier + nonrelevant + unjudged) / np.maximum(before, 1)
    share = (earlier + _INFAP_EPSILON) / (np.maximum(earlier, 0) + nonrelevant + 2 * _INFAP_EPSILON)
    expected = np.where(before == 0, 1.0, 1 / rankings.rank + before / rankings.rank * pooled * share)
    return _over(rankings.total(np.where(relevant, expected, 0)), rankings.relevant_count(rel))


def interpolated_precision(rankings: JudgedRankings, cutoff: float, rel: int = 1) -> Values:
    """IPrec@r: the best precision at any rank where the recall is at least r, with trec_eval's rounding."""
    relevant = rankings.relevant(rel)
    found = rankings.so_far(relevant)
    needed = (cutoff * rankings.relevant_count(rel) + 0.9).astype(np.int64)  # trec_eval truncates
    eligible = found >= needed[rankings.query]
    best = np.zeros(rankings.count)
    np.maximum.at(best, rankings.query, np.where(eligible, found / rankings.rank, 0))
    return best


def set_precision(rankings: JudgedRankings, rel: int = 1) -> Values:
    """Relevant share of what was retrieved."""
    return _over(rankings.total(rankings.relevant(rel)), rankings.retrieved)


def set_recall(rankings: JudgedRankings, rel: int = 1) -> Values:
    """Retrieved share of what is relevant."""
    return _over(rankings.total(rankings.relevant(rel)), rankings.relevant_count(rel))


def set_f(rankings: JudgedRankings, rel: int = 1, beta: float = 1.0) -> Values:
    """F = (1 + beta^2) P R / (beta^2 P + R) of the retrieved set."""
    P, R = set_precision(rankings, rel), set_recall(rankings, rel)
    return _over((1 + beta**2) * P * R, beta**2 * P + R)


def expected_reciprocal_rank(rankings: JudgedRankings, cutoff: int | None = None) -> Values:
    """ERR@k = sum_i 1/i R_i prod_{j < i} (1 - R_j), R = (2^g - 1) / 2^gmax; gmax is the largest grade of all qrels."""
    stop = np.where(rankings.judged, _gain(rankings.grade, "exp2"), 0) / 2.0 ** max(rankings.top_grade, 0)
    values = np.zeros(rankings.count)
    going = np.ones(rankings.count)  # probability of reading on
    longest = int(rankings.retrieved.max())
    for rank in range(1, longest + 1 if cutoff is None else min(longest, cutoff) + 1):
        query = np.flatnonzero(rankings.retrieved >= rank)
        stopped = stop[rankings.starts[query] + rank - 1]
        values[query] += going[query] * stopped / rank
        going[query] *= 1 - stopped
    return values


def rank_biased_precision(rankings: JudgedRankings, cutoff: int | None = None, rel: int = 1, p: float = 0.8) -> Values:
    """RBP = (1 - p) sum_i p^(i-1) rel_i (Moffat and Zobel 2008)."""
    weight = (1 - p) * p ** (rankings.rank - 1.0)
    return rankings.total(np.where(rankings.relevant(rel) & _within(rankings, cutoff), weight, 0))


def judged_share(rankings: JudgedRankings, cutoff: int | None = None) -> Values:
    """Judged@k: share of the first k retrieved documents that are judged."""
    within = _within(rankings, cutoff)
    return _over(rankings.total(rankings.judged & within), rankings.total(within))


def retrieved_count(rankings: JudgedRankings) -> Values:
    """Documents retrieved."""
    return rankings.retrieved.astype(np.float64)


def relevant_count(rankings: JudgedRankings, rel: int = 1) -> Values:
    """R."""
    return rankings.relevant_count(rel).astype(np.float64)


def relevant_retrieved_count(rankings: JudgedRankings, rel: int = 1) -> Values:
    """Relevant documents retrieved."""
    return rankings.total(rankings.relevant(rel))


def query_count(rankings: JudgedRankings) -> Values:
    """1 for every query."""
    return np.ones(rankings.count)


def _nonrelevant(rankings: JudgedRankings, rel: int) -> Bool[np.ndarray, " retrieved"]:
    return rankings.judged & (rankings.grade >= 0) & (rankings.grade < rel)


def _within(rankings: JudgedRankings, cutoff: int | None) -> Bool[np.ndarray, " retrieved"]:
    return _first(rankings.rank, cutoff)


def _first(rank: np.ndarray, cutoff: int | None) -> np.ndarray:
    return np.ones(len(rank), dtype=bool) if cutoff is None else rank <= cutoff


def _gain(grade: np.ndarray, gains: Gains) -> Float[np.ndarray, " documents"]:
    """The grade, or 2^grade - 1; nothing for negative grades."""
    worth = np.maximum(grade, 0).astype(np.float64)
    return np.exp2(worth) - 1 if gains == "exp2" else worth


def _over(top: np.ndarray, bottom: np.ndarray) -> Values:
    """A quotient; 0 where nothing is below."""
    return np.divide(top, bottom, out=np.zeros(len(top)), where=np.asarray(bottom) > 0)
