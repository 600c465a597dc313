"""Segment sparse objects in the manner of scikit-learn: trained (RPCANet, RPCANet++) or not (robust PCA)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from fullrank._files import write_json
from fullrank.linalg import robust_pca
from fullrank.linalg.robust_pca import Method
from fullrank.nn.masks import binary_mask
from fullrank.nn.rpcanet import RPCANet, RPCANetPP, UnfoldedRPCA
from fullrank.nn.rpcanet_stages import StageOutput
from fullrank.nn.rpcanet_training import SegmentationTraining, train_segmentation
from fullrank.nn.segmentation_metrics import pooled_iou_f1

Network = Literal["rpcanet++", "rpcanet"]
Images = np.ndarray | Tensor | Sequence[Any]
Maps = np.ndarray | list[np.ndarray]

_SETTINGS, _WEIGHTS = "segmenter.json", "model.safetensors"
_PRETRAINED = Path(__file__).parent / "weights"


class _Segmenter(BaseEstimator):
    """What every segmenter does with its probabilities."""

    threshold: float
    binarize: bool

    def predict_proba(self, images: Images) -> Maps:
        """The probability of the object at every pixel."""
        raise NotImplementedError

    def probability(self, stage: StageOutput) -> np.ndarray:
        """The probability of the object that the last stage of a decomposition stands for, (H, W)."""
        raise NotImplementedError

    def predict(self, images: Images) -> Maps:
        """Masks: where the probability is above the threshold, as booleans.

        Args:
            images: (images, H, W), or a sequence of (H, W) whose sizes may differ; in [0, 1].

        Returns:
            One array for images of one size, a list otherwise.
        """
        return _stacked([probability > self.threshold for probability in self.predict_proba(images)])

    def score(self, images: Images, masks: Images) -> float:
        """IoU of the pixels of all images, at the segmenter's threshold."""
        found = [mask.astype(float) for mask in self.predict(images)]
        return pooled_iou_f1(found, list(masks), binarize=self.binarize).iou


