"""LoCA's schedule: amplitudes and places are trained in turns, and then the places are frozen.

    step < B_s:   B_a steps on the amplitudes, B_l steps on the places, and again
    step >= B_s:  the amplitudes alone, at integer places

A step is one step of the optimiser. `LocaCallback` drives the schedule in a Trainer, `update_schedule` in a loop of
one's own; without either, every layer counts the steps of the optimiser that holds its parameters. Where B_s is a share
of an unknown number of steps, the amplitudes alone are trained until that number is known.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import TrainerCallback

from fullrank.adapt.delta import Delta, FrozenLayer
from fullrank.adapt.layer import DeltaLayer
from fullrank.adapt.tuner import DeltaModel

Phase = Literal["coefficients", "locations", "frozen"]

_DRIVERS = (
    "add LocaCallback() to the Trainer, or call model.base_model.update_schedule(global_step, total_steps) before "
    "every step"
)


@dataclass(frozen=True)
class Schedule:
    """Which of amplitudes and places is trained at which step.

    Args:
        learn: B_s, steps (int) or the share of all steps (float) after which the places are frozen.
        coefficient_steps: B_a, steps on the amplitudes in every cycle.
        location_steps: B_l, steps on the places in every cycle.
    """

    learn: int | float = 0.1
    coefficient_steps: int = 10
    location_steps: int = 20

    def end(self, total: int | None) -> int | None:
        """B_s for `total` steps; None where it is a share of an unknown number."""
        if isinstance(self.learn, int):
            return self.learn
        # 0.29 * 100 is a little less than 29
        return None if total is None else math.floor(round(self.learn * total, 6))

    def phase(self, step: int, end: int | None) -> Phase:
        """The phase of `step`, the number of steps done before it; places have no turn before their end is known."""
        if self.learn == 0 or (end is not None and step >= end):
            return "frozen"
        if end is None:
            return "coefficients"
        position = step % (self.coefficient_steps + self.location_steps)
        return "coefficients" if position < self.coefficient_steps else "locations"


class AlternatingDelta(Delta):
    """A delta of amplitudes (`spectrum`) and places (`locations`, then `indices`), trained in turns.

    A parameter that is not its turn has a gradient of zeros, which leaves the norm of all gradients alone, and none
    when an optimiser steps, so that neither momentum nor decay touches it. With `schedule_mode="requires_grad"` it
    has `requires_grad=False` instead.

    Attributes:
        phase: "coefficients", "locations" or "frozen".
    """

    fixed_dtype: ClassVar[tuple[str, ...]] = ("locations",)
    spectrum: Tensor
    locations: Tensor
    indices: Tensor
    step: Tensor

    def __init__(self, base: FrozenLayer, config: Any) -> None:
        super().__init__(base, config)
        self.schedule = Schedule(config.learn_location_steps, config.coefficient_steps, config.location_steps)
        self.mode, self.count = config.schedule_mode, config.count
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # -1: frozen
        self.restart()

    @abstractmethod
    def cells(self) -> Tensor:
        """The integer places that the continuous ones stand for, (2, k)."""

    @property
    def resting(self) -> tuple[str, ...]:
        """The parameter that is not trained in this phase."""
        return ("spectrum",) if self.phase == "locations" else ("locations",)

    def held(self) -> tuple[str, ...]:
        """In the mode "requires_grad" whatever rests. (Places that are never learned are a buffer.)"""
        return self.resting if self.mode == "requires_grad" and self.schedule.learn != 0 else ()

    def restart(self) -> None:
        """Back to step 0."""
        self.total: int | None = None
        self.driven = self._warned = False
        self._go_on(0)

    def advance(self, step: int) -> None:
        """Set the phase of the step that follows `step` steps; frozen places stay frozen.

        Raises:
            RuntimeError: a place is not a number.
        """
        _WATCHED.add(self)
        if self.phase == "frozen":
            return
        phase = self.schedule.phase(step, self.schedule.end(self.total))
        self._step = step
        self.step.fill_(step)
        if self.phase == "locations":
            self._check_places(step, leaving=phase != "locations")
        if phase != self.phase:
            self._enter(phase)

    def watch(self) -> None:
        """Called before a forward pass in training: counts steps if nobody drives the schedule."""
        _WATCHED.add(self)
        if self.phase == "frozen":
            return
        if self.count == "forward":
            self._ask_for_total(self._step)
            self.advance(self._step)
            self._step += 1
            self.step.fill_(self._step if self.phase != "frozen" else -1)
            return
        stepped, self._stepped = self._stepped, False
        if self.driven or not stepped:
            return
        self._ask_for_total(self._step + 1)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"nobody drives the schedule of {self.base.name!r}, which counts the steps of its optimiser by itself: "
                f"{_DRIVERS}",
                stacklevel=2,
            )
        self.advance(self._step + 1)

    def before_step(self, held: set[int]) -> None:
        """Called before an optimiser steps, with the identities of its parameters."""
        for name in self.resting:
            getattr(self, name).grad = None
        self._stepped |= id(self.spectrum) in held or id(self.locations) in held
        self._moved |= id(self.locations) in held

    def loaded(self) -> None:
        """Go on where the checkpoint stopped."""
        self._go_on(int(self.step))
        self._take_turns()

    def _go_on(self, step: int) -> None:
        self._stepped = self._moved = False
        self._step = step
        self.phase: Phase = "frozen" if step < 0 else self.schedule.phase(step, self.schedule.end(self.total))
        if self.phase == "frozen":
            self.step.fill_(-1)

    def _enter(self, phase: Phase) -> None:
        if phase == "frozen":
            self.indices.copy_(self.cells())
            self.step.fill_(-1)
        self.phase = phase
        self._moved = False
        self.spectrum.grad = self.locations.grad = None
        self._take_turns()

    def _take_turns(self) -> None:
        trained = self.spectrum.requires_grad or self.locations.requires_grad
        if self.mode == "requires_grad" and trained and self.schedule.learn != 0:
            for name in ("spectrum", "locations"):
                self.get_parameter(name).requires_grad_(name not in self.resting)

    def _check_places(self, step: int, leaving: bool) -> None:
        if not bool(self.locations.isfinite().all()):
            raise RuntimeError(
                f"the places of {self.base.name!r} are not numbers any more after step {step}: lower the learning "
                "rate of the places, or look for the NaN in the loss"
            )
        if leaving and not self._moved and not self._warned:
            self._warned = True
            warnings.warn(
                f"the places of {self.base.name!r} had their turn and no optimiser changed them: give them to it, as "
                "loca_param_groups(model, lr) does",
                stacklevel=2,
            )

    def _ask_for_total(self, step: int) -> None:
        if step > 0 and self.schedule.end(self.total) is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"learn_location_steps={self.schedule.learn} is a share of all steps, and their number is unknown, so "
                f"the places stay where they are: {_DRIVERS}, or give a number of steps",
                stacklevel=2,
            )


_WATCHED: WeakSet[AlternatingDelta] = WeakSet()


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    deltas = list(_WATCHED)
    if deltas:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for delta in deltas:
            delta.before_step(held)


register_optimizer_step_pre_hook(_before_step)


def alternating_deltas(model: nn.Module, adapter_name: str | None = None) -> Iterator[AlternatingDelta]:
    """The deltas of an adapter, or of the active adapters, in the order of the model's layers."""
    for layer in model.modules():
        if not isinstance(layer, DeltaLayer):
            continue
        for name, delta in layer.deltas.items():
            wanted = name in layer.active_adapters if adapter_name is None else name == adapter_name
            if wanted and isinstance(delta, AlternatingDelta):
                yield delta


