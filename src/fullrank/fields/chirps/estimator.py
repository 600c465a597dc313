"""`ChirpLocalizer`: the regressor as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError

from fullrank.fields.chirps.backbone import small_backbone
from fullrank.fields.chirps.configuration import LABELS, TARGETS, target_matrix
from fullrank.fields.chirps.metrics import pearson_per_target
from fullrank.fields.chirps.regressor import ViTForChirpRegression
from fullrank.fields.chirps.regressor_config import ChirpRegressorConfig
from fullrank.fields.chirps.training import ChirpTrainingSettings, StoredSpectrograms, train_regressor


class ChirpLocalizer(RegressorMixin, BaseEstimator):
    """Fit a vision transformer on spectrograms and predict where their chirps are.

    A fifth of the spectrograms given to `fit` is kept to stop by. Without a backbone, a small one is trained in full.

    Args:
        backbone: a `ViTModel`, its configuration, or a Hugging Face folder; None makes a small one for the grid at hand
            (width 96, four layers, patches of 8), all of which is trained.
        config: a `ChirpRegressorConfig`; default the paper's, or for the small backbone one that trains everything.
        targets: names of the columns of y.
        epochs: at most.
        batch_size: spectrograms a step.
        learning_rate: of adapter and head, or of everything.
        random_state: seed of weights and order.
        device: where to compute.

    Attributes:
        model_: the trained `ViTForChirpRegression`.
        training_: a `ChirpTraining`.
    """

    def __init__(
        self,
        backbone: Any = None,
        config: ChirpRegressorConfig | None = None,
        targets: tuple[str, ...] = TARGETS,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.backbone = backbone
        self.config = config
        self.targets = targets
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def fit(self, Z: Any, y: Any) -> ChirpLocalizer:
        """Train on spectrograms Z (n, n_freq, n_time) and targets y (n, targets) in seconds and Hz.

        Labels of dtype `LABELS`, as `generate_chirps` gives them, are accepted as y too, here and in `score`.

        Raises:
            ValueError: shapes that do not fit, values that are not finite, a constant column, or under 10 examples.
        """
        import torch

        Z = _spectrograms(Z)
        if len(Z) < 10:
            raise ValueError(f"Z has {len(Z)} spectrograms: at least 10 are needed, a fifth of them to stop by")
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            backbone = small_backbone((Z.shape[1], Z.shape[2])) if self.backbone is None else self.backbone
            adaptation = "full" if self.backbone is None else "lora"
            config = self.config or ChirpRegressorConfig(targets=tuple(self.targets), adaptation=adaptation)
            model = ViTForChirpRegression.from_backbone(backbone, config)
        y = _matrix(y, config.targets)
        settings = ChirpTrainingSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="cosine",
            seed=self.random_state,
            device=self.device,
        )
        order = np.random.default_rng(self.random_state).permutation(len(Z))
        held = order[: len(Z) // 5]
        self.training_ = train_regressor(model, StoredSpectrograms(Z, y), settings, (order[len(held) :], held, held))
        self.model_ = model
        return self

    def predict(self, Z: Any) -> np.ndarray:
        """Targets (n, targets) in seconds and Hz.

        Raises:
            NotFittedError: before `fit`.
            ValueError: shapes that do not fit or values that are not finite.
        """
        if not hasattr(self, "model_"):
            raise NotFittedError("this ChirpLocalizer is not fitted yet: call fit(Z, y) before predict")
        return self.model_.predict(_spectrograms(Z), self.batch_size * 8)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean squared correlation over the targets.

        Raises:
            ValueError: with sample weights.
        """
        if sample_weight is not None:
            raise ValueError("sample_weight: correlations are not weighted here; leave it out")
        return float((pearson_per_target(self.predict(X), _matrix(y, self.model_.config.targets)) ** 2).mean())


def _spectrograms(Z: Any) -> np.ndarray:
    Z = np.asarray(Z, dtype=np.float32)
    if Z.ndim != 3:
        raise ValueError(f"Z has the shape {Z.shape}: (n, n_freq, n_time) spectrograms are needed")
    return Z


def _matrix(y: Any, targets: tuple[str, ...]) -> np.ndarray:
    """Targets as a matrix, of labels the columns that are predicted."""
    y = np.asarray(y)
    return target_matrix(y, targets) if y.dtype == LABELS else np.asarray(y, dtype=np.float64)
