"""Files of lines, plain or gzip, read line by line in constant memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Source = str | Path | Iterable[bytes]
_GZIP = b"\x1f\x8b"
_BUFFER = 1 << 17  # bytes that are unpacked at once


@contextmanager
def lines_of(source: Any) -> Iterator[tuple[Iterable[Any], str]]:
    """Lines, and what a complaint says before their number; gzip is told by its first bytes, for parts have no suffix.

    Args:
        source: a path, of a plain or a gzip file; a file of bytes that is open; or lines.

    Raises:
        ValueError: a gzip file that is cut off or damaged.
        TypeError: bytes, which are neither a path nor lines.
    """
    if isinstance(source, bytes | bytearray):
        raise TypeError(f"source is {len(source)} bytes; a path, an open file, or a list of lines is needed")
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file, _complaining(source):
            yield _unpacked(file), f"{source}, "
        return
    with _complaining(getattr(source, "name", "the file")):
        yield _unpacked(source), ""


def _unpacked(source: Any) -> Iterable[Any]:
    if not (hasattr(source, "read") and hasattr(source, "seekable") and source.seekable()):
        return source
    begin = source.tell()
    packed = source.read(2) == _GZIP
    source.seek(begin)
    if not packed:
        return source
    # lines through a buffer in C: GzipFile's own are read by Python, one call a line
    return io.BufferedReader(gzip.GzipFile(fileobj=source), _BUFFER)  # pyright: ignore[reportArgumentType]


@contextmanager
def _complaining(name: Any) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name} is cut off or damaged ({error}); fetch it again") from error
