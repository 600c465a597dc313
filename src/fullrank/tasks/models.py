"""Models of transformers from a folder, as they are, with their tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fullrank._files import require_writable
from fullrank._model_hub import know_compressed_layers


def load_as_is(
    folder: str | Path, dtype: torch.dtype | None = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model that a folder's `config.json` names, with its head, and the tokenizer if there is one.

    Args:
        folder: a Hugging Face folder.
        dtype: of the weights; None for the stored one.

    Raises:
        ValueError: no model is there, or this transformers does not know it.
    """
    kind = getattr(transformers, architecture(folder) or "", AutoModel)
    know_compressed_layers(folder)
    with quiet():
        try:
            model = kind.from_pretrained(str(folder), **({} if dtype is None else {"dtype": dtype}))
        except (OSError, ValueError) as error:
            raise ValueError(f"the model in {str(folder)!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError):
            return model.eval(), None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return model.eval(), tokenizer


def architecture(folder: str | Path) -> str | None:
    """The class of the model that a folder's `config.json` names, or None where it names none.

    Raises:
        ValueError: there is no `config.json`, or it is damaged.
    """
    file = Path(folder) / "config.json"
    if not file.exists():
        raise ValueError(
            f"{str(folder)!r} holds no config.json: a Hugging Face folder with config.json and safetensors is accepted"
        )
    try:
        return (json.loads(file.read_text(encoding="utf-8")).get("architectures") or [None])[0]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no configuration of a model: a JSON object is needed ({error})") from error


def require_empty(folder: Path) -> None:
    """Refuse to write where something is.

    Raises:
        FileExistsError: the folder holds something, or is a file.
        OSError: it cannot be made, or may not be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: name a new folder, or empty this one")
    require_writable(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bar, and its table of the weights that are new."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
