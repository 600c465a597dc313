"""`compare`: two models, checkpoints or reports side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fullrank.spectra.analysis import OnProgress, analyze, spectra_of
from fullrank.spectra.comparison import Comparison, Difference
from fullrank.spectra.report import ENERGIES, Report
from fullrank.spectra.spectrum import Spectrum
from fullrank.spectra.weights import Weight, weights_of

Model = nn.Module | str | Path


def compare(
    before: Report | Model,
    after: Report | Model,
    *,
    device: str = "cpu",
    names: tuple[str | None, str | None] = (None, None),
    on_progress: OnProgress = lambda done, total, text: None,
) -> Comparison:
    """Match the matrices of two models by name: how their ranks changed and, from two models, the rank of the change.

    Both models are read one matrix at a time. A difference is measured where both hold the matrix in the same shape;
    from reports, which hold no weights, it cannot be.

    Args:
        before: the model to compare with, as `analyze` takes it, or its report.
        after: the model to compare, or its report.
        device: where to compute.
        names: how the comparison calls them; as `analyze` does by default.
        on_progress: called with (done, total, text) after every matrix.

    Raises:
        CheckpointError, TypeError, ValueError: as `analyze`.
    """
    old, new = (
        source if isinstance(source, Report) else _report(source, name, device, on_progress)
        for source, name in zip((before, after), names, strict=True)
    )
    comparison = new.against(old)
    if isinstance(before, Report) or isinstance(after, Report):
        return comparison
    differences = dict(_differences(before, after, device, on_progress))
    changes = []
    for change in comparison.changes:
        spectrum = differences.get(change.name)
        moved = None if spectrum is None else _difference(spectrum, change.frobenius_norm[0])
        changes.append(replace(change, difference=moved))
    return replace(comparison, changes=tuple(changes))


def _report(model: Model, name: str | None, device: str, on_progress: OnProgress) -> Report:
    return analyze(model, heads=False, device=device, name=name, on_progress=on_progress)


def _differences(before: Model, after: Model, device: str, on_progress: OnProgress) -> Iterator[tuple[str, Spectrum]]:
    old, new = (_readable(model) for model in (before, after))
    pairs = [(old[name], new[name]) for name in old if name in new and old[name].shape == new[name].shape]
    for done, (weight, outcome) in enumerate(spectra_of([_after_minus_before(*pair) for pair in pairs], device), 1):
        on_progress(done, len(pairs), f"difference of {weight.name}")
        if isinstance(outcome, Spectrum):  # not finite on one side: its report says so
            yield weight.name, outcome


def _readable(model: Model) -> Mapping[str, Weight]:
    return {weight.name: weight for weight in weights_of(model).matrices if not weight.refusal}


def _after_minus_before(before: Weight, after: Weight) -> Weight:
    wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32

    def source(axis: int, start: int, stop: int) -> Tensor:
        return after.source(axis, start, stop).to(wide) - before.source(axis, start, stop).to(wide)

    return replace(after, dtype=wide, source=source)


def _difference(spectrum: Spectrum, norm_before: float) -> Difference:
    norm = float(spectrum.frobenius_norm)
    zero = norm == 0
    return Difference(
        relative_norm=0.0 if zero else norm / norm_before if norm_before else math.inf,
        effective_rank=0.0 if zero else float(spectrum.effective_rank),
        stable_rank=0.0 if zero else float(spectrum.stable_rank),
        energy_ranks={f"{energy:.2f}": int(spectrum.energy_rank(energy)) for energy in ENERGIES},
    )
