"""`Run` and `Qrels`: rankings and judgements as TREC means the words, with exact conversion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fullrank._files import write_text
from fullrank._optional import require


class Run(dict[str, dict[str, float]]):
    """Scores by document by query: `run[query_id][doc_id]`. Higher is better.

    Order is that of trec_eval: by score as float32, descending; ties by document id, descending.
    """

    def ranking(self, query_id: str, k: int | None = None) -> list[tuple[str, float]]:
        """The documents of one query in order, with their scores.

        Args:
            query_id: of the query; a query without results has an empty ranking.
            k: how many at most.
        """
        scores = self.get(query_id, {})
        ordered = sorted(scores.items(), key=lambda item: (np.float32(item[1]), item[0]), reverse=True)
        return ordered[:k]

    def top(self, k: int) -> Run:
        """The run with the first k documents of every query.

        Raises:
            ValueError: k is not positive.
        """
        if k < 1:
            raise ValueError(f"k={k}: at least 1 document is needed")
        return Run({query: dict(self.ranking(query, k)) for query in self})

    def to_trec(self, tag: str = "fullrank") -> str:
        """Six columns: query, Q0, document, rank from 1, score, tag."""
        lines = []
        for query in self:
            for rank, (document, score) in enumerate(self.ranking(query), 1):
                lines.append(f"{_word(query)} Q0 {_word(document)} {rank} {score!r} {_word(tag)}\n")
        return "".join(lines)

    @classmethod
    def from_trec(cls, text: str) -> Run:
        """Read six columns; rank and tag are ignored, as by trec_eval.

        Raises:
            ValueError: a malformed line (with its number), or a document twice in one query.
        """
        run = cls()
        for number, (query, _, document, _, score, _) in _columns(text, 6, "query Q0 document rank score tag"):
            _put(run.setdefault(query, {}), document, _number(score, number), number)
        return run

    def save(self, path: str | Path, tag: str = "fullrank") -> Path:
        """Write a TREC run file, atomically."""
        return write_text(Path(path), self.to_trec(tag))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a TREC run file."""
        return cls.from_trec(Path(path).read_text())

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with columns query, document, rank, score."""
        rows = [
            (query, document, rank, score)
            for query in self
            for rank, (document, score) in enumerate(self.ranking(query), 1)
        ]
        return require("pandas", "search").DataFrame(rows, columns=["query", "document", "rank", "score"])

    @classmethod
    def from_dataframe(cls, frame: Any) -> Run:
        """From columns query, document, score."""
        run = cls()
        for query, document, score in zip(frame["query"], frame["document"], frame["score"], strict=True):
            run.setdefault(str(query), {})[str(document)] = float(score)
        return run


class Qrels(dict[str, dict[str, int]]):
    """Relevance grades by document by query: `qrels[query_id][doc_id]`. Negative grades mean junk, as in TREC."""

    def to_trec(self) -> str:
        """Four columns: query, 0, document, grade."""
        return "".join(
            f"{_word(query)} 0 {_word(document)} {grade}\n"
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
        for number, (query, _, document, grade) in _columns(text, 4, "query 0 document grade"):
            if not grade.lstrip("+-").isdigit():
                raise ValueError(f"line {number}: grade {grade!r} is not a whole number")
            _put(qrels.setdefault(query, {}), document, int(grade), number)
        return qrels

    def save(self, path: str | Path) -> Path:
        """Write a TREC qrels file, atomically."""
        return write_text(Path(path), self.to_trec())

    @classmethod
    def load(cls, path: str | Path) -> Qrels:
        """Read a TREC qrels file."""
        return cls.from_trec(Path(path).read_text())

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with columns query, document, grade."""
        rows = [(query, document, grade) for query, grades in self.items() for document, grade in grades.items()]
        return require("pandas", "search").DataFrame(rows, columns=["query", "document", "grade"])

    @classmethod
    def from_dataframe(cls, frame: Any) -> Qrels:
        """From columns query, document, grade."""
        qrels = cls()
        for query, document, grade in zip(frame["query"], frame["document"], frame["grade"], strict=True):
            qrels.setdefault(str(query), {})[str(document)] = int(grade)
        return qrels


def reciprocal_rank_fusion(runs: Iterable[Mapping[str, Mapping[str, float]]], k0: int = 60) -> Run:
    """Fuse runs by the sum of 1 / (k0 + rank), rank from 1 (Cormack, Clarke and Buettcher 2009).

    Args:
        runs: of the same queries; a document that a run does not hold gets nothing from it.
        k0: dampens the difference between the first ranks.
    """
    fused = Run()
    for run in runs:
        for query in run:
            scores = fused.setdefault(query, {})
            for rank, (document, _) in enumerate(Run(run).ranking(query), 1):
                scores[document] = scores.get(document, 0.0) + 1 / (k0 + rank)
    return fused


def _columns(text: str, count: int, names: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != count:
            raise ValueError(f"line {number} has {len(columns)} columns, {count} are expected ({names}): {line[:80]!r}")
        yield number, columns


def _number(text: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"line {line}: score {text!r} is not a number") from None
    if math.isnan(value):
        raise ValueError(f"line {line}: score {text!r} has no place in a ranking")
    return value


def _put(entries: dict[str, Any], document: str, value: Any, line: int) -> None:
    if document in entries:
        raise ValueError(f"line {line}: document {document!r} stands twice in its query")
    entries[document] = value


def _word(text: str) -> str:
    if not text or any(character.isspace() for character in text):
        raise ValueError(f"{text!r} cannot stand in a TREC file, whose columns are divided by white space")
    return text
