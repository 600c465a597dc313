"""A peer's click log: who searched what and clicked which item, each row once, in columns of whole numbers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fullrank import _saving
from fullrank._files import write_bytes, write_text
from fullrank.search.click_rows import COLUMNS, LARGEST, Click, ClickRows, Vocabulary, plain_word

_LOAD = 0.6  # of the table of keys, at most
_GROWTH = 1.25


class ClickLog:
    """Rows in the order in which they came. A key (node, number) that is known is not taken again: the first row stays.

    Args:
        vocabulary: shared with other logs; one of its own by default.

    Attributes:
        n_conflicts: rows that came with the key of another one and other content: a sign of an attack.
        n_stale: rows that came and were older than those of their node that were forgotten.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = Vocabulary.empty() if vocabulary is None else vocabulary
        self.n_conflicts = self.n_stale = 0
        self._columns = np.zeros((len(COLUMNS) + 1, 16), dtype=np.int32)  # the last: position
        self._length = self._position = 0
        self._next = np.zeros(0, dtype=np.int64)  # number of the next query, by node
        self._forgotten = np.zeros(0, dtype=np.int64)  # numbers below are forgotten, by node
        self._factor = np.uint64(secrets.randbits(64) | 1)  # nobody can choose keys that collide
        self._table = np.full(32, -1, dtype=np.int32)  # open addressing: places of rows

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Click]:
        return iter(self.rows)

    @property
    def rows(self) -> ClickRows:
        """All rows."""
        return ClickRows(self.vocabulary, self._columns[: len(COLUMNS), : self._length])

    @property
    def position(self) -> int:
        """Where the next row will stand; positions are never used twice."""
        return self._position

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: columns, what they keep free, and the table of keys. Words are extra."""
        return self._columns.nbytes + self._table.nbytes + self._next.nbytes + self._forgotten.nbytes

    def append(self, node: Hashable, term: Hashable, item: Hashable, number: int | None = None, time: int = 0) -> bool:
        """Add a row, unless its key is known.

        Args:
            node: who clicked.
            term: what was searched; a list or tuple for several terms.
            item: what was clicked.
            number: of the node's queries; the next one by default.
            time: when, a whole number in any unit.

        Returns:
            Whether it was added.

        Raises:
            ValueError: a missing node, term or item, or a number or time that does not fit 32 bits.
            OverflowError: the log is full.
        """
        return self.merge([(node, term, item, number, time)]) == 1

    def merge(self, rows: ClickLog | ClickRows | Iterable[Any]) -> int:
        """Add rows, all or (after an error) none.

        Args:
            rows: a log, rows of one, or (node, term, item), (node, term, item, number), (node, term, item, number,
                time) or mappings with these names.

        Returns:
            How many were new.

        Raises:
            ValueError: a row of another form; the message says which.
            OverflowError: more rows than 32 bits can count.
        """
        if isinstance(rows, ClickLog):
            rows = rows.rows
        if not isinstance(rows, ClickRows):
            rows = self.encode(rows)
        columns = self.vocabulary.encode(rows)
        self._reach(len(self.vocabulary.nodes))
        return self._add(self._fresh(columns)) if columns.shape[1] else 0

    def encode(self, rows: Iterable[Any]) -> ClickRows:
        """Rows as columns in this log's words; see `merge`. Nothing is added."""
        found: list[tuple[int, ...]] = []
        following: dict[int, int] = {}
        for place, row in enumerate(rows):
            try:
                found.append(self._encode(_parts(row), following))
            except (TypeError, ValueError) as error:
                raise ValueError(f"row {place} is {row!r}: {error}") from error
        return ClickRows(self.vocabulary, np.array(found, dtype=np.int32).reshape(-1, len(COLUMNS)).T)

    def since(self, position: int, most: int | None = None) -> ClickRows:
        """The rows from a position on that are not forgotten: what a peer that has all before it still lacks.

        Args:
            position: from 0.
            most: how many at most.

        Raises:
            ValueError: a negative position.
        """
        if position < 0:
            raise ValueError(f"position={position} is not accepted; rows are counted from 0")
        start = int(np.searchsorted(self._columns[-1, : self._length], position))
        end = self._length if most is None else min(self._length, start + most)
        return ClickRows(self.vocabulary, self._columns[: len(COLUMNS), start:end])

    def position_after(self, position: int, rows: int) -> int:
        """The position behind so many rows from a position on."""
        start = int(np.searchsorted(self._columns[-1, : self._length], position))
        return self._position if start + rows >= self._length else int(self._columns[-1, start + rows])

    def next_number(self, node: Hashable) -> int:
        """The number of a node's next query."""
        code = self.vocabulary.nodes.find(node)
        return int(self._next[code]) if code is not None and code < len(self._next) else 0

    def forget(self, chosen: np.ndarray) -> ClickRows:
        """Drop rows and give them back. Their nodes' rows up to them are not taken again.

        Args:
            chosen: bool of shape (rows,).
        """
        dropped = self.rows.choose(chosen)
        kept = self._columns[:, : self._length][:, ~chosen]
        self._columns, self._length = kept.copy(), kept.shape[1]
        np.maximum.at(self._forgotten, dropped.columns[0], dropped.columns[3].astype(np.int64) + 1)
        self._rehash()
        return dropped

    @property
    def forgotten(self) -> dict[Hashable, int]:
        """Node -> number below which its rows were forgotten, of those with such rows."""
        names = self.vocabulary.nodes.values
        return {names[code]: int(self._forgotten[code]) for code in np.flatnonzero(self._forgotten)}

    def forget_before(self, node: Hashable, number: int) -> None:
        """Take no rows of a node with lower numbers."""
        code = self.vocabulary.nodes.code(node)
        self._reach(code + 1)
        self._forgotten[code] = max(number, self._forgotten[code])

    def reserve(self, node: Hashable, number: int) -> None:
        """Let the node's next query have this number or a higher one."""
        code = self.vocabulary.nodes.code(node)
        self._reach(code + 1)
        self._next[code] = max(number, self._next[code])

    def with_own_words(self) -> ClickLog:
        """The same rows at the same positions, with a vocabulary that holds nothing else."""
        log = ClickLog()
        columns = log.vocabulary.encode(self.rows)
        log._columns, log._length = np.concatenate([columns, self._columns[-1:, : self._length]]), self._length
        log._position, log.n_conflicts, log.n_stale = self._position, self.n_conflicts, self.n_stale
        for code in np.unique(self._columns[0, : self._length]).tolist():
            log.forget_before(self.vocabulary.nodes.values[code], int(self._forgotten[code]))
            log.reserve(self.vocabulary.nodes.values[code], int(self._next[code]))
        log._rehash()
        return log

    def to_bytes(self) -> bytes:
        """All rows; see `ClickRows.to_bytes`."""
        return self.rows.to_bytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> ClickLog:
        """A log of the rows in `content`; see `ClickRows.from_bytes`."""
        log = cls()
        log.merge(ClickRows.from_bytes(content))
        return log

    def to_rows(self) -> list[dict[str, Any]]:
        """A dictionary a row."""
        return [click._asdict() for click in self]

    def save(self, path: str | Path) -> Path:
        """Write it, atomically: .jsonl, .csv or .parquet as a table, .clicks as `to_bytes`.

        Raises:
            ValueError: another suffix.
        """
        path = Path(path)
        if path.suffix in (".csv", ".parquet"):
            return _saving.save(self, path)
        if path.suffix == ".jsonl":
            return write_text(path, "".join(json.dumps(row, default=plain_word) + "\n" for row in self.to_rows()))
        if path.suffix == ".clicks":
            return write_bytes(path, self.to_bytes())
        raise ValueError(f"{path.name} names no format: .clicks, .jsonl, .csv and .parquet are accepted")

    @classmethod
    def load(cls, path: str | Path) -> ClickLog:
        """Read a .clicks or a .jsonl file.

        Raises:
            ValueError: a damaged file or a malformed line, by its number.
        """
        path = Path(path)
        if path.suffix != ".jsonl":
            return cls.from_bytes(path.read_bytes())
        log = cls()
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
            if not line.strip():
                continue
            try:
                log.merge([{name: _hashable(value) for name, value in json.loads(line).items()}])
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{path}, line {number} is no row: {line[:80]!r} ({error})") from error
        return log

    def _encode(self, parts: Sequence[Any], following: dict[int, int]) -> tuple[int, ...]:
        for name, value in zip(COLUMNS, parts[:3], strict=False):
            if _missing(value):
                raise ValueError(f"{name} is missing")
        term = tuple(parts[1]) if isinstance(parts[1], list) else parts[1]
        node, *codes = (
            words.code(value) for words, value in zip(self.vocabulary, (parts[0], term, parts[2]), strict=True)
        )
        number, time = parts[3], parts[4]
        if number is None:
            number = following.get(node, int(self._next[node]) if node < len(self._next) else 0)
        for name, value, least in (("number", number, 0), ("time", time, -LARGEST)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= LARGEST:
                raise ValueError(f"{name}={value!r} is no whole number from {least} to {LARGEST}")
        following[node] = int(number) + 1
        return (node, *codes, int(number), int(time))

    def _reach(self, nodes: int) -> None:
        if nodes > len(self._next):
            more = (0, nodes - len(self._next))
            self._next, self._forgotten = np.pad(self._next, more), np.pad(self._forgotten, more)

    def _fresh(self, columns: np.ndarray) -> np.ndarray:
        """The rows that are neither forgotten nor known, each key once; counts the others that matter."""
        stale = columns[3] < self._forgotten[columns[0]]
        if stale.any():
            self.n_stale += int(stale.sum())
            columns = columns[:, ~stale]
        known = self._find(columns)
        seen = known >= 0
        self.n_conflicts += int((columns[1:3, seen] != self._columns[1:3, known[seen]]).any(0).sum())
        if seen.any():
            columns = columns[:, ~seen]
        keys = columns[0].astype(np.int64) << 32 | columns[3]
        first, where = np.unique(keys, return_index=True, return_inverse=True)[1:]
        if len(first) == len(keys):
            return columns
        self.n_conflicts += int((columns[1:3] != columns[1:3, first[where.reshape(-1)]]).any(0).sum())
        return columns[:, np.sort(first)]

    def _add(self, columns: np.ndarray) -> int:
        count = columns.shape[1]
        end = self._length + count
        if self._position + count > LARGEST:
            raise OverflowError(f"a log counts at most {LARGEST} rows; {self._position} came, {count} are too many")
        if end > self._columns.shape[1]:
            grown = np.zeros((self._columns.shape[0], max(end, int(self._columns.shape[1] * _GROWTH))), dtype=np.int32)
            grown[:, : self._length] = self._columns[:, : self._length]
            self._columns = grown
        places = np.arange(self._length, end, dtype=np.int32)
        self._columns[: len(COLUMNS), self._length : end] = columns
        self._columns[-1, self._length : end] = np.arange(self._position, self._position + count)
        self._length, self._position = end, self._position + count
        np.maximum.at(self._next, columns[0], columns[3].astype(np.int64) + 1)
        if end > _LOAD * len(self._table):
            self._rehash()
        else:
            self._insert(places)
        return count

    def _slots(self, columns: np.ndarray) -> np.ndarray:
        """Where keys are looked for first: multiplicative hashing."""
        keys = columns[0].astype(np.uint64) << np.uint64(32) | columns[3].astype(np.uint64)
        bits = len(self._table).bit_length() - 1
        return (keys * self._factor >> np.uint64(64 - bits)).astype(np.int64)

    def _find(self, columns: np.ndarray) -> np.ndarray:
        """Places of the rows with these keys; -1 where there is none."""
        found = np.full(columns.shape[1], -1, dtype=np.int64)
        slots, left = self._slots(columns), np.arange(columns.shape[1])
        while len(left):
            places = self._table[slots]
            filled = places >= 0
            left, slots, places = left[filled], slots[filled], places[filled]
            same = (self._columns[0, places] == columns[0, left]) & (self._columns[3, places] == columns[3, left])
            found[left[same]] = places[same]
            left, slots = left[~same], (slots[~same] + 1) % len(self._table)
        return found

    def _insert(self, places: np.ndarray) -> None:
        """Enter rows whose keys are not in the table; of several that want a slot the last one gets it."""
        slots = self._slots(self._columns[:, places])
        while len(places):
            free = self._table[slots] < 0
            self._table[slots[free]] = places[free]
            left = self._table[slots] != places
            places, slots = places[left], (slots[left] + 1) % len(self._table)

    def _rehash(self) -> None:
        size = 32
        while self._length > _LOAD * size:
            size *= 2
        self._table = np.full(size, -1, dtype=np.int32)
        self._insert(np.arange(self._length, dtype=np.int32))


def _parts(row: Any) -> Sequence[Any]:
    """node, term, item, number, time of a row as a user writes it."""
    if isinstance(row, Mapping):
        if unknown := set(row) - set(COLUMNS):
            raise ValueError(f"{sorted(map(str, unknown))[0]!r} is no column; {', '.join(COLUMNS)} are")
        return [row.get("node"), row.get("term"), row.get("item"), row.get("number"), row.get("time", 0)]
    if not isinstance(row, tuple | list) or not 3 <= len(row) <= 5:
        raise ValueError("(node, term, item), with a number and a time or without, is needed")
    return [*row, *(None, 0)[len(row) - 3 :]]


def _missing(value: Any) -> bool:
    """Whether this is no node, term or item: None, NaN (as tables have it), or several terms of which one is."""
    if isinstance(value, list | tuple):
        return not value or any(map(_missing, value))
    return value is None or (isinstance(value, float) and value != value)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
