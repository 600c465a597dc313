"""`Run` and `Qrels`: rankings and judgements as TREC means the words, with exact conversion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from fullrank._files import write_text
from fullrank._optional import require
from fullrank.order import trec_order
from fullrank.search import trec

Value = TypeVar("Value", float, int)
Kind = TypeVar("Kind", bound=dict[str, Any])


class _ByQuery(dict[str, dict[str, Value]]):
    """Numbers by document by query; what is made of one is one again."""

    def copy(self: Kind) -> Kind:
        """Another one of the same entries, which it shares as a dictionary's copy does."""
        return _merged(type(self), self)

    def __or__(self: Kind, other: Any) -> Kind:
        if not isinstance(other, Mapping):
            return NotImplemented
        return _merged(type(self), self, type(self)(other))

    def __ror__(self: Kind, other: Any) -> Kind:
        if not isinstance(other, Mapping):
            return NotImplemented
        return _merged(type(self), type(self)(other), self)

    def __ior__(self: Kind, other: Any) -> Kind:
        self.update(type(self)(other))
        return self


class Run(_ByQuery[float]):
    """Scores by document by query: `run[query_id][doc_id]`. Higher is better.

    Order is that of trec_eval: by score as float32, descending; ties by document id, descending (by bytes).

    Args:
        scores: of what the run starts with; identifiers become text, scores become floats.

    Raises:
        ValueError: a score that is not finite, or two identifiers with the same text, such as 1 and "1".
        TypeError: a query whose scores are not by document id.
    """

    def __init__(self, scores: Mapping[Any, Mapping[Any, Any]] | None = None) -> None:
        super().__init__(_normalised(scores or {}, _finite))

    def ranking(self, query_id: str, k: int | None = None) -> list[tuple[str, float]]:
        """The documents of one query in order, with their scores.

        Args:
            query_id: of the query; a query without results has an empty ranking.
            k: how many at most; all by default.

        Raises:
            ValueError: a score is not a number, or k is below 1.
        """
        scores = self.get(query_id, {})
        ids = list(scores)
        try:
            order = trec_order(ids, list(scores.values()))
        except ValueError as error:
            raise ValueError(f"query {query_id!r}: {error}") from error
        first = len(ids) if k is None else at_least_one(k)
        return [(ids[i], scores[ids[i]]) for i in order[:first].tolist()]

    def top(self, k: int) -> Run:
        """The run with the first k documents of every query, in order.

        Raises:
            ValueError: k is below 1.
        """
        best = Run()
        for query in self:
            best[query] = dict(self.ranking(query, k))
        return best

    def to_trec(self, tag: str = "fullrank") -> str:
        """Six columns: query, Q0, document, rank from 1, score (all its digits), tag.

        Raises:
            ValueError: an identifier with white space, which a TREC file cannot hold.
        """
        return "".join(
            f"{trec.word(query)} Q0 {trec.word(document)} {rank} {float(score)!r} {trec.word(tag)}\n"
            for query, document, rank, score in self._rows()
        )

    @classmethod
    def from_trec(cls, text: str) -> Run:
        """Read six columns; rank and tag are ignored, as by trec_eval.

        Raises:
            ValueError: a malformed line (with its number), or a document twice in one query.
        """
        run = cls()
        for number, (query, _, document, _, score, _) in trec.columns(text, 6, "query Q0 document rank score tag"):
            trec.put(run.setdefault(query, {}), document, trec.score(score, number), number)
        return run

    def save(self, path: str | Path, tag: str = "fullrank") -> Path:
        """Write a TREC run file, atomically."""
        return write_text(Path(path), self.to_trec(tag))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a TREC run file; see `from_trec`."""
        return trec.read(path, cls.from_trec)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with columns query_id, doc_id, rank, score, in order."""
        return _frame(list(self._rows()), ["query_id", "doc_id", "rank", "score"])

    @classmethod
    def from_dataframe(cls, frame: Any) -> Run:
        """From columns query_id, doc_id, score; others are ignored.

        Raises:
            ValueError: a missing column, a score that is not finite, or a document twice in one query.
        """
        return cls(_from_frame(frame, "score"))

    def _rows(self) -> list[tuple[str, str, int, float]]:
        return [
            (query, document, rank, score)
            for query in self
            for rank, (document, score) in enumerate(self.ranking(query), 1)
        ]


