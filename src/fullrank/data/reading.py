"""Formats that the data sets come in. A record is a dictionary."""

from __future__ import annotations

import csv
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, TextIO

import numpy as np
from numpy.typing import NDArray

Record = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """How a file is read.

    Attributes:
        fields: of every record.
        parse: the records of an open file.
        encoding: of its text; None for a file of bytes.
    """

    fields: tuple[str, ...]
    parse: Callable[[Any], Iterator[Record]]
    encoding: str | None = "utf-8"

    def read(self, path: Path) -> Iterator[Record]:
        """The records of a file."""
        opened = path.open("rb") if self.encoding is None else path.open(encoding=self.encoding, newline="")
        with opened as file:
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


def whole_array(field: str) -> Format:
    """A NumPy `.npy` file as one record."""
    return Format((field,), lambda file: iter([{field: np.load(file, allow_pickle=False)}]), None)


def number_rows(field: str, label: str) -> Format:
    """Whole numbers separated by blanks, a row a line; the last one is the label."""
    return Format((field, label), lambda file: _number_rows(file, field, label))


def number_table(key: str, values: str) -> Format:
    """Tab-separated numbers under a line of names; the first column is the key, the others a dictionary by name."""
    return Format((key, values), lambda file: _number_table(file, key, values))


def labelled_images() -> Format:
    """A `.npz` archive: JPEG files end to end, their offsets, labels, and the names of the classes."""
    return Format(("image", "label", "class"), _labelled_images, None)


def masked_images() -> Format:
    """A `.npz` archive: grey JPEG images and PNG masks end to end, the offsets of both, and names."""
    return Format(("name", "image", "mask"), _masked_images, None)


def cifar_batches(prefix: str) -> Format:
    """The original CIFAR-10 archive of binary batches; the records of the files whose name begins with `prefix`."""
    return Format(("image", "label", "class"), lambda file: _cifar_batches(file, prefix), None)


def masked_image_folders(split: str) -> Format:
    """A `.zip` of grey `images/SPLIT/NAME.jpg` and `annotations/SPLIT/NAME.png`."""
    return Format(("name", "image", "mask"), lambda file: _masked_image_folders(file, split), None)


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


def _number_rows(file: TextIO, field: str, label: str) -> Iterator[Record]:
    for line in file:
        *numbers, last = map(int, line.split())
        yield {field: np.array(numbers), label: last}


def _number_table(file: TextIO, key: str, values: str) -> Iterator[Record]:
    names = next(file).rstrip("\n").split("\t")[1:]
    for line in file:
        first, *numbers = line.rstrip("\n").split("\t")
        yield {key: first, values: dict(zip(names, map(float, numbers), strict=True))}


def _labelled_images(file: IO[bytes]) -> Iterator[Record]:
    archive = np.load(file, allow_pickle=False)
    classes = [str(name) for name in archive["classes"]]
    images = _pictures(archive["jpeg"], archive["offsets"])
    for image, label in zip(images, archive["labels"].tolist(), strict=True):
        yield {"image": image, "label": label, "class": classes[label]}


def _masked_images(file: IO[bytes]) -> Iterator[Record]:
    archive = np.load(file, allow_pickle=False)
    images = _pictures(archive["image"], archive["image_offsets"], "L")
    masks = _pictures(archive["mask"], archive["mask_offsets"])
    for name, image, mask in zip(archive["names"], images, masks, strict=True):
        yield {"name": str(name), "image": image, "mask": mask}


def _cifar_batches(file: IO[bytes], prefix: str) -> Iterator[Record]:
    batches: dict[str, bytes] = {}
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if name == "batches.meta.txt" or name.startswith(prefix):
                content = archive.extractfile(member)
                batches[name] = content.read() if content else b""
    names = batches.pop("batches.meta.txt").decode().split()
    for _, content in sorted(batches.items()):
        for row in np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32):
            label = int(row[0])
            yield {"image": row[1:].reshape(3, 32, 32).transpose(1, 2, 0), "label": label, "class": names[label]}


def _masked_image_folders(file: IO[bytes], split: str) -> Iterator[Record]:
    with zipfile.ZipFile(file) as archive:
        for member in sorted(archive.namelist()):
            place = PurePosixPath(member)
            if place.suffix != ".jpg" or place.parts[-3:-1] != ("images", split):
                continue
            mask = place.parents[2] / "annotations" / split / f"{place.stem}.png"
            yield {
                "name": place.stem,
                "image": _picture(archive.read(member), "L"),
                "mask": _picture(archive.read(str(mask))),
            }


def _pictures(
    content: NDArray[np.uint8], offsets: NDArray[np.int64], mode: str | None = None
) -> Iterator[NDArray[np.uint8]]:
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield _picture(content[begin:end].tobytes(), mode)


def _picture(content: bytes, mode: str | None = None) -> NDArray[np.uint8]:
    """The pixels of a file, in Pillow's mode ("L" is grey) or the file's own."""
    from PIL import Image  # only data sets of images need it

    with Image.open(BytesIO(content)) as image:
        return np.asarray(image.convert(mode) if mode else image)
