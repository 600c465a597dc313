"""An index on disk: `retriever.json` names the subfolder that holds its files, and is replaced last.

A build that is killed at any moment leaves the version before it intact.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from fullrank._files import write_json

_ABOUT = "retriever.json"
_FORMAT = 2

Index = TypeVar("Index")


def save_index(folder: str | Path, kind: str, about: dict[str, Any], write: Callable[[Path], object]) -> Path:
    """Write a new version of an index, then forget the one before.

    Args:
        folder: of the index; made if needed.
        kind: of retriever.
        about: what `open_index` gives back, as JSON.
        write: writes the files into the folder that it is given.

    Raises:
        OSError: the disk is full or the folder cannot be written; the version before is intact.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        version = folder / f"index-{uuid.uuid4().hex}"
        version.mkdir()
        try:
            write(version)
            for file in sorted(version.rglob("*")):
                if file.is_file():
                    _flush(file)
        except BaseException:
            shutil.rmtree(version)
            raise
        try:
            write_json(folder / _ABOUT, {"format": _FORMAT, "kind": kind, "files": version.name, **about})
        except OSError:
            shutil.rmtree(version)
            raise
        for other in folder.glob("index-" + "[0-9a-f]" * 32):
            if other != version:
                shutil.rmtree(other)
    return folder


@contextmanager
def building(folder: str | Path) -> Iterator[Path]:
    """A place within an index's folder for its parts while it is made, by one process at a time; gone afterwards.

    What a build that was killed left there is removed; a folder that was made for nothing too.

    Raises:
        FileExistsError: another process builds there.
        NotADirectoryError: a file has that name.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(20, "A file is there; name a folder", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    lock, scratch = folder / ".building.lock", folder / "building"
    try:
        with FileLock(lock, timeout=0):
            try:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                yield scratch
            finally:
                shutil.rmtree(scratch)
                lock.unlink(missing_ok=True)
    except Timeout as error:
        text = "Another process builds an index there; wait for it, or name another folder"
        raise FileExistsError(17, text, str(folder)) from error
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def open_index(
    folder: str | Path, kind: str, read: Callable[[dict[str, Any], Path], Index], damage: tuple[type[Exception], ...]
) -> Index:
    """Read the newest version of an index.

    Args:
        folder: of the index.
        kind: of retriever.
        read: makes the index of what was said about it and the folder of its files.
        damage: what `read` raises where files are damaged or missing.

    Raises:
        FileNotFoundError: the folder holds no index.
        ValueError: it is damaged, of another kind of retriever, or was made by a newer version.
    """
    about, files = _newest(Path(folder), kind)
    try:
        return read(about, files)
    except damage as error:
        if _newest(Path(folder), kind)[1] != files:  # a new version came meanwhile, and its writer deleted ours
            return open_index(folder, kind, read, damage)
        raise ValueError(f"the index in {files} is damaged ({_said(error)}); build it again") from error


def _newest(folder: Path, kind: str) -> tuple[dict[str, Any], Path]:
    """What is said about an index, and the folder of its files."""
    path = folder / _ABOUT
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no index ({_ABOUT} is missing); make one with build() and save()")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        found, version, files = about["kind"], about["format"], folder / about["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({_said(error)}); build the index again") from error
    if version != _FORMAT:
        raise ValueError(f"{path} has format {version}, this version of Fullrank reads {_FORMAT}; build it again")
    if found != kind:
        raise ValueError(f"{folder} is an index of {found}, not of {kind}; open it with {found}.load")
    return about, files


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
