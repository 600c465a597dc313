"""LaMDA's schedule inside a `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fullrank.adapt.lamda import freeze_step


class LamdaCallback(TrainerCallback):
    """Freezes B on schedule: `Trainer(..., callbacks=[LamdaCallback()])`. T is the trainer's number of steps.

    Raises:
        ValueError: when training begins, if the model has no active LaMDA adapter, or if the schedule is a share of
            a number of steps that the trainer does not know.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Take the schedule up at the step where training begins."""
        freeze_step(model, state.global_step, state.max_steps, kwargs.get("optimizer"))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Freeze what this step must not move."""
        freeze_step(model, state.global_step, state.max_steps, kwargs.get("optimizer"))
