"""Rows of click logs in columns of whole numbers, and their form as bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("node", "term", "item", "number", "time")
LARGEST = 2**31 - 1
_HEAD = struct.Struct("<4sHII")  # magic, version, rows, bytes of the words
_MAGIC, _VERSION = b"FRCR", 1
_LONGEST_WORD = 4096
_MOST_PARTS = 64  # terms of one query


class Click(NamedTuple):
    """One row.

    Attributes:
        node: who clicked.
        term: what was searched; a tuple for a query of several terms.
        item: what was clicked.
        number: of the node's queries, from 0; (node, number) is the row's key.
        time: when, a whole number in any unit.
    """

    node: Hashable
    term: Hashable
    item: Hashable
    number: int
    time: int = 0


class Words:
    """Values by code, in the order of their first use."""

    def __init__(self, values: Iterable[Hashable] = ()) -> None:
        self.values: list[Hashable] = []
        self._codes: dict[Hashable, int] = {}
        for value in values:
            self.code(value)

    def __len__(self) -> int:
        return len(self.values)

    def code(self, value: Hashable) -> int:
        """The value's code, a new one where it has none."""
        found = self._codes.get(value)
        if found is None:
            found = self._codes[value] = len(self.values)
            self.values.append(value)
        return found

    def find(self, value: Hashable) -> int | None:
        """The value's code, if it has one."""
        return self._codes.get(value)


class Vocabulary(NamedTuple):
    """What the codes of nodes, terms and items stand for. Logs may share one; it only grows."""

    nodes: Words
    terms: Words
    items: Words

    @classmethod
    def empty(cls) -> Vocabulary:
        """A vocabulary without words."""
        return cls(Words(), Words(), Words())

    def encode(self, rows: ClickRows) -> np.ndarray:
        """The columns of rows, in the codes of this vocabulary."""
        if rows.vocabulary is self:
            return rows.columns
        columns = rows.columns.copy()
        for own, other, column in zip(self, rows.vocabulary, columns, strict=False):
            codes = np.zeros(len(other), dtype=np.int32)
            for code in codes_in(column):
                codes[code] = own.code(other.values[code])
            column[:] = codes[column]
        return columns


@dataclass(frozen=True)
class ClickRows:
    """Some rows of a log, in order.

    Attributes:
        vocabulary: what the codes stand for.
        columns: int32 of shape (5, rows): codes of node, term and item, number, time.
    """

    vocabulary: Vocabulary
    columns: np.ndarray

    def __len__(self) -> int:
        return self.columns.shape[1]

    def __iter__(self) -> Iterator[Click]:
        nodes, terms, items = (words.values for words in self.vocabulary)
        for node, term, item, number, time in self.columns.T.tolist():
            yield Click(nodes[node], terms[term], items[item], number, time)

    @property
    def nodes(self) -> list[Hashable]:
        """Who clicked, each once, in the order of the codes."""
        return [self.vocabulary.nodes.values[code] for code in codes_in(self.columns[0])]

    def choose(self, rows: np.ndarray) -> ClickRows:
        """The rows of a mask, or at places."""
        return ClickRows(self.vocabulary, self.columns[:, rows])

    def to_bytes(self) -> bytes:
        """Header, the words in use as JSON, then column by column in the narrowest width that holds it.

        Raises:
            TypeError: a node, term or item that is neither text nor a whole number, nor a tuple of those.
        """
        used = [codes_in(column) for column in self.columns[:3]]
        words = [
            [plain_word(words.values[code]) for code in codes]
            for words, codes in zip(self.vocabulary, used, strict=True)
        ]
        text = json.dumps(words, separators=(",", ":")).encode()
        columns = [np.searchsorted(codes, column) for codes, column in zip(used, self.columns, strict=False)]
        packed = [_pack(column) for column in (*columns, *self.columns[3:])]
        return b"".join([_HEAD.pack(_MAGIC, _VERSION, len(self), len(text)), text, *packed])

    @classmethod
    def from_bytes(cls, content: bytes) -> ClickRows:
        """Rows from `to_bytes`; the bytes may come from anybody.

        Raises:
            ValueError: the bytes are no rows, damaged, or made by a newer version.
        """
        if len(content) < _HEAD.size or content[:4] != _MAGIC:
            raise ValueError("the bytes are no click log: they begin otherwise")
        _, version, rows, size = _HEAD.unpack_from(content)
        if version != _VERSION:
            raise ValueError(f"the click log has format {version}, this version of Fullrank reads {_VERSION}")
        body = memoryview(content)[_HEAD.size :]
        vocabulary = _read_words(bytes(body[:size]))
        columns, body = np.zeros((len(COLUMNS), rows if 5 * rows <= len(body) else 0), dtype=np.int32), body[size:]
        if columns.shape[1] != rows:
            raise ValueError(f"the click log is damaged: {rows} rows do not fit into {len(content)} bytes")
        for column in columns:
            body = _unpack(body, column)
        if len(body):
            raise ValueError(f"the click log is damaged: {len(body)} bytes are left over")
        for name, words, column in zip(COLUMNS, vocabulary, columns, strict=False):
            if rows and not 0 <= column.min() <= column.max() < len(words):
                raise ValueError(f"the click log is damaged: a {name} outside of the {len(words)} words")
        if rows and columns[3].min() < 0:
            raise ValueError("the click log is damaged: a negative number of a query")
        return cls(vocabulary, columns)


