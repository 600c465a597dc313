"""Train a classifier of texts of different lengths: words or states, batched by length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from fullrank.nn.lama import orthogonality_penalty

_BATCHES_SORTED_TOGETHER = 16  # enough for little padding, few enough for mixed batches
_INFERENCE_BATCH = 256

#: Texts, each (tokens,) word numbers or (tokens, D) states.
Items = Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class PoolingTraining:
    """How a classifier is trained: Adam on cross-entropy, gradients clipped to a norm.

    Attributes:
        epochs: at most.
        learning_rate: of Adam.
        batch_size: texts in a step.
        clip_norm: largest norm of the gradient.
        penalty: weight of ‖A Aᵀ - I‖²_F, see `orthogonality_penalty`.
        patience: stop after so many epochs without a better validation accuracy; needs validation texts.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 64
    clip_norm: float = 5.0
    penalty: float = 0.0
    patience: int = 3


def train_classifier(
    network: nn.Module,
    items: Items,
    labels: Int[Tensor, " texts"],
    settings: PoolingTraining,
    generator: torch.Generator,
    validation: tuple[Items, Int[Tensor, " more"]] | None = None,
    on_epoch: Callable[[int, float], object] = lambda epoch, loss: None,
) -> int:
    """Train in place; with validation texts the parameters of the best epoch are kept.

    Args:
        network: takes a padded batch, its mask and `need_weights`; gives logits.
        items: the texts.
        labels: its class.
        settings: how to train.
        generator: of the order of the texts, on the CPU.
        validation: texts and classes.
        on_epoch: told the epoch, from 1, and its mean loss.

    Returns:
        How many epochs were run.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    best, best_epoch, kept = -1.0, 0, None
    epoch = 0
    for epoch in range(1, settings.epochs + 1):
        network.train()
        total = 0.0
        for rows in _batches([len(item) for item in items], settings.batch_size, generator):
            batch, mask = _padded([items[row] for row in rows], device)
            optimizer.zero_grad()
            loss = _loss(network, batch, mask, labels[rows].to(device), settings.penalty)
            loss.backward()
            clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        on_epoch(epoch, total / len(items))
        if validation is None:
            continue
        accuracy = float((class_probabilities(network, validation[0]).argmax(1) == validation[1]).double().mean())
        if accuracy > best:
            best, best_epoch, kept = accuracy, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    if kept is not None:
        network.load_state_dict(kept)
    network.eval()
    return epoch


def class_probabilities(network: nn.Module, items: Items) -> Float[Tensor, "texts labels"]:
    """Probability of every class of every text, on the CPU."""
    found = [functional.softmax(logits.float(), dim=1).cpu() for _, logits, _ in _evaluated(network, items)]
    return _in_order(torch.cat(found), items)


def word_weights(network: nn.Module, items: Items) -> list[Tensor]:
    """What every word of every text weighs, (heads, tokens), on the CPU, without padding."""
    found: list[Any] = [None] * len(items)
    for rows, _, weights in _evaluated(network, items, need_weights=True):
        for row, A in zip(rows, weights.cpu(), strict=True):
            found[row] = A[:, : len(items[row])]
    return found


def _evaluated(network: nn.Module, items: Items, need_weights: bool = False) -> Iterator[tuple[list[int], Tensor, Any]]:
    """Rows, logits and weights of one batch after the other, from short to long texts."""
    network.eval()
    device = next(network.parameters()).device
    order = _by_length(items)
    for start in range(0, len(order), _INFERENCE_BATCH):
        rows = order[start : start + _INFERENCE_BATCH]
        with torch.no_grad():
            found = network(*_padded([items[row] for row in rows], device), need_weights=need_weights)
        yield (rows, *found) if need_weights else (rows, found, None)


def _by_length(items: Items) -> list[int]:
    return sorted(range(len(items)), key=lambda row: len(items[row]))


def _in_order(found: Tensor, items: Items) -> Tensor:
    ordered = torch.empty_like(found)
    ordered[_by_length(items)] = found
    return ordered


def _loss(network: nn.Module, batch: Tensor, mask: Tensor, labels: Tensor, penalty: float) -> Tensor:
    if penalty == 0:
        return functional.cross_entropy(network(batch, mask), labels)
    logits, A = network(batch, mask, need_weights=True)
    return functional.cross_entropy(logits, labels) + penalty * orthogonality_penalty(A)


def _padded(items: Items, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch padded with zeros on the right, and its mask."""
    batch = pad_sequence(list(items), batch_first=True)
    lengths = torch.tensor([len(item) for item in items])
    mask = torch.arange(batch.shape[1]) < lengths[:, None]
    return batch.to(device), mask.to(device)


def _batches(lengths: Sequence[int], size: int, generator: torch.Generator) -> list[list[int]]:
    """Rows of every batch: random blocks of texts sorted by length, so that little is padded, in random order."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    block = size * _BATCHES_SORTED_TOGETHER
    batches = []
    for start in range(0, len(order), block):
        rows = sorted(order[start : start + block], key=lengths.__getitem__)
        batches += [rows[first : first + size] for first in range(0, len(rows), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
