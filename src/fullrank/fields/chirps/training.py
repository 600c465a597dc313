"""Training the regressor: the paper's protocol, and one that keeps the test part out of every decision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.fields.chirps.generator import ChirpDataset
from fullrank.fields.chirps.metrics import pearson_per_target
from fullrank.fields.chirps.regressor import ViTForChirpRegression
from fullrank.fields.chirps.scaling import LabelScaler

OnProgress = Callable[[int, int, str], None]
_SPLIT_SEED = 42  # the official random_state


@runtime_checkable
class Spectrograms(Protocol):
    """Spectrograms by number, and all their targets."""

    def __len__(self) -> int: ...

    def pictures(self, indices: np.ndarray) -> np.ndarray | Tensor:
        """(len(indices), n_freq, n_time)."""
        ...

    def targets(self) -> np.ndarray:
        """(len(self), targets) in seconds and Hz."""
        ...


class StoredSpectrograms:
    """Spectrograms that lie in memory.

    Args:
        Z: (n, n_freq, n_time).
        y: (n, targets) in seconds and Hz.

    Raises:
        ValueError: different numbers of spectrograms and labels.
    """

    def __init__(self, Z: np.ndarray | Tensor, y: np.ndarray) -> None:
        if len(Z) != len(y):
            raise ValueError(f"Z has {len(Z)} spectrograms and y {len(y)} rows: one row for each is needed")
        self.Z, self.y = Z, np.asarray(y, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.Z)

    def pictures(self, indices: np.ndarray) -> np.ndarray | Tensor:
        """(len(indices), n_freq, n_time)."""
        return self.Z[indices]

    def targets(self) -> np.ndarray:
        """(n, targets)."""
        return self.y


class DrawnSpectrograms:
    """Spectrograms that are drawn when they are needed, every epoch the same.

    Args:
        dataset: where they come from.
    """

    def __init__(self, dataset: ChirpDataset) -> None:
        self.dataset = dataset
        labels = dataset.labels()
        self._targets = np.stack([labels[name] for name in dataset.targets], axis=1)

    def __len__(self) -> int:
        return len(self.dataset)

    def pictures(self, indices: np.ndarray) -> np.ndarray | Tensor:
        """(len(indices), n_freq, n_time)."""
        return self.dataset.batch(indices)[0]

    def targets(self) -> np.ndarray:
        """(n, targets)."""
        return self._targets


@dataclass(frozen=True)
class ChirpTrainingSettings:
    """How to train; the defaults are the paper's, except the protocol.

    Args:
        protocol: "fair" (default) splits 80/10/10, stops and lowers the rate by the validation loss, and looks at the
            test part once; "paper" splits 80/20 and does all of that by the test loss.
        label_stats: "train" (default) standardises labels by the training part; "all" by all labels, as the paper does.
            "auto" means "train" with the fair protocol and "all" with the paper's.
        epochs: at most. Default 100.
        batch_size: Default 32.
        learning_rate: of the adapter, or the whole backbone. Default 1e-4.
        head_learning_rate: of the head. Default the same.
        weight_decay: AdamW's. Default 0.01.
        patience: epochs without a better loss after which the rate falls to a tenth. Default 3.
        stop_after: epochs without a better loss after which training stops. Default 4.
        schedule: "plateau" (default), as above, or "cosine": warm-up over 5 % of the steps and a cosine to zero.
        seed: of the order of examples and of dropout. Default 0.
        device: Default "cpu".

    Raises:
        ValueError: a value that is not accepted.
    """

    protocol: str = "fair"
    label_stats: str = "auto"
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-4
    head_learning_rate: float | None = None
    weight_decay: float | int = 0.01
    patience: int = 3
    stop_after: int = 4
    schedule: str = "plateau"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        accepted = {"protocol": ("fair", "paper"), "label_stats": ("auto", "train", "all")}
        for name, values in (accepted | {"schedule": ("plateau", "cosine")}).items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(map(repr, values))}")
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: a positive number is needed")

    @property
    def scales_by_all(self) -> bool:
        """Whether labels are standardised by the test part too."""
        return self.label_stats == "all" or (self.label_stats == "auto" and self.protocol == "paper")


@dataclass
class ChirpTraining:
    """What training took and reached.

    Attributes:
        train, validation, test: numbers of the examples of each part; validation is test with the paper's protocol.
        losses: (training, stopping) loss of every epoch.
        best_epoch: the one whose weights were kept, from 1.
        test_loss: mean squared error of standardised predictions on the test part.
        test_r: Pearson's correlation of each target there.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    losses: list[tuple[float, float]] = field(default_factory=list)
    best_epoch: int = 0
    test_loss: float = float("nan")
    test_r: dict[str, float] = field(default_factory=dict)


