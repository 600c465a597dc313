"""When the columns of LaMDA's second projection are frozen, and how an optimiser is kept from moving them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakSet

import torch

FreezeLaw = Literal["linear", "official"]


def frozen_columns(step: int, rank: int, end: int | float, law: FreezeLaw = "linear") -> int:
    """How many columns of B no longer move.

    Args:
        step: t, steps taken before this one.
        rank: r.
        end: eta T, in the same steps.
        law: "linear": floor(r t / (eta T)), all from eta T on. "official": floor(t / (eta T)), the released code.

    Returns:
        0 to `rank`.
    """
    if end == 0:
        return rank
    return min(rank, math.floor((rank if law == "linear" else 1) * step / end))


@runtime_checkable
class Restorable(Protocol):
    """Something that can undo what a step did to its frozen part."""

    def restore(self) -> None:
        """Undo it."""


_GUARDED: WeakKeyDictionary[torch.optim.Optimizer, WeakSet[Any]] = WeakKeyDictionary()


def guard(optimizer: torch.optim.Optimizer, owners: Iterable[Restorable]) -> None:
    """Let every owner undo, right after each step of the optimiser, what momentum and weight decay moved."""
    if optimizer not in _GUARDED:
        _GUARDED[optimizer] = WeakSet()
        optimizer.register_step_post_hook(partial(_restore, _GUARDED[optimizer]))
    _GUARDED[optimizer].update(owners)


def release(optimizer: torch.optim.Optimizer, parameters: set[torch.nn.Parameter]) -> None:
    """Take parameters that are no longer trained out of an optimiser, with their state."""
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in parameters]
    for parameter in parameters:
        optimizer.state.pop(parameter, None)


def _restore(owners: WeakSet[Any], *_: Any) -> None:
    for owner in owners:
        owner.restore()
