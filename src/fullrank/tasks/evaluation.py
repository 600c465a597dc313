"""How good a model is at a task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from fullrank.tasks.examples import Task

Collate = Callable[[list[Any]], dict[str, Tensor]]


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better."""
    return metric in ("perplexity", "loss")


@torch.no_grad()
def evaluate(model: nn.Module, items: Any, collate: Collate, task: Task, batch_size: int = 32) -> dict[str, float]:
    """Measure a model.

    Args:
        model: takes a batch as keyword arguments, returns `loss` and `logits`; evaluated as it is, on its own device.
        items: a map-style data set.
        collate: makes a batch of items.
        task: "classification" and pairs with labels give accuracy and loss; scores give the rank correlation
            ("spearman"), the linear one ("pearson") and the loss; "causal-lm" gives perplexity and the loss per token
            in nats. The first is the main one.
        batch_size: items at a time.

    Raises:
        ValueError: there are no items.
    """
    if not len(items):
        raise ValueError("there are no examples to evaluate on")
    training, device = model.training, next(model.parameters()).device
    model.eval()
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    losses: list[float] = []
    weights: list[int] = []
    for start in range(0, len(items), batch_size):
        batch = collate([items[row] for row in range(start, min(start + batch_size, len(items)))])
        result = model(**{name: tensor.to(device) for name, tensor in batch.items()})
        labels = batch["labels"]
        losses.append(float(result["loss"]))
        weights.append(int((labels[:, 1:] >= 0).sum()) if task == "causal-lm" else len(labels))
        if task != "causal-lm":
            outputs.append(result["logits"].float().cpu())
            targets.append(labels)
    model.train(training)
    loss = float(np.average(losses, weights=weights))
    if task == "causal-lm":
        return {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}
    return _scores(torch.cat(outputs), torch.cat(targets)) | {"loss": loss}


def _scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    if not targets.is_floating_point():
        return {"accuracy": float((outputs.argmax(-1) == targets).double().mean())}
    found, wanted = outputs.flatten().double().numpy(), targets.double().numpy()
    return {
        "spearman": correlation(stats.spearmanr, found, wanted),
        "pearson": correlation(stats.pearsonr, found, wanted),
    }


def correlation(measure: Callable[..., Any], found: np.ndarray, wanted: np.ndarray) -> float:
    """A correlation of SciPy's; 0 where one side is constant, which has no correlation."""
    if np.ptp(found) == 0 or np.ptp(wanted) == 0:
        return 0.0
    return float(measure(found, wanted).statistic)
