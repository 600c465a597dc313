"""Which channels of a network can only go together, from torch-pruning's dependency graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from fullrank._optional import require
from fullrank.compress.filter_scores import evaluating
from fullrank.compress.kept_channels import SLICEABLE, KeptChannels, is_depthwise
from fullrank.compress.layers import Convolution
from fullrank.tasks.losses import call

Side = Literal["outputs", "inputs"]


@dataclass(frozen=True)
class Member:
    """A side of a layer that carries a group's channels.

    Attributes:
        name: of the layer.
        side: "outputs" or "inputs"; "outputs" for layers that have one set of channels.
        channels: its channels, in the order of `roots`.
        roots: the channel of the group that each belongs to.
    """

    name: str
    side: Side
    channels: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that layers share.

    Attributes:
        name: of a layer that makes them.
        size: how many channels.
        divisions: of how many equal parts the same places must be kept (grouped convolutions, group norms).
        members: every side of a layer that carries them.
        makers: the convolutions and linear layers that make them.
        traced: torch-pruning's group, which its importances score.
        reason: why they cannot be pruned; "" where they can.
    """

    name: str
    size: int
    divisions: int
    members: tuple[Member, ...]
    makers: tuple[str, ...]
    traced: Any
    reason: str = ""


def channel_groups(
    model: nn.Module, example_inputs: Any, linear: Iterable[str] = (), ignored: Iterable[str] = (), coupled: bool = True
) -> list[ChannelGroup]:
    """The groups of a network's convolutions, in the order in which torch-pruning finds them.

    Args:
        model: it is called once; its mode and parameters stay as they are.
        example_inputs: what it is called with.
        linear: names of linear layers whose features are groups as well.
        ignored: names of layers whose outputs stay.
        coupled: False takes layers of different widths in a group, which are then pruned one by one.

    Raises:
        ValueError: the model cannot be traced.
    """
    tp: Any = require("torch_pruning", "compress")
    names = {module: name for name, module in model.named_modules()}
    roots = [module for module, name in names.items() if isinstance(module, Convolution) or name in set(linear)]
    with _traceable(model):
        graph = tp.DependencyGraph().build_dependency(model, example_inputs, forward_fn=call, verbose=False)
    kinds = tuple({type(module) for module in roots})
    groups = []
    for traced in graph.get_all_groups(root_module_types=kinds):
        group = _group(model, graph, traced, names)
        if not set(group.makers) & {names[module] for module in roots}:
            continue
        groups.append(group if group.reason else _divided(model, group, set(ignored), coupled))
    return groups


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and with gradients for every parameter: the graph is read from autograd's."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in trainable:
            parameter.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for parameter, before in trainable:
            parameter.requires_grad_(before)


def _group(model: nn.Module, graph: Any, traced: Any, names: dict[nn.Module, str]) -> ChannelGroup:
    members, makers, reason = [], [], ""
    for item in traced.items:
        module: Any = item.dep.target.module
        if isinstance(module, nn.Parameter):
            reason = reason or "a parameter outside of any layer carries its channels"
        if type(module).__name__ == "_OutputOp":
            reason = reason or "its outputs are the model's"
        if module not in names or not _has_channels(module):
            continue
        outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
        roots = tuple(-1 if root is None else root for root in item.root_idxs)
        members.append(Member(names[module], "outputs" if outputs else "inputs", tuple(item.idxs), roots))
        if parametrize.is_parametrized(module):
            reason = reason or f"{names[module]} is parametrised: remove the parametrisation first"
        elif type(module) not in SLICEABLE:
            reason = reason or f"{names[module]} is a {type(module).__name__}, whose channels cannot be cut"
        if outputs and isinstance(module, Convolution | nn.Linear):
            makers.append(names[module])
            if not item.dep.target.outputs:
                reason = reason or "its outputs are the model's"
    name = next((maker for maker in makers if not is_depthwise(model.get_submodule(maker))), makers[0])
    return ChannelGroup(name, len(traced[0].idxs), 1, tuple(members), tuple(makers), traced, reason)


def _divided(model: nn.Module, group: ChannelGroup, ignored: set[str], coupled: bool) -> ChannelGroup:
    """The group with its divisions, or with the reason why it stays."""
    kept = sorted(ignored & set(group.makers))
    if kept:
        return replace(
            group, reason=f"{kept[0]} is ignored" + (", and they go together" if len(group.makers) > 1 else "")
        )
    whole = tuple(range(group.size))
    divisions = [1]
    for member in group.members:
        module: Any = model.get_submodule(member.name)
        width, parts = width_of(module, member.side), _divisions(module)
        in_order = member.channels == member.roots == whole and width == group.size
        made_here = member.name in group.makers and member.side == "outputs"
        if coupled and (-1 in member.roots or max(member.channels) >= width or (made_here and not in_order)):
            return replace(group, reason=f"its {group.size} channels are added to the {width} of {member.name}")
        if parts > 1 and not (coupled and in_order):
            return replace(group, reason=f"{member.name} has {parts} groups, which its channels do not follow")
        divisions.append(parts)
    parts = max(divisions)
    if any(parts % other for other in divisions):
        return replace(group, reason=f"its layers divide the channels into {sorted(set(divisions))} parts")
    if group.size // parts < 2:
        return replace(group, reason="it has one channel" + (" in every group" if parts > 1 else ""))
    return replace(group, divisions=parts)


def _has_channels(module: Any) -> bool:
    """Whether a layer holds something for each channel: not activations, and not a slope that all channels share."""
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return False
    return type(module) in SLICEABLE or any(True for _ in module.parameters(recurse=False))


def kept_after(model: nn.Module, removed: Mapping[tuple[str, Side], set[int]]) -> dict[str, KeptChannels]:
    """What is left of every layer when channels of its sides go; layers that lose nothing are not in it."""
    sides: dict[str, dict[Side, tuple[int, ...]]] = {}
    for (name, side), gone in removed.items():
        if gone:
            width = width_of(model.get_submodule(name), side)
            sides.setdefault(name, {})[side] = tuple(index for index in range(width) if index not in gone)
    return {name: KeptChannels(**kept) for name, kept in sides.items()}


def width_of(module: Any, side: Side) -> int:
    """Channels or features of a layer's side."""
    if isinstance(module, Convolution):
        return module.out_channels if side == "outputs" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "outputs" else module.in_features
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    return module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features


def _divisions(module: Any) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, Convolution) and not is_depthwise(module) else 1