def update_schedule(
    model: nn.Module, global_step: int, total_steps: int | None = None, adapter_name: str | None = None
) -> None:
    """Set the phase of the coming step; call it before the step's first forward pass.

    Args:
        model: a model with LoCA layers, as PEFT or as transformers put them in.
        global_step: steps of the optimiser done so far, over restarts.
        total_steps: of the whole training; needed once where `learn_location_steps` is a share.
        adapter_name: the adapter; default the active ones.

    Raises:
        ValueError: no such adapter, a negative step, or a share of an unknown number of steps.
        RuntimeError: a place is not a number.
    """
    if global_step < 0:
        raise ValueError(f"global_step={global_step}: use the number of steps done so far, 0 or more")
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: use the number of steps of the whole training, 1 or more")
    deltas = list(alternating_deltas(model, adapter_name))
    if not deltas:
        which = "an active LoCA adapter" if adapter_name is None else f"a LoCA adapter {adapter_name!r}"
        raise ValueError(f"no layer of the model carries {which}: name one that was added to the model")
    for schedule in {delta.schedule for delta in deltas if total_steps is not None and delta.total is None}:
        if isinstance(schedule.learn, float):
            warn_of_short_learning(schedule, schedule.end(total_steps))
    for delta in deltas:
        delta.driven = True
        delta.total = delta.total if total_steps is None else total_steps
        if delta.schedule.end(delta.total) is None and delta.phase != "frozen":
            raise ValueError(
                f"learn_location_steps={delta.schedule.learn} is a share of all steps: pass total_steps as well"
            )
        if delta.count == "steps":
            delta.advance(global_step)


