"""The segmentation metrics as torchmetrics: batch by batch, over several processes, on any device."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from fullrank.nn.segmentation_metrics import (
    Match,
    PixelCounts,
    Protocol,
    TargetCounts,
    mae,
    pixel_counts,
    s_measure,
    target_counts,
)


class PooledIoUF1(Metric):
    """IoU, precision, recall and F1 of pixels, see `pooled_iou_f1`; `compute` gives them by name.

    Args:
        protocol, threshold, binarize: see `pooled_iou_f1`.
    """

    full_state_update: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    counts: Tensor

    def __init__(
        self, protocol: Protocol = "fixed", threshold: float = 0.5, binarize: bool = False, **more: Any
    ) -> None:
        super().__init__(**more)
        self.options = (protocol, threshold, binarize)
        self.add_state("counts", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Add a batch of probabilities and masks."""
        self.counts += torch.tensor(pixel_counts(prediction, mask, *self.options), device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """The scores of all batches."""
        return _tensors(PixelCounts(*map(int, self.counts.tolist())).scores()._asdict(), self.counts.device)


class TargetDetection(Metric):
    """Probability of detection and false-alarm rate, see `pd_fa`; `compute` gives them by name.

    Args:
        connectivity, match, protocol, threshold, binarize: see `pd_fa`.
    """

    full_state_update: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    counts: Tensor

    def __init__(
        self,
        connectivity: int = 8,
        match: Match = "overlap",
        protocol: Protocol = "fixed",
        threshold: float = 0.5,
        binarize: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.options = (connectivity, match, protocol, threshold, binarize)
        self.add_state("counts", torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Add a batch of probabilities and masks."""
        self.counts += torch.tensor(target_counts(prediction, mask, *self.options), device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """The rates of all batches."""
        return _tensors(TargetCounts(*map(int, self.counts.tolist())).scores()._asdict(), self.counts.device)


class _MeanOverImages(Metric):
    """The mean of a score that every image has."""

    full_state_update: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    total: Tensor
    images: Tensor

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def score(self, prediction: Tensor, mask: Tensor) -> float:
        """The mean over a batch."""
        raise NotImplementedError

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Add a batch (images, 1, H, W) or (images, H, W) of probabilities and masks, or one image (H, W)."""
        images = 1 if prediction.ndim == 2 else len(prediction)
        self.total += self.score(prediction, mask) * images
        self.images += images

    def compute(self) -> Tensor:
        """The mean of all batches."""
        return (self.total / self.images).float()


class StructureMeasure(_MeanOverImages):
    """The structure measure, see `s_measure`.

    Args:
        alpha, binarize: see `s_measure`.
    """

    def __init__(self, alpha: float = 0.5, binarize: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.alpha = alpha
        self.binarize = binarize

    def score(self, prediction: Tensor, mask: Tensor) -> float:
        """The mean over a batch."""
        return s_measure(prediction, mask, self.alpha, self.binarize)


class MapError(_MeanOverImages):
    """The mean absolute error of probability maps, see `mae`.

    Args:
        binarize: see `mae`.
    """

    def __init__(self, binarize: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.binarize = binarize

    def score(self, prediction: Tensor, mask: Tensor) -> float:
        """The mean over a batch."""
        return mae(prediction, mask, self.binarize)


def _tensors(scores: dict[str, float], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.tensor(value, device=device) for name, value in scores.items()}
