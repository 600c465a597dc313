"""Pruning layers whose outputs are added one by one, as Beta-Rank's official code does.

Channels of different origin then meet in a sum, and what follows reads the channels of the last layer before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from fullrank.compress.filter_scores import forward_batches
from fullrank.compress.filter_selection import KeepRule, highest
from fullrank.compress.kept_channels import SLICEABLE, KeptChannels, is_depthwise
from fullrank.compress.layers import Convolution
from fullrank.compress.pruning_groups import ChannelGroup, Side, kept_after, width_of


def kept_one_by_one(
    model: nn.Module, example_inputs: Any, groups: Iterable[ChannelGroup], scores: Mapping[str, Tensor], rule: KeepRule
) -> dict[str, KeptChannels]:
    """What every layer keeps when each chooses by its own scores.

    Raises:
        ValueError: a layer without scores or of another width, or one that reads channels in another order.
    """
    order = {name: place for place, name in enumerate(_call_order(model, example_inputs))}
    removed: dict[tuple[str, Side], set[int]] = {}
    for group in groups:
        gone: set[int] = set()
        width = 0
        for member in sorted(group.members, key=lambda member: order.get(member.name, len(order))):
            module = model.get_submodule(member.name)
            if member.side == "outputs" and member.name in group.makers and not is_depthwise(module):
                width = width_of(module, "outputs")
                gone = set(range(width)) - set(_chosen(member.name, width, scores, rule))
            elif not width:  # it reads what no layer of the group has made yet
                continue
            removed[member.name, member.side] = _spread(member.name, gone, width, width_of(module, member.side))
    return kept_after(model, removed)


def convolutions_in_order(model: nn.Module, example_inputs: Any) -> list[str]:
    """Names of the convolutions, in the order of their first calls."""
    convolutions = {name for name, module in model.named_modules() if isinstance(module, Convolution)}
    return [name for name in _call_order(model, example_inputs) if name in convolutions]


def _call_order(model: nn.Module, example_inputs: Any) -> list[str]:
    called: dict[str, None] = {}
    layers = {name: module for name, module in model.named_modules() if type(module) in SLICEABLE}
    forward_batches(model, [example_inputs], layers, lambda name, module, x, y: called.setdefault(name))
    return list(called)


def _chosen(name: str, width: int, scores: Mapping[str, Tensor], rule: KeepRule) -> list[int]:
    if name not in scores or scores[name].shape != (width,):
        found = f"have shape {tuple(scores[name].shape)}" if name in scores else "are missing"
        raise ValueError(f"{name} has {width} filters, its scores {found}: score it again")
    return highest(scores[name], rule.count(name, width, rule.ratio_of([name]))).tolist()


def _spread(name: str, gone: set[int], width: int, channels: int) -> set[int]:
    """The channels of a follower: the same, or as many features for each as flattening makes of it."""
    if channels % width:
        raise ValueError(f"{name} reads {channels} channels of a layer that makes {width}: use coupled=True")
    each = channels // width
    return {channel * each + offset for channel in gone for offset in range(each)}
