"""Maestro inside a `transformers.Trainer`.

class MaestroTrainer(MaestroMixin, Trainer): ...

lod = LoD(decompose(model), lam="auto")
MaestroTrainer(lod, model=model, args=..., train_dataset=..., callbacks=[MaestroCallback(lod)]).train()
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fullrank._files import write_json
from fullrank.compress.maestro import LoD

_STATE = "maestro.json"


class MaestroMixin:
    """A trainer whose loss is that of `LoD`: `class MaestroTrainer(MaestroMixin, Trainer): ...`.

    Evaluation keeps the trainer's own loss, at the full width.

    Args:
        lod: of the model that is trained.
        options: of the trainer.
    """

    def __init__(self, lod: LoD, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lod = lod
        # The loss is a mean over the batch: the trainer divides it by the steps that it accumulates.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Full network, sampled network and group lasso while the model trains.

        Raises:
            ValueError: the model gives no loss, because the batch has no labels.
        """
        if not model.training:
            trainer: Any = super()
            return trainer.compute_loss(model, inputs, return_outputs, **options)
        passes: list[Any] = []

        def forward(_: nn.Module, batch: Any) -> Tensor:
            passes.append(model(**batch))  # as the trainer wrapped it: data parallel, autocast
            return passes[-1]["logits"]

        def loss(_: Tensor, batch: Any) -> Tensor:
            if passes[-1].get("loss") is None:
                raise ValueError(f"the model gives no loss for {', '.join(batch)}: the batch needs labels")
            return passes[-1]["loss"]

        total = self.lod.loss(forward, loss, inputs)
        return (total, passes[0]) if return_outputs else total


class MaestroCallback(TrainerCallback):
    """Drops components after every epoch, and keeps where the sampler stands with every checkpoint.

    Args:
        lod: of the model that is trained.
    """

    def __init__(self, lod: LoD) -> None:
        self.lod = lod

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shrink the layers; their part of the optimiser's state shrinks with them."""
        optimizer = kwargs["optimizer"]
        self.lod.step_epoch(getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the sampler's state beside the checkpoint's."""
        if state.is_world_process_zero:
            write_json(self._file(args, state), self.lod.state_dict())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on where the checkpoint that training resumes from stood."""
        file = self._file(args, state)
        if state.global_step and file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            self.lod.load_state_dict(_checked(found, file))

    def _file(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _STATE


def _checked(found: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(found, dict) or {"step", "seed", "lam"} - found.keys():
        raise ValueError(f"{file} is damaged: step, seed and lam are needed; resume from another checkpoint")
    return found
