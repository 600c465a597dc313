"""What a training step keeps in memory, counted exactly and the same on every device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.nn.memory import kept_bytes


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes beside the model's weights.

    Attributes:
        activations: kept by the forward pass for the backward pass; weights are not counted.
        gradients: of the trainable parameters.
        optimizer: the two moments of Adam.
    """

    activations: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three: what lives together when the optimiser steps, at most."""
        return self.activations + self.gradients + self.optimizer


def training_memory(model: nn.Module, batch: Mapping[str, Any]) -> TrainingMemory:
    """Count what one training step of a model keeps, by running its forward pass.

    Allocators reserve more than that, and a process' resident memory counts what other work left behind; these bytes
    are what the method itself asks for.

    Args:
        model: takes `batch` as keyword arguments, and returns a loss first or by name.
        batch: on the model's device.
    """
    training = model.training
    model.train()
    with torch.random.fork_rng():
        activations = activation_bytes(model, batch)
    model.train(training)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = sum(parameter.nbytes for parameter in trained)
    return TrainingMemory(activations, gradients, 2 * gradients)


def activation_bytes(model: nn.Module, batch: Mapping[str, Any]) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass; views of one storage count once.

    Args:
        model: takes `batch` as keyword arguments.
        batch: its arguments; those tensors and the model's own are not counted.
    """
    resident = [*model.parameters(), *model.buffers(), *(v for v in batch.values() if isinstance(v, Tensor))]
    return kept_bytes(lambda: model(**batch), resident)
