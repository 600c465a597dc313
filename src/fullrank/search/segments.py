"""Immutable parts of an index: postings, lengths, and the documents themselves, in files that are memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fullrank.search.protocols import Document
from fullrank.search.segmented_index import Part

_ARRAYS = ("starts", "documents", "frequencies", "lengths", "text_starts")


class Segment(Part):
    """Some documents of an index.

    Attributes:
        terms: sorted.
        starts: where every term's postings begin, and where the last one's end.
        documents: numbers of the documents that hold each term, ascending within it.
        frequencies: how often they hold it, or its weight in them.
        lengths: terms of every document.
    """

    def __init__(
        self, terms: list[str], arrays: Mapping[str, np.ndarray], texts: Any, folder: Path | None = None
    ) -> None:
        self.terms, self.folder = terms, folder
        self.starts, self.documents = arrays["starts"], arrays["documents"]
        self.frequencies, self.lengths = arrays["frequencies"], arrays["lengths"]
        self._text_starts, self._texts = arrays["text_starts"], texts

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of every term."""
        return {term: number for number, term in enumerate(self.terms)}

    @property
    def total(self) -> int:
        """Terms of all documents together."""
        return int(self.lengths.sum())

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the documents."""
        return [self._record(number)["id"] for number in range(len(self))]

    def postings(self, term: str) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]] | None:
        """Documents that hold a term, and how often, or its weight in them; None where none does."""
        number = self.numbers.get(term)
        if number is None:
            return None
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return self.documents[part], self.frequencies[part].astype(np.float64)

    def document(self, number: int) -> Document:
        """One document."""
        return Document(**self._record(number))

    def without(self, gone: Bool[np.ndarray, " documents"]) -> Segment:
        """The segment less some documents, without their texts being read again."""
        keep = ~gone
        renumbered = np.cumsum(keep) - 1
        kept = keep[self.documents]
        owner = np.repeat(np.arange(len(self.terms)), np.diff(self.starts))[kept]
        counts = np.bincount(owner, minlength=len(self.terms))
        held = counts > 0
        texts = [bytes(self._text(number)) for number in np.flatnonzero(keep).tolist()]
        return Segment(
            [term for term, has in zip(self.terms, held.tolist(), strict=True) if has],
            {
                "starts": np.concatenate([[0], np.cumsum(counts[held])]).astype(np.int64),
                "documents": renumbered[self.documents[kept]].astype(np.int32),
                "frequencies": np.asarray(self.frequencies[kept]),
                "lengths": np.asarray(self.lengths[keep]),
                "text_starts": _starts(texts),
            },
            np.frombuffer(b"".join(texts), dtype=np.uint8),
        )

    def _put(self, folder: Path) -> None:
        for name, array in zip(
            _ARRAYS, (self.starts, self.documents, self.frequencies, self.lengths, self._text_starts), strict=True
        ):
            np.save(folder / f"{name}.npy", array)
        (folder / "terms.json").write_text(json.dumps(self.terms, ensure_ascii=False), encoding="utf-8")
        (folder / "texts.bin").write_bytes(bytes(self._texts))

    @classmethod
    def read(cls, folder: Path) -> Segment:
        """Open the files of a segment, memory-mapped."""
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
        terms = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
        texts = folder / "texts.bin"
        content = np.memmap(texts, dtype=np.uint8, mode="r") if texts.stat().st_size else np.zeros(0, dtype=np.uint8)
        segment = cls(terms, arrays, content, folder)
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
        if len(self._text_starts) != len(self) + 1 or int(self._text_starts[-1]) != len(self._texts):
            raise ValueError(f"{len(self)} documents, {len(self._text_starts) - 1} texts of {len(self._texts)} bytes")

    def _record(self, number: int) -> dict[str, Any]:
        return json.loads(bytes(self._text(number)))

    def _text(self, number: int) -> Any:
        return self._texts[int(self._text_starts[number]) : int(self._text_starts[number + 1])]


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
    numbers: dict[str, int] = {}
    flat: list[int] = []
    lengths: list[int] = []
    for found in terms:
        flat.extend(numbers.setdefault(term, len(numbers)) for term in found)
        lengths.append(len(found))
    names = sorted(numbers)
    place = np.empty(len(numbers), dtype=np.int64)
    place[[numbers[name] for name in names]] = np.arange(len(names))
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return names, place[np.array(flat, dtype=np.int64)] * len(lengths) + owners, lengths


def _segment(
    documents: Sequence[Document],
    names: list[str],
    postings: Int[np.ndarray, " postings"],
    frequencies: np.ndarray,
    lengths: list[int],
) -> Segment:
    counts = np.bincount(postings // max(len(documents), 1), minlength=len(names))
    texts = [_recorded(document) for document in documents]
    return Segment(
        names,
        {
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "documents": (postings % max(len(documents), 1)).astype(np.int32),
            "frequencies": frequencies,
            "lengths": np.array(lengths, dtype=np.int32),
            "text_starts": _starts(texts),
        },
        np.frombuffer(b"".join(texts), dtype=np.uint8),
    )


def _recorded(document: Document) -> bytes:
    record: dict[str, Any] = {"id": document.id, "text": document.text}
    if document.title:
        record["title"] = document.title
    if document.metadata:
        record["metadata"] = dict(document.metadata)
    return json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def _starts(texts: Sequence[bytes]) -> Int[np.ndarray, " n"]:
    return np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)]).astype(np.int64)
