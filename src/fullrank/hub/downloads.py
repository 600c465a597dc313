"""Files that visitors save, and figures that pages show."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fastapi import Response

_TYPES = {
    ".html": "text/html",
    ".csv": "text/csv",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".zip": "application/zip",
}


def download(content: Any, name: str) -> Response:
    """A file to save.

    Args:
        content: bytes, or what was measured and writes itself in the format that the name ends in.
        name: of the file; letters that a file's name should not have are replaced.
    """
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-.") else "-" for letter in name)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    written = content if isinstance(content, bytes) else _written(content, Path(name).suffix)
    return Response(written, media_type=_TYPES[Path(name).suffix], headers=headers)


def drawing(svg: bytes) -> Response:
    """A figure, which can load and run nothing."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
    return Response(svg, media_type="image/svg+xml", headers=headers)


def _written(measured: Any, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return measured.save(Path(folder) / f"saved{suffix}").read_bytes()
