"""Sessions of a click log as arrays: what was shown at which rank, and what was clicked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from fullrank._files import parquet_rows


class ClickSessions(NamedTuple):
    """A log, in the order of the arguments of a click model: `model.fit(sessions)`.

    Attributes:
        clicks: (sessions, ranks), whether each document was clicked.
        documents: (sessions, ranks), names; empty where a list has ended.
        queries: (sessions,), names.
        mask: (sessions, ranks), where there is a document.
    """

    clicks: Bool[np.ndarray, "sessions ranks"]
    documents: Shaped[np.ndarray, "sessions ranks"]
    queries: Shaped[np.ndarray, " sessions"]
    mask: Bool[np.ndarray, "sessions ranks"]


def read_click_sessions(path: str | Path) -> ClickSessions:
    """A log of JSON lines or a Parquet table, a session a row: `query_id`, `doc_ids` as shown, `clicks` of 0 and 1.

    Raises:
        ValueError: another kind of file, a malformed row (by its number), or no session.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    rows = [_session(row, f"{path}, line {number}") for number, row in _rows(path)]
    if not rows:
        raise ValueError(f"{path} holds no session")
    ranks = max(len(documents) for _, documents, _ in rows)
    names = [documents + [""] * (ranks - len(documents)) for _, documents, _ in rows]
    clicks = np.zeros((len(rows), ranks), dtype=bool)
    mask = np.arange(ranks) < np.array([len(documents) for _, documents, _ in rows])[:, None]
    clicks[mask] = np.concatenate([clicked for *_, clicked in rows])
    return ClickSessions(clicks, np.array(names), np.array([query for query, *_ in rows]), mask)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        yield from enumerate(parquet_rows(path), 1)
        return
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: a click log that ends in .jsonl or .parquet is read")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is no JSON: {line.decode(errors='replace')[:80]!r}") from error


