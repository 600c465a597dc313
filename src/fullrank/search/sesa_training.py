"""How SESA is trained: steps over pairs of texts, and after each epoch a look at pairs that were held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.search.run import at_least_one
from fullrank.search.sesa import SESA, Comparison
from fullrank.search.sesa_losses import SESALoss, concept_loss, mean_size, sampled_concept_loss

Text = str | list[str] | tuple[str, ...]
Targets = Tensor | list[list[int]]


@dataclass(frozen=True)
class Pairs:
    """Texts that belong together, and what is known of them.

    Attributes:
        texts: of the two sides: each a text, or a list of its sentences.
        targets: of the two sides' concepts: a table, or the numbers of those that are listed; None for nothing.
        known: concepts of the two sides that enter their vectors, or None.
        labels: 1 for a match and 0 for none, or None if all match.
        groups: pairs of one group are no negatives of each other.
    """

    texts: tuple[Sequence[Any], Sequence[Any]]
    targets: tuple[Targets | None, Targets | None] = (None, None)
    known: tuple[Tensor | None, Tensor | None] = (None, None)
    labels: Tensor | None = None
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.texts[0])

    def take(self, rows: Tensor) -> Pairs:
        """The pairs at these places."""
        chosen = rows.tolist()
        first, second = ([side[row] for row in chosen] for side in self.texts)
        targets = (_taken(self.targets[0], rows), _taken(self.targets[1], rows))
        known = (_taken(self.known[0], rows), _taken(self.known[1], rows))
        return Pairs((first, second), targets, known, _taken(self.labels, rows), _taken(self.groups, rows))


@dataclass(frozen=True)
class Epochs:
    """How long and how fast: see `SESAMatcher`."""

    epochs: int
    batch_size: int
    lr: float
    sentences: int | None
    patience: int
    fidelity_floor: float | None


class Objective:
    """rank_weight L_rank + lam L_concept + l1 |v|_1 of a batch.

    Args:
        rank_loss: of the pairs.
        rank_weight: its weight.
        lam: lambda, weight of the concept loss.
        kind: "mse" of targets as deviations from each concept's mean, or "bce".
        unlisted: omega, see `SESALoss`.
        negatives: unlisted concepts for every listed one, where targets are lists.
        l1: weight of the explicit values' size.

    Raises:
        ValueError: a negative weight, or less than one unlisted concept.
    """

    def __init__(
        self,
        rank_loss: SESALoss,
        rank_weight: float,
        lam: float,
        kind: Any,
        unlisted: float,
        negatives: int | None,
        l1: float,
    ) -> None:
        for name, value in (("rank_weight", rank_weight), ("lam", lam), ("unlisted", unlisted), ("l1", l1)):
            if not value >= 0:
                raise ValueError(f"{name}={value} is not accepted; it is 0 or more")
        if negatives is not None:
            at_least_one(negatives, "negatives")
        self.rank_loss, self.rank_weight, self.lam, self.l1 = rank_loss, rank_weight, lam, l1
        self.kind, self.unlisted, self.negatives = kind, unlisted, negatives

    def needs_company(self, pairs: Pairs) -> bool:
        """Whether the negatives of a pair are the other pairs of its batch."""
        return pairs.labels is None or self.rank_loss.rank != "logistic"

    def __call__(self, model: SESA, comparison: Comparison, pairs: Pairs) -> Tensor:
        """The loss."""
        labels = None
        if pairs.labels is not None:  # only what was logged counts: the pairs themselves
            labels = torch.full_like(comparison.scores, torch.nan)
            labels.diagonal().copy_(pairs.labels)
        ranked = self.rank_loss(comparison, labels=labels, group_ids=pairs.groups)
        loss = self.rank_weight * ranked + self._concepts(model, comparison, pairs)
        return loss + self.l1 * mean_size(comparison) if self.l1 else loss

    def _concepts(self, model: SESA, comparison: Comparison, pairs: Pairs) -> Tensor | float:
        """lambda times the mean concept loss of the sides that have targets."""
        if not self.lam:
            return 0.0
        first, second = pairs.targets[0], pairs.targets[1] if pairs.targets[1] is not None else pairs.targets[0]
        sides = ((comparison.logits_a, comparison.hidden_a, first), (comparison.logits_b, comparison.hidden_b, second))
        parts = [self._one(model, z, h, targets) for z, h, targets in sides if targets is not None]
        return self.lam * sum(parts) / len(parts) if parts else 0.0

    def _one(self, model: SESA, z: Tensor, h: Tensor, targets: Targets) -> Tensor | float:
        if isinstance(targets, list):
            return sampled_concept_loss(model.head, h, targets, self.negatives or 0) if any(targets) else 0.0
        about: Any = model
        wanted = (targets - about.concept_mean) / about.concept_deviation if self.kind == "mse" else targets
        return concept_loss(z, wanted.nan_to_num(0.0), ~targets.isnan(), self.kind, self.unlisted)


def train(
    model: SESA, pairs: Pairs, held_out: Pairs | None, objective: Objective, plan: Epochs, rng: np.random.Generator
) -> tuple[list[float], list[dict[str, float]]]:
    """Train by Adam; with pairs held out, keep the epoch that ranks them best and stop when it gets no better.

    Args:
        model: trained in place, left in evaluation mode.
        pairs: to learn from.
        held_out: to choose the epoch by.
        objective: the loss.
        plan: how long and how fast.
        rng: draws sentences.

    Returns:
        The mean loss of every epoch; and, of every epoch, MRR and fidelity over the pairs held out.

    Raises:
        ValueError: a batch of one pair where the batch gives the negatives, or a number of 0 or less.
    """
    for name in ("batch_size", "epochs", "patience"):
        at_least_one(getattr(plan, name), name)
    if not 0 < plan.lr < np.inf:
        raise ValueError(f"lr={plan.lr} is not accepted; it is above 0")
    if objective.needs_company(pairs) and min(plan.batch_size, len(pairs)) < 2:
        raise ValueError(
            f"batch_size={plan.batch_size} of {len(pairs)} pairs: a pair finds its negatives in a batch of at least 2; "
            'give a larger batch and more pairs, or rank_loss="logistic" with labels y'
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.lr)
    losses: list[float] = []
    chosen = _Best(plan.patience, plan.fidelity_floor)
    for _ in range(plan.epochs):
        losses.append(_epoch(model.train(), pairs, objective, optimizer, plan, rng))
        if held_out is not None and chosen.stops(model.eval(), _quality(model, held_out)):
            break
    chosen.restore(model)
    model.eval()
    return losses, chosen.history


def reciprocal_rank(scores: Float[Tensor, "texts texts"]) -> float:
    """Mean reciprocal place of every text's own partner; one with an equal score stands before it."""
    places = (scores >= scores.diagonal().unsqueeze(1)).sum(1)
    return float((1 / places).mean())


