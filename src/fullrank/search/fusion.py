"""Several rankings as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fullrank.search.run import Run


def reciprocal_rank_fusion(
    runs: Sequence[Mapping[Any, Mapping[Any, Any]]], k0: int = 60, weights: Sequence[float] | None = None
) -> Run:
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
    weights = [1.0] * len(runs) if weights is None else weights
    if len(weights) != len(runs):
        raise ValueError(f"weights has {len(weights)} entries for {len(runs)} runs; one per run is needed")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights={list(weights)} are not accepted; they are finite numbers")
    fused = Run()
    for run, weight in zip(map(Run, runs), weights, strict=True):
        for query in run:
            scores = fused.setdefault(query, {})
            for rank, (document, _) in enumerate(run.ranking(query), 1):
                scores[document] = scores.get(document, 0.0) + weight / (k0 + rank)
    return fused
