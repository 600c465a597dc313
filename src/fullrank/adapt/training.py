"""Training an adapted model: a transformers Trainer with a learning rate for the adapter and one for the head."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, get_scheduler

from fullrank.adapt.memory import TrainingMemory, training_memory
from fullrank.adapt.methods import adapter_parameters

OnProgress = Callable[[int, int, str], None]
Batch = dict[str, Tensor]
Collate = Callable[[list[Any]], Batch]


@runtime_checkable
class MapStyle(Protocol):
    """Items by number, such as a list or a map-style `torch.utils.data.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Args:
        epochs: passes over the training examples. Default 3.
        batch_size: examples a step. Default 32.
        learning_rate: of the adapter. Default 2e-3.
        head_learning_rate: of everything else that is trained, such as a new head. Default 5e-3.
        location_learning_rate: of places, for methods that learn where their numbers sit. Default 1e-3.
        weight_decay: of the head; an adapter is not decayed, since it may hold a part of the weight. Default 0.01.
        warmup: share of the steps over which the learning rates rise, before they fall to zero. Default 0.06.
        seed: of the order of examples and of dropout. Default 0.
        device: "cpu" or "cuda". Default "cpu".

    Raises:
        ValueError: a value out of range.
    """

    epochs: int | float = 3
    batch_size: int = 32
    learning_rate: int | float = 2e-3
    head_learning_rate: int | float = 5e-3
    location_learning_rate: int | float = 1e-3
    weight_decay: int | float = 0.01
    warmup: int | float = 0.06
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "head_learning_rate", "location_learning_rate"):
            if not 0 < getattr(self, name) < torch.inf:
                raise ValueError(f"{name}={getattr(self, name)}: a positive number is needed")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup}: a share of the steps, from 0 to below 1, is accepted")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device!r}: 'cpu' and 'cuda' are accepted")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda': this machine has no CUDA device; use 'cpu'")


@dataclass(frozen=True)
class TrainingRecord:
    """What training took.

    Attributes:
        steps: of the optimiser.
        seconds: in all.
        seconds_per_step: the median step.
        losses: of every step.
        memory: what the first training step keeps.
    """

    steps: int
    seconds: float
    seconds_per_step: float
    losses: tuple[float, ...]
    memory: TrainingMemory


def train(
    model: nn.Module,
    examples: MapStyle,
    collate: Collate,
    settings: TrainingSettings,
    callbacks: Sequence[TrainerCallback] = (),
    on_progress: OnProgress = lambda done, total, text: None,
) -> TrainingRecord:
    """Train what is trainable in a model: AdamW, learning rates that rise and fall linearly.

    Args:
        model: takes a batch as keyword arguments, and returns a loss first or by name.
        examples: a map-style data set.
        collate: makes a batch of them.
        settings: how.
        callbacks: of the method, such as `LocaCallback`.
        on_progress: called with (done, total, text) after every step.

    Raises:
        ValueError: nothing in the model is trainable, or there are no examples.
    """
    groups = parameter_groups(model, settings)
    count = len(examples)
    if not count:
        raise ValueError("there are no examples to train on")
    steps = max(1, round(settings.epochs * -(-count // settings.batch_size)))
    watch = _Watch(on_progress)
    model.to(settings.device)
    memory = training_memory(model, _first(examples, collate, min(settings.batch_size, count), settings.device))
    optimizer = torch.optim.AdamW(groups)
    schedule = get_scheduler("linear", optimizer, round(settings.warmup * steps), steps)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch, max_steps=steps, per_device_train_batch_size=settings.batch_size, seed=settings.seed,
            use_cpu=settings.device == "cpu", dataloader_pin_memory=settings.device == "cuda", save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        trainer = _Trainer(
            model, arguments, collate, cast(Any, examples),
            optimizers=(optimizer, schedule), callbacks=[*callbacks, watch],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # a library does not print
        began = time.perf_counter()
        with torch.random.fork_rng():
            trainer.train()
    model.eval()
    return TrainingRecord(
        steps, time.perf_counter() - began, watch.median, tuple(float(loss) for loss in trainer.losses), memory
    )


class _Trainer(Trainer):
    """Keeps the losses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[Tensor] = []

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss


class _Watch(TrainerCallback):
    """Tells of progress and times the steps."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress = on_progress
        self.times: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter() - self._began)
        self.on_progress(state.global_step, state.max_steps, "training")

    @property
    def median(self) -> float:
        return sorted(self.times)[len(self.times) // 2] if self.times else 0.0


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate: places, the adapter, and the rest."""
    adapter = {id(parameter) for parameter in adapter_parameters(model)}
    places, ours, others = [], [], []
    for name, parameter in model.named_parameters():
        if id(parameter) in adapter:  # also where a schedule lets it rest for now
            (places if name.endswith(".locations") else ours).append(parameter)
        elif parameter.requires_grad:
            others.append(parameter)
    groups = [
        {"params": places, "lr": settings.location_learning_rate, "weight_decay": 0.0},
        {"params": ours, "lr": settings.learning_rate, "weight_decay": 0.0},
        {"params": others, "lr": settings.head_learning_rate, "weight_decay": settings.weight_decay},
    ]
    if not any(parameter.requires_grad for group in groups for parameter in group["params"]):
        raise ValueError("nothing in the model is trainable: add an adapter, or unfreeze its head")
    return [group for group in groups if group["params"]]


def _first(examples: MapStyle, collate: Collate, count: int, device: str) -> Batch:
    return {name: tensor.to(device) for name, tensor in collate([examples[i] for i in range(count)]).items()}
