"""What a trained LESS ViT is worth: the benchmark's metrics, and linear probes on a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullrank.nn.less_positions import Number
from fullrank.nn.less_vit_training import Batch, moved

#: The label of a pixel that counts for nothing.
IGNORED = -100


@torch.inference_mode()
def evaluate_less_vit(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Metrics of a model with a head, as GFM-Bench reports them, in percent.

    One label an image: "accuracy" and "balanced accuracy". Several: "mAP", the micro average precision, and "macro
    mAP". Labels of pixels: "mIoU", the mean over the classes that occur, and "pixel accuracy"; -100 counts for nothing.

    Args:
        model: `LESSViTForImageClassification` or `LESSViTForSemanticSegmentation`.
        batches: keyword arguments of the model, `labels` among them.

    Raises:
        ValueError: there are no batches.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    logits, labels = [], []
    for batch in batches:
        inputs = moved(batch, device)
        logits.append(model(**inputs).logits.float().cpu())
        labels.append(inputs["labels"].cpu())
    model.train(was_training)
    if not logits:
        raise ValueError("batches is empty: there is nothing to evaluate")
    return prediction_metrics(torch.cat(logits), torch.cat(labels))


def prediction_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of `evaluate_less_vit`.

    Args:
        logits: (images, classes), or (images, classes, height, width).
        labels: (images,), (images, classes) of 0 and 1, or (images, height, width).
    """
    if logits.ndim == 4:
        return _segmentation_metrics(logits.argmax(1), labels, logits.shape[1])
    if labels.ndim == 2:
        return _multi_label_metrics(logits, labels)
    return class_metrics(logits.argmax(1).numpy(), labels.numpy())


def class_metrics(predicted: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Accuracy and balanced accuracy (the mean recall of the classes that occur), in percent."""
    recalls = [np.mean(predicted[labels == label] == label) for label in np.unique(labels)]
    return {"accuracy": 100 * float(np.mean(predicted == labels)), "balanced accuracy": 100 * float(np.mean(recalls))}


def _multi_label_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    truth, scores = labels.numpy().astype(int), logits.numpy()
    occurring = truth.any(axis=0)
    return {
        "mAP": 100 * float(average_precision_score(truth, scores, average="micro")),
        "macro mAP": 100 * float(average_precision_score(truth[:, occurring], scores[:, occurring], average="macro")),
    }


def _segmentation_metrics(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    counted = labels != IGNORED
    pairs = torch.bincount(labels[counted] * classes + predicted[counted], minlength=classes**2)
    confusion = pairs.reshape(classes, classes).double()
    hits, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = (hits / union)[union > 0]
    return {"mIoU": 100 * float(iou.mean()), "pixel accuracy": 100 * float(hits.sum() / confusion.sum())}


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on standardised features of a frozen encoder, every class of equal weight.

    Args:
        C: inverse strength of the L2 penalty. Default 1.
        seed: of the solver.
    """

    C: Number = 1.0
    seed: int = 0

    def fit(self, features: NDArray[Any], labels: NDArray[Any]) -> Any:
        """A fitted scikit-learn pipeline."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        classifier = LogisticRegression(C=self.C, class_weight="balanced", max_iter=2000, random_state=self.seed)
        return make_pipeline(StandardScaler(), classifier).fit(features, labels)
