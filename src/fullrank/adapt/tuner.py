"""The generic PEFT tuner: puts delta layers into a model, and names their tensors in checkpoints."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast

import torch
from peft import PeftConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from fullrank.adapt._peft import (
    AuxiliaryTrainingWrapper,
    BaseTuner,
    BaseTunerLayer,
    check_target_module_exists,
    get_pattern_key,
    resolve_quantization_backend,
)
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta
from fullrank.adapt.layer import DeltaConv2d, DeltaEmbedding, DeltaLayer, DeltaLinear

#: Layer types that deltas can change -> the generic layer that wraps them.
LAYERS: dict[type[nn.Module], type[DeltaLayer]] = {
    nn.Linear: DeltaLinear,
    Conv1D: DeltaLinear,
    nn.Embedding: DeltaEmbedding,
    nn.Conv2d: DeltaConv2d,
}

_WARNED_OF_BY_PEFT = ("rank_pattern", "alpha_pattern")


class DeltaModel(BaseTuner):
    """A model whose targeted layers are changed by the deltas of one method; made by `register`.

    Attributes:
        layer_types: module type that the method supports -> the method's layer for it.
    """

    tuner_layer_cls: type[DeltaLayer]  # pyright: ignore[reportIncompatibleVariableOverride]
    layer_types: ClassVar[dict[type[nn.Module], type[DeltaLayer]]]

    def deltas(self, adapter_name: str | None = None) -> Iterator[Delta]:
        """Every delta of an adapter, or of all adapters, in the order of the model's layers."""
        for module in self.model.modules():
            if not isinstance(module, self.tuner_layer_cls):
                continue
            for name, delta in module.deltas.items():
                if adapter_name in (None, name):
                    yield cast(Delta, delta)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to the layers, and warn of keys of its patterns that name none; called by PEFT."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = cast(DeltaConfig, self.peft_config[adapter_name])
        names = [delta.base.name for delta in self.deltas(adapter_name)]
        for field in config.keyed:
            if field in _WARNED_OF_BY_PEFT:
                continue
            keys = [key for key in getattr(config, field) if all(get_pattern_key([key], name) != key for name in names)]
            if keys:
                warnings.warn(
                    f"{field} names {', '.join(map(repr, keys))}, which is none of the layers that {adapter_name!r} "
                    "changes, and is ignored",
                    stacklevel=2,
                )

    def _prepare_adapter_config(self, peft_config: DeltaConfig, model_config: dict[str, Any]) -> PeftConfig:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_default = peft_config.target_modules is None
        config = cast(DeltaConfig, super()._prepare_adapter_config(peft_config, model_config))
        if by_default and isinstance(config.target_modules, str) and config.layers_to_transform is not None:
            # PEFT asks for no layer index where the targets are an expression.
            names = [name for name, _ in self.model.named_modules() if re.fullmatch(config.target_modules, name)]
            config.target_modules = {name for name in names if _has_index(config, name)}
        return config

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: DeltaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str | None,
        parameter_name: str | None = None,
    ) -> None:
        if current_key is None:
            raise ValueError("Current Key can't be `None`")
        config = peft_config.at(current_key)
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, config, current_key)
            return
        layer = self._wrap(target, parent, current_key, config)
        layer._active_adapter = adapter_name
        layer.update_layer(adapter_name, config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _wrap(self, target: nn.Module, parent: nn.Module, name: str, config: DeltaConfig) -> DeltaLayer:
        method = config.method
        if isinstance(target, BaseTunerLayer):
            raise TypeError(
                f"{name!r} is already adapted by {type(target).__name__}, and {method} adapts plain layers only: merge "
                "or unload that adapter first, or exclude this layer with exclude_modules"
            )
        if isinstance(parent, nn.MultiheadAttention):
            raise TypeError(
                f"{name!r} belongs to nn.MultiheadAttention, which never calls it, so {method} would change nothing: "
                "exclude it with exclude_modules"
            )
        backend = resolve_quantization_backend(target)
        if backend is not None and backend.layer_type == "linear" and nn.Linear in self.layer_types:
            return self.layer_types[nn.Linear](target, backend)
        for supported, layer_type in self.layer_types.items():
            if isinstance(target, supported):
                _check_layer(target, name, config)
                return layer_type(target)
        raise TypeError(
            f"{method} cannot adapt {name!r}, a {type(target).__name__}: it supports "
            f"{', '.join(supported.__name__ for supported in self.layer_types)}; narrow target_modules or use "
            "exclude_modules"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass `adapter_names` to every layer of the model during one call."""
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        self._check_adapter_names(adapter_names)
        beams = kwargs.get("num_beams") or 1
        repeated = [name for name in adapter_names for _ in range(beams)]
        encoder = _encoder(self.model)
        unrepeated = set() if encoder is None else set(encoder.modules())
        handles = [
            module.register_forward_pre_hook(
                partial(_pass_adapter_names, adapter_names=list(adapter_names) if module in unrepeated else repeated),
                with_kwargs=True,
            )
            for module in self.modules()
            if isinstance(module, (self.tuner_layer_cls, AuxiliaryTrainingWrapper))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_adapter_names(self, adapter_names: Sequence[str]) -> None:
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = {
            name for module in self.modules() if isinstance(module, self.tuner_layer_cls) for name in module.deltas
        }
        unknown = set(adapter_names) - known - {"__base__"}
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # PEFT raises parameters to float32 here; the buffers of a delta belong to the same arithmetic.
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            return
        for delta in self.deltas(adapter_name):
            for name, buffer in delta.named_buffers():
                if buffer.dtype in (torch.float16, torch.bfloat16) and name not in delta.fixed_dtype:
                    buffer.data = buffer.data.to(torch.float32)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # lin0.hydra_delta.default.par_A is saved as lin0.hydra_delta.par_A; transformers puts names back after the
        # first part that starts with the prefix, so this is the form that its own loader understands.
        return key.replace(f".{cls.prefix}delta.{adapter_name}.", f".{cls.prefix}delta.")


def _has_index(config: DeltaConfig, name: str) -> bool:
    """Whether the layer `name` belongs to the blocks of `layers_to_transform`."""
    return bool(check_target_module_exists(replace(config, target_modules=[name.rpartition(".")[2]]), name))


def _check_layer(target: nn.Module, name: str, config: DeltaConfig) -> None:
    if isinstance(target, nn.Conv2d) and target.groups != 1:
        raise TypeError(
            f"{config.method} cannot adapt {name!r}: its {target.groups} groups make it no single matrix; exclude it "
            "with exclude_modules"
        )
    if config.fan_in_fan_out and isinstance(target, nn.Linear):
        warnings.warn(
            f"fan_in_fan_out=True has no effect on {name!r}: an nn.Linear stores its weight (out, in)", stacklevel=2
        )


def _encoder(model: nn.Module) -> nn.Module | None:
    """The encoder of an encoder-decoder, which sees every sample once where beam search repeats it."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None
    return cast(Any, model).get_encoder()


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs | {"adapter_names": adapter_names}
