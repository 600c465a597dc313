"""Atomic files: a reader sees the old content or the new, never a half."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file atomically: temporary file in the same folder, fsync, rename.

    Args:
        path: where the file goes; missing parent folders are made.
        content: all of it.

    Raises:
        OSError: the disk is full or the folder cannot be written; whatever stood at `path` is untouched. The error
            names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _replace(path, content)
    except OSError as error:  # a failed write names no file, a failed rename names the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_writable(path: Path) -> None:
    """See that a file or a folder can be made, before the work of which it will tell.

    Raises:
        OSError: what would hold it is no folder, or may not be written. The error names that.
    """
    holder = path if path.is_dir() else next(place for place in path.absolute().parents if place.exists())
    if not holder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, "A file is there, which holds no other; name another place", str(holder)
        )
    if not os.access(holder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "This folder may not be written; name another place", str(holder))


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically; see `write_bytes`."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically, indented, NaN and infinity as null; see `write_bytes`."""
    return write_text(path, to_json(value) + "\n")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, read part by part.

    Raises:
        ValueError: it is no Parquet file, or damaged.
    """
    import pyarrow.parquet  # slow to load

    with path.open("rb") as file:  # by its name the system's own errors would be Arrow's
        try:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
                yield from batch.to_pylist()
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} is no Parquet file, or damaged: {error}") from error


def to_json(value: Any, indent: int | None = 1) -> str:
    """Strict JSON text: numbers that JSON does not know (NaN, infinity) become null, those of NumPy plain ones."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0:  # a number of NumPy, or a tensor of one
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
