"""How well objects are segmented: pooled pixel scores, detected targets, structure measure, mean absolute error.

Probability maps and masks come as arrays or tensors (H, W), (images, H, W) or (images, 1, H, W), or as a sequence of
maps whose sizes may differ. Two protocols decide which pixels fire:

- "fixed" (default): probability > threshold.
- "official": every map is divided by its own maximum first, as the code of RPCANet does. It flatters maps of low
  confidence, and an empty prediction fires somewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy import integrate, ndimage
from torch import Tensor

from fullrank.nn.masks import binary_mask

Maps = np.ndarray | Tensor | Sequence[Any]
Protocol = Literal["fixed", "official"]
Match = Literal["overlap", "centroid3"]

_CENTROID_DISTANCE = 3.0  # pixels
_TINY = 1e-16


class PooledScores(NamedTuple):
    """Scores of pixel counts that are summed over all images, each in [0, 1]; 0 where nothing can be counted."""

    iou: float
    precision: float
    recall: float
    f1: float


class TargetScores(NamedTuple):
    """Detection of targets.

    Attributes:
        pd: detected targets over targets; NaN without any target.
        fa: false alarms over the pixels they were counted on; NaN where there are none.
    """

    pd: float
    fa: float


class TargetROC(NamedTuple):
    """Detection over thresholds.

    Attributes:
        thresholds: descending.
        pd, fa: at each threshold.
        auc: area under pd over fa, from fa = 0 to 1.
    """

    thresholds: np.ndarray
    pd: np.ndarray
    fa: np.ndarray
    auc: float


class PixelCounts(NamedTuple):
    """Pixels that fire on the object, off it, and object pixels that do not fire."""

    true: int
    false: int
    missed: int

    def scores(self) -> PooledScores:
        """What the counts come to."""
        true, false, missed = self
        precision, recall = _share(true, true + false), _share(true, true + missed)
        return PooledScores(
            _share(true, true + false + missed), precision, recall, _share(2 * true, 2 * true + false + missed)
        )


class TargetCounts(NamedTuple):
    """Targets, detected ones, false pixels, and the pixels on which false ones were counted."""

    targets: int
    detected: int
    false: int
    pixels: int

    def scores(self) -> TargetScores:
        """What the counts come to."""
        return TargetScores(
            self.detected / self.targets if self.targets else float("nan"),
            self.false / self.pixels if self.pixels else float("nan"),
        )


def pooled_iou_f1(
    prediction: Maps,
    mask: Maps,
    protocol: Protocol = "fixed",
    threshold: float = 0.5,
    binarize: bool = False,
) -> PooledScores:
    """IoU, precision, recall and F1 of pixel counts pooled over all images.

    Args:
        prediction: probabilities of the object.
        mask: 0 and 1.
        protocol, threshold: which pixels fire, see the module.
        binarize: count every value of the mask above 0 as object.

    Raises:
        ValueError: shapes that differ, probabilities that are not finite, other mask values, an unknown protocol.
    """
    return pixel_counts(prediction, mask, protocol, threshold, binarize).scores()


def pixel_counts(
    prediction: Maps, mask: Maps, protocol: Protocol = "fixed", threshold: float = 0.5, binarize: bool = False
) -> PixelCounts:
    """The counts behind `pooled_iou_f1`."""
    true = false = missed = 0
    for p, y in _pairs(prediction, mask, binarize):
        fired = _fired(p, protocol, threshold)
        true += int((fired & y).sum())
        false += int((fired & ~y).sum())
        missed += int((~fired & y).sum())
    return PixelCounts(true, false, missed)


def pd_fa(
    prediction: Maps,
    mask: Maps,
    connectivity: int = 8,
    match: Match = "overlap",
    protocol: Protocol = "fixed",
    threshold: float = 0.5,
    binarize: bool = False,
) -> TargetScores:
    """Probability of detection and false-alarm rate of connected targets.

    Args:
        prediction: probabilities of the object.
        mask: 0 and 1; its connected components are the targets.
        connectivity: 8 or 4 neighbours.
        match: "overlap": a target is detected if one of its pixels fires; false alarms are fired background pixels
            over background pixels, on the images that have a target. "centroid3": if a fired component, none taken
            twice, has its centroid less than 3 pixels from the target's; false alarms are the pixels of the components
            that are left, over all pixels of all images.
        protocol, threshold: which pixels fire, see the module.
        binarize: count every value of the mask above 0 as object.

    Raises:
        ValueError: as `pooled_iou_f1`, or another connectivity or rule.
    """
    return target_counts(prediction, mask, connectivity, match, protocol, threshold, binarize).scores()


def target_counts(
    prediction: Maps,
    mask: Maps,
    connectivity: int = 8,
    match: Match = "overlap",
    protocol: Protocol = "fixed",
    threshold: float = 0.5,
    binarize: bool = False,
) -> TargetCounts:
    """The counts behind `pd_fa`."""
    structure = _structure(connectivity)
    if match not in get_args(Match):
        raise ValueError(f"match={match!r}: use one of {', '.join(map(repr, get_args(Match)))}")
    count = _by_overlap if match == "overlap" else _by_centroid
    found = [count(_fired(p, protocol, threshold), y, structure) for p, y in _pairs(prediction, mask, binarize)]
    return TargetCounts(*(sum(column) for column in zip(*found, strict=True)))


def _by_overlap(fired: np.ndarray, y: np.ndarray, structure: np.ndarray) -> TargetCounts:
    labels, targets = _labelled(y, structure)
    if targets == 0:
        return TargetCounts(0, 0, 0, 0)
    detected = len(np.unique(labels[fired & y]))
    return TargetCounts(targets, detected, int((fired & ~y).sum()), int((~y).sum()))


def _by_centroid(fired: np.ndarray, y: np.ndarray, structure: np.ndarray) -> TargetCounts:
    targets, found = (_components(part, structure) for part in (y, fired))
    left = list(range(len(found)))
    detected = 0
    for centre, _ in targets:
        near = [k for k in left if np.hypot(*(found[k][0] - centre)) < _CENTROID_DISTANCE]
        if near:
            left.remove(near[0])
            detected += 1
    return TargetCounts(len(targets), detected, sum(found[k][1] for k in left), y.size)


def _components(part: np.ndarray, structure: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Centroid and size of every component."""
    labels, count = _labelled(part, structure)
    numbers = np.arange(1, count + 1)
    centres = ndimage.center_of_mass(part, labels, numbers) if count else []
    sizes = ndimage.sum_labels(part, labels, numbers) if count else []
    return [(np.asarray(centre), int(size)) for centre, size in zip(centres, sizes, strict=True)]


