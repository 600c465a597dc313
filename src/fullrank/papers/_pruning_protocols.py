"""Imbalanced image classes, a network trained on them, and what is left of it after pruning and fine-tuning."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

#: Protocol -> options of `FilterPruner`. The official code resets batch normalisations and scales filters by scores.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "fair": {"reset_bn": True},
    "official": {"reset_bn": True, "init_scale": "upstream"},
    "all kept": {},
}
_BATCH = 32
_DENSE_RATE, _TUNING_RATE = 0.1, 0.01  # of SGD with momentum 0.9 and weight decay 5e-4, as in the official code


class Images(NamedTuple):
    """Training images with imbalanced classes, test images as they came: pixels and labels."""

    train_pixels: Any
    train_labels: Any
    test_pixels: Any
    test_labels: Any


class Setting(NamedTuple):
    """What is trained, and for how long.

    Attributes:
        task: "digits" (three classes whole, seven with an eighth) or "photographs" (CIFAR-10 with a tail of factor 20).
        side: pixels that digits are enlarged to.
        widths: of the digits' network; of a residual network its depth.
        training: most training images before they are thinned out.
        epochs, tuning: of the dense network, and of fine-tuning.
    """

    task: str
    side: int
    widths: tuple[int, ...]
    training: int
    testing: int
    epochs: int
    tuning: int


@lru_cache(maxsize=8)
def imbalanced_images(setting: Setting, seed: int) -> Images:
    """The images of a task; the seed draws the frequent classes, and for digits the test images."""
    import numpy as np
    import torch

    from fullrank.compress import make_imbalanced

    if setting.task == "photographs":
        from fullrank.papers._images import cifar10

        (pixels, labels), (test_pixels, test_labels) = (
            cifar10(split, count) for split, count in (("train", setting.training), ("test", setting.testing))
        )
        kept = torch.from_numpy(make_imbalanced(labels, labels, 20, "exp", seed))
        return Images(pixels[kept], labels[kept], test_pixels, test_labels)
    pixels, labels = _digits(setting.side)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    test, rest = order[: setting.testing], order[setting.testing :][: setting.training]
    kept = rest[torch.from_numpy(make_imbalanced(rest, labels[rest], 8, "step", seed, frequent=3))]
    return Images(pixels[kept], labels[kept], pixels[test], labels[test])


def _digits(side: int) -> tuple[Any, Any]:
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    digits: Any = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    pixels = functional.interpolate(pixels, size=side, mode="bilinear")
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(digits.target)


def new_network(setting: Setting, seed: int) -> Any:
    """An untrained network for a task."""
    import torch
    from torch import nn

    from fullrank.compress import CifarResNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if setting.task == "photographs":
            return CifarResNet(setting.widths[0])
        layers: list[nn.Module] = []
        inputs = 1
        for number, width in enumerate(setting.widths):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (1, 2) else []
            inputs = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def train_dense(setting: Setting, seed: int, device: str) -> dict[str, Any]:
    """The state of a trained network."""
    network = new_network(setting, seed)
    _train(network, imbalanced_images(setting, seed), setting.epochs, _DENSE_RATE, seed, device, one_cycle=True)
    return network.state_dict()


def prune_and_tune(
    network: Any, setting: Setting, criterion: str, protocol: str, ratio: float, seed: int, device: str
) -> dict[str, float]:
    """Scores in percent after pruning and fine-tuning, at the last epoch, and the multiply-adds that are left."""
    from fullrank.compress import FilterPruner

    images = imbalanced_images(setting, seed)
    pixels = images.train_pixels[:256].to(device)
    pruner = FilterPruner(network, pixels[:2], criterion, pruning_ratio=ratio, seed=seed, **PROTOCOLS[protocol])
    pruner.score(pixels)
    slim = pruner.prune()
    _train(slim, images, setting.tuning, _TUNING_RATE, seed, device, one_cycle=False)
    report = pruner.report()
    return test_scores(slim, images, device) | {"MACs": 100 * report.macs_after / report.macs_before}


def test_scores(network: Any, images: Images, device: str) -> dict[str, float]:
    """Percent on the test images, over the whole set."""
    import torch
    from sklearn.metrics import f1_score

    from fullrank.compress import imbalanced_report

    network.eval()
    with torch.no_grad():
        parts = [network(pixels.to(device)).softmax(1).cpu() for pixels in images.test_pixels.split(200)]
    probabilities, truth = torch.cat(parts).numpy(), images.test_labels.numpy()
    report = imbalanced_report(truth, probabilities)
    return {
        "balanced accuracy": 100 * report.balanced_accuracy,
        "accuracy": 100 * report.accuracy,
        "macro F1": 100 * report.f1,
        "micro F1": 100 * float(f1_score(truth, probabilities.argmax(1), average="micro")),
        "specificity": 100 * report.specificity,
        "AUROC": 100 * (report.auroc or 0.0),
    }


def _train(network: Any, images: Images, epochs: int, rate: float, seed: int, device: str, one_cycle: bool) -> None:
    import torch
    from torch.nn import functional

    pixels, labels = images.train_pixels.to(device), images.train_labels.to(device)
    network.to(device).train()
    batch = min(_BATCH, len(labels))
    steps = len(labels) // batch
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    if one_cycle:
        schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    else:
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), generator=generator)[: steps * batch].split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(network(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
