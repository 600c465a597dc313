"""The loss of every sample of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Batch = Any
#: The losses (batch,) that a model has on a batch.
SampleLosses = Callable[[nn.Module, Batch], Tensor]


def labelled_losses(model: nn.Module, batch: Batch) -> Float[Tensor, "batch"]:
    """The loss of every sample of a labelled batch, for a model of transformers.

    Whole numbers (batch,) are classes, (batch, tokens) the tokens of a causal language model (-100 is left out; the
    mean over a sample's tokens), floating-point numbers are predicted with a squared error.

    Raises:
        ValueError: the batch has no labels.
    """
    if not isinstance(batch, Mapping) or "labels" not in batch:
        raise ValueError(
            "the batch has no labels, which Fisher information needs: give batches with a 'labels' entry, or "
            "sample_losses=lambda model, batch: one loss a sample, such as functional.cross_entropy(model(batch[0]), "
            'batch[1], reduction="none")'
        )
    labels = batch["labels"]
    logits = call(model, {name: value for name, value in batch.items() if name != "labels"}).logits.float()
    if labels.is_floating_point():
        return (logits.flatten(1) - labels.view(len(labels), -1)).square().mean(-1)
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}")
    losses = functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none")
    return losses.sum(-1) / (labels[:, 1:] >= 0).sum(-1).clamp_min(1)


def call(model: nn.Module, batch: Batch) -> Any:
    """The model's output for a batch: keyword arguments, positional ones, or one tensor."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)
