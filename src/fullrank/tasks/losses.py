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

    Whole numbers (batch,) are classes; (batch, tokens) the next tokens of a causal language model, or what the model
    says at each token itself if it fills masks, labels tokens or has a decoder of its own (-100 is left out; the mean
    over a sample's tokens). Floating-point numbers are predicted with a squared error, or are the classes of a model
    whose `problem_type` is "multi_label_classification".

    Raises:
        ValueError: the batch has no labels, or labels that do not fit the logits.
    """
    if not isinstance(batch, Mapping) or "labels" not in batch:
        raise ValueError(
            "the batch has no labels, which Fisher information needs: give batches with a 'labels' entry, or "
            "sample_losses=lambda model, batch: one loss a sample, such as functional.cross_entropy(model(batch[0]), "
            'batch[1], reduction="none")'
        )
    labels = batch["labels"]
    # A decoder of its own reads the labels too, where the batch does not say what else it reads.
    given = {name: value for name, value in batch.items() if name != "labels" or _has_decoder(model)}
    logits = call(model, given).logits.float()
    if labels.is_floating_point():
        if getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
        return (logits.flatten(1) - labels.view(len(labels), -1)).square().mean(-1)
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}")
    if _predicts_next(model):
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = functional.cross_entropy(logits.mT, labels, reduction="none")
    return losses.sum(-1) / (labels >= 0).sum(-1).clamp_min(1)


def _predicts_next(model: nn.Module) -> bool:
    """Whether the logits at a token are those of the next one."""
    if _has_decoder(model):
        return False
    return getattr(model, "loss_type", None) not in ("ForMaskedLM", "ForTokenClassification")


def _has_decoder(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def call(model: nn.Module, batch: Batch) -> Any:
    """The model's output for a batch: keyword arguments, positional ones, or one tensor."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)
