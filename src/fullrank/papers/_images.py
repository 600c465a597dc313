"""Small image classification for studies: CIFAR-10 as tensors, and one way to train any network on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

#: Mean and standard deviation of CIFAR-10's red, green and blue, of values in [0, 1].
_MEAN, _SPREAD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_PEAK_RATE, _WEIGHT_DECAY, _BATCH = 2e-3, 0.05, 64


class Images(NamedTuple):
    """Normalised images, (number, 3, 32, 32), and their classes."""

    pixels: Any
    labels: Any


@lru_cache(maxsize=4)
def cifar10(split: str, number: int, name: str = "cifar10") -> Images:
    """The first `number` images of a split in a fixed random order."""
    import numpy as np
    import torch

    from fullrank import data

    records = data.load(name, split)
    chosen = np.random.default_rng(0).permutation(len(records))[:number]
    pixels = torch.from_numpy(np.stack([records[index]["image"] for index in chosen]))
    mean, spread = (torch.tensor(numbers).view(3, 1, 1) for numbers in (_MEAN, _SPREAD))
    labels = torch.tensor([records[index]["label"] for index in chosen])
    return Images((pixels.permute(0, 3, 1, 2) / 255 - mean) / spread, labels)


def train_on_images(
    network: Any,
    train: Images,
    epochs: int,
    *,
    seed: int,
    device: str = "cpu",
    batch: int = _BATCH,
    watch: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> None:
    """AdamW with one cycle of the rate, cross entropy, mirrored images; the network is changed in place.

    Args:
        network: from images to logits.
        train: the images.
        epochs: passes over them.
        seed: of order, mirroring and stochastic depth.
        device: where to train.
        batch: images per step.
        watch: called with (done, total, text) after every epoch; may raise to stop.
    """
    import torch
    from torch.nn import functional

    pixels, labels = train.pixels.to(device), train.labels.to(device)
    network.to(device).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    steps = len(labels) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=epochs * steps)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(epochs):
            watch(epoch, epochs, "training on images")
            order = torch.randperm(len(labels), generator=generator)
            mirrored = torch.rand(len(labels), generator=generator) < 0.5
            for chosen in order[: steps * batch].split(batch):
                flip = mirrored[chosen].to(device).view(-1, 1, 1, 1)
                images = pixels[chosen.to(device)]
                logits = network(torch.where(flip, images.flip(-1), images))
                optimizer.zero_grad()
                functional.cross_entropy(logits, labels[chosen.to(device)]).backward()
                optimizer.step()
                schedule.step()


def image_accuracy(network: Any, test: Images, device: str = "cpu") -> float:
    """Percent of images that are classified rightly."""
    import torch

    network.eval()
    with torch.no_grad():
        right = [
            network(pixels.to(device)).argmax(1).cpu() == labels
            for pixels, labels in zip(test.pixels.split(250), test.labels.split(250), strict=True)
        ]
    return 100 * float(torch.cat(right).float().mean())
