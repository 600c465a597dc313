"""Fisher information from the gradients that a training run has anyway.

callback = FisherCallback(model)
Trainer(model, args, train_dataset=..., callbacks=[callback]).train()
compress_low_rank(model, weights=callback.fisher())
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fullrank.compress.layers import CONVOLUTIONS, LINEAR, Targets, select_layers

OneSide = Literal["input", "output"]


class FisherAccumulator:
    """Means over steps of the squared gradients of layers, summed over one side.

    They are those of the batches' mean losses while the weights move, as public code gathers them; `estimate_fisher`
    squares the gradient of every sample at fixed weights.

    Args:
        model: that is trained.
        modules: see `select_layers`.
        side: see `estimate_fisher`.

    Raises:
        ValueError: an unknown side, or no such layer.
    """

    def __init__(self, model: nn.Module, modules: Targets = "all-linear", side: OneSide = "input") -> None:
        if side not in get_args(OneSide):
            raise ValueError(f"side={side!r} is not known; accepted: 'input', 'output'")
        self.layers = select_layers(model, modules, kinds=LINEAR + CONVOLUTIONS).layers
        self.side, self.steps = side, 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self) -> None:
        """Square the gradients that the layers' weights hold now; call it before each optimiser step."""
        self.steps += 1
        for layer in self.layers:
            gradient = layer.module.weight.grad
            if gradient is None:
                continue
            squares = layer.as_matrix(gradient).to(torch.float64).square()
            sums = squares.sum(0 if self.side == "input" else 1).cpu()
            self._sums[layer.name] = self._sums[layer.name] + sums if layer.name in self._sums else sums

    def fisher(self) -> dict[str, Tensor]:
        """Sums by layer name, float64, for `compress_low_rank`.

        Raises:
            RuntimeError: a layer whose weight never had a gradient, by name.
        """
        missing = [layer.name for layer in self.layers if layer.name not in self._sums]
        if missing:
            raise RuntimeError(
                f"no gradient of {', '.join(missing[:3])} was seen in {self.steps} steps ({len(missing)} of "
                f"{len(self.layers)} layers): train these weights, or leave them out of modules"
            )
        return {name: sums / self.steps for name, sums in self._sums.items()}


class FisherCallback(TrainerCallback):
    """`FisherAccumulator` inside a `transformers.Trainer`.

    The trainer clips gradients before they are seen: `max_grad_norm=0` in its arguments keeps them as they are.

    Args:
        model, modules, side: see `FisherAccumulator`.
    """

    def __init__(self, model: nn.Module, modules: Targets = "all-linear", side: OneSide = "input") -> None:
        self.accumulator = FisherAccumulator(model, modules, side)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Square the gradients of this step."""
        self.accumulator.add()

    def fisher(self) -> dict[str, Tensor]:
        """See `FisherAccumulator`."""
        return self.accumulator.fisher()
