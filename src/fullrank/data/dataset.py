"""What a data set is: its files with checksums, its licence, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Reader = Callable[[Path], Iterator[Record]]


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        name: its name in the data set's folder.
        sha256: checksum of the copy that travels with Fullrank; None for files that are only fetched.
        origin: where it can be fetched, or None.
        origin_sha256: checksum of the file at its origin. None where it is not known: the checksum seen at the first
            download is then kept beside the file, and a later change is noticed.
    """

    name: str
    sha256: str | None = None
    origin: str | None = None
    origin_sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A small real data set.

    Attributes:
        name: as in `data.load(name)`.
        title: what it is, one line.
        licence: SPDX identifier, or in words.
        source: who made it and who carries it.
        splits: file by split name.
        read: reads the records of one file.
        fields: what a record holds.
        packaged: whether it travels in the installed package; otherwise only in the source repository (`datasets/`),
            because its licence is not formal or not free.
        folder: the folder of its files, where that is not its name.
    """

    name: str
    title: str
    licence: str
    source: str
    splits: dict[str, DataFile]
    read: Reader
    fields: tuple[str, ...]
    packaged: bool = True
    folder: str = ""
