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
    from fullrank.fields.chirps.backbone import small_backbone
    from fullrank.fields.chirps.estimator import ChirpLocalizer
    from fullrank.fields.chirps.figures import export_png, read_png, render_figure
    from fullrank.fields.chirps.localizing import (
        Chirp,
        ChirpReport,
        WindowResult,
        bundled_model,
        localize,
        localize_recording,
    )
    from fullrank.fields.chirps.recordings import Channel, Recording, read_recording
    from fullrank.fields.chirps.regressor import ChirpRegressionOutput, ViTForChirpRegression
    from fullrank.fields.chirps.regressor_config import ChirpRegressorConfig
    from fullrank.fields.chirps.spectrogram import spectrogram_grid
    from fullrank.fields.chirps.training import (
        ChirpTraining,
        ChirpTrainingSettings,
        DrawnSpectrograms,
        StoredSpectrograms,
        train_regressor,
    )
    from fullrank.fields.chirps.waveform import synthesize

__all__ = [
    "Channel",
    "Chirp",
    "ChirpReport",
    "Recording",
    "WindowResult",
    "bundled_model",
    "export_png",
    "localize",
    "localize_recording",
    "read_png",
    "read_recording",
    "render_figure",
    "spectrogram_grid",
    "synthesize",
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
    "ChirpLocalizer": "estimator",
    "small_backbone": "backbone",
    "Chirp": "localizing",
    "ChirpReport": "localizing",
    "WindowResult": "localizing",
    "bundled_model": "localizing",
    "localize": "localizing",
    "localize_recording": "localizing",
    "Channel": "recordings",
    "Recording": "recordings",
    "read_recording": "recordings",
    "spectrogram_grid": "spectrogram",
    "synthesize": "waveform",
    "export_png": "figures",
    "read_png": "figures",
    "render_figure": "figures",
    "ChirpRegressionOutput": "regressor",
    "ChirpRegressorConfig": "regressor_config",
    "ViTForChirpRegression": "regressor",
    "ChirpTraining": "training",
    "ChirpTrainingSettings": "training",
    "DrawnSpectrograms": "training",
    "StoredSpectrograms": "training",
    "train_regressor": "training",
}
_NETWORK = ("backbone", "estimator", "regressor", "training")


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _LATER[name] in _NETWORK:
        require("transformers", "fields")
        require("peft", "fields")
    return getattr(import_module(f"fullrank.fields.chirps.{_LATER[name]}"), name)
