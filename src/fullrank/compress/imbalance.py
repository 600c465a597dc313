"""Imbalanced classes: sets made imbalanced, and scores in which rare classes count as much as frequent ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class ImbalancedReport:
    """Scores over a whole test set, as shares; means over classes are macro averages over the classes that occur.

    Attributes:
        accuracy: share of all samples that are right.
        balanced_accuracy: mean recall.
        f1, precision, recall, specificity: means over classes; a class that is never predicted has precision 0.
        auroc: mean over classes of the area under the curve, one against the rest; None where one class occurs only.
        counts: samples of every class.
        recalls: recall of every class; None where it does not occur.
    """

    accuracy: float
    balanced_accuracy: float
    f1: float
    precision: float
    recall: float
    specificity: float
    auroc: float | None
    counts: tuple[int, ...]
    recalls: tuple[float | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-like."""
        return asdict(self)


def imbalanced_report(y_true: Any, y_prob: Any) -> ImbalancedReport:
    """Scores of class probabilities, computed once over the whole set.

    Args:
        y_true: (samples,) classes from 0.
        y_prob: (samples, classes) probabilities or any scores that rank, of NumPy or torch; the highest is the
            prediction.

    Raises:
        ValueError: shapes that do not fit, classes outside the columns, no sample, or scores that are not finite.
    """
    from sklearn.metrics import confusion_matrix, roc_auc_score  # slow to load

    truth, scores = (v.detach().cpu() if hasattr(v, "detach") else v for v in (y_true, y_prob))  # tensors of torch
    truth, scores = np.asarray(truth), np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not len(truth):
        raise ValueError(
            f"y_true of shape {truth.shape} and y_prob of shape {scores.shape}: (samples,) and (samples, classes) are "
            "needed; for two classes give both columns"
        )
    classes = scores.shape[1]
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"y_true holds other values than the classes 0 to {classes - 1} that y_prob has columns for")
    if not np.isfinite(scores).all():
        raise ValueError("y_prob is not finite")
    matrix = confusion_matrix(truth, scores.argmax(1), labels=np.arange(classes))
    right, occurring, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    there = occurring > 0
    recall = right[there] / occurring[there]
    precision = right[there] / np.maximum(predicted[there], 1)
    others = len(truth) - occurring[there]
    # With no sample of other classes there is nothing to be mistaken for this one.
    specificity = np.where(others > 0, 1 - (predicted - right)[there] / np.maximum(others, 1), 1.0)
    curves = (
        [roc_auc_score(truth == label, scores[:, label]) for label in np.flatnonzero(there)] if there.sum() > 1 else []
    )
    recalls = dict(zip(np.flatnonzero(there).tolist(), recall.tolist(), strict=True))
    return ImbalancedReport(
        accuracy=float(right.sum() / len(truth)),
        balanced_accuracy=float(recall.mean()),
        f1=float((2 * right[there] / (occurring + predicted)[there]).mean()),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        specificity=float(specificity.mean()),
        auroc=float(np.mean(curves)) if curves else None,
        counts=tuple(occurring.tolist()),
        recalls=tuple(recalls.get(label) for label in range(classes)),
    )


def make_imbalanced(
    X: Any,
    y: Any,
    factor: float | int,
    kind: Literal["step", "exp"] = "exp",
    seed: int = 0,
    frequent: int | None = None,
) -> np.ndarray:
    """Indices of a subset whose classes are imbalanced by a factor.

    Args:
        X: the samples; only their number is read.
        y: (samples,) classes.
        factor: how many times as many samples the most frequent class keeps as the rarest, of classes of equal size.
        kind: "step": some classes stay whole, the others keep 1 / factor; "exp": in a random order of the classes, each
            keeps factor^(1 / (classes - 1)) times less than the one before (long tail).
        seed: of the classes' order and of the samples that are kept.
        frequent: for "step": how many classes stay whole; default half, rounded down.

    Returns:
        Indices, ascending; at least one of every class.

    Raises:
        ValueError: lengths that differ, a factor below 1, fewer than two classes, an unknown kind, or `frequent` that
            leaves no class frequent or none rare.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or len(X) != len(labels):
        raise ValueError(f"X has {len(X)} samples, y has shape {labels.shape}: one class a sample is needed")
    if not factor >= 1:
        raise ValueError(f"factor={factor}: 1 or more is accepted")
    if kind not in ("step", "exp"):
        raise ValueError(f"kind={kind!r} is not known; accepted: 'step', 'exp'")
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.unique(labels))
    if len(classes) < 2:
        raise ValueError(f"y holds {len(classes)} class: two or more can be imbalanced")
    whole = len(classes) // 2 if frequent is None else frequent
    if not 0 < whole < len(classes):
        raise ValueError(f"frequent={frequent}: 1 to {len(classes) - 1} of {len(classes)} classes can stay whole")
    steps = np.arange(len(classes)) / (len(classes) - 1) if kind == "exp" else np.arange(len(classes)) >= whole
    kept = []
    for label, step in zip(classes, steps, strict=True):
        samples = generator.permutation(np.flatnonzero(labels == label))
        kept.append(samples[: max(1, round(len(samples) / factor ** float(step)))])
    return np.sort(np.concatenate(kept))
