"""Measure rankings against judgements, exact to trec_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from fullrank._optional import require
from fullrank.order.judged_rankings import Grades, Scores, judged_rankings
from fullrank.order.measures import Measure, parse_measure

Missing = Literal["skip", "zero"]


class Evaluation(dict[str, float]):
    """Means by measure, as the measures were written; counts (NumRet, NumRel, ...) are sums.

    Attributes:
        per_query: measure -> query id -> value.
    """

    def __init__(self, measures: Sequence[Measure], per_query: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__({measure.name: _aggregate(measure, per_query[measure.name]) for measure in measures})
        self.per_query = {name: dict(values) for name, values in per_query.items()}

    def __str__(self) -> str:
        """A line a measure."""
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in self.items())

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries that were measured, sorted."""
        return tuple(next(iter(self.per_query.values())))

    def to_dataframe(self) -> Any:
        """A pandas DataFrame: one row a query, one column a measure."""
        frame = require("pandas", "search").DataFrame(self.per_query)
        return frame.rename_axis("query_id").reset_index()


def evaluate(qrels: Grades, run: Scores, measures: Sequence[str] | str, missing: Missing = "skip") -> Evaluation:
    """Measure a run.

    Scores are compared as 32-bit floats, ties ordered by document id, descending; documents without a judgement are
    not relevant; negative grades are in the pool, but no judgement; queries that qrels does not have are ignored.

    Args:
        qrels: grades by document by query.
        run: scores by document by query; higher is better.
        measures: names, see `parse_measure`.
        missing: queries of qrels for which the run has no document are left out ("skip", as trec_eval), or count 0
            ("zero", as `trec_eval -c`).

    Returns:
        Means by measure; `.per_query` holds the single values.

    Raises:
        ValueError: an unknown measure, no measure, no shared query, a score that is not finite, or a grade that is not
            a whole number.
    """
    if missing not in get_args(Missing):
        raise ValueError(f"missing={missing!r} is not known; accepted: {', '.join(get_args(Missing))}")
    parsed = [parse_measure(name) for name in ([measures] if isinstance(measures, str) else measures)]
    if not parsed:
        raise ValueError("measures=[] measures nothing; give some, such as nDCG@10")
    rankings = judged_rankings(qrels, run)
    left_out = sorted({str(query) for query, grades in qrels.items() if grades} - set(rankings.queries))
    names = [*rankings.queries, *(left_out if missing == "zero" else ())]
    order = sorted(range(len(names)), key=names.__getitem__)
    per_query: dict[str, dict[str, float]] = {}
    for measure in parsed:
        values = [*measure.values(rankings).tolist(), *([0.0] * (len(names) - rankings.count))]
        per_query[measure.name] = {names[number]: values[number] for number in order}
    return Evaluation(parsed, per_query)


def _aggregate(measure: Measure, values: Mapping[str, float]) -> float:
    numbers = np.fromiter(values.values(), np.float64, len(values))
    return float(numbers.sum() if measure.kind.total else numbers.mean())
