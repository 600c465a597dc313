"""The experts of X-LoRA: loading them onto one base model, and refusing what cannot be mixed token by token."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, PeftType
from peft.tuners import lora
from transformers import PreTrainedModel

#: Options of LoRA that change more than the output of a layer by B A x.
_UNMIXABLE = {
    "modules_to_save": "replaces whole modules, which cannot be mixed by token; put them into the base model",
    "trainable_token_indices": "replaces embeddings, which cannot be mixed by token",
    "target_parameters": "changes parameters that are no layer of their own",
    "layer_replication": "changes the base model",
    "lora_bias": "adds a bias that no scale of the expert reaches",
}
#: Initialisations that move a part of the base weight into the adapter: the base is another one for every expert.
_MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LAYERS = (lora.Linear, lora.Embedding, lora.Conv2d)

Experts = Mapping[str, str | os.PathLike]


def load_experts(base_model: PreTrainedModel, experts: Experts, check_base: bool) -> PeftModel:
    """A PeftModel with one LoRA adapter an expert, under their names.

    Raises:
        TypeError: an expert is no plain LoRA.
        ValueError: there is no expert, or one was trained on another base model; `check_base=False` skips the
            comparison of the models' names.
    """
    if not experts:
        raise ValueError("experts is empty: X-LoRA mixes LoRA adapters, pass {name: path of its checkpoint, ...}")
    base = str(base_model.name_or_path or "")
    configs = {name: _expert_config(name, path) for name, path in experts.items()}
    for name, config in configs.items():
        trained_on = str(config.base_model_name_or_path or "")
        if check_base and base and trained_on and PurePath(base).name != PurePath(trained_on).name:
            raise ValueError(
                f"expert {name!r} was trained on {trained_on!r}, the base model is {base!r}: load that base model, or "
                "pass check_base=False if both names mean the same weights"
            )
    first = next(iter(configs))
    with _other_base(first, base_model):
        model = PeftModel(base_model, configs[first], first)
    for name, path in experts.items():
        with _other_base(name, base_model):
            load_expert(model, name, path)
    return model


def load_expert(model: PeftModel, name: str, path: str | os.PathLike) -> None:
    """Read an expert's weights into the model, adding the adapter where it is not there yet."""
    device = str(next(model.parameters()).device)
    result = PeftModel.load_adapter(model, path, name, torch_device=device)
    # PEFT lists every key that the name occurs in, and "1" occurs in "layers.1".
    missing = [key for key in result.missing_keys if expert_key(name).search(key)]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{len(missing)} weights are missing in {str(path)!r}, {len(result.unexpected_keys)} have no place, "
            f"such as {(missing + result.unexpected_keys)[0]!r}"
        )


def expert_key(name: str) -> re.Pattern[str]:
    """Keys of an expert's weights in a model's state; without the name they are group 1 and group 2."""
    return re.compile(rf"(\.lora_(?:embedding_)?[AB])\.{re.escape(name)}(\.weight)?$")


def check_experts(model: PeftModel, names: Sequence[str]) -> None:
    """Raise unless the model holds these adapters and each of them is plain LoRA.

    Raises:
        TypeError: naming the expert and what it has beyond LoRA.
        ValueError: an expert that the model does not hold, or one given twice.
    """
    for name in names:
        if name not in model.peft_config:
            raise ValueError(f"adapters names {name!r}, the model holds {', '.join(map(repr, model.peft_config))}")
    if len(set(names)) < len(names):
        raise ValueError(f"adapters={list(names)}: an expert is named twice")
    for name in names:
        _check_plain(name, model.peft_config[name])
    for path, layer in model.get_base_model().named_modules():
        if isinstance(layer, lora.LoraLayer):
            _check_layer(path, layer, names)


def _expert_config(name: str, path: str | os.PathLike) -> PeftConfig:
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (ValueError, OSError) as error:
        raise ValueError(f"expert {name!r}: no LoRA checkpoint is found at {str(path)!r}") from error
    _check_plain(name, config)
    config.inference_mode = True
    return config


def _check_plain(name: str, config: PeftConfig) -> None:
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise TypeError(f"expert {name!r} is {kind}, not LoRA: X-LoRA mixes LoRA adapters only")
    if config.use_dora:
        raise TypeError(f"expert {name!r} is DoRA, whose magnitudes cannot be mixed by token: use plain LoRA")
    for option, reason in _UNMIXABLE.items():
        if getattr(config, option):
            raise TypeError(f"expert {name!r} has {option}={getattr(config, option)!r}: it {reason}")
    if config.bias != "none":
        raise TypeError(f"expert {name!r} has bias={config.bias!r}: it changes the base's biases, train it with 'none'")
    start = config.init_lora_weights
    if isinstance(start, str) and start.startswith(_MOVES_THE_BASE):
        raise TypeError(
            f"expert {name!r} starts from {start!r}, which changes the base weight: convert it to plain LoRA with "
            "PEFT's path_initial_model_for_weight_conversion"
        )


def _check_layer(path: str, layer: Any, names: Sequence[str]) -> None:
    held = [name for name in names if name in layer.scaling]
    if not held:
        return
    for name in held:
        if name in layer.lora_variant:
            kind = type(layer.lora_variant[name]).__name__
            raise TypeError(f"expert {name!r} is a variant of LoRA at {path!r} ({kind}): X-LoRA mixes plain LoRA")
        if name in layer.merged_adapters:
            raise TypeError(f"expert {name!r} is merged into the base weight at {path!r}: unmerge it first")
    if getattr(layer.get_base_layer(), "groups", 1) > 1:
        raise TypeError(f"experts {held} adapt {path!r}, a convolution in groups: X-LoRA supports groups=1")
    quantised = type(layer).__name__.startswith("Linear")  # PEFT's layers over quantised bases, each a class of its own
    if not isinstance(layer, _LAYERS) and not quantised:
        raise TypeError(
            f"experts {held} adapt {path!r}, a {type(layer.get_base_layer()).__name__}: X-LoRA supports linear layers, "
            "embeddings and two-dimensional convolutions"
        )


@contextmanager
def _other_base(name: str, base_model: PreTrainedModel) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        base = base_model.name_or_path or type(base_model).__name__
        raise ValueError(f"expert {name!r} does not fit the base model {str(base)!r}: {error}") from error
