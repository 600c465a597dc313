"""Which channels of a layer were kept: how a layer is cut to them, and cut again when its weights are loaded.

A slim network consists of ordinary layers. Each that was cut carries the attribute `kept_channels`, by which `save`
describes it and `load` cuts the skeleton's layer in the same way.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.compress.kinds import Description, LayerKind, register_kind
from fullrank.compress.layers import CONVOLUTIONS, Convolution

_BATCH_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
#: Layers whose channels can be cut.
SLICEABLE: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, nn.Linear, *_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.PReLU)

_MARK = "kept_channels"


@dataclass(frozen=True)
class KeptChannels:
    """Indices of a layer's channels before pruning, ascending; None for a side that is whole.

    Attributes:
        outputs: of its filters or features.
        inputs: of what it reads. A layer with one set of channels (normalisation, depthwise convolution) has outputs.
    """

    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None


def kept_channels(module: nn.Module) -> KeptChannels | None:
    """What was kept of a layer; None where it was never cut."""
    return vars(module).get(_MARK)


def is_depthwise(module: Any) -> bool:
    """Whether a convolution ties every output to one input."""
    return isinstance(module, Convolution) and 1 < module.groups == module.in_channels == module.out_channels


def cut(module: nn.Module, kept: KeptChannels) -> None:
    """Keep some channels of a layer, in place, and note which; parameters stay trainable or frozen as they were.

    Args:
        module: one of `SLICEABLE`; a grouped convolution keeps the same places in every group.
        kept: indices among the channels that the layer has now.
    """
    if kept.outputs is not None:
        _cut_outputs(module, torch.tensor(kept.outputs))
    if kept.inputs is not None:
        _cut_inputs(module, torch.tensor(kept.inputs))
    before = kept_channels(module) or KeptChannels()
    noted = KeptChannels(_through(before.outputs, kept.outputs), _through(before.inputs, kept.inputs))
    setattr(module, _MARK, noted)


def _cut_outputs(module: Any, kept: Tensor) -> None:
    if isinstance(module, Convolution):
        if is_depthwise(module):
            module.in_channels = module.groups = len(kept)
        module.out_channels = len(kept)
    elif isinstance(module, nn.Linear):
        module.out_features = len(kept)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(kept)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], len(kept))
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(kept)
    else:
        module.num_features = len(kept)
    axis = -1 if isinstance(module, nn.LayerNorm) else 0
    _select(module, ("weight", "bias", "running_mean", "running_var"), axis, kept)


def _cut_inputs(module: Any, kept: Tensor) -> None:
    if isinstance(module, nn.Linear):
        module.in_features = len(kept)
        _select(module, ("weight",), 1, kept)
        return
    module.in_channels = len(kept)
    _select(module, ("weight",), 1, kept[: len(kept) // module.groups])  # the places kept in each group


def _select(module: nn.Module, names: tuple[str, ...], axis: int, kept: Tensor) -> None:
    for name in names:
        tensor = getattr(module, name, None)
        if tensor is None:
            continue
        chosen = tensor.detach().index_select(axis, kept.to(tensor.device))
        if isinstance(tensor, nn.Parameter):
            chosen = nn.Parameter(chosen, requires_grad=tensor.requires_grad)
        setattr(module, name, chosen)


def _through(before: tuple[int, ...] | None, now: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Indices among the first network's channels."""
    if before is None or now is None:
        return before if now is None else now
    return tuple(before[index] for index in now)


def _describe(module: nn.Module) -> Description:
    kept = kept_channels(module)
    assert kept is not None
    sides = {"outputs": kept.outputs, "inputs": kept.inputs}
    return {side: list(indices) for side, indices in sides.items() if indices is not None}


def _build(description: Description, place: nn.Module) -> nn.Module:
    if type(place) not in SLICEABLE:
        raise ValueError(
            f"a {type(place).__name__} stands where a pruned layer belongs: it is not the model that was pruned"
        )
    module = copy.deepcopy(place)
    cut(module, KeptChannels(**{side: tuple(indices) for side, indices in description.items()}))
    return module


def _is_cut(module: nn.Module) -> bool:
    return kept_channels(module) is not None


register_kind(LayerKind("pruned", nn.Module, _describe, _build, recognises=_is_cut))
