"""An index of immutable segments: it grows and shrinks without being built anew, and is saved as files of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from fullrank._batching import batches
from fullrank.search.index_folder import save_index
from fullrank.search.protocols import Document, identifiers

#: What reading a segment raises where its files are damaged or missing.
DAMAGE = (ValueError, OSError, EOFError, KeyError, TypeError, IndexError)


P = TypeVar("P", bound="Part")
Index = TypeVar("Index", bound="SegmentedIndex[Any]")


class Part(ABC):
    """A segment: some documents of an index, which never change.

    Attributes:
        folder: where its files lie, or None while it is in memory only.
        ids: of the documents.
    """

    folder: Path | None = None
    ids: Sequence[str]

    @abstractmethod
    def __len__(self) -> int: ...

    def number(self, id: str) -> int | None:
        """The number of a document; None where it is not there."""
        return self._numbers.get(id)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {id: number for number, id in enumerate(self.ids)}

    @abstractmethod
    def without(self: P, gone: Bool[np.ndarray, " documents"]) -> P:
        """The segment less some documents."""

    @classmethod
    @abstractmethod
    def joined(cls: type[P], segments: Sequence[Any]) -> P:
        """The documents of several segments as one in memory, in the same order."""

    def write(self: P, folder: Path) -> P:
        """Put the files into a folder, as links where they lie elsewhere on the same disk; the segment there."""
        folder.mkdir(parents=True)
        if self.folder is None or not self.folder.is_dir():  # deleted files are still mapped
            self._put(folder)
        else:
            for file in sorted(self.folder.iterdir()):
                _link(file, folder / file.name)
        return type(self).read(folder)

    @classmethod
    @abstractmethod
    def read(cls: type[P], folder: Path) -> P:
        """Open the files of a segment, memory-mapped.

        Raises:
            ValueError: they do not fit each other.
        """

    @abstractmethod
    def _put(self, folder: Path) -> None:
        """Write the files."""


class SegmentedIndex(ABC, Generic[P]):
    """Documents in segments. A subclass makes a segment of documents, and says how it is searched.

    Small segments that stand beside each other are joined when documents come or go, so that an index which grows by
    few documents at a time has few segments: about log2 of the documents that come after the last whole segment, and
    every document is written anew as seldom.

    Attributes:
        segment_size: documents, indexed at a time.
    """

    segment_size: ClassVar[int] = 100_000

    def __init__(self) -> None:
        self._segments: list[P] = []
        self._built = False
        self._refresh()

    def __len__(self) -> int:
        return self._count

    def build(self: Index, documents: Iterable[Document], scratch: str | Path | None = None) -> Index:
        """Index documents, in place of what was indexed before.

        Args:
            documents: read one after another.
            scratch: a folder for parts of the index, so that memory holds one part (`segment_size`) only; parts stay
                there until the index is saved elsewhere.

        Raises:
            ValueError: no documents, an id twice, or nothing in any document to index.
        """
        before, self._segments = self._segments, []
        try:
            self._segments = self._made(documents, scratch)
            self._refresh()
            _check_unique(self._segments)
            if not self._count:
                raise ValueError("documents=[] leaves nothing to index; give at least one")
            self._check_built()
        except BaseException:
            self._segments = before
            self._refresh()
            raise
        self._built = True
        return self

    def add(self: Index, documents: Iterable[Document], scratch: str | Path | None = None) -> Index:
        """Index more documents; one with an id that is there takes the other's place.

        Args:
            documents: read one after another.
            scratch: see `build`.

        Raises:
            ValueError: an id twice among them.
        """
        new = self._made(documents, scratch)
        _check_unique(new)
        kept = self._without(id for segment in new for id in segment.ids)
        self._segments = self._joined([*kept, *new], scratch)
        self._built = self._built or bool(new)
        self._refresh()
        return self

    def delete(self: Index, ids: Iterable[str]) -> Index:
        """Forget documents.

        Raises:
            LookupError: an id that is not there.
        """
        wanted = sorted(set(ids))
        for id in wanted:
            self._number(id)
        self._segments = self._joined(self._without(wanted))
        self._refresh()
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the index; whoever reads the folder meanwhile sees the one before. Parts that lie there are not copied.

        From then on the index reads the files that it wrote.

        Raises:
            RuntimeError: nothing is indexed yet.
            OSError: the folder cannot be written.
        """
        self._check_indexed()
        written: list[P] = []

        def write(files: Path) -> None:
            for number, segment in enumerate(self._segments):
                written.append(segment.write(files / f"{number:05d}"))
            self._put(files)

        about = {**self._about(), "segments": len(self._segments)}
        place = save_index(folder, type(self).__name__, about, write)
        self._segments = written
        return place

    def save_pretrained(self, folder: str | Path) -> Path:
        """`save`, by the name that users of transformers know."""
        return self.save(folder)

    # --- what a subclass says ------------------------------------------------------------------------------------

    @abstractmethod
    def _segment(self, documents: Sequence[Document]) -> P:
        """Documents as one segment in memory."""

    @abstractmethod
    def _about(self) -> dict[str, Any]:
        """What the saved index says about itself, as JSON."""

    def _check_built(self) -> None:
        """Raise ValueError where no document holds anything to index."""

    def _put(self, files: Path) -> None:
        """Write what is saved beside the segments."""

    # --- within --------------------------------------------------------------------------------------------------

    def _check_indexed(self) -> None:
        if not self._built:
            raise RuntimeError("nothing is indexed yet: call build(documents) or load(folder) first")

    def _made(self, documents: Iterable[Document], scratch: str | Path | None) -> list[P]:
        made: list[P] = []
        for batch in batches(documents, self.segment_size):
            identifiers(batch)  # which tells of an id twice before a model reads the texts
            made.append(_spilled(self._segment(batch), scratch))
        return made

    def _take(self: Index, kind: type[P], about: dict[str, Any], files: Path) -> Index:
        """Open the segments of a saved index."""
        self._segments = [kind.read(files / f"{number:05d}") for number in range(about["segments"])]
        self._built = True
        self._refresh()
        return self

    def _without(self, ids: Iterable[str]) -> list[P]:
        """The segments less some documents."""
        places = [np.zeros(len(segment), dtype=bool) for segment in self._segments]
        for id in ids:
            for segment, gone in zip(self._segments, places, strict=True):
                number = segment.number(id)
                if number is not None:
                    gone[number] = True
        kept: list[P] = []
        for segment, gone in zip(self._segments, places, strict=True):
            if gone.all():
                continue
            kept.append(segment.without(gone) if gone.any() else segment)
        return kept

    def _joined(self, segments: Sequence[P], scratch: str | Path | None = None) -> list[P]:
        """Segments of which none is followed by one of half its documents or more, as far as `segment_size` allows."""
        groups: list[list[P]] = []
        sizes: list[int] = []
        for segment in segments:
            groups.append([segment])
            sizes.append(len(segment))
            while len(sizes) > 1 and sizes[-2] <= 2 * sizes[-1] and sum(sizes[-2:]) <= self.segment_size:
                last, size = groups.pop(), sizes.pop()
                groups[-1] += last
                sizes[-1] += size
        return [group[0] if len(group) == 1 else _spilled(type(group[0]).joined(group), scratch) for group in groups]

    def _refresh(self) -> None:
        """Number the documents of all segments."""
        self._offsets = np.concatenate([[0], np.cumsum([len(segment) for segment in self._segments])]).astype(np.int64)
        self._count = int(self._offsets[-1])

    def _places(self, numbers: Int[np.ndarray, " documents"]) -> list[tuple[P, int]]:
        """The segments of documents, and their numbers there."""
        at = np.searchsorted(self._offsets, numbers, side="right") - 1
        return [
            (self._segments[segment], place)
            for segment, place in zip(at.tolist(), (numbers - self._offsets[at]).tolist(), strict=True)
        ]

    def _ids(self, numbers: Int[np.ndarray, " documents"]) -> list[str]:
        return [segment.ids[place] for segment, place in self._places(numbers)]

    def _number(self, id: str) -> int:
        for segment, offset in zip(self._segments, self._offsets[:-1].tolist(), strict=True):
            place = segment.number(id)
            if place is not None:
                return offset + place
        raise LookupError(f"the index has no document {id!r}; it has {self._count}")


