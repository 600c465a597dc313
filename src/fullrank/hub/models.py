"""Which models a visitor may analyze."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fullrank.data import bundled_encoder

_DEPTH = 3  # folders below an allowed one where models are looked for
_SHOWN = 200
_BUNDLED = "all-MiniLM-L6-v2"


class NotAllowed(PermissionError):
    """The path is outside the folders that the operator allows."""


@dataclass(frozen=True)
class Model:
    """A model that may be analyzed.

    Attributes:
        name: what people read, and what the form sends.
        path: where it is.
    """

    name: str
    path: Path


def bundled_model() -> Model:
    """The encoder that comes with Fullrank.

    Raises:
        MissingExtra: it is not installed.
    """
    return Model(_BUNDLED, bundled_encoder())


def models_in(folders: tuple[Path, ...]) -> list[Model]:
    """Models below the allowed folders, by their path relative to it."""
    found = []
    for folder in folders:
        for path in _models_below(folder, _DEPTH):
            relative = path.relative_to(folder)
            found.append(Model(folder.name if relative == Path() else str(relative), path))
    return found[:_SHOWN]


def choose(name: str, folders: tuple[Path, ...]) -> Model:
    """The model that a visitor names: the bundled one, or a path, absolute or relative to an allowed folder.

    Args:
        name: as typed.
        folders: those that the operator allows.

    Raises:
        NotAllowed: outside of them, also by a link.
        ValueError: no name.
        FileNotFoundError: nothing there.
    """
    name = name.strip()
    if not name:
        raise ValueError("no model is named; choose one, or type the path of one")
    if name == _BUNDLED:
        return bundled_model()
    if "\0" in name:
        raise ValueError("a path holds no zero byte")
    for folder in folders:
        path = (folder / name).resolve()  # an absolute name replaces the folder
        if path.is_relative_to(folder.resolve()):
            if not path.exists():
                continue
            _require_files_inside(path, folders)
            return Model(name, path)
    allowed = ", ".join(str(folder) for folder in folders) or "none so far"
    if any(_inside((folder / name).resolve(), folders) for folder in folders):
        raise FileNotFoundError(f"{name} is not there; folders that may be read: {allowed}")
    raise NotAllowed(
        f"{name} is outside the folders that this hub may read ({allowed}); "
        "its operator allows one with fullrank serve --models FOLDER"
    )


def _models_below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # not readable for us, so not offered
        return
    names = [entry.name for entry in entries]
    if "config.json" in names and any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        yield folder
        return
    yield from (entry for entry in entries if entry.suffix == ".safetensors")
    if depth:
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
                yield from _models_below(entry, depth - 1)


def _require_files_inside(path: Path, folders: tuple[Path, ...]) -> None:
    """A folder may hold links; what they point to is allowed or refused by where it is."""
    files = path.iterdir() if path.is_dir() else [path]
    for file in files:
        if file.is_symlink() and not _inside(file.resolve(), folders):
            raise NotAllowed(f"{file.name} in {path.name} is a link to outside the folders that this hub may read")


def _inside(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in folders)