class Qrels(_ByQuery[int]):
    """Relevance grades by document by query: `qrels[query_id][doc_id]`. Negative grades mean junk, as in TREC.

    Args:
        grades: what the judgements start with; identifiers become text.

    Raises:
        ValueError: a grade that is not a whole number, or two identifiers with the same text, such as 1 and "1".
        TypeError: a query whose grades are not by document id.
    """

    def __init__(self, grades: Mapping[Any, Mapping[Any, Any]] | None = None) -> None:
        super().__init__(_normalised(grades or {}, _whole))

    def to_trec(self) -> str:
        """Four columns: query, 0, document, grade.

        Raises:
            ValueError: an identifier with white space, which a TREC file cannot hold.
        """
        return "".join(
            f"{trec.word(query)} 0 {trec.word(document)} {grade}\n"
            for query, grades in self.items()
            for document, grade in grades.items()
        )

    @classmethod
    def from_trec(cls, text: str) -> Qrels:
        """Read four columns.

        Raises:
            ValueError: a malformed line (with its number), or a document twice in one query.
        """
        qrels = cls()
        for number, (query, _, document, grade) in trec.columns(text, 4, "query 0 document grade"):
            trec.put(qrels.setdefault(query, {}), document, trec.grade(grade, number), number)
        return qrels

    def save(self, path: str | Path) -> Path:
        """Write a TREC qrels file, atomically."""
        return write_text(Path(path), self.to_trec())

    @classmethod
    def load(cls, path: str | Path) -> Qrels:
        """Read a TREC qrels file; see `from_trec`."""
        return trec.read(path, cls.from_trec)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with columns query_id, doc_id, relevance."""
        rows = [(query, document, grade) for query, grades in self.items() for document, grade in grades.items()]
        return _frame(rows, ["query_id", "doc_id", "relevance"])

    @classmethod
    def from_dataframe(cls, frame: Any) -> Qrels:
        """From columns query_id, doc_id, relevance; others are ignored.

        Raises:
            ValueError: a missing column, a grade that is not a whole number, or a document twice in one query.
        """
        return cls(_from_frame(frame, "relevance"))


def at_least_one(count: int, name: str = "k") -> int:
    """A count that an argument gives.

    Raises:
        TypeError: it is no whole number; the message has the argument's name.
        ValueError: it is below 1.
    """
    if not isinstance(count, Integral):
        raise TypeError(f"{name}={count!r} is {type(count).__name__}; a whole number of at least 1 is needed")
    if count < 1:
        raise ValueError(f"{name}={count} is not accepted; at least 1 is needed")
    return count


def _merged(kind: Callable[[], Kind], *parts: Mapping[str, Any]) -> Kind:
    merged = kind()
    for part in parts:
        merged.update(part)
    return merged


def _normalised(
    entries: Mapping[Any, Mapping[Any, Any]], convert: Callable[[Any, str, str], Any]
) -> dict[str, dict[str, Any]]:
    """Identifiers as text, values converted."""
    result: dict[str, dict[str, Any]] = {}
    for query, documents in entries.items():
        if not isinstance(documents, Mapping):
            raise TypeError(f"query {str(query)!r} has {documents!r}; numbers by document id are needed")
        values = {str(id): convert(value, str(query), str(id)) for id, value in documents.items()}
        if len(values) < len(documents):
            raise ValueError(f"query {str(query)!r}: two document ids have the same text")
        result[str(query)] = values
    if len(result) < len(entries):
        raise ValueError("two query ids have the same text")
    return result


def _finite(value: Any, query: str, document: str) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"query {query!r}: the score of {document!r} is {value!r}; scores are finite numbers")
    return score


def _whole(value: Any, query: str, document: str) -> int:
    try:
        grade = int(value)
    except (TypeError, ValueError, OverflowError):
        grade = None
    if grade is None or grade != value:
        raise ValueError(f"query {query!r}: the grade of {document!r} is {value!r}; grades are whole numbers")
    return grade


def _frame(rows: list[Any], columns: list[str]) -> Any:
    return require("pandas", "search").DataFrame(rows, columns=columns)


def _from_frame(frame: Any, value: str) -> dict[str, dict[str, Any]]:
    missing = [name for name in ("query_id", "doc_id", value) if name not in frame.columns]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; query_id, doc_id and {value} are needed")
    entries: dict[str, dict[str, Any]] = {}
    for row, (query, document, number) in enumerate(
        zip(frame["query_id"], frame["doc_id"], frame[value], strict=True), 1
    ):
        documents = entries.setdefault(str(query), {})
        if str(document) in documents:
            raise ValueError(f"row {row}: document {str(document)!r} stands twice in query {str(query)!r}")
        documents[str(document)] = number
    return entries