class SparseObjectSegmenter(_Segmenter):
    """RPCANet++ or RPCANet, trained with masks.

    Args:
        network: "rpcanet++" (default) or "rpcanet".
        num_stages, channels, sparse_layers, merge_layers: of the network. Defaults 3, 16, 6, 3.
        contrast_kernel, memory, contrast: of RPCANet++. Defaults 17, True, True.
        background_layers: of RPCANet. Default 3.
        epochs, batch_size, crop, augment: see `SegmentationTraining`. Defaults 40, 8, None, True.
        lr: learning rate of the first step, see `SegmentationTraining`. Default 1e-3.
        shrink: average squares of so many pixels a side into one before the network sees them, and enlarge what it
            gives: s times as wide a view at 1 / s^2 of the work, for objects larger than that. Default 1.
        threshold: probability above which a pixel belongs to the object. Default 0.5.
        normalize: divide integer images by 255 instead of refusing them. Default False.
        binarize: count every value of a mask above 0 as object instead of refusing others than 0 and 1. Default False.
        random_state: seed of the weights, the order, the crops and the flips. Default 0.
        device: to train and predict on. Default "cpu".
        on_progress: told of every training step, with (done, total, text).

    Attributes:
        model_: the trained network.
        loss_curve_: mean loss of every epoch.
    """

    def __init__(
        self,
        network: Network = "rpcanet++",
        num_stages: int = 3,
        channels: int = 16,
        sparse_layers: int = 6,
        merge_layers: int = 3,
        contrast_kernel: int = 17,
        memory: bool = True,
        contrast: bool = True,
        background_layers: int = 3,
        epochs: int = 40,
        batch_size: int = 8,
        lr: float = 1e-3,
        crop: int | None = None,
        augment: bool = True,
        shrink: int = 1,
        threshold: float = 0.5,
        normalize: bool = False,
        binarize: bool = False,
        random_state: int = 0,
        device: str = "cpu",
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.network = network
        self.num_stages = num_stages
        self.channels = channels
        self.sparse_layers = sparse_layers
        self.merge_layers = merge_layers
        self.contrast_kernel = contrast_kernel
        self.memory = memory
        self.contrast = contrast
        self.background_layers = background_layers
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.crop = crop
        self.augment = augment
        self.shrink = shrink
        self.threshold = threshold
        self.normalize = normalize
        self.binarize = binarize
        self.random_state = random_state
        self.device = device
        self.on_progress = on_progress

    def fit(self, images: Images, masks: Images) -> SparseObjectSegmenter:
        """Train a new network.

        Args:
            images: (images, H, W), or a sequence of (H, W); grey, in [0, 1].
            masks: of the same shapes, 0 and 1.

        Raises:
            ValueError: shapes that do not belong together, mask values other than 0 and 1 without `binarize`, colour
                images, pixels that are not finite, or a setting out of range.
            TypeError: integer images without `normalize`.
        """
        x = self._grey(images)
        y = [torch.from_numpy(binary_mask(np.asarray(mask), self.binarize)) for mask in masks]
        if [image.shape for image in x] != [mask.shape for mask in y]:
            raise ValueError(
                f"{len(x)} images and {len(y)} masks: one mask of the image's size for every image is needed"
            )
        if self.shrink < 1:
            raise ValueError(f"shrink={self.shrink}: use at least 1")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr}: use a positive number")
        x, y = [self._shrunk(image) for image in x], [self._shrunk(mask.float()) > 0.5 for mask in y]
        training = SegmentationTraining(
            self.epochs, self.batch_size, self.lr, self.crop, self.augment, self.random_state
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            model = self._build().to(self.device)
        watch = self.on_progress or (lambda done, total, text: None)
        self.loss_curve_ = train_segmentation(model, x, y, training, on_progress=watch)
        self.model_ = model
        return self

    def predict_proba(self, images: Images) -> Maps:
        """The probability of the object at every pixel.

        Args:
            images: (images, H, W), or a sequence of (H, W) whose sizes may differ; grey, in [0, 1].

        Returns:
            float32; one array for images of one size, a list otherwise.

        Raises:
            NotFittedError: there is no network yet.
            ValueError: colour images, or pixels that are not finite.
            TypeError: integer images without `normalize`.
        """
        check_is_fitted(self, "model_")
        with torch.no_grad():
            maps = [_enlarged(self.model_.object_logits(self._batch(image)), image) for image in self._grey(images)]
        return _stacked([torch.sigmoid(logits).numpy() for logits in maps])

    def decompose(self, images: Images) -> list[tuple[StageOutput, ...]]:
        """Background, object logits and restored image of every stage, image by image, each (H, W).

        Raises:
            As `predict_proba`.
        """
        check_is_fitted(self, "model_")
        return [
            tuple(
                StageOutput(*(_enlarged(part, image) for part in stage))
                for stage in self.model_.decompose(self._batch(image))
            )
            for image in self._grey(images)
        ]

    def probability(self, stage: StageOutput) -> np.ndarray:
        """sigma(T)."""
        return torch.sigmoid(stage.object).numpy()

    def save(self, folder: str | Path) -> Path:
        """Write settings (JSON) and weights (safetensors) to a folder, atomically file by file."""
        check_is_fitted(self, "model_")
        folder = Path(folder)
        settings = {name: value for name, value in self.get_params().items() if name != "on_progress"}
        self.model_.save(folder / _WEIGHTS)
        write_json(folder / _SETTINGS, {"settings": settings, "loss_curve": self.loss_curve_})
        return folder

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> SparseObjectSegmenter:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no segmenter.
            ValueError: its files are damaged.
        """
        folder = Path(folder)
        try:
            described = json.loads((folder / _SETTINGS).read_text())
            segmenter = cls(**described["settings"] | {"device": device})
            segmenter.loss_curve_ = list(described["loss_curve"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / _SETTINGS} is no segmenter's: {error}") from error
        segmenter.model_ = UnfoldedRPCA.load(folder / _WEIGHTS).to(device).eval()
        return segmenter

    @classmethod
    def pretrained(cls, name: str = "neu-seg", device: str = "cpu") -> SparseObjectSegmenter:
        """A small segmenter that travels with the package.

        Args:
            name: "neu-seg" finds defects of steel surfaces (trained on 300 images of 200 x 200).
            device: to predict on.

        Raises:
            LookupError: there is none of that name.
        """
        known = sorted(folder.name for folder in _PRETRAINED.iterdir() if (folder / _SETTINGS).exists())
        if name not in known:
            raise LookupError(f"there is no pretrained segmenter {name!r}; there are {', '.join(known)}")
        return cls.load(_PRETRAINED / name, device)

    def _build(self) -> UnfoldedRPCA:
        if self.network not in get_args(Network):
            raise ValueError(f"network={self.network!r}: use one of {', '.join(map(repr, get_args(Network)))}")
        sizes = (self.sparse_layers, self.merge_layers)
        if self.network == "rpcanet":
            return RPCANet(self.num_stages, self.channels, self.background_layers, *sizes)
        return RPCANetPP(self.num_stages, self.channels, *sizes, 1, self.contrast_kernel, self.memory, self.contrast)

    def _grey(self, images: Images) -> list[Tensor]:
        return _grey(images, self.normalize)

    def _shrunk(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image[None, None], self.shrink, ceil_mode=True)[0, 0]

    def _batch(self, image: Tensor) -> Tensor:
        """One image as the network takes it."""
        return self._shrunk(image)[None, None].to(self.device, next(self.model_.parameters()).dtype)


def _enlarged(part: Tensor, image: Tensor) -> Tensor:
    """What the network gave, on the CPU, at the size of the image."""
    if part.shape[-2:] != image.shape:
        part = nn.functional.interpolate(part, size=tuple(image.shape), mode="bilinear")
    return part[0, 0].cpu()


class RobustPCASegmenter(_Segmenter):
    """Robust PCA of every image as it is: nothing to train. The probability is |S| over its maximum.

    Args:
        lam, method, tolerance, max_iterations: see `linalg.robust_pca`.
        threshold: share of the largest |S| above which a pixel belongs to the object. Default 0.5.
        normalize, binarize: see `SparseObjectSegmenter`.
    """

    def __init__(
        self,
        lam: float | None = None,
        method: Method = "ialm",
        tolerance: float | None = None,
        max_iterations: int = 500,
        threshold: float = 0.5,
        normalize: bool = False,
        binarize: bool = False,
    ) -> None:
        self.lam = lam
        self.method: Method = method
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.threshold = threshold
        self.normalize = normalize
        self.binarize = binarize

    def fit(self, images: Images, masks: Images | None = None) -> RobustPCASegmenter:
        """Nothing; here because estimators have it."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, images: Images) -> Maps:
        """|S| over its maximum, 0 where S is 0; see `SparseObjectSegmenter.predict_proba`."""
        return _stacked([self.probability(stages[-1]) for stages in self.decompose(images)])

    def probability(self, stage: StageOutput) -> np.ndarray:
        """|S| over its maximum, 0 where S is 0."""
        S = stage.object.abs()
        return (S / S.max().clamp_min(torch.finfo(S.dtype).tiny)).numpy()

    def decompose(self, images: Images) -> list[tuple[StageOutput, ...]]:
        """One stage for every image: L as background, S as object, L + S as restored image, each (H, W)."""
        found = []
        for image in _grey(images, self.normalize):
            parts = robust_pca(image, self.lam, self.method, self.tolerance, self.max_iterations)
            found.append((StageOutput(parts.low_rank, parts.sparse, parts.low_rank + parts.sparse),))
        return found


def _grey(images: Images, normalize: bool) -> list[Tensor]:
    """Every image as float (H, W)."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim != 3:
        raise ValueError(f"images has shape {tuple(images.shape)}: grey images (images, H, W) are accepted")
    tensors = (image if isinstance(image, Tensor) else torch.from_numpy(np.array(image)) for image in images)
    return [_as_float(image, number, normalize) for number, image in enumerate(tensors)]


def _as_float(image: Tensor, number: int, normalize: bool) -> Tensor:
    if image.ndim != 2:
        raise ValueError(
            f"image {number} has shape {tuple(image.shape)}: grey images (H, W) are accepted; convert colour with "
            "image.mean(-1)"
        )
    if not image.is_floating_point():
        if not normalize:
            raise TypeError(
                f"image {number} has dtype {image.dtype}: images are floating point in [0, 1]; divide by 255, or build "
                "the segmenter with normalize=True"
            )
        return image.float() / 255
    if not bool(image.isfinite().all()):
        raise ValueError(f"image {number} has NaN or infinity: finite values in [0, 1] are accepted")
    return image.float()


def _stacked(maps: list[np.ndarray]) -> Maps:
    return np.stack(maps) if len({image.shape for image in maps}) == 1 else maps
