"""Making a method known to the installed PEFT."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import cast

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from fullrank.adapt._peft import PeftType, add_peft_type
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta
from fullrank.adapt.layer import DeltaLayer, tensors_called
from fullrank.adapt.tuner import LAYERS, DeltaModel


def register(
    config: type[DeltaConfig],
    delta: type[Delta],
    targets: Mapping[str, list[str] | str] | None = None,
    model: type[DeltaModel] = DeltaModel,
) -> type[DeltaModel]:
    """Make a method known to PEFT under the name `config.method`.

    After this call `get_peft_model(model, Config(...))`, `PeftModel.from_pretrained`, `merge_and_unload` and everything
    else of PEFT work with it. The module that makes the call has to be imported before a checkpoint is loaded.

        ScaleModel = register(ScaleConfig, ScaleDelta, targets={"llama": ["down_proj"]})

    Args:
        config: the method's configuration; its name without "Config" names the classes that are made.
        delta: the method's change of one weight.
        targets: model type -> default `target_modules`; without an entry the user has to name them.
        model: the tuner to derive from, for a method that needs more of it than `DeltaModel` gives.

    Returns:
        The method's tuner; its layers are `tuner_layer_cls` and the values of `layer_types`. The same call again
        returns the same tuner.

    Raises:
        ValueError: the name is not lower case, ends in "_", or belongs to another method; or `delta.supports` names a
            layer type that no layer exists for.
    """
    name = getattr(config, "method", None)
    if not isinstance(name, str) or not name.isidentifier() or not name.islower() or name.endswith("_"):
        raise ValueError(f"{config.__name__}.method={name!r}: use a lower-case name that does not end in '_'")
    if name.upper() in PeftType.__members__ and PeftType[name.upper()] in PEFT_TYPE_TO_CONFIG_MAPPING:
        return _registered(PeftType[name.upper()], config)
    unknown = [kind.__name__ for kind in delta.supports if kind not in LAYERS]
    if unknown:
        known = ", ".join(kind.__name__ for kind in LAYERS)
        raise ValueError(f"{delta.__name__}.supports names {', '.join(unknown)}: use some of {known}")
    add_peft_type(name.upper())
    tuner = _tuner(config, delta, dict(targets or {}), model)
    register_peft_method(name=name, config_cls=config, model_cls=tuner)
    return tuner


def _registered(peft_type: PeftType, config: type[DeltaConfig]) -> type[DeltaModel]:
    holder = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    if holder is not config:
        raise ValueError(
            f"{config.__name__}.method={config.method!r} is already the name of a PEFT method, configured by "
            f"{holder.__module__}.{holder.__name__}: choose another name"
        )
    return cast(type[DeltaModel], PEFT_TYPE_TO_TUNER_MAPPING[peft_type])


def _tuner(
    config: type[DeltaConfig], delta: type[Delta], targets: dict[str, list[str] | str], model: type[DeltaModel]
) -> type[DeltaModel]:
    stem, place = config.__name__.removesuffix("Config"), {"__module__": delta.__module__}
    layer = type(
        f"{stem}Layer",
        (DeltaLayer,),
        {
            "delta_type": delta,
            "adapter_layer_names": (f"{config.method}_delta",),
            **{f"{config.method}_{name}": tensors_called(name) for name in delta.shown},
            **place,
        },
    )
    # PEFT finds the layers of "all-linear" by the word Linear in the name of their class.
    made = {
        generic: type(generic.__name__.replace("Delta", stem), (layer, generic), place)
        for generic in dict.fromkeys(LAYERS[kind] for kind in delta.supports)
    }
    attributes = {
        "prefix": f"{config.method}_",
        "tuner_layer_cls": layer,
        "target_module_mapping": targets,
        "layer_types": {kind: made[LAYERS[kind]] for kind in delta.supports},
        **place,
    }
    tuner = type(f"{stem}Model", (model,), attributes)
    home = sys.modules.get(delta.__module__)
    if home is not None:  # pickle finds a class by its name in its module
        for one in (layer, *made.values(), tuner):
            vars(home).setdefault(one.__name__, one)
    return cast(type[DeltaModel], tuner)