def warn_of_short_learning(schedule: Schedule, end: int | None) -> None:
    """Warn if the places never have a turn before they are frozen."""
    if end is not None and 0 < end <= schedule.coefficient_steps:
        warnings.warn(
            f"the places will never be trained: learn_location_steps={schedule.learn} freezes them after {end} steps, "
            f"and the first coefficient_steps={schedule.coefficient_steps} train the amplitudes; raise the one or "
            "lower the other",
            stacklevel=3,
        )


class AlternatingModel(DeltaModel):
    """A tuner whose deltas are trained by the schedule; stores places either continuous or frozen, never both."""

    def update_schedule(
        self, global_step: int, total_steps: int | None = None, adapter_name: str | None = None
    ) -> None:
        """Set the phase of the coming step; see `fullrank.adapt.update_schedule`."""
        update_schedule(self, global_step, total_steps, adapter_name)

    def phase(self, adapter_name: str | None = None) -> Phase:
        """What is trained now: "coefficients", "locations" or "frozen"; of the active adapter by default.

        Raises:
            ValueError: no such adapter.
        """
        for delta in alternating_deltas(self.model, adapter_name):
            return delta.phase
        raise ValueError(f"adapter_name={adapter_name!r}: no layer carries it")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to the layers, and warn of a schedule that never trains its places; called by PEFT."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        schedule = next((delta.schedule for delta in alternating_deltas(model, adapter_name)), None)
        if schedule is not None:
            warn_of_short_learning(schedule, schedule.end(None))

    @classmethod
    def _get_adapter_state_dict(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        state = super()._get_adapter_state_dict(model, *args, **kwargs)
        for name, module in model.named_modules():
            if not isinstance(module, AlternatingDelta):
                continue
            prefix = name.replace("_fsdp_wrapped_module.", "")
            for derived in ("locations", "step") if module.phase == "frozen" else ("indices",):
                state.pop(f"{prefix}.{derived}", None)
        return state


def loca_param_groups(
    model: nn.Module,
    lr: float,
    location_lr: float = 1e-4,
    head_lr: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser: amplitudes, places, and whatever else of the model is trained.

    Args:
        model: a model with LoCA layers.
        lr: of the amplitudes.
        location_lr: of the places, which lie in [0, 1]: a step of Adam moves one by about location_lr * (rows - 1)
            cells. Default 1e-4.
        head_lr: of everything else, such as a new head; default `lr`.
        weight_decay: of amplitudes and of everything else. Places never decay: it would pull them to cell (0, 0).

    Raises:
        ValueError: the model has no trainable LoCA adapter.
    """
    deltas = [d for d in alternating_deltas(model) if d.spectrum.requires_grad or d.locations.requires_grad]
    if not deltas:
        raise ValueError("no layer of the model carries a trainable LoCA adapter: add one, or call set_adapter first")
    # in the mode "requires_grad" a parameter that rests belongs to its group all the same
    spectra = [delta.spectrum for delta in deltas]
    places = [delta.locations for delta in deltas if delta.schedule.learn != 0]
    ours = {id(parameter) for delta in deltas for parameter in delta.parameters()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in ours]
    groups = [
        {"params": spectra, "lr": lr, "weight_decay": weight_decay},
        {"params": places, "lr": location_lr, "weight_decay": 0.0},
        {"params": others, "lr": lr if head_lr is None else head_lr, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


class LocaCallback(TrainerCallback):
    """Drives LoCA's schedule in a transformers Trainer: one step per step of the optimiser, resumed where it stopped.

    Args:
        adapter_name: the adapter; default the active ones.

    Raises:
        ValueError: when training begins: no layer of the model carries the adapter.
    """

    def __init__(self, adapter_name: str | None = None) -> None:
        self.adapter_name = adapter_name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Turn a share of the steps into a number, and set the first phase."""
        self._update(state, kwargs["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the phase of the step."""
        self._update(state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Freeze the places if the last step was the last of theirs."""
        self._update(state, kwargs["model"])

    def _update(self, state: Any, model: nn.Module) -> None:
        update_schedule(model, state.global_step, state.max_steps, self.adapter_name)