def roc_targets(
    prediction: Maps,
    mask: Maps,
    thresholds: int | Sequence[float] = 201,
    connectivity: int = 8,
    binarize: bool = False,
) -> TargetROC:
    """Detection against false alarms over thresholds, by the rule "overlap" of `pd_fa`.

    Args:
        prediction: probabilities of the object.
        mask: 0 and 1; images without a target are skipped.
        thresholds: how many, evenly from 1 down to 0, or which.
        connectivity: 8 or 4 neighbours.
        binarize: count every value of the mask above 0 as object.

    Raises:
        ValueError: as `pd_fa`, fewer than two thresholds, or no target at all.
    """
    levels = np.linspace(1, 0, thresholds) if isinstance(thresholds, int) else np.sort(np.asarray(thresholds))[::-1]
    if len(levels) < 2:
        raise ValueError(f"thresholds={thresholds!r}: use at least 2")
    structure = _structure(connectivity)
    peaks: list[np.ndarray] = []
    background: list[np.ndarray] = []
    for p, y in _pairs(prediction, mask, binarize):
        labels, targets = _labelled(y, structure)
        if targets:
            peaks.append(np.asarray(ndimage.maximum(p, labels, np.arange(1, targets + 1))))
            background.append(p[~y])
    if not peaks:
        raise ValueError("mask has no object in any image: at least one target is needed")
    pd, fa = (_above(np.concatenate(values), levels) for values in (peaks, background))
    across, up = np.concatenate([[0.0], fa, [1.0]]), np.concatenate([[0.0], pd, [1.0]])
    return TargetROC(levels, pd, fa, float(integrate.trapezoid(up, across)))


