"""A whole model quantised with LoRC, turned back into dense layers, or parted into a bare model and a PEFT adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from fullrank._optional import require
from fullrank.compress.compressing import compress
from fullrank.compress.layers import quantised, replace_module
from fullrank.compress.lorc import LoRCConfig
from fullrank.compress.lorc_method import LoRCMethod
from fullrank.compress.quantized_linear import QuantizedLinear


def quantize_lorc(
    model: nn.Module, config: LoRCConfig | None = None, calibration: Iterable[Any] | None = None, **options: Any
) -> nn.Module:
    """A quantised and compensated copy of a model; `compress(model, LoRCMethod(config))` gives the report too.

    Args:
        model: with linear layers of torch or `Conv1D`s of transformers, not quantised yet.
        config: default 4 bits in groups of 128, rounding to nearest, rank 8.
        calibration: batches that the model is called with, where the quantiser or the scaling looks at data.
        options: of `compress`, such as `resume`.

    Raises:
        TypeError: a layer is quantised already.
        ValueError: see `LoRCConfig`, `Grid` and `compress`.
    """
    config = config or LoRCConfig()
    refuse_quantized(model)
    return compress(
        model,
        LoRCMethod(config),
        data=calibration,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        **options,
    ).model


def refuse_quantized(model: nn.Module) -> None:
    """Raise a TypeError where a layer is quantised already, by us or by others."""
    for name, module in model.named_modules():
        if quantised(module):
            raise TypeError(
                f"{name or type(model).__name__} is quantised already ({type(module).__name__}): LoRC needs the "
                "original weight beside the quantised one; load the original model and quantise it here, or give both "
                "weights, dequantised, to lorc_factors(weight, quantized_weight, rank)"
            )


def dequantize_model(model: nn.Module, compensated: bool = True) -> nn.Module:
    """A copy with dense layers in the place of quantised ones.

    Args:
        model: with `QuantizedLinear` layers.
        compensated: whether the dense weights hold the compensation; without it they are what `export_adapter` adds to.

    Raises:
        ValueError: no layer is quantised.
    """
    dense = copy.deepcopy(model)
    for name, layer in _quantized(dense).items():
        replace_module(dense, name, layer.to_linear(compensated))
    return dense


def export_adapter(model: nn.Module, folder: str | Path) -> Path:
    """Write the compensation as a LoRA adapter of PEFT, with r = alpha = rank in every layer.

    It belongs on the bare quantised model, such as `dequantize_model(model, compensated=False)`: merging it into packed
    integers would bring the error back.

    Args:
        model: with `QuantizedLinear` layers.
        folder: it must not exist, or be empty.

    Returns:
        The folder, for `PeftModel.from_pretrained`.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: no layer is compensated.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds files already: name a new folder, nothing is overwritten")
    layers = {name: layer.factors for name, layer in _quantized(model).items()}
    factors = {name: found for name, found in layers.items() if found is not None}
    if not factors:
        raise ValueError("no layer has a compensation to export: quantise with a rank above 0")
    ranks = {name: found.rank for name, found in factors.items()}
    most = max(ranks.values())
    patterns = {name: rank for name, rank in ranks.items() if rank != most}
    config = require("peft", "adapt").LoraConfig(
        r=most, lora_alpha=most, target_modules=sorted(factors), rank_pattern=patterns, alpha_pattern=dict(patterns)
    )
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, found in factors.items():
        A, B = found.floats()
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    config.save_pretrained(str(folder))
    return folder


def _quantized(model: nn.Module) -> dict[str, QuantizedLinear]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no quantised layer: quantise it first with quantize_lorc")
    return found
