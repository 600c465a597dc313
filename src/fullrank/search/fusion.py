"""Several rankings as one: by reciprocal rank, by scaled scores, or by turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from fullrank.search.run import Run

Runs = Sequence[Mapping[Any, Mapping[Any, Any]]]
Combination = Literal["sum", "mnz"]


def reciprocal_rank_fusion(runs: Runs, k0: int = 60, weights: Sequence[float] | None = None) -> Run:
    """Fuse runs by the weighted sum of 1 / (k0 + rank), rank from 1 (Cormack, Clarke and Buettcher 2009).

    Args:
        runs: a document that a run does not hold gets nothing from it.
        k0: dampens the difference between the first ranks.
        weights: one per run; all 1 by default.

    Raises:
        ValueError: k0 is negative, there is another number of weights than of runs, or a weight is not finite.
    """
    if k0 < 0:
        raise ValueError(f"k0={k0} is not accepted; it is 0 or more, by custom 60")
    fused = Run()
    for run, weight in zip(map(Run, runs), _weights(runs, weights), strict=True):
        for query in run:
            scores = fused.setdefault(query, {})
            for rank, (document, _) in enumerate(run.ranking(query), 1):
                scores[document] = scores.get(document, 0.0) + weight / (k0 + rank)
    return fused


def score_fusion(runs: Runs, combination: Combination = "sum", weights: Sequence[float] | None = None) -> Run:
    """Fuse runs by scores that are scaled to [0, 1] within each query (Fox and Shaw 1994).

    A query whose scores are all equal is scaled to 0: they tell nothing.

    Args:
        runs: a document that a run does not hold gets nothing from it.
        combination: "sum" of the scaled scores (CombSUM), or "mnz": the sum times the number of runs that hold the
            document (CombMNZ).
        weights: one per run; all 1 by default.

    Raises:
        ValueError: an unknown combination, another number of weights, or a weight that is not finite.
    """
    if combination not in get_args(Combination):
        raise ValueError(f"combination={combination!r} is not known; accepted: {', '.join(get_args(Combination))}")
    fused, held = Run(), Run()
    for run, weight in zip(map(Run, runs), _weights(runs, weights), strict=True):
        for query, documents in run.items():
            scores, counts = fused.setdefault(query, {}), held.setdefault(query, {})
            for document, score in _scaled(documents).items():
                scores[document] = scores.get(document, 0.0) + weight * score
                counts[document] = counts.get(document, 0.0) + 1
    if combination == "mnz":
        for query, scores in fused.items():
            for document in scores:
                scores[document] *= held[query][document]
    return fused


def interleave(runs: Runs) -> Run:
    """Documents by turns: the first of every run, then the second, ...; each once. Scores count down.

    Args:
        runs: the first has the first turn.
    """
    rankings = [{query: run.ranking(query) for query in run} for run in map(Run, runs)]
    fused = Run()
    for query in dict.fromkeys(query for ranking in rankings for query in ranking):
        turns = [ranking.get(query, []) for ranking in rankings]
        order = dict.fromkeys(
            ranking[place][0] for place in range(max(map(len, turns))) for ranking in turns if place < len(ranking)
        )
        fused[query] = {document: float(len(order) - place) for place, document in enumerate(order)}
    return fused


def _weights(runs: Runs, weights: Sequence[float] | None) -> Sequence[float]:
    weights = [1.0] * len(runs) if weights is None else weights
    if len(weights) != len(runs):
        raise ValueError(f"weights has {len(weights)} entries for {len(runs)} runs; one per run is needed")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights={list(weights)} are not accepted; they are finite numbers")
    return weights


def _scaled(documents: Mapping[str, float]) -> dict[str, float]:
    low, high = min(documents.values(), default=0.0), max(documents.values(), default=0.0)
    return {id: (score - low) / (high - low) if high > low else 0.0 for id, score in documents.items()}
