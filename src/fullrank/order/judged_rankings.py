"""Rankings and their judgements of many queries, as flat arrays that every measure reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fullrank.order.trec_order import as_float32, flat_trec_order

Grades = Mapping[Any, Mapping[Any, int]]
Scores = Mapping[Any, Mapping[Any, float]]


@dataclass(frozen=True, eq=False)
class JudgedRankings:
    """All queries that are judged and answered, one after another, each in the order of trec_eval.

    Attributes:
        queries: ids, sorted.
        query: number of the query of every retrieved document.
        rank: of every retrieved document, from 1.
        grade: of every retrieved document; 0 where it is not judged.
        judged: whether every retrieved document is judged.
        pool_query: number of the query of every judgement, ascending.
        pool_grade: of every judgement, descending within a query.
        top_grade: the largest grade of all judgements, also of queries without an answer.
    """

    queries: tuple[str, ...]
    query: Int[np.ndarray, " retrieved"]
    rank: Int[np.ndarray, " retrieved"]
    grade: Int[np.ndarray, " retrieved"]
    judged: Bool[np.ndarray, " retrieved"]
    pool_query: Int[np.ndarray, " judgements"]
    pool_grade: Int[np.ndarray, " judgements"]
    top_grade: int

    @property
    def count(self) -> int:
        """Number of queries."""
        return len(self.queries)

    @cached_property
    def starts(self) -> Int[np.ndarray, " queries"]:
        """Position of every query's first document."""
        return np.searchsorted(self.query, np.arange(self.count))

    @cached_property
    def retrieved(self) -> Int[np.ndarray, " queries"]:
        """Number of documents of every query."""
        return np.bincount(self.query, minlength=self.count)

    def relevant(self, level: int) -> Bool[np.ndarray, " retrieved"]:
        """Whether every retrieved document is judged with a grade of at least `level`."""
        return self.judged & (self.grade >= level)

    def relevant_count(self, level: int) -> Int[np.ndarray, " queries"]:
        """R: judgements of every query with a grade of at least `level`."""
        return np.bincount(self.pool_query[self.pool_grade >= level], minlength=self.count)

    def nonrelevant_count(self, level: int) -> Int[np.ndarray, " queries"]:
        """N: judgements of every query below `level` and not negative (those are in the pool, but unjudged)."""
        below = (self.pool_grade >= 0) & (self.pool_grade < level)
        return np.bincount(self.pool_query[below], minlength=self.count)

    def total(self, values: np.ndarray) -> Float[np.ndarray, " queries"]:
        """Sum of a value over the documents of every query."""
        return np.bincount(self.query, weights=values, minlength=self.count)

    def so_far(self, counted: Bool[np.ndarray, " retrieved"]) -> Int[np.ndarray, " retrieved"]:
        """How many of the documents up to each one, itself too, are counted in their query."""
        running = np.cumsum(counted)
        before = np.concatenate([[0], running])[self.starts]
        return running - before[self.query]


def judged_rankings(qrels: Grades, run: Scores) -> JudgedRankings:
    """Flatten the queries that both have; ids become text.

    Raises:
        ValueError: they share no query, a score is not finite, a grade is not a whole number, or two ids have the
            same text.
    """
    grades, scores = _by_text(qrels, "qrels"), _by_text(run, "run")
    queries = sorted(query for query, found in scores.items() if found and grades.get(query))
    if not queries:
        raise ValueError(
            f"qrels and run share no query: qrels has {_some(grades)}, run has {_some(scores)}; are they of one set?"
        )
    lengths = np.array([len(scores[query]) for query in queries])
    ids: list[str] = []
    found: list[float] = []
    known: list[int | None] = []
    for query in queries:
        documents, judgements = scores[query], grades[query]
        ids.extend(documents)
        found.extend(documents.values())
        known.extend(map(judgements.get, documents))
    query = np.repeat(np.arange(len(queries)), lengths)
    values = np.array(found, dtype=np.float64)
    _check_scores(values, query, queries, ids)
    order = flat_trec_order(query, ids, as_float32(values))
    judged = np.array([grade is not None for grade in known], dtype=bool)
    pool = _pooled(grades, queries)
    pool_query = np.repeat(np.arange(len(queries)), [len(grades[query]) for query in queries])
    grade = np.array([0 if grade is None else grade for grade in known], dtype=np.int64)
    best_first = np.lexsort((-pool, pool_query))
    return JudgedRankings(
        tuple(queries),
        query,
        np.arange(len(query)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1,
        grade[order],
        judged[order],
        pool_query,
        pool[best_first],
        max(max(judgements.values()) for judgements in grades.values() if judgements),
    )


def _check_scores(values: np.ndarray, query: np.ndarray, queries: list[str], ids: list[str]) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"query {queries[query[place]]!r}: the score of {ids[place]!r} is {values[place]}; a ranking needs finite "
            f"numbers"
        )


def _pooled(grades: Mapping[str, Mapping[str, Any]], queries: list[str]) -> Int[np.ndarray, " judgements"]:
    """All grades, query by query."""
    pool = np.array([grade for query in queries for grade in grades[query].values()])
    if pool.dtype.kind in "iub":
        return pool.astype(np.int64)
    for query in queries:
        for document, grade in grades[query].items():
            if not (isinstance(grade, Real) and float(grade).is_integer()):
                raise ValueError(
                    f"query {query!r}: the grade of {document!r} is {grade!r}; grades are whole numbers, such as 0 or 1"
                )
    return pool.astype(np.int64)


def _by_text(entries: Mapping[Any, Mapping[Any, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    """The same with ids as text; those that are text already are not copied."""
    made = {str(query): _ids_as_text(documents, name, query) for query, documents in entries.items()}
    if len(made) < len(entries):
        raise ValueError(f"{name}: two query ids have the same text, such as 1 and '1'")
    return made


def _ids_as_text(documents: Mapping[Any, Any], name: str, query: Any) -> Mapping[str, Any]:
    if set(map(type, documents)) <= {str}:
        return documents
    made = {str(id): value for id, value in documents.items()}
    if len(made) < len(documents):
        raise ValueError(f"{name}, query {str(query)!r}: two document ids have the same text, such as 1 and '1'")
    return made


def _some(entries: Mapping[str, Any]) -> str:
    names = ", ".join(map(repr, list(entries)[:3]))
    return f"{len(entries)} queries ({names}{', ...' if len(entries) > 3 else ''})" if entries else "none"
