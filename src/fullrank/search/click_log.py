"""A peer's click log: who searched what and clicked which item, in columns of whole numbers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fullrank._files import write_bytes, write_text

_COLUMNS = ("node", "number", "term", "item")
_MOST = 2**31 - 1
_MAGIC = b"FRCL1\n"


class Click(NamedTuple):
    """One row.

    Attributes:
        node: who clicked.
        term: what was searched.
        item: what was clicked.
        number: of the node's queries; (node, number) is the row's key.
    """

    node: Hashable
    term: Hashable
    item: Hashable
    number: int


@dataclass
class _Names:
    """Values by number, in the order of their first use."""

    values: list[Hashable] = field(default_factory=list)
    numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, value: Hashable) -> int:
        found = self.numbers.get(value)
        if found is None:
            found = self.numbers[value] = len(self.values)
            self.values.append(value)
        return found


class ClickLog:
    """Rows in the order in which they came; a key that is known already is not taken again.

    Attributes:
        n_conflicts: rows that had the key of another one, and other content: a sign of an attack.
    """

    def __init__(self) -> None:
        self.n_conflicts = 0
        self._columns = np.zeros((len(_COLUMNS), 64), dtype=np.int32)
        self._length = 0
        self._nodes, self._terms, self._items = _Names(), _Names(), _Names()
        self._keys: dict[tuple[int, int], int] = {}
        self._next: dict[int, int] = {}

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Click]:
        return iter(self.since(0))

    def __getitem__(self, position: int) -> Click:
        """One row.

        Raises:
            IndexError: there are fewer.
        """
        if not -self._length <= position < self._length:
            raise IndexError(f"position={position}: the log has {self._length} rows")
        return self._row(position % self._length)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return int(self._columns[:, : self._length].nbytes)

    def append(self, node: Hashable, term: Hashable, item: Hashable, number: int | None = None) -> bool:
        """Add a row, unless its key is there.

        Args:
            node: who clicked.
            term: what was searched.
            item: what was clicked.
            number: of the node's queries; the next one by default.

        Returns:
            Whether it was added.

        Raises:
            ValueError: a missing node, term or item, or a number that does not fit 32 bits.
            OverflowError: the log is full.
        """
        for name, value in (("node", node), ("term", term), ("item", item)):
            if value is None:
                raise ValueError(f"{name}=None: a row has a node, a term and an item, ({node!r}, {term!r}, {item!r})")
        who = self._nodes.number(node)
        number = self._next.get(who, 0) if number is None else number
        if not 0 <= number <= _MOST:
            raise ValueError(f"number={number!r} is not accepted; it lies between 0 and {_MOST}")
        row = (who, number, self._terms.number(term), self._items.number(item))
        known = self._keys.get((who, number))
        if known is not None:
            self.n_conflicts += tuple(self._columns[:, known].tolist()) != row
            return False
        self._write(row)
        self._keys[who, number] = self._length - 1
        self._next[who] = max(self._next.get(who, 0), number + 1)
        return True

    def merge(self, rows: Iterable[Any]) -> list[Click]:
        """Add rows of (node, term, item, number), such as those of another log.

        Returns:
            Those that were new.

        Raises:
            ValueError: a row of another form; the message says which. Those before it are added.
        """
        new: list[Click] = []
        for place, row in enumerate(rows):
            try:
                click = Click(*row)
                added = self.append(*click)
            except (TypeError, ValueError) as error:
                raise ValueError(f"row {place} is {row!r}, not (node, term, item, number): {error}") from error
            if added:
                new.append(click)
        return new

    def since(self, position: int, most: int | None = None) -> list[Click]:
        """The rows from a position on: what a peer that has all before it still lacks.

        Args:
            position: from 0.
            most: how many at most.

        Raises:
            ValueError: a negative position.
        """
        if position < 0:
            raise ValueError(f"position={position} is not accepted; rows are counted from 0")
        end = self._length if most is None else min(self._length, position + most)
        return [self._row(place) for place in range(position, end)]

    def drop_first(self, count: int) -> list[Click]:
        """Forget the oldest rows and their keys, and give them back."""
        dropped = self.since(0, count)
        kept = self.since(len(dropped))
        conflicts, following = self.n_conflicts, self._next
        nodes, terms, items = self._nodes, self._terms, self._items
        self.__init__()
        self._nodes, self._terms, self._items = nodes, terms, items
        self.merge(kept)
        self.n_conflicts, self._next = conflicts, following
        return dropped

    def to_bytes(self) -> bytes:
        """The log as bytes: names as JSON, then the columns."""
        names = {"nodes": self._nodes.values, "terms": self._terms.values, "items": self._items.values}
        head = json.dumps(names | {"rows": self._length, "conflicts": self.n_conflicts}).encode()
        return _MAGIC + len(head).to_bytes(4, "little") + head + self._columns[:, : self._length].tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> ClickLog:
        """A log from `to_bytes`; names are what JSON knows: text and numbers.

        Raises:
            ValueError: the bytes are no log, or a damaged one.
        """
        start = len(_MAGIC) + 4
        if content[: len(_MAGIC)] != _MAGIC:
            raise ValueError("the bytes are no click log: they begin otherwise")
        size = int.from_bytes(content[len(_MAGIC) : start], "little")
        try:
            head = json.loads(content[start : start + size])
            flat = np.frombuffer(content, dtype="<i4", offset=start + size)
            columns = flat.reshape(len(_COLUMNS), head["rows"])
            log = cls()
            for who, number, term, item in columns.T.tolist():
                log.append(head["nodes"][who], head["terms"][term], head["items"][item], number)
            log.n_conflicts = int(head["conflicts"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the click log is damaged: {error}") from error
        return log

    def save(self, path: str | Path) -> Path:
        """Write it, atomically: .jsonl or .parquet as a table, any other name as `to_bytes`."""
        path = Path(path)
        if path.suffix == ".jsonl":
            return write_text(path, "".join(json.dumps(row._asdict()) + "\n" for row in self))
        if path.suffix == ".parquet":
            return write_bytes(path, _parquet(self))
        return write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> ClickLog:
        """Read what `save` wrote.

        Raises:
            ValueError: a damaged file or a malformed line, by its number.
        """
        path = Path(path)
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return cls._of_tables(pyarrow.parquet.read_table(path).to_pylist(), path, "row")
        if path.suffix != ".jsonl":
            return cls.from_bytes(path.read_bytes())
        rows: list[Any] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is no JSON: {line[:80]!r}") from error
        return cls._of_tables(rows, path, "line")

    @classmethod
    def _of_tables(cls, rows: list[Any], path: Path, unit: str) -> ClickLog:
        log = cls()
        for number, row in enumerate(rows, 1):
            try:
                log.append(row["node"], row["term"], row["item"], row["number"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, {unit} {number}: node, term, item and number are needed: {row!r}") from error
        return log

    def _write(self, row: tuple[int, int, int, int]) -> None:
        if self._length == _MOST:
            raise OverflowError(f"a click log holds at most {_MOST} rows")
        if self._length == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        self._columns[:, self._length] = row
        self._length += 1

    def _row(self, place: int) -> Click:
        who, number, term, item = self._columns[:, place].tolist()
        return Click(self._nodes.values[who], self._terms.values[term], self._items.values[item], number)


def _parquet(log: ClickLog) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: [getattr(row, name) for row in log] for name in Click._fields})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()
