"""Measure: singular spectra of weights, activations and gradients, every rank, and the report of a model."""

from fullrank.spectra.analysis import analyze
from fullrank.spectra.checkpoint import Checkpoint, CheckpointError
from fullrank.spectra.comparing import compare
from fullrank.spectra.comparison import Comparison, Difference, MatrixChange
from fullrank.spectra.gradient_factors import GradientFactors
from fullrank.spectra.gradient_report import SpectraComparison, SpectraReport
from fullrank.spectra.gradients import GradientSpectra
from fullrank.spectra.rankme import RankMe, RankMeScorer, RankMeSelection, rankme, select_by_rankme
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

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "Difference",
    "GradientFactors",
    "GradientSpectra",
    "HeadReport",
    "MatrixChange",
    "MatrixReport",
    "RankMe",
    "RankMeScorer",
    "RankMeSelection",
    "Report",
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
    "nuclear_norm",
    "numerical_rank",
    "participation_ratio",
    "power_law_exponent",
    "rankme",
    "select_by_rankme",
    "spectral_entropy",
    "stable_rank",
]
