"""Readers of the file formats that the data sets come in: one dictionary per record."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from fullrank.data.dataset import Reader, Record


def json_lines(path: Path) -> Iterator[Record]:
    """One JSON object a line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def comma_separated(*fields: str, numbers: tuple[str, ...] = ()) -> Reader:
    """Quoted CSV without a header; `numbers` are converted."""

    def read(path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                record: Record = dict(zip(fields, row, strict=True))
                yield record | {name: float(record[name]) for name in numbers}

    return read


def tab_separated(*fields: str) -> Reader:
    """One tab-separated record a line, no quoting."""

    def read(path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield dict(zip(fields, line.rstrip("\n").split("\t"), strict=True))

    return read


def labelled_lines(path: Path) -> Iterator[Record]:
    """`label text` a line, in Latin-1; lines without text are left out."""
    with path.open(encoding="latin-1") as file:
        for line in file:
            label, _, text = line.strip().partition(" ")
            if text:
                yield {"text": text, "label": int(label)}


def whole_text(path: Path) -> Iterator[Record]:
    """The whole file as one record."""
    yield {"text": path.read_text(encoding="utf-8")}