def _above(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of the values above each level."""
    return 1 - np.searchsorted(np.sort(values), levels, side="right") / max(1, len(values))


def mae(prediction: Maps, mask: Maps, binarize: bool = False) -> float:
    """Mean absolute error of the probabilities, per image, then over images.

    Args:
        prediction: probabilities of the object.
        mask: 0 and 1.
        binarize: count every value of the mask above 0 as object.

    Raises:
        ValueError: as `pooled_iou_f1`.
    """
    return float(np.mean([np.abs(p - y).mean() for p, y in _pairs(prediction, mask, binarize)]))


def s_measure(prediction: Maps, mask: Maps, alpha: float = 0.5, binarize: bool = False) -> float:
    """Structure measure (Fan et al. 2017): alpha S_object + (1 - alpha) S_region, mean over images.

    Args:
        prediction: probabilities of the object.
        mask: 0 and 1; where it is empty or full the measure is how little or how much is predicted.
        alpha: weight of the object's part.
        binarize: count every value of the mask above 0 as object.

    Raises:
        ValueError: as `pooled_iou_f1`, or alpha outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: use a weight in [0, 1]")
    return float(np.mean([_structure_measure(p, y, alpha) for p, y in _pairs(prediction, mask, binarize)]))


def _structure_measure(p: np.ndarray, y: np.ndarray, alpha: float) -> float:
    if not y.any():
        return 1 - float(p.mean())
    if y.all():
        return float(p.mean())
    share = y.mean()
    of_object = share * _likeness(p[y]) + (1 - share) * _likeness(1 - p[~y])
    return max(0.0, float(alpha * of_object + (1 - alpha) * _of_regions(p, y)))


def _likeness(values: np.ndarray) -> float:
    """2 x / (x^2 + 1 + sigma) of the probabilities that should be 1."""
    x = values.mean()
    return float(2 * x / (x**2 + 1 + values.std() + _TINY))


def _of_regions(p: np.ndarray, y: np.ndarray) -> float:
    """Similarity in the four quadrants around the object's centroid, weighted by their area."""
    rows, columns = (int(np.round(index.mean())) + 1 for index in np.nonzero(y))
    quadrants = [
        (down, across) for down in (slice(rows), slice(rows, None)) for across in (slice(columns), slice(columns, None))
    ]
    return sum(_similarity(p[quadrant], y[quadrant]) * y[quadrant].size / y.size for quadrant in quadrants)


def _similarity(p: np.ndarray, y: np.ndarray) -> float:
    """4 x y sigma_xy / ((x^2 + y^2) (sigma_x^2 + sigma_y^2)); 1 where both are constant."""
    if p.size < 2:
        return 1.0 if p.size and p.item() == y.item() else 0.0
    x, g = p.mean(), y.mean()
    spread = p.var(ddof=1) + y.var(ddof=1)
    covariance = ((p - x) * (y - g)).sum() / (p.size - 1)
    above, below = 4 * x * g * covariance, (x**2 + g**2) * spread
    return float(above / (below + _TINY)) if above else float(below == 0)


def _labelled(part: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, int]:
    """The components' numbers from 1, and how many there are."""
    labels = np.zeros(part.shape, dtype=np.int32)
    return labels, int(ndimage.label(part, structure, output=labels))  # pyright: ignore[reportArgumentType]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _structure(connectivity: int) -> np.ndarray:
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity={connectivity}: use 4 or 8 neighbours")
    return ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)


def _fired(p: np.ndarray, protocol: Protocol, threshold: float) -> np.ndarray:
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol={protocol!r}: use one of {', '.join(map(repr, get_args(Protocol)))}")
    largest = p.max() if protocol == "official" else 1.0
    return p > threshold * largest if largest > 0 else np.zeros_like(p, dtype=bool)


def _pairs(prediction: Maps, mask: Maps, binarize: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Probabilities as float64 and masks as booleans, image by image."""
    predictions, masks = _images(prediction, "prediction"), _images(mask, "mask")
    if len(predictions) != len(masks):
        raise ValueError(
            f"{len(predictions)} predictions and {len(masks)} masks: one mask for every prediction is needed"
        )
    if not predictions:
        raise ValueError("prediction holds no images: at least one is needed")
    for number, (p, y) in enumerate(zip(predictions, masks, strict=True)):
        if p.shape != y.shape:
            raise ValueError(f"prediction {number} has shape {p.shape}, its mask {y.shape}: they must agree")
        p = p.astype(np.float64)
        if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
            raise ValueError(
                f"prediction {number} has values from {p.min():g} to {p.max():g}: probabilities in [0, 1] are "
                "accepted; pass logits through a sigmoid first"
            )
        yield p, binary_mask(y, binarize)


def _images(maps: Maps, name: str) -> list[np.ndarray]:
    if isinstance(maps, Sequence):
        return [image for item in maps for image in _images(item, name)]
    values = maps.detach().cpu().double().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise ValueError(f"{name} has shape {values.shape}: (H, W), (images, H, W) or (images, 1, H, W) is accepted")
    return list(values)
