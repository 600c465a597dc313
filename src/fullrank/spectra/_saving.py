"""Write what was measured in the format that a file's suffix names."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow
from pyarrow import parquet

from fullrank._files import write_bytes, write_json, write_text

Row = Mapping[str, Any]


@runtime_checkable
class Savable(Protocol):
    """What can be written as JSON, as a table, and as a page."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        ...

    def to_rows(self) -> list[dict[str, Any]]:
        """Flat rows of equal keys."""
        ...

    def to_html(self) -> str:
        """One self-contained page."""
        ...


def save(measured: Savable, path: str | Path) -> Path:
    """Write it atomically: .json, .csv, .parquet or .html.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".json":
            return write_json(path, measured.to_dict())
        case ".csv":
            return write_text(path, _csv(measured.to_rows()))
        case ".parquet":
            return write_bytes(path, _parquet(measured.to_rows()))
        case ".html":
            return write_text(path, measured.to_html())
        case _:
            raise ValueError(
                f"{path.name} names no format: a name that ends in .json, .csv, .parquet or .html is accepted"
            )


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["name"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parquet(rows: Sequence[Row]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()
