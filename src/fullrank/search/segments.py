"""Immutable parts of an index: postings, lengths, and the documents themselves, in files that are memory-mapped."""

from __future__ import annotations

import json
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fullrank.search.protocols import Document
from fullrank.search.segmented_index import Part
from fullrank.search.text_table import TextTable, encoded, mapped

_ARRAYS = ("starts", "documents", "frequencies", "lengths", "id_order")
_TABLES = ("terms", "ids", "texts")


class Segment(Part):
    """Some documents of an index.

    Attributes:
        terms: sorted.
        starts: where every term's postings begin, and where the last one's end.
        documents: numbers of the documents that hold each term, ascending within it.
        frequencies: how often they hold it, or its weight in them.
        lengths: terms of every document.
        ids: of the documents.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], tables: Mapping[str, TextTable], folder: Path | None = None
    ) -> None:
        self._arrays, self._tables, self.folder = arrays, tables, folder
        self.starts, self.documents = arrays["starts"], arrays["documents"]
        self.frequencies, self.lengths = arrays["frequencies"], arrays["lengths"]
        self.terms, self.ids, self._texts = tables["terms"], tables["ids"], tables["texts"]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Terms of all documents together."""
        return int(self.lengths.sum())

    def number(self, id: str) -> int | None:
        """See `Part.number`."""
        return self._tables["ids"].find(id, self._arrays["id_order"])

    def postings(self, term: str) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]] | None:
        """Documents that hold a term, and how often, or its weight in them; None where none does."""
        number = self.terms.find(term)
        if number is None:
            return None
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return self.documents[part], self.frequencies[part].astype(np.float64)

    def document(self, number: int) -> Document:
        """One document."""
        return Document(**json.loads(self._texts.encoded(number)))

    def without(self, gone: Bool[np.ndarray, " documents"]) -> Segment:
        """The segment less some documents, without their texts being read again."""
        keep = ~gone
        renumbered = np.cumsum(keep) - 1
        kept = keep[self.documents]
        owner = np.repeat(np.arange(len(self.terms)), np.diff(self.starts))[kept]
        counts = np.bincount(owner, minlength=len(self.terms))
        held = counts > 0
        ids = self._tables["ids"].kept(keep)
        return Segment(
            {
                "starts": np.concatenate([[0], np.cumsum(counts[held])]).astype(np.int64),
                "documents": renumbered[self.documents[kept]].astype(np.int32),
                "frequencies": self.frequencies[kept],
                "lengths": self.lengths[keep],
                "id_order": ids.order(),
            },
            {"terms": self.terms.kept(held), "ids": ids, "texts": self._texts.kept(keep)},
        )

    @classmethod
    def joined(cls, segments: Sequence[Segment]) -> Segment:
        """See `Part.joined`."""
        terms = [[table.encoded(number) for number in range(len(table))] for table in (s.terms for s in segments)]
        names = sorted({name for found in terms for name in found})
        numbers = {name: number for number, name in enumerate(names)}
        owners = np.concatenate(
            [
                np.repeat(np.array([numbers[name] for name in found], dtype=np.int64), np.diff(segment.starts))
                for segment, found in zip(segments, terms, strict=True)
            ]
        )
        order = np.argsort(owners, kind="stable")  # so that documents ascend within a term
        first = np.cumsum([0, *map(len, segments[:-1])])
        documents = np.concatenate([segment.documents + n for segment, n in zip(segments, first, strict=True)])
        ids = TextTable.joined([segment._tables["ids"] for segment in segments])
        return Segment(
            {
                "starts": np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(names)))]).astype(np.int64),
                "documents": documents[order].astype(np.int32),
                "frequencies": np.concatenate([segment.frequencies for segment in segments])[order],
                "lengths": np.concatenate([segment.lengths for segment in segments]),
                "id_order": ids.order(),
            },
            {"terms": TextTable.of(names), "ids": ids, "texts": TextTable.joined([s._texts for s in segments])},
        )

    def _put(self, folder: Path) -> None:
        for name, values in self._arrays.items():
            np.save(folder / f"{name}.npy", values)
        for name, table in self._tables.items():
            table.write(folder, name)

    @classmethod
    def read(cls, folder: Path) -> Segment:
        """Open the files of a segment, memory-mapped."""
        arrays = {name: mapped(folder / f"{name}.npy") for name in _ARRAYS}
        segment = cls(arrays, {name: TextTable.read(folder, name) for name in _TABLES}, folder)
        segment.check()
        return segment

    def check(self) -> None:
        """Raise ValueError where the files do not fit each other."""
        postings = int(self.starts[-1]) if len(self.starts) else -1
        if (
            len(self.starts) != len(self.terms) + 1
            or postings != len(self.documents)
            or postings != len(self.frequencies)
        ):
            raise ValueError(f"{len(self.terms)} terms, {postings} postings, {len(self.documents)} of them there")
        sizes = [len(self), len(self.ids), len(self._arrays["id_order"]), len(self._texts)]
        if len(set(sizes)) > 1:
            raise ValueError("{} lengths, {} ids, {} of them in order, {} texts".format(*sizes))