def _session(row: Any, where: str) -> tuple[str, list[str], list[bool]]:
    needed = "query_id, doc_ids and clicks are needed, a click of 0 or 1 for every document"
    try:
        query, documents, clicks = row["query_id"], row["doc_ids"], row["clicks"]
        fits = (
            query is not None
            and bool(documents)
            and None not in documents
            and len(documents) == len(clicks)
            and all(click in (0, 1) for click in clicks)
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: {needed}: {str(row)[:80]}") from error
    if not fits or isinstance(documents, str):
        raise ValueError(f"{where}: {needed}: {str(row)[:80]}")
    return str(query), [str(document) for document in documents], [bool(click) for click in clicks]


@dataclass(frozen=True)
class Pairs:
    """The pairs of query and document that a log shows, numbered; documents alone where queries are not told apart.

    Attributes:
        documents: (pairs,), of each pair.
        queries: (pairs,), or None.
    """

    documents: Shaped[np.ndarray, " pairs"]
    queries: Shaped[np.ndarray, " pairs"] | None

    @classmethod
    def of(cls, documents: np.ndarray, queries: np.ndarray | None, mask: np.ndarray) -> Pairs:
        """Those of a log that `checked_sessions` returned, in sorted order."""
        names = np.unique(documents[mask])
        if queries is None:
            return cls(names, None)
        asked = np.unique(queries)
        keys = np.unique(_keys(names, asked, documents, queries, mask))
        return cls(names[keys % len(names)], asked[keys // len(names)])

    def __len__(self) -> int:
        return len(self.documents)

    def numbers(
        self, documents: np.ndarray, queries: np.ndarray | None, mask: np.ndarray
    ) -> Int[np.ndarray, "sessions ranks"]:
        """The number of every pair; -1 for one that is not known, and where there is no document.

        Raises:
            ValueError: queries are given and were not before, or the other way round, or names of another type.
        """
        if (queries is None) != (self.queries is None):
            given, before = ("no queries", "with queries") if queries is None else ("queries", "without queries")
            raise ValueError(f"{given} were given; the model was fitted {before}: give the same")
        names = np.unique(self.documents)
        numbers = np.full(mask.shape, -1)
        if self.queries is None or queries is None:
            numbers[mask] = _found(names, documents[mask], "documents")
            return numbers
        asked = np.unique(self.queries)
        known = _found(asked, self.queries, "queries") * len(names) + _found(names, self.documents, "documents")
        numbers[mask] = _found(known, _keys(names, asked, documents, queries, mask), "pairs")
        return numbers


def _keys(
    names: np.ndarray, asked: np.ndarray, documents: np.ndarray, queries: np.ndarray, mask: np.ndarray
) -> Int[np.ndarray, " shown"]:
    """A whole number for every pair that is shown, in the order of queries and documents; below 0 for unknown ones."""
    document = _found(names, documents[mask], "documents")
    query = np.broadcast_to(_found(asked, queries, "queries")[:, None], mask.shape)[mask]
    return np.where((document < 0) | (query < 0), -1, query * len(names) + document)


def _found(ordered: np.ndarray, values: np.ndarray, name: str) -> np.ndarray:
    """The place of every value among distinct ones in order, or -1.

    Raises:
        ValueError: numbers among texts.
    """
    if (ordered.dtype.kind == "U") != (values.dtype.kind == "U"):
        raise ValueError(f"{name} are of type {values.dtype}; the model was fitted on {ordered.dtype}: give the same")
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[places] == values, places, -1)


def unpacked(clicks: Any, documents: Any, queries: Any, mask: Any) -> tuple[Any, Any, Any, Any]:
    """Clicks, documents, queries and mask, where a whole log may have been given for the clicks.

    Raises:
        TypeError: no documents, and clicks that are no tuple of two to four arrays.
    """
    if documents is not None:
        return clicks, documents, queries, mask
    if not isinstance(clicks, tuple) or not 2 <= len(clicks) <= 4:
        raise TypeError(
            f"documents are missing, beside clicks of type {type(clicks).__name__}: give both, or the log as one "
            "(clicks, documents, queries, mask), such as `ClickSessions`"
        )
    if queries is not None or mask is not None:
        raise TypeError("queries or mask were given beside a whole log; its own are used: leave them out")
    clicks, documents, queries, mask = (*clicks, None, None)[:4]
    return clicks, documents, queries, mask


def checked_lists(documents: Any, queries: Any, mask: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Lists, their queries, and where there is a document, as arrays that fit each other.

    Raises:
        ValueError: shapes that differ, names that are neither whole numbers nor texts, a document below the end of its
            list, or no document at all.
    """
    documents = _names(documents, "documents")
    if documents.ndim != 2:
        raise ValueError(f"documents have shape {documents.shape}; (sessions, ranks) is needed")
    mask = np.ones(documents.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if mask.shape != documents.shape:
        raise ValueError(f"mask has shape {mask.shape}; that of the documents, {documents.shape}, is needed")
    holes = np.argwhere(mask[:, 1:] & ~mask[:, :-1])
    if len(holes):
        session, rank = holes[0].tolist()
        raise ValueError(f"mask[{session}, {rank + 1}] is True below one that is False; a list is filled from the top")
    if not mask.any():
        raise ValueError(f"{len(documents)} sessions hold no document; at least one is needed")
    if queries is None:
        return documents, None, mask
    queries = _names(queries, "queries")
    if queries.shape != documents.shape[:1]:
        raise ValueError(f"queries have shape {queries.shape}; one for each of {len(documents)} sessions is needed")
    return documents, queries, mask


def checked_clicks(clicks: Any, mask: np.ndarray) -> Bool[np.ndarray, "sessions ranks"]:
    """Clicks as booleans.

    Raises:
        ValueError: another shape than the documents, a click that is neither 0 nor 1, or one where no document is.
    """
    clicks = np.asarray(clicks)
    if clicks.shape != mask.shape:
        raise ValueError(f"clicks have shape {clicks.shape}; that of the documents, {mask.shape}, is needed")
    wrong = np.argwhere((clicks != 0) & (clicks != 1))
    if len(wrong):
        session, rank = wrong[0].tolist()
        raise ValueError(f"clicks[{session}, {rank}] is {clicks[session, rank]}; a click is 0 or 1")
    clicks = clicks.astype(bool)
    astray = np.argwhere(clicks & ~mask)
    if len(astray):
        session, rank = astray[0].tolist()
        raise ValueError(f"clicks[{session}, {rank}] is 1, where the mask says that there is no document")
    return clicks


def _names(values: Any, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == object and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.dtype.kind not in "iuU":
        raise ValueError(f"{name} are of type {values.dtype}; whole numbers or texts are accepted")
    return values
