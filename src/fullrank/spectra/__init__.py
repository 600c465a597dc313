"""Measure: singular spectra of weights, activations and gradients, every rank, and the report of a model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.spectra.analysis import analyze
from fullrank.spectra.checkpoint import Checkpoint, CheckpointError
from fullrank.spectra.comparing import compare
from fullrank.spectra.comparison import Comparison, Difference, MatrixChange
from fullrank.spectra.rankme import RankMeScorer, RankMeSelection, rankme, select_by_rankme
from fullrank.spectra.ranks import (
    effective_rank,
    energy_rank,
    error_rank,
    frobenius_norm,
    nuclear_norm,
    numerical_rank,
    participation_ratio,
    power_law_exponent,
    spectral_entropy,
    stable_rank,
)
from fullrank.spectra.report import HeadReport, MatrixReport, Report, Skipped, Truncation
from fullrank.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from fullrank.spectra.callbacks import GradientSpectraCallback, RankMeCallback
    from fullrank.spectra.gradient_factors import GradientFactors
    from fullrank.spectra.gradient_report import SpectraComparison, SpectraReport
    from fullrank.spectra.gradients import GradientSpectra
    from fullrank.spectra.ifd import ifd_score
    from fullrank.spectra.rankme_metric import RankMe
    from fullrank.spectra.sample_ranking import Extremes, SampleRanking, rank_samples, select_by_metric

#: Names that load with their first use: torchmetrics and transformers take seconds, and `analyze` needs neither.
_LAZY = {
    "Extremes": "sample_ranking",
    "GradientFactors": "gradient_factors",
    "GradientSpectra": "gradients",
    "GradientSpectraCallback": "callbacks",
    "RankMe": "rankme_metric",
    "RankMeCallback": "callbacks",
    "SampleRanking": "sample_ranking",
    "SpectraComparison": "gradient_report",
    "SpectraReport": "gradient_report",
    "ifd_score": "ifd",
    "rank_samples": "sample_ranking",
    "select_by_metric": "sample_ranking",
}

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "Difference",
    "Extremes",
    "GradientFactors",
    "GradientSpectra",
    "GradientSpectraCallback",
    "HeadReport",
    "MatrixChange",
    "MatrixReport",
    "RankMe",
    "RankMeCallback",
    "RankMeScorer",
    "RankMeSelection",
    "Report",
    "SampleRanking",
    "Skipped",
    "SpectraComparison",
    "SpectraReport",
    "Spectrum",
    "Truncation",
    "analyze",
    "compare",
    "effective_rank",
    "energy_rank",
    "error_rank",
    "frobenius_norm",
    "ifd_score",
    "nuclear_norm",
    "numerical_rank",
    "participation_ratio",
    "power_law_exponent",
    "rank_samples",
    "rankme",
    "select_by_metric",
    "select_by_rankme",
    "spectral_entropy",
    "stable_rank",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
