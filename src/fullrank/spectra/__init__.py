"""Measure: singular spectra of weights, activations and gradients, every rank, and the report of a model."""

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
from fullrank.spectra.spectrum import Spectrum

__all__ = [
    "GradientFactors",
    "GradientSpectra",
    "RankMe",
    "RankMeScorer",
    "RankMeSelection",
    "SpectraComparison",
    "SpectraReport",
    "Spectrum",
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
