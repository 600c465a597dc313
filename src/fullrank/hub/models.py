"""Which models a visitor may analyze or adapt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fullrank.data import bundled_encoder
from fullrank.hub.allowed import allowed_path

_DEPTH = 3  # folders below an allowed one where models are looked for
_SHOWN = 200
_BUNDLED = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Model:
    """A model that may be read.

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
    return Model(name, allowed_path(name, folders))


def choose_to_train(name: str, folders: tuple[Path, ...]) -> Model:
    """The model that a visitor names, if it is a folder that can be trained from.

    Raises:
        NotAllowed, ValueError, FileNotFoundError: as `choose`; no folder with config.json and safetensors.
    """
    model = choose(name, folders)
    if not (model.path / "config.json").is_file() or not any(model.path.glob("*.safetensors")):
        raise ValueError(
            f"{name.strip()} is no Hugging Face folder: one with config.json, weights as safetensors and a tokenizer "
            "is needed"
        )
    return model


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