def counted_segment(documents: Sequence[Document], terms: Callable[[str], Sequence[str]]) -> Segment:
    """Documents as one segment in memory, with how often each holds a term.

    Args:
        documents: with unique ids.
        terms: of a text.
    """
    names, keys, lengths = _keys(terms(document.searched) for document in documents)
    postings, frequencies = np.unique(keys, return_counts=True)
    return _segment(documents, names, postings, frequencies.astype(np.int32), lengths)


def weighted_segment(documents: Sequence[Document], weights: Sequence[Mapping[str, float]]) -> Segment:
    """Documents as one segment in memory, with the weight of every term in each.

    Args:
        documents: with unique ids.
        weights: of the terms of every document.
    """
    names, keys, lengths = _keys(weights)
    values = np.array([weight for found in weights for weight in found.values()], dtype=np.float32)
    order = np.argsort(keys)
    return _segment(documents, names, keys[order], values[order], lengths)


def _keys(terms: Iterable[Collection[str]]) -> tuple[list[str], Int[np.ndarray, " n"], list[int]]:
    """All terms, sorted; term number x documents + document number for every term of every document; their counts."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    flat = array("q")
    lengths: list[int] = []
    for found in terms:
        flat.extend(map(numbers.__getitem__, found))
        lengths.append(len(found))
    names = sorted(numbers)
    place = np.empty(len(names), dtype=np.int64)
    place[[numbers[name] for name in names]] = np.arange(len(names))
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return names, place[np.frombuffer(flat, dtype=np.int64)] * len(lengths) + owners, lengths


def _segment(
    documents: Sequence[Document],
    names: list[str],
    postings: Int[np.ndarray, " postings"],
    frequencies: np.ndarray,
    lengths: list[int],
) -> Segment:
    counts = np.bincount(postings // max(len(documents), 1), minlength=len(names))
    ids = TextTable.of([encoded(document.id) for document in documents])
    return Segment(
        {
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "documents": (postings % max(len(documents), 1)).astype(np.int32),
            "frequencies": frequencies,
            "lengths": np.array(lengths, dtype=np.int32),
            "id_order": ids.order(),
        },
        {
            "terms": TextTable.of([encoded(name) for name in names]),
            "ids": ids,
            "texts": TextTable.of([_recorded(document) for document in documents]),
        },
    )


def _recorded(document: Document) -> bytes:
    record: dict[str, Any] = {"id": document.id, "text": document.text}
    if document.title:
        record["title"] = document.title
    if document.metadata:
        record["metadata"] = dict(document.metadata)
    return encoded(json.dumps(record, ensure_ascii=False, default=str))
