"""Checkpoints of the published RPCANet and RPCANet++ code: their names, read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fullrank.nn.convolutional_lstm import GATES
from fullrank.nn.rpcanet import RPCANet, RPCANetPP, UnfoldedRPCA, require_stages

State = Mapping[str, Tensor]

# Published prefix -> ours, within a stage; decos.k is stages.k.
_NAMES = {
    "lowrank.convs.": "background.layers.",
    "lowrank.conv1_C.0.": "background.embed.",
    "lowrank.conv1_C.1.": "background.norm.",
    "lowrank.RB_1.": "background.before.",
    "lowrank.RB_2.": "background.after.",
    "lowrank.convC_1.": "background.project.",
    "sparse.convs.": "object.gradient.",
    "sparse.epsilon": "object.epsilon",
    "sparse.contrast.0.": "object.prior.embed.",
    "sparse.contrast.2.conv.": "object.prior.contrast.surround.",
    "sparse.contrast.2.attn.avg_channel.": "object.prior.contrast.squeeze.",
    "sparse.contrast.3.": "object.prior.norm.",
    "sparse.contrast.5.": "object.prior.project.",
    "merge.mapping.": "restoration.layers.",
}
_GATE = "lowrank.ConvLSTM.conv_{input}{gate}.{part}"
_INPUTS = {"x": "features", "h": "memory"}


def read_official_state(source: str | Path | State) -> dict[str, Tensor]:
    """The weights of a published checkpoint by their published names.

    Args:
        source: a pickled state dict (read with `weights_only`, which runs no code), a safetensors file, or the state
            dict itself.

    Raises:
        ValueError: it is no state dict of tensors.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        source = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    if not isinstance(source, Mapping) or not all(isinstance(value, Tensor) for value in source.values()):
        raise ValueError("the checkpoint is not a state dict: a dictionary of tensors by name is accepted")
    return {name.removeprefix("module."): tensor for name, tensor in source.items()}


def load_official_rpcanet(model: UnfoldedRPCA, source: str | Path | State) -> None:
    """Load a published checkpoint into a model. Weights that the published code never calls are left out.

    Args:
        model: of the checkpoint's sizes; `rpcanet_from_official` builds one.
        source: see `read_official_state`.

    Raises:
        ValueError: another number of stages (both are named), names that are not the model's, or other shapes.
    """
    state = read_official_state(source)
    require_stages(state, "decos", len(model.stages))
    own = model.state_dict()
    made = from_official_names(state)
    for name in set(made) - set(own):
        if name.startswith("stages.0.background.lstm.memory."):  # allocated and never called
            del made[name]
    for name, tensor in made.items():
        if name.startswith("stages.0.background.lstm.features.") and name in own:
            made[name] = tensor[: len(own[name])]  # without the gate that forgets
    counters = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    made = counters | made
    missing, unknown = sorted(set(own) - set(made)), sorted(set(made) - set(own))
    if missing or unknown:
        raise ValueError(
            f"the checkpoint does not fit {type(model).__name__}({model.configuration}): it lacks {missing[:3]} and "
            f"has {unknown[:3]} beyond it; rpcanet_from_official(source) builds the model that fits"
        )
    wrong = [name for name in own if made[name].shape != own[name].shape]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{name} has shape {tuple(made[name].shape)} in the checkpoint and {tuple(own[name].shape)} in the model; "
            "rpcanet_from_official(source) builds the model that fits"
        )
    model.load_state_dict(made)


def rpcanet_from_official(source: str | Path | State) -> RPCANet | RPCANetPP:
    """The model of a published checkpoint, its sizes read from the weights.

    Args:
        source: see `read_official_state`.

    Raises:
        ValueError: the checkpoint belongs to no RPCANet.
    """
    state = read_official_state(source)
    stages = {int(match[1]) for name in state if (match := re.match(r"decos\.(\d+)\.", name))}
    first = state.get("decos.0.merge.mapping.0.weight")
    if first is None or not stages:
        raise ValueError("the checkpoint has no stages (decos.0. ...): it belongs to no RPCANet")
    sizes: dict[str, Any] = {
        "num_stages": len(stages),
        "channels": first.shape[0],
        "in_channels": first.shape[1],
        "sparse_layers": _convolutions(state, "decos.0.sparse.convs.") - 2,
        "merge_layers": _convolutions(state, "decos.0.merge.mapping.") - 2,
    }
    if "decos.0.lowrank.convs.0.weight" in state:
        model = RPCANet(**sizes, background_layers=_convolutions(state, "decos.0.lowrank.convs.") - 2)
    else:
        surround = state.get("decos.0.sparse.contrast.2.conv.weight")
        model = RPCANetPP(
            **sizes,
            memory="decos.0.lowrank.ConvLSTM.conv_xi.weight" in state,
            contrast=surround is not None,
            contrast_kernel=17 if surround is None else surround.shape[-1],
        )
    load_official_rpcanet(model.to(first.dtype), state)
    return model


def from_official_names(state: State) -> dict[str, Tensor]:
    """Published names to ours, the gates of each LSTM put together.

    Raises:
        ValueError: a name that the published code does not have.
    """
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, stage, rest = _split(name)
        if rest.startswith("lowrank.ConvLSTM."):
            continue
        theirs = next((part for part in _NAMES if rest.startswith(part)), None)
        if prefix != "decos" or theirs is None:
            raise ValueError(f"the checkpoint has {name!r}, which no RPCANet has")
        made[f"stages.{stage}.{_NAMES[theirs]}{rest.removeprefix(theirs)}"] = tensor
    for stage in {_split(name)[1] for name in state}:
        for letter, ours in _INPUTS.items():
            for part in ("weight", "bias"):
                names = [f"decos.{stage}.{_GATE.format(input=letter, gate=gate, part=part)}" for gate in GATES]
                gates = [state[name] for name in names if name in state]
                if gates:
                    made[f"stages.{stage}.background.lstm.{ours}.{part}"] = torch.cat(gates)
    return made


def to_official_names(state: State) -> dict[str, Tensor]:
    """Our names to the published ones. A whole published checkpoint needs a model with `official_layout=True`.

    Raises:
        ValueError: a name that is not ours.
    """
    ours_to_theirs = {ours: theirs for theirs, ours in _NAMES.items()}
    inputs = {ours: letter for letter, ours in _INPUTS.items()}
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, stage, rest = _split(name)
        if rest.startswith("background.lstm."):
            convolution, part = rest.removeprefix("background.lstm.").split(".")
            for gate, values in zip(GATES, tensor.split(_gate_size(state, stage)), strict=False):
                gate_name = _GATE.format(input=inputs[convolution], gate=gate, part=part)
                made[f"decos.{stage}.{gate_name}"] = values
            continue
        ours = next((part for part in ours_to_theirs if rest.startswith(part)), None)
        if prefix != "stages" or ours is None:
            raise ValueError(f"{name!r} is no weight of an RPCANet")
        made[f"decos.{stage}.{ours_to_theirs[ours]}{rest.removeprefix(ours)}"] = tensor
    return made


def _split(name: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"the checkpoint has {name!r}, which no RPCANet has")
    return match[1], match[2], match[3]


def _gate_size(state: State, stage: str) -> int:
    return state[f"stages.{stage}.background.lstm.features.weight"].shape[1]


def _convolutions(state: State, prefix: str) -> int:
    return sum(name.startswith(prefix) and name.endswith("weight") and state[name].ndim == 4 for name in state)
