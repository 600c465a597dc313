"""Save a compressed model, and load it without the weights it came from.

A model of transformers becomes a Hugging Face folder. `config.json` carries the description of every compressed layer
as a quantisation configuration of method "fullrank", so that `AutoModel.from_pretrained` loads it wherever
`fullrank.compress` was imported; `fullrank.json` beside it has the same with the report. Any other module is saved as
`model.safetensors` with `fullrank.json`, and loaded into a skeleton that the caller builds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel

from fullrank._files import write_json
from fullrank.compress.hugging_face import METHOD
from fullrank.compress.kinds import describe_layers, rebuild_layers
from fullrank.compress.report import CompressionReport
from fullrank.tasks.models import quiet

FORMAT = 1
FACTS = "fullrank.json"


def save(model: nn.Module, folder: str | Path, report: CompressionReport | None = None) -> Path:
    """Write a compressed model to a new folder, as safetensors.

    Args:
        model: of transformers, or any module.
        folder: it must not exist, or be empty: nothing is ever overwritten.
        report: what became of every layer, kept in `fullrank.json`.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: no layer of the model is compressed.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds files already: name a new folder, nothing is overwritten")
    layers = describe_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no compressed layer: compress it first, or save it as it is")
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PreTrainedModel):
        _save_pretrained(model, folder, layers)
    else:
        save_model(model, str(folder / "model.safetensors"))
    facts = {"format": FORMAT, "model_class": type(model).__name__, "layers": layers}
    write_json(folder / FACTS, facts | ({} if report is None else {"report": report.to_dict()}))
    return folder


def load(folder: str | Path, skeleton: nn.Module | None = None, **options: Any) -> nn.Module:
    """Load what `save` wrote; the original weights are not needed.

    Args:
        folder: of the compressed model.
        skeleton: for a module that is none of transformers: the same architecture before compression, with any
            weights; it is changed and returned.
        options: of `from_pretrained`, such as `dtype` or `device_map`.

    Raises:
        FileNotFoundError: it is no folder of a compressed model.
        ValueError: it was written by a newer version, needs a skeleton, or has layers that the skeleton does not.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    if skeleton is not None:
        rebuild_layers(skeleton, facts["layers"])
        load_model(skeleton, folder / "model.safetensors")
        return skeleton.eval()
    import transformers

    kind = getattr(transformers, facts["model_class"], None)
    if kind is None or not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} holds a {facts['model_class']}, which is no model of transformers: build one and pass it as "
            "skeleton="
        )
    with quiet():
        return kind.from_pretrained(folder, **options)


def read_facts(folder: str | Path) -> Mapping[str, Any]:
    """What `fullrank.json` says.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a newer version.
    """
    file = Path(folder) / FACTS
    if not file.exists():
        raise FileNotFoundError(f"{folder} holds no {FACTS}: it is no compressed model; compress one with -o {folder}")
    try:
        facts = json.loads(file.read_text())
        version = facts["format"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): compress the model again") from error
    if version > FORMAT:
        raise ValueError(f"{file} has format {version}, this Fullrank reads up to {FORMAT}: use a newer one")
    return facts


def _save_pretrained(model: PreTrainedModel, folder: Path, layers: dict[str, Any]) -> None:
    before = getattr(model.config, "quantization_config", None)
    model.config.quantization_config = {"quant_method": METHOD, "layers": layers}
    try:
        with quiet():
            model.save_pretrained(folder)
    finally:
        if before is None:
            del model.config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
        else:
            model.config.quantization_config = before
