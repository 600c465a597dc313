"""Many texts in two arrays, which are memory-mapped from files: none is read before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Bool, Int, UInt8


class TextTable(Sequence[str]):
    """Texts one after another as UTF-8.

    Args:
        content: the bytes of all.
        starts: where each begins, and where the last one ends.

    Raises:
        ValueError: the two do not fit each other.
    """

    def __init__(self, content: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " texts_and_one"]) -> None:
        if not len(starts) or int(starts[-1]) != len(content):
            raise ValueError(f"{len(starts) - 1} texts of {len(content)} bytes do not fit each other")
        self.starts, self._content = starts, content.data

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> TextTable:
        """A table of texts in memory, encoded already."""
        starts = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)]).astype(np.int64)
        return cls(np.frombuffer(b"".join(texts), dtype=np.uint8), starts)

    @classmethod
    def joined(cls, tables: Sequence[TextTable]) -> TextTable:
        """The texts of several tables, one behind the other, in memory."""
        first = np.cumsum([0, *(len(table._content) for table in tables)])
        starts = [table.starts[:-1] + n for table, n in zip(tables, first[:-1], strict=True)]
        content = np.concatenate([np.asarray(table._content, dtype=np.uint8) for table in tables])
        return cls(content, np.concatenate([*starts, first[-1:]]).astype(np.int64))

    def __reduce__(self) -> tuple[type[TextTable], tuple[np.ndarray, np.ndarray]]:
        """Pickled as the two arrays, since no buffer can be."""
        return TextTable, (np.array(self._content, dtype=np.uint8), np.array(self.starts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return _decoded(self.encoded(index))

    def __iter__(self) -> Iterator[str]:
        starts = self.starts.tolist()
        return (_decoded(bytes(self._content[a:b])) for a, b in pairwise(starts))

    def encoded(self, number: int) -> bytes:
        """The bytes of one text."""
        return bytes(self._content[int(self.starts[number]) : int(self.starts[number + 1])])

    def kept(self, keep: Bool[np.ndarray, " texts"]) -> TextTable:
        """Some of the texts, in memory."""
        return TextTable.of([self.encoded(number) for number in np.flatnonzero(keep).tolist()])

    def order(self) -> Int[np.ndarray, " texts"]:
        """Numbers of the texts, sorted by their bytes."""
        texts = [self.encoded(number) for number in range(len(self))]
        return np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int32)

    def find(self, text: str, order: Int[np.ndarray, " texts"] | None = None) -> int | None:
        """The number of a text, by bisection; None where it is not there.

        Args:
            text: to be found.
            order: see `order()`; None where the texts stand in it.
        """
        wanted = encoded(text)
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            number = middle if order is None else int(order[middle])
            found = self.encoded(number)
            if found == wanted:
                return number
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return None

    def write(self, folder: Path, name: str) -> None:
        """Put the table into two files of a folder."""
        np.save(folder / f"{name}_starts.npy", self.starts)
        (folder / f"{name}.bin").write_bytes(self._content)

    @classmethod
    def read(cls, folder: Path, name: str) -> TextTable:
        """Open the two files, memory-mapped.

        Raises:
            OSError, ValueError: they are missing or damaged.
        """
        file = folder / f"{name}.bin"
        empty = not file.stat().st_size  # which cannot be mapped
        content = np.zeros(0, np.uint8) if empty else np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        return cls(content, mapped(folder / f"{name}_starts.npy"))


def mapped(file: Path) -> np.ndarray:
    """An array of a file, memory-mapped."""
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


def encoded(text: str) -> bytes:
    """A text as it is stored; half a surrogate pair, as JSON may hold, stays what it is."""
    return text.encode("utf-8", "surrogatepass")


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
