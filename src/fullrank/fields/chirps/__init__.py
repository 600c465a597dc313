"""Chirps: frequencies that sweep, found in spectrograms (Bahador and Lankarany 2025, arXiv 2503.22713).

The generator and the ridge detector need nothing beyond the base installation; what trains or runs a network comes with
`pip install "fullrank[fields]"` and loads with its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank._optional import require
from fullrank.fields.chirps.configuration import LABELS, TARGETS, UNITS, ChirpSpectrogramConfig, target_matrix
from fullrank.fields.chirps.generator import ChirpDataset, add_noise, draw_ridges, generate_chirps
from fullrank.fields.chirps.metrics import describe, localization_report, pearson_per_target, trivial_bounds
from fullrank.fields.chirps.ridge import Ridge, find_ridge, ridge_baseline
from fullrank.fields.chirps.scaling import LabelScaler

if TYPE_CHECKING:
    from fullrank.fields.chirps.attention import attention_layers, masked_heads, query_value_targets
    from fullrank.fields.chirps.localizer import ChirpLocalizer, small_backbone
    from fullrank.fields.chirps.regressor import ChirpRegressionOutput, ChirpRegressorConfig, ViTForChirpRegression
    from fullrank.fields.chirps.training import (
        ChirpTraining,
        ChirpTrainingSettings,
        DrawnSpectrograms,
        StoredSpectrograms,
        train_regressor,
    )

__all__ = [
    "ChirpDataset",
    "ChirpLocalizer",
    "ChirpRegressionOutput",
    "ChirpRegressorConfig",
    "ChirpSpectrogramConfig",
    "ChirpTraining",
    "ChirpTrainingSettings",
    "DrawnSpectrograms",
    "LABELS",
    "LabelScaler",
    "Ridge",
    "StoredSpectrograms",
    "TARGETS",
    "UNITS",
    "ViTForChirpRegression",
    "add_noise",
    "attention_layers",
    "describe",
    "draw_ridges",
    "find_ridge",
    "generate_chirps",
    "localization_report",
    "masked_heads",
    "pearson_per_target",
    "query_value_targets",
    "ridge_baseline",
    "small_backbone",
    "target_matrix",
    "train_regressor",
    "trivial_bounds",
]

#: Names that load with their first use, and the libraries that their modules need.
_LATER = {
    "attention_layers": "attention",
    "masked_heads": "attention",
    "query_value_targets": "attention",
    "ChirpLocalizer": "localizer",
    "small_backbone": "localizer",
    "ChirpRegressionOutput": "regressor",
    "ChirpRegressorConfig": "regressor",
    "ViTForChirpRegression": "regressor",
    "ChirpTraining": "training",
    "ChirpTrainingSettings": "training",
    "DrawnSpectrograms": "training",
    "StoredSpectrograms": "training",
    "train_regressor": "training",
}
_NETWORK = ("localizer", "regressor", "training")


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _LATER[name] in _NETWORK:
        require("transformers", "fields")
        require("peft", "fields")
    return getattr(import_module(f"fullrank.fields.chirps.{_LATER[name]}"), name)
