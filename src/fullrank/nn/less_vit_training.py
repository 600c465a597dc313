"""A short loop to pre-train and to fine-tune LESS ViT, with the paper's optimiser and schedule.

The models also train under `transformers.Trainer`: they take their inputs by name and return the loss first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class LESSViTTraining:
    """Settings of a loop; the defaults are those of pre-training. Fine-tuning: weight decay 0.01, warm-up 0.2.

    Args:
        steps: updates.
        learning_rate: at its highest. Default 1e-4.
        weight_decay: of AdamW with betas 0.9 and 0.95. Default 0.05.
        warm_up: share of the steps in which the learning rate rises; then it falls as a cosine to zero. Default 0.05.
        clip: largest norm of the gradient. Default 1.
        autocast: compute in bfloat16. Default False.
    """

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warm_up: float = 0.05
    clip: float = 1.0
    autocast: bool = False


FINE_TUNING = {"weight_decay": 0.01, "warm_up": 0.2}


def train_less_vit(
    model: nn.Module,
    batch: Callable[[int], Batch],
    settings: LESSViTTraining,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train a model whose output has a `loss`: Hyper-MAE, or one with a head and labels.

    Args:
        model: `LESSViTForPreTraining`, or a model with a head; it is left in training mode.
            Parameters that require no gradient stay as they are.
        batch: step -> keyword arguments of the model; tensors are moved to its device.
        settings: how long and how fast.
        on_step: called with every step and its loss.

    Returns:
        The loss of every step.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    schedule = LambdaLR(optimizer, lambda step: _rate(step, settings))
    device, losses = parameters[0].device, []
    model.train()
    for step in range(settings.steps):
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
            loss = model(**moved(batch(step), device)).loss
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step}: lower the learning rate")
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        schedule.step()
        on_step(step, losses[-1])
    return losses


def _rate(step: int, settings: LESSViTTraining) -> float:
    """Share of the learning rate: a line up, half a cosine down."""
    rising = max(round(settings.warm_up * settings.steps), 1)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(settings.steps - rising, 1)
    return float(0.5 * (1 + np.cos(np.pi * done)))


def moved(batch: Batch, device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def random_flips(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """All images of a batch turned upside down and left to right, each with probability one half."""
    axes = [axis for axis in (-2, -1) if torch.rand((), generator=generator) < 0.5]
    return images.flip(axes) if axes else images
