"""What a data set is: its files with checksums and formats, its licence, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from fullrank.data.reading import Format


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, which is one of its splits.

    Attributes:
        name: its name in the data set's folder.
        format: how it is read, and the fields of a record.
        sha256: its checksum. None where it is not known: the checksum seen at the first download is then kept beside
            the file, and a later change is noticed.
        size: bytes, or None where it is not known.
        origin: address it can be fetched from, or None.
        shipped: whether a copy travels with Fullrank.
    """

    name: str
    format: Format
    sha256: str | None = None
    size: int | None = None
    origin: str | None = None
    shipped: bool = True


@dataclass(frozen=True)
class Dataset:
    """A small real data set.

    Attributes:
        name: as in `data.load(name)`.
        title: what it is, one line.
        licence: SPDX identifier, or in words.
        source: who made it and who carries it.
        splits: file by split name.
        packaged: whether its shipped files are in the installed package; otherwise they are only in the source
            repository (`corpora/`), because its licence is not formal or not free.
    """

    name: str
    title: str
    licence: str
    source: str
    splits: dict[str, DataFile]
    packaged: bool = True