def fidelity(values: Float[np.ndarray, "texts K"], truth: Float[np.ndarray, "texts K"]) -> float:
    """Mean over the concepts of the correlation of value and truth, dimension by dimension, where truth is known."""
    known = ~np.isnan(truth)
    count = np.maximum(known.sum(0), 1)
    v, t = np.where(known, values, 0), np.where(known, truth, 0)
    v, t = np.where(known, v - v.sum(0) / count, 0), np.where(known, t - t.sum(0) / count, 0)
    return float(((v * t).sum(0) / np.maximum(np.sqrt((v**2).sum(0) * (t**2).sum(0)), 1e-12)).mean())


def joined(text: Text) -> str:
    """A text, or the text of its sentences."""
    return text if isinstance(text, str) else " ".join(text)


class _Best:
    """The best epoch so far."""

    def __init__(self, patience: int, floor: float | None) -> None:
        self.patience, self.floor = patience, floor
        self.history: list[dict[str, float]] = []
        self._state: dict[str, Tensor] | None = None
        self._key, self._since = (False, -np.inf), 0

    def stops(self, model: SESA, quality: dict[str, float]) -> bool:
        """Take an epoch; whether it is time to stop. Below the floor the most faithful epoch is the best."""
        self.history.append(quality)
        enough = self.floor is None or quality["fidelity"] >= self.floor
        key = (enough, quality["MRR"] if enough else quality["fidelity"])
        self._since += 1
        if key > self._key:
            self._key, self._since = key, 0
            self._state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return self._since >= self.patience

    def restore(self, model: SESA) -> None:
        if self._state is None:
            return
        model.load_state_dict(self._state)
        if not self._key[0]:
            warnings.warn(
                f"no epoch reached fidelity_floor={self.floor}; the one of {self._key[1]:.3g} is kept: raise lam or "
                "epochs",
                stacklevel=5,
            )


def _epoch(
    model: SESA, pairs: Pairs, objective: Objective, optimizer: Any, plan: Epochs, rng: np.random.Generator
) -> float:
    total, seen = 0.0, 0
    for rows in torch.randperm(len(pairs)).split(plan.batch_size):
        if len(rows) < 2 and objective.needs_company(pairs):
            continue  # a pair alone has no negatives
        batch = pairs.take(rows)
        a, b = ([_drawn(text, plan.sentences, rng) for text in side] for side in batch.texts)
        loss = objective(model, model.compare(a, b, *batch.known), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        total, seen = total + float(loss.detach()) * len(rows), seen + len(rows)
    return total / seen


@torch.inference_mode()
def _quality(model: SESA, pairs: Pairs) -> dict[str, float]:
    if pairs.labels is not None:
        pairs = pairs.take(pairs.labels.nonzero().flatten())  # those that match have a partner to find
    a, b = ([joined(text) for text in side] for side in pairs.texts)
    compared = model.compare(a, b, *pairs.known)
    targets = pairs.targets[0]
    if isinstance(targets, list):
        numbers, targets = targets, torch.zeros(compared.explicit_a.shape)
        for row, concepts in enumerate(numbers):
            targets[row, concepts] = 1
    found = float("nan")
    if targets is not None:
        found = fidelity(compared.explicit_a.float().cpu().numpy(), targets.cpu().numpy())
    return {"MRR": reciprocal_rank(compared.scores), "fidelity": found}


def _taken(values: Any, rows: Tensor) -> Any:
    if values is None:
        return None
    return [values[row] for row in rows.tolist()] if isinstance(values, list) else values[rows.to(values.device)]


def _drawn(text: Text, count: int | None, rng: np.random.Generator) -> str:
    if isinstance(text, str) or count is None or len(text) <= count:
        return joined(text)
    return " ".join(text[place] for place in rng.choice(len(text), count, replace=False).tolist())