def codes_in(column: np.ndarray) -> np.ndarray:
    """The codes in a column, ascending."""
    return np.flatnonzero(np.bincount(column)) if len(column) else np.zeros(0, dtype=np.int64)


def _pack(column: np.ndarray) -> bytes:
    low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
    width = 1 if low >= 0 and high < 2**8 else 2 if low >= 0 and high < 2**16 else 4
    return bytes([width]) + column.astype(_TYPES[width]).tobytes()


def _unpack(body: memoryview, column: np.ndarray) -> memoryview:
    """Fill a column from the front of the bytes; give back the rest."""
    kind = _TYPES.get(body[0]) if len(body) else None
    if kind is None or len(body) < 1 + len(column) * kind.itemsize:
        raise ValueError("the click log is damaged: a column is cut short, or of unknown width")
    column[:] = np.frombuffer(body, dtype=kind, count=len(column), offset=1)
    return body[1 + len(column) * kind.itemsize :]


_TYPES = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<i4")}


def _read_words(text: bytes) -> Vocabulary:
    try:
        tables = json.loads(text)
        vocabulary = Vocabulary(*(Words(map(read_word, table)) for table in tables))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the click log is damaged: its words cannot be read ({error})") from error
    if [len(words) for words in vocabulary] != [len(table) for table in tables]:
        raise ValueError("the click log is damaged: a word stands twice")
    return vocabulary


def read_word(value: Any) -> Hashable:
    """A node, term or item from JSON."""
    if isinstance(value, list) and 1 <= len(value) <= _MOST_PARTS:
        return tuple(single_word(part) for part in value)
    return single_word(value)


def single_word(value: Any) -> str | int:
    """A value from anybody that is a name: text of bearable length, or a whole number.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str) and len(value) <= _LONGEST_WORD:
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) < 2**63:
        return int(value)
    raise ValueError(f"{str(value)[:40]!r} is no text and no whole number")


def plain_word(value: Hashable) -> Any:
    """A node, term or item for JSON; `read_word` reads it.

    Raises:
        TypeError: it is neither text nor a whole number, nor a tuple of those.
    """
    try:
        if isinstance(value, tuple) and 1 <= len(value) <= _MOST_PARTS:
            return [single_word(part) for part in value]
        return single_word(value)
    except ValueError:
        raise TypeError(
            f"{value!r} is {type(value).__name__}; only text (at most {_LONGEST_WORD} letters), whole numbers and "
            f"tuples of at most {_MOST_PARTS} of them can be written: name nodes, terms and items so"
        ) from None
