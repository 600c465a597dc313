"""Training of networks that give an `RPCANetOutput`: Adam with polynomial decay, random crops, flips, transposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fullrank.nn.rpca_loss import RPCALoss

Image = Float[Tensor, "height width"]
Mask = Bool[Tensor, "height width"]
OnProgress = Callable[[int, int, str], None]

_ON_OBJECTS = 0.9  # share of crops that hold an object: the soft IoU learns little from empty ones


@dataclass(frozen=True)
class SegmentationTraining:
    """How to train.

    Args:
        epochs: passes over the images. Default 40.
        batch_size: images a step; the last, smaller batch of an epoch is left out. Default 8.
        learning_rate: falls from here as (1 - t/T)^0.9. Default 1e-3.
        crop: side of the random square crops, nine in ten of which hold a pixel of the object where the image has one;
            None takes whole images, which then need one size. Default None.
        augment: flip and transpose at random. Default True.
        seed: of the order, the crops and the flips. Default 0.

    Raises:
        ValueError: naming the field, the value and what is accepted.
    """

    epochs: int = 40
    batch_size: int = 8
    learning_rate: float = 1e-3
    crop: int | None = None
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: use at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: use a positive number")
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop={self.crop}: use a positive size, or None for whole images")


def train_segmentation(
    model: nn.Module,
    images: Sequence[Image],
    masks: Sequence[Mask],
    training: SegmentationTraining,
    loss: RPCALoss | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> list[float]:
    """Train a model in place and leave it in eval mode.

    Args:
        model: (batch, 1, height, width) -> `RPCANetOutput`.
        images: grey, in [0, 1].
        masks: one for every image.
        training: how.
        loss: default `RPCALoss()`.
        on_progress: told of every step, with (done, total, text).

    Returns:
        The mean loss of every epoch.

    Raises:
        ValueError: fewer images than a batch, images of several sizes without `crop`, or a crop larger than an image.
    """
    _check(images, training)
    loss = loss or RPCALoss()
    device = next(model.parameters()).device
    steps = len(images) // training.batch_size
    total = steps * training.epochs
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total, power=0.9)
    generator = torch.Generator().manual_seed(training.seed)
    history = []
    model.train()
    for epoch in range(training.epochs):
        order = torch.randperm(len(images), generator=generator).tolist()
        losses = []
        for step in range(steps):
            on_progress(epoch * steps + step, total, f"epoch {epoch + 1} of {training.epochs}")
            chosen = order[step * training.batch_size : (step + 1) * training.batch_size]
            pairs = [_drawn(images[k], masks[k], training, generator) for k in chosen]
            x, y = (torch.stack(part)[:, None].to(device) for part in zip(*pairs, strict=True))
            optimizer.zero_grad()
            value = loss(model(x), x, y)
            value.backward()
            optimizer.step()
            schedule.step()
            losses.append(value.detach())
        history.append(float(torch.stack(losses).mean()))
    model.eval()
    return history


def _check(images: Sequence[Tensor], training: SegmentationTraining) -> None:
    if len(images) < training.batch_size:
        raise ValueError(
            f"{len(images)} images make no batch of {training.batch_size}: give more images or a smaller batch_size"
        )
    sizes = {tuple(image.shape) for image in images}
    if training.crop is None and len(sizes) > 1:
        raise ValueError(f"the images have {len(sizes)} sizes: give crop, the side of the squares to train on")
    if training.crop is not None and training.crop > min(min(size) for size in sizes):
        raise ValueError(f"crop={training.crop}: at most {min(min(size) for size in sizes)} fits the smallest image")


def _drawn(
    image: Tensor, mask: Tensor, training: SegmentationTraining, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random view of an image and its mask."""
    pair = torch.stack([image, mask.to(image.dtype)])
    if training.crop is not None:
        rows, columns = crop_at(mask, training.crop, generator)
        pair = pair[:, rows, columns]
    if training.augment:
        down, across, transposed = (torch.rand(3, generator=generator) < 0.5).tolist()
        pair = pair.flip(1) if down else pair
        pair = pair.flip(2) if across else pair
        if transposed and pair.shape[1] == pair.shape[2]:
            pair = pair.mT
    return pair[0], pair[1]


def crop_at(mask: Tensor, size: int, generator: torch.Generator) -> tuple[slice, slice]:
    """A random square within an image; mostly, where there is an object, one that holds a random pixel of it."""
    lowest, highest = [0, 0], [side - size for side in mask.shape]
    around = mask.nonzero() if float(torch.rand((), generator=generator)) < _ON_OBJECTS else mask.new_zeros(0)
    if len(around):
        pixel = around[int(torch.randint(len(around), (), generator=generator))].tolist()
        lowest = [max(at - size + 1, 0) for at in pixel]
        highest = [min(at, most) for at, most in zip(pixel, highest, strict=True)]
    down, across = (
        int(torch.randint(low, high + 1, (), generator=generator)) for low, high in zip(lowest, highest, strict=True)
    )
    return slice(down, down + size), slice(across, across + size)
