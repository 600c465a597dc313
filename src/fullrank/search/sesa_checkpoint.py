"""A SESA on disk: `model.safetensors`, and `sesa.json`, which says what the tensors are and is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fullrank._files import write_bytes, write_json

_ABOUT = "sesa.json"
_TENSORS = "model.safetensors"
_FORMAT = 1
_FIELDS = ("options", "concepts", "own_encoder", "encoder_width", "vocabulary", "tensors")


def write_checkpoint(folder: Path, about: dict[str, Any], state: dict[str, Tensor]) -> Path:
    """Write tensors and what is said about them; a description that belongs to other tensors is found out."""
    content = save(state)
    write_bytes(folder / _TENSORS, content)
    write_json(folder / _ABOUT, {"format": _FORMAT, **about, "tensors": _digest(content)})
    return folder


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said about the tensors, and they.

    Raises:
        FileNotFoundError: the folder holds no SESA.
        ValueError: it is damaged, or was made by a newer version.
    """
    path = folder / _ABOUT
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no SESA ({_ABOUT} is missing); save_pretrained() writes one")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if version != _FORMAT:
        raise ValueError(f"{path} has format {version}, this version of Fullrank reads {_FORMAT}; train it again")
    missing = [name for name in _FIELDS if name not in about]
    if missing:
        raise ValueError(f"{path} is damaged: {', '.join(missing)} is missing")
    try:
        content = (folder / _TENSORS).read_bytes()
        state = load(content)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / _TENSORS} is damaged: {error}") from error
    if _digest(content) != about["tensors"]:
        raise ValueError(f"{path} belongs to other tensors than {_TENSORS}: writing was stopped halfway; save it again")
    return about, state


def check_fits(folder: Path, state: dict[str, Tensor], needed: dict[str, Tensor]) -> None:
    """Refuse a checkpoint whose tensors are not those that its description asks for.

    Raises:
        ValueError: they are others; the message shows both numbers of concepts, or the first names.
    """
    K, stored = len(needed["head.bias"]), len(state["head.bias"]) if "head.bias" in state else 0
    if stored != K:
        raise ValueError(f"{folder} names {K} concepts, but its head has {stored}; it is damaged")
    wrong = sorted(needed.keys() ^ state.keys()) or [n for n in needed if needed[n].shape != state[n].shape]
    if wrong:
        raise ValueError(f"{folder} does not fit its own description: {', '.join(wrong[:5])}")


def check_order(stored: Sequence[str], expected: Sequence[str] | None) -> None:
    """Refuse concepts in another order than expected: names are never mapped silently.

    Raises:
        ValueError: they differ; the message shows where first.
    """
    if expected is None or list(expected) == list(stored):
        return
    if len(expected) != len(stored):
        raise ValueError(f"the checkpoint has {len(stored)} concepts, {len(expected)} are expected")
    place = next(place for place, pair in enumerate(zip(stored, expected, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"the checkpoint's concept {place} is {stored[place]!r}, {expected[place]!r} is expected: their order is "
        "part of the model"
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
