"""A training loop that keeps its best epoch, and goes on behind the last one where it was interrupted."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fullrank._files import write_bytes
from fullrank.search.run import at_least_one

LossOf = Callable[[Tensor, torch.Generator], Tensor]
_SPLIT, _HELD_OUT, _EPOCH = range(3)  # what random draws are for


@dataclass(frozen=True)
class Training:
    """What came of a training.

    Attributes:
        losses: the mean of every epoch.
        held_out: the loss of every epoch on the samples that were kept aside; empty where none were.
        best_epoch: whose weights the module has, from 0.
    """

    losses: tuple[float, ...]
    held_out: tuple[float, ...]
    best_epoch: int


class ResumableTrainer:
    """AdamW with a linear warm-up and descent; the weights of the epoch with the least held-out loss are kept.

    Args:
        module: what is trained.
        lr: the highest learning rate.
        epochs: passes over the training samples.
        batch_size: samples at a time.
        warmup: share of the steps in which the learning rate rises.
        holdout: share of the samples that choose the epoch whose weights are kept; 0 for those of the last one.
        seed: of all random draws, dropout's too.

    Raises:
        ValueError: epochs or batch_size below 1, lr not positive, or a share outside of [0, 1).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float = 1e-5,
        epochs: int = 30,
        batch_size: int = 16,
        warmup: float = 0.1,
        holdout: float = 0.1,
        seed: int = 0,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            at_least_one(value, name)
        if not lr > 0:
            raise ValueError(f"lr={lr} is not accepted; a positive learning rate is needed")
        for name, share in (("warmup", warmup), ("holdout", holdout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share} is not accepted; it is a share from 0 to below 1")
        self.module, self.lr, self.epochs, self.batch_size = module, lr, epochs, batch_size
        self.warmup, self.holdout, self.seed = warmup, holdout, seed

    def _train(self, samples: int, loss_of: LossOf, plan: dict[str, Any], resume: str | Path | None = None) -> Training:
        """Train; afterwards the module is in evaluation mode.

        Args:
            samples: how many.
            loss_of: from the numbers of a batch's samples to its loss; its random draws come from the generator.
            plan: what makes this training another than those with the same options, as JSON.
            resume: folder in which every finished epoch is kept.
        """
        options = {name: value for name, value in vars(self).items() if name != "module"}
        order = torch.randperm(samples, generator=self._draws(_SPLIT))
        aside, rows = order[: int(samples * self.holdout)], order[int(samples * self.holdout) :]
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=self.lr)
        progress = _Progress(self.module, optimizer, {**options, **plan, "samples": samples})
        file = None if resume is None else Path(resume) / "training.safetensors"
        if file is not None and file.exists():
            progress.read(file)
        for epoch in range(len(progress.losses), self.epochs):
            loss = self._epoch(epoch, rows, optimizer, loss_of)
            progress.add(loss, self._held_out(aside, loss_of) if len(aside) else None)
            if file is not None:
                progress.write(file)
        self.module.eval()
        return progress.finish()

    def _epoch(self, epoch: int, rows: Tensor, optimizer: torch.optim.Optimizer, loss_of: LossOf) -> float:
        """The mean loss of a pass over the samples."""
        self.module.train()
        generator = self._draws(_EPOCH, epoch)
        batches = rows[torch.randperm(len(rows), generator=generator)].split(self.batch_size)
        total = 0.0
        with torch.random.fork_rng(_cuda(self.module)):
            torch.manual_seed(generator.initial_seed())  # of dropout
            for number, batch in enumerate(batches, epoch * len(batches)):
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * self._slope(number, self.epochs * len(batches))
                loss = loss_of(batch, generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(batch)
        if not math.isfinite(total):
            raise ValueError(f"the loss of epoch {epoch} is {total / len(rows)}: give a lower lr, or shorter vectors")
        return total / len(rows)

    @torch.no_grad()
    def _held_out(self, rows: Tensor, loss_of: LossOf) -> float:
        self.module.eval()
        generator = self._draws(_HELD_OUT)  # the same every time
        batches = rows.split(self.batch_size)
        return sum(float(loss_of(batch, generator)) * len(batch) for batch in batches) / len(rows)

    def _draws(self, *purpose: int) -> torch.Generator:
        """Random numbers that depend on the seed and the purpose alone, and not on what was drawn before."""
        seed = np.random.SeedSequence([self.seed, *purpose]).generate_state(1)
        return torch.Generator().manual_seed(int(seed[0]))

    def _slope(self, step: int, steps: int) -> float:
        """The factor of the learning rate: up to 1, then down to 0."""
        rising = self.warmup * steps
        return min((step + 1) / max(1.0, rising), (steps - step) / max(1.0, steps - rising))


class _Progress:
    """Losses, weights and the optimiser's state behind an epoch, and the best weights so far."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, plan: dict[str, Any]) -> None:
        self.module, self.optimizer, self.plan = module, optimizer, json.dumps(plan, sort_keys=True)
        self.losses: list[float] = []
        self.held_out: list[float] = []
        self.best: dict[str, Tensor] = {}

    def add(self, loss: float, held_out: float | None) -> None:
        self.losses.append(loss)
        if held_out is None:
            return
        self.held_out.append(held_out)
        if held_out < min(self.held_out[:-1], default=math.inf):
            self.best = copy.deepcopy(self.module.state_dict())

    def finish(self) -> Training:
        """Give the module the best weights."""
        if not self.held_out:
            return Training(tuple(self.losses), (), len(self.losses) - 1)
        self.module.load_state_dict(self.best)
        return Training(tuple(self.losses), tuple(self.held_out), self.held_out.index(min(self.held_out)))

    def write(self, file: Path) -> None:
        """Replace what the file keeps of the epochs before."""
        state: dict[int, dict[str, Tensor]] = self.optimizer.state_dict()["state"]
        tensors = {f"module {name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"best {name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"{number} {name}": tensor for number, part in state.items() for name, tensor in part.items()}
        apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        told = {"plan": self.plan, "losses": json.dumps(self.losses), "held_out": json.dumps(self.held_out)}
        write_bytes(file, save(apart, told))

    def read(self, file: Path) -> None:
        """Go on where the file's training stood.

        Raises:
            ValueError: it is another training, or the file is damaged.
        """
        try:
            with safe_open(file, "pt") as opened:
                told = opened.metadata()
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            plan, self.losses, self.held_out = told["plan"], json.loads(told["losses"]), json.loads(told["held_out"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); remove it to train from the start") from error
        if plan != self.plan:
            raise ValueError(f"{file} is of another training: give the same data and options, or another folder")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            owner, _, of = name.partition(" ")
            parts.setdefault(owner, {})[of] = tensor
        self.module.load_state_dict(parts.pop("module"))
        self.best = parts.pop("best", {})
        groups = self.optimizer.state_dict()["param_groups"]
        state = {int(number): part for number, part in parts.items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def digest(places: Sequence[Any] | Tensor) -> str:
    """A short name of some numbers, which others have not."""
    return hashlib.sha256(torch.as_tensor(places).cpu().numpy().tobytes()).hexdigest()[:16]


def _cuda(module: nn.Module) -> list[torch.device]:
    """The devices, other than the CPU, whose random numbers a module uses."""
    return sorted({p.device for p in module.parameters() if p.device.type == "cuda"}, key=str)
