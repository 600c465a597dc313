"""Checkpoints of X-LoRA: ours, and readers of the official repository's layout and of PEFT's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from peft import PeftConfig
from safetensors.torch import load_file, save
from torch import Tensor

from fullrank._files import write_bytes, write_json
from fullrank.adapt.x_lora_experts import expert_key
from fullrank.adapt.x_lora_gate import XLoraGateConfig, hidden_names

CONFIG = "xlora_gate_config.json"
#: PEFT's name for an adapter's weights, by which transformers' trainer knows a checkpoint to resume from.
WEIGHTS = "adapter_model.safetensors"
_OFFICIAL = ("xlora_config.json", "xlora_classifier.safetensors")
_PEFT = ("adapter_config.json", WEIGHTS)
_FIELDS = {field.name for field in fields(XLoraGateConfig)}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds.

    Attributes:
        config: of the gate; `adapters` says where the experts are.
        gate: its state.
        layer_names: the adapted layers, None where the layout does not name them.
    """

    config: XLoraGateConfig
    gate: dict[str, Tensor]
    layer_names: list[str] | None = None


def write_gate(
    folder: Path,
    config: XLoraGateConfig,
    state: Mapping[str, Tensor],
    layer_names: Sequence[str],
    base: str | None,
) -> None:
    """Write the gate and its configuration."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / WEIGHTS, save(content))
    write_json(
        folder / CONFIG,
        asdict(config) | {"layer_names": list(layer_names), "base_model_name_or_path": base},
    )


def write_expert(config: PeftConfig, name: str, folder: Path, state: Mapping[str, Tensor]) -> str:
    """Write an expert as PEFT does, and return where, relative to the checkpoint's folder.

    PEFT's own selection by name drops weights where another adapter's name is a part of their path, such as "0".
    """
    place = f"experts/{quote(name, safe='')}"
    own = expert_key(name)
    weights = {
        own.sub(r"\1\2", key): tensor.detach().cpu().contiguous() for key, tensor in state.items() if own.search(key)
    }
    write_bytes(folder / place / WEIGHTS, save(weights, metadata={"format": "pt"}))
    config.save_pretrained(str(folder / place))
    return place


def read_checkpoint(folder: str | os.PathLike) -> Checkpoint:
    """Read a folder of any of the three layouts.

    Raises:
        FileNotFoundError: the folder holds none of them.
        ValueError: gate weights are missing from the file, as PEFT 0.21 leaves them out.
    """
    root = Path(folder)
    if (root / CONFIG).exists():
        return _read_ours(root)
    if (root / _OFFICIAL[0]).exists():
        return _read_official(root)
    if (root / _PEFT[0]).exists():
        return _read_peft(root)
    raise FileNotFoundError(
        f"{str(root)!r} holds no X-LoRA checkpoint: that has {CONFIG}, {_OFFICIAL[0]} (the official repository's), or "
        f"{_PEFT[0]} (PEFT's)"
    )


def _read_ours(root: Path) -> Checkpoint:
    stored = json.loads((root / CONFIG).read_text())
    experts: dict[str, str | None] = {name: _place(root, path) for name, path in stored["adapters"].items()}
    config = _config(stored, experts)
    gate = load_file(root / WEIGHTS)
    _check_complete(root / WEIGHTS, config, gate)
    return Checkpoint(config, gate, stored["layer_names"])


def _read_official(root: Path) -> Checkpoint:
    """Linear layers `inner.K` and `last`; trained experts in `adapters/NAME`."""
    stored = json.loads((root / _OFFICIAL[0]).read_text())
    experts = {
        name: str(root / "adapters" / name) if (root / "adapters" / name).is_dir() else path
        for name, path in stored.get("adapters", {}).items()
    }
    # The official repository has a linear gate unless told otherwise.
    config = _config({"enable_relu_and_dropout": False} | stored, experts)
    file = root / _OFFICIAL[1]
    return Checkpoint(config, _gate(file, config, load_file(file), "inner.", "last."))


def _read_peft(root: Path) -> Checkpoint:
    """Linear layers `internal_xlora_classifier.layers.K`, and the trained experts in folders by number."""
    stored = json.loads((root / _PEFT[0]).read_text())
    if stored.get("peft_type") != "XLORA":
        raise ValueError(f"{str(root)!r} is a checkpoint of {stored.get('peft_type')}, not of XLORA")
    experts: dict[str, str | None] = {}
    for number, (name, path) in enumerate(stored["adapters"].items()):
        trained = root / str(number)
        kept = stored.get("use_trainable_adapters") and (trained / _PEFT[0]).exists()
        experts[name] = str(trained) if kept else path
    config, file = _config(stored, experts), root / WEIGHTS
    return Checkpoint(config, _gate(file, config, load_file(file), "internal_xlora_classifier.layers."))


def _config(stored: Mapping[str, Any], experts: dict[str, str | None]) -> XLoraGateConfig:
    options: dict[str, Any] = {key: stored[key] for key in _FIELDS & set(stored)}
    options["adapters"] = experts
    return XLoraGateConfig(**options)


def _place(root: Path, path: str) -> str:
    return str(root / path) if path.startswith("experts/") and (root / path).is_dir() else path


def _gate(
    file: Path, config: XLoraGateConfig, tensors: Mapping[str, Tensor], numbered: str, last: str | None = None
) -> dict[str, Tensor]:
    """Rename the linear layers, which are numbered in their order with activations in between."""
    numbers: dict[int, str] = {}
    for key in tensors:
        _, found, rest = key.partition(numbered)
        if found:
            numbers[int(rest.partition(".")[0])] = key.rpartition(".")[0]
    layers = [numbers[number] for number in sorted(numbers)] + ([last[:-1]] if last else [])
    names = [*hidden_names(config.xlora_depth), "output"]
    gate = {
        f"{name}.{part}": tensors[f"{layer}.{part}"]
        for name, layer in zip(names, layers, strict=False)
        for part in ("weight", "bias")
        if f"{layer}.{part}" in tensors
    }
    if len(layers) != len(names):
        raise ValueError(_missing(file, f"{len(layers)} linear layers for xlora_depth={config.xlora_depth}"))
    _check_complete(file, config, gate)
    return gate


def _check_complete(file: Path, config: XLoraGateConfig, gate: Mapping[str, Tensor]) -> None:
    parts = ("weight", "bias") if config.use_bias else ("weight",)
    expected = {f"{name}.{part}" for name in [*hidden_names(config.xlora_depth), "output"] for part in parts}
    if missing := sorted(expected - set(gate)):
        raise ValueError(_missing(file, f"no {', '.join(missing)}"))
    if surplus := sorted(set(gate) - expected):
        raise ValueError(f"{str(file)!r} holds {', '.join(surplus)}, which its configuration does not speak of")


def _missing(file: Path, found: str) -> str:
    return (
        f"gate weights are missing from this file: {str(file)!r} has {found}. PEFT 0.21 leaves them out when it saves "
        "an XLora model; train the gate again, or take the weights from the model that is still in memory"
    )
