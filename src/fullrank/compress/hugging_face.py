"""The hook by which transformers loads compressed models: a quantiser that only rebuilds layers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from fullrank.compress.kinds import rebuild_layers

METHOD = "fullrank"


class CompressedConfig(QuantizationConfigMixin):
    """The description of every compressed layer, as a quantisation configuration.

    Args:
        layers: see `describe_layers`.
    """

    def __init__(self, layers: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue]  # a name of ours
        self.layers = layers or {}


class CompressedQuantizer(HfQuantizer):
    """Puts compressed layers into the skeleton before its weights are loaded."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        config: Any = self.quantization_config
        layers = _for_backbone(model, config.layers)
        rebuild_layers(model, layers)
        for name in layers:
            parent: Any = model.get_submodule(name.rpartition(".")[0])
            # Some models (T5) initialise the weights of the layers in a block: these have none. Buffers that no file
            # holds, such as BERT's position ids, have no other values than those that initialising gives them.
            if not parent._non_persistent_buffers_set:
                parent._is_hf_initialized = True

    def is_serializable(self, *args: Any, **kwargs: Any) -> Any:
        """Yes: the layers' state is plain tensors."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Yes: factors are ordinary parameters."""
        return True


def _for_backbone(model: PreTrainedModel, layers: dict[str, Any]) -> dict[str, Any]:
    """The layers under the names that this class gives them: with or without the backbone's prefix."""
    names = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    found: dict[str, Any] = {}
    for name in sorted(layers):
        candidates = (name, name.removeprefix(prefix), prefix + name)
        # A factor that was compressed in its turn is inside a layer that is not there yet.
        there = (other for other in candidates if other in names or other.rpartition(".")[0] in found)
        here = next(there, None)
        if here is not None:  # a head that this class does not have is not loaded either
            found[here] = layers[name]
    return found


def register() -> None:
    """Make the method known to transformers, once."""
    if METHOD in AUTO_QUANTIZATION_CONFIG_MAPPING:
        return
    register_quantization_config(METHOD)(CompressedConfig)
    register_quantizer(METHOD)(CompressedQuantizer)


register()
