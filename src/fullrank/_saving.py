"""Write what was measured in the format that a file's suffix names."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullrank._files import to_json, write_bytes

Row = Mapping[str, Any]


def save(measured: Any, path: str | Path) -> Path:
    """Write it atomically, in one of the formats that it can give.

    Args:
        measured: has some of `to_dict` (for .json), `to_rows` (flat rows of equal keys, for .csv and .parquet),
            `to_html` (one self-contained page, for .html) and `figure` (for .svg).
        path: its suffix names the format.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    accepted = {suffix: writer for suffix, (method, writer) in _WRITERS.items() if hasattr(measured, method)}
    if path.suffix.lower() not in accepted:
        *others, last = accepted
        raise ValueError(f"{path.name} names no format: a name that ends in {', '.join(others)} or {last} is accepted")
    return write_bytes(path, accepted[path.suffix.lower()](measured))


def svg(figure: Any) -> str:
    """A matplotlib figure as SVG with real text, the same bytes every time."""
    import matplotlib  # slow to load, and few draw

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fullrank"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["name"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


_WRITERS: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    ".json": ("to_dict", lambda measured: (to_json(measured.to_dict()) + "\n").encode()),
    ".csv": ("to_rows", lambda measured: _csv(measured.to_rows()).encode()),
    ".parquet": ("to_rows", lambda measured: _parquet(measured.to_rows())),
    ".html": ("to_html", lambda measured: measured.to_html().encode()),
    ".svg": ("figure", lambda measured: svg(measured.figure()).encode()),
}
