"""OWLoRA's projections inside a `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fullrank.adapt.owlora_steps import add_penalty_gradients, after_step, before_step
from fullrank.adapt.owlora_tasks import trained_branches


class OWLoRACallback(TrainerCallback):
    """Keeps the task that is trained out of earlier ones: `Trainer(..., callbacks=[OWLoRACallback()])`.

    Args:
        penalty: add the gradient of `orthogonal_penalty()` before every step, after gradients were clipped; False for
            a loss that contains it already. Default True.

    Raises:
        ValueError: before the first step, if no OWLoRA branch is trained.
        RuntimeError: there, if the optimiser does not hold the branch.
    """

    def __init__(self, penalty: bool = True) -> None:
        self.penalty = penalty

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Add the penalty's gradient, and project."""
        branches = trained_branches(model)
        if self.penalty:
            add_penalty_gradients(branches)
        before_step(branches, kwargs["optimizer"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Project the parameters."""
        after_step(trained_branches(model))


OWLoraCallback = OWLoRACallback