def recorded_encoder(about: dict[str, Any], make: Callable[..., Any], options: dict[str, Any]) -> Any:
    """The encoder that an index says it was built with.

    Args:
        about: what the index says.
        make: makes the encoder.
        options: of it, in place of those that the index names.

    Raises:
        LookupError: it was an object, which no file can hold.
    """
    if about["encoder"] is None:
        raise LookupError("the index was built with an encoder object; give it again: load(folder, encoder=...)")
    return make(**about["encoder"] | options)


def check_made(options: dict[str, Any]) -> None:
    """Raise ValueError for options of an encoder that is made already."""
    if options:
        raise ValueError(f"{', '.join(options)}: options of an encoder, but it is an object that is made already")


def _spilled(segment: P, scratch: str | Path | None) -> P:
    if scratch is None:
        return segment
    Path(scratch).mkdir(parents=True, exist_ok=True)
    return segment.write(Path(tempfile.mkdtemp(prefix="segment-", dir=scratch)) / "files")


def _check_unique(segments: Sequence[Part]) -> None:
    # Hashes in place of the ids themselves: 8 bytes a document.
    hashes = [np.fromiter(map(hash, segment.ids), np.int64, len(segment)) for segment in segments]
    values, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *hashes]), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    ids = Counter(id for segment in segments for id in segment.ids if hash(id) in suspects)
    twice = next((id for id, number in ids.items() if number > 1), None)
    if twice is not None:
        raise ValueError(f"two documents have the id {twice!r}; ids are unique in a collection")


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the disk knows none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