def split(n: int, protocol: str = "fair", seed: int = _SPLIT_SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the training, validation and test examples, at random.

    Args:
        n: how many examples.
        protocol: "fair" 80/10/10; "paper" 80/20, where validation and test are the same.
        seed: Default that of the official script.

    Raises:
        ValueError: too few examples for three parts.
    """
    if n < 10:
        raise ValueError(f"{n} examples: at least 10 are needed to train, validate and test")
    order = np.random.default_rng(seed).permutation(n)
    train, rest = order[: round(0.8 * n)], order[round(0.8 * n) :]
    if protocol == "paper":
        return train, rest, rest
    return train, rest[: len(rest) // 2], rest[len(rest) // 2 :]


def train_regressor(
    model: ViTForChirpRegression,
    spectrograms: Spectrograms,
    settings: ChirpTrainingSettings | None = None,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> ChirpTraining:
    """Train what is trainable in a model; the best weights are kept, and the label scaler is in the model.

    On a GPU the forward pass runs under bfloat16 autocast.

    Args:
        model: from `ViTForChirpRegression.from_backbone`.
        spectrograms: `StoredSpectrograms`, `DrawnSpectrograms`, or a class of one's own like them.
        settings: default the paper's with the fair protocol.
        parts: numbers of the training, validation and test examples; default `split`.
        on_progress: called with (done, total, text) after every epoch.

    Raises:
        ValueError: labels that are not finite or constant, or targets that do not fit the model's.
    """
    settings = settings or ChirpTrainingSettings()
    record = ChirpTraining(*(parts or split(len(spectrograms), settings.protocol)))
    y = spectrograms.targets()
    scaler = LabelScaler(model.config.targets)
    model.scaler = scaler.fit(y if settings.scales_by_all else y[record.train])
    labels = torch.from_numpy(scaler.transform(y)).float()
    model.to(settings.device)
    with torch.random.fork_rng(devices=[settings.device] if "cuda" in settings.device else []):
        torch.manual_seed(settings.seed)
        _train(model, spectrograms, labels, settings, record, on_progress)
    predicted = _predict(model, spectrograms, record.test, settings)
    record.test_loss = float(((predicted - labels[record.test].numpy()) ** 2).mean())
    found = pearson_per_target(predicted, labels[record.test].numpy())
    record.test_r = dict(zip(model.config.targets, map(float, found), strict=True))
    return record


def parameter_groups(model: ViTForChirpRegression, settings: ChirpTrainingSettings) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate: the adapter (or backbone), and the head."""
    rates = (settings.learning_rate, settings.head_learning_rate or settings.learning_rate)
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate}
        for part, rate in zip((model.vit, model.regression_head), rates, strict=True)
    ]
    return [group for group in groups if group["params"]]


def _train(
    model: ViTForChirpRegression,
    spectrograms: Spectrograms,
    labels: Tensor,
    settings: ChirpTrainingSettings,
    record: ChirpTraining,
    on_progress: OnProgress,
) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(record.train) // settings.batch_size)
    plateau = settings.schedule == "plateau"
    schedule: Any = (
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.1, patience=settings.patience)
        if plateau
        else torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step / steps))
    )
    order = np.random.default_rng(settings.seed)
    best, kept = float("inf"), _trained_state(model)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total = 0.0
        for batch in _batches(order.permutation(record.train), settings.batch_size):
            optimizer.zero_grad()
            loss = _loss(model, spectrograms.pictures(batch), labels[batch], settings)
            loss.backward()
            optimizer.step()
            if not plateau:
                schedule.step()
            total += float(loss.detach()) * len(batch)
        stopping = _mean_loss(model, spectrograms, labels, record.validation, settings)
        record.losses.append((total / len(record.train), stopping))
        if plateau:
            schedule.step(stopping)
        if stopping < best:
            best, kept, record.best_epoch = stopping, _trained_state(model), epoch
        on_progress(epoch, settings.epochs, f"epoch {epoch}: validation loss {stopping:.4f}")
        if epoch - record.best_epoch >= settings.stop_after and plateau:
            break
    model.load_state_dict(kept, strict=False)
    model.eval()


def _cosine(share: float) -> float:
    warmup = 0.05
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (share - warmup) / (1 - warmup))))


def _trained_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(p.detach()) for name, p in model.named_parameters() if p.requires_grad}


def _loss(
    model: ViTForChirpRegression, Z: np.ndarray | Tensor, labels: Tensor, settings: ChirpTrainingSettings
) -> Tensor:
    pixels = model.prepare(Z)
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
        return model(pixels, labels.to(pixels.device)).loss


@torch.no_grad()
def _mean_loss(
    model: ViTForChirpRegression,
    spectrograms: Spectrograms,
    labels: Tensor,
    indices: np.ndarray,
    settings: ChirpTrainingSettings,
) -> float:
    model.eval()
    batches = _batches(indices, 8 * settings.batch_size)
    losses = [float(_loss(model, spectrograms.pictures(b), labels[b], settings)) * len(b) for b in batches]
    return sum(losses) / len(indices)


def _predict(
    model: ViTForChirpRegression, spectrograms: Spectrograms, indices: np.ndarray, settings: ChirpTrainingSettings
) -> np.ndarray:
    batches = _batches(indices, 8 * settings.batch_size)
    return np.concatenate([model.predict_standardised(spectrograms.pictures(batch)) for batch in batches])


def _batches(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (indices[at : at + size] for at in range(0, len(indices), size))
