"""Formats that the data sets come in. A record is a dictionary."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

Record = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """How a file is read.

    Attributes:
        fields: of every record.
        parse: the records of an open file.
        encoding: of its text.
    """

    fields: tuple[str, ...]
    parse: Callable[[TextIO], Iterator[Record]]
    encoding: str = "utf-8"

    def read(self, path: Path) -> Iterator[Record]:
        """The records of a file."""
        with path.open(encoding=self.encoding, newline="") as file:
            yield from self.parse(file)


def json_lines(*fields: str) -> Format:
    """One JSON object a line."""
    return Format(fields, lambda file: map(json.loads, file))


def comma_separated(*fields: str, **convert: Callable[[str], Any]) -> Format:
    """Quoted CSV without a header; `convert` turns a field's text into a number."""
    return Format(fields, lambda file: _records(csv.reader(file), fields, convert))


def tab_separated(*fields: str, **convert: Callable[[str], Any]) -> Format:
    """One tab-separated record a line, no quoting; `convert` turns a field's text into a number."""
    return Format(fields, lambda file: _records((line.rstrip("\n").split("\t") for line in file), fields, convert))


def labelled_lines() -> Format:
    """`label text` a line, in Latin-1; the label is a whole number."""
    return Format(("label", "text"), _labelled, "latin-1")


def whole_text() -> Format:
    """The whole file as one record."""
    return Format(("text",), lambda file: iter([{"text": file.read()}]))


def _records(
    rows: Iterable[list[str]], fields: tuple[str, ...], convert: dict[str, Callable[[str], Any]]
) -> Iterator[Record]:
    for row in rows:
        record: Record = dict(zip(fields, row, strict=True))
        yield record | {name: number(record[name]) for name, number in convert.items()}


def _labelled(file: TextIO) -> Iterator[Record]:
    for line in file:
        label, text = line.split(maxsplit=1)
        yield {"label": int(label), "text": text.strip()}
