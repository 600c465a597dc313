"""Models by name or folder: whether Hugging Face's hub is in reach, their layers known, and why one was not loaded."""

from __future__ import annotations

import json
import os
import socket
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

_SECONDS = 3.0


def is_compressed(model: str | Path) -> bool:
    """Whether a folder holds a model that `fullrank.compress` made: its configuration says so."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        return config["quantization_config"]["quant_method"] == "fullrank"
    except (OSError, ValueError, KeyError, TypeError):  # whoever loads it says what is wrong with it
        return False


def know_compressed_layers(model: str | Path) -> None:
    """Let transformers load a folder that `fullrank.compress` made, before it is asked to.

    It passes over a method that it does not know, and would put layers with random weights in place of the compressed
    ones, with no more than a line in its log.
    """
    if is_compressed(model):
        import_module("fullrank.compress")  # by its name: no other model needs that room


def only_local_files(model: str | Path) -> bool:
    """Whether a model can come from this machine alone: it is a folder, or the hub is out of reach.

    Without this question the hub's own client tries again and again, and a mistyped name costs a minute offline.
    Behind a proxy nothing can be told beforehand, and the client is left to try.
    """
    if Path(model).is_dir():
        return True
    if getproxies():
        return False
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname, port), timeout=_SECONDS):
            return False
    except OSError:
        return True


def reason_not_loaded(model: str | Path, error: Exception) -> str:
    """Why transformers did not load a model, in one line.

    Of a place that holds no model it says what nobody asked: how a name on the hub is written, or what is wrong with a
    tokenizer.
    """
    place = Path(model)
    if place.is_file():
        return "it is a file, and no folder"
    if place.is_dir():
        if not (place / "config.json").exists():
            return "the folder has no config.json"
    elif not _may_be_on_the_hub(str(model)):
        return "there is no such folder"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _may_be_on_the_hub(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id  # heavy, and only asked after a failure

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
