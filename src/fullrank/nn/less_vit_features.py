"""LESS ViT as a step of a scikit-learn pipeline: images in, features out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from torch import nn

from fullrank._optional import require
from fullrank.nn.less_positions import Number
from fullrank.nn.less_vit import LESSViTModel, Wavelengths

require("transformers", "adapt")

Pooling = Literal["cls", "spatial", "spectral", "patches"]


class LESSFeatureExtractor(TransformerMixin, BaseEstimator):
    """Features of images from a trained encoder, which stays as it is: `fit` learns nothing.

    Args:
        model: a `LESSViTModel`, or the folder it (or a model with a head) was saved in.
        wavelengths: nanometres, one for every channel of the images.
        spatial_resolution: metres per pixel. Default 10.
        modality_sizes: channels of every modality. Default: all are of the first one.
        pooling: "cls", the global CLS token; "spatial" or "spectral", the mean of the CLS row or column; "patches", the
            whole CLS row, one row of features for every patch of every image. Default "cls".
        batch_size: images at a time. Default 64.
        device: torch device name. Default "cpu".

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.linear_model import LogisticRegression
        >>> probe = make_pipeline(LESSFeatureExtractor("folder", [490, 560, 665, 842]), LogisticRegression())
    """

    def __init__(
        self,
        model: LESSViTModel | str | Path,
        wavelengths: Wavelengths = None,
        spatial_resolution: Number = 10,
        modality_sizes: Sequence[int] | None = None,
        pooling: Pooling = "cls",
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.wavelengths = wavelengths
        self.spatial_resolution = spatial_resolution
        self.modality_sizes = modality_sizes
        self.pooling = pooling
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: ArrayLike, y: object = None) -> LESSFeatureExtractor:
        """Check the options and load the model.

        Raises:
            ValueError: an unknown `pooling`, or images that are not (images, channels, height, width).
        """
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling={self.pooling!r}: use one of {', '.join(get_args(Pooling))}")
        self.n_channels_in_ = _images(X).shape[1]
        self._encoder()
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Features, (images, D), or (images * patches, D) with pooling "patches".

        Raises:
            ValueError: see `LESSViTModel`.
        """
        images, encoder = _images(X), self._encoder()
        was_training = encoder.training
        encoder.eval()
        with torch.inference_mode():
            parts = [self._features(encoder, batch) for batch in images.split(self.batch_size)]
        encoder.train(was_training)
        return torch.cat(parts).float().cpu().numpy()

    def _encoder(self) -> LESSViTModel:
        if isinstance(self.model, LESSViTModel):
            return cast(LESSViTModel, nn.Module.to(self.model, self.device))
        if getattr(self, "_loaded", (None,))[0] != self.model:
            self._loaded = (self.model, LESSViTModel.from_pretrained(self.model))
        return cast(LESSViTModel, nn.Module.to(self._loaded[1], self.device))

    def _features(self, encoder: LESSViTModel, batch: torch.Tensor) -> torch.Tensor:
        output: Any = encoder(
            batch.to(self.device, encoder.dtype), self.wavelengths, self.spatial_resolution, self.modality_sizes
        )
        if self.pooling == "cls":
            return output.pooler_output
        if self.pooling == "spectral":
            return output.spectral_tokens.mean(1)
        return output.spatial_tokens.mean(1) if self.pooling == "spatial" else output.spatial_tokens.flatten(0, 1)

    def __sklearn_is_fitted__(self) -> bool:
        return True  # the encoder was trained elsewhere


def _images(X: ArrayLike | torch.Tensor) -> torch.Tensor:
    images = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.asarray(X))
    if images.ndim != 4:
        raise ValueError(f"X of shape {tuple(images.shape)}: use (images, channels, height, width)")
    return images
