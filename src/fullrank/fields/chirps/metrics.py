"""How well chirps are localised: correlation, errors in seconds and Hz, and what comes for nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fullrank.fields.chirps.configuration import TARGETS, UNITS, check_targets

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def pearson_per_target(predicted: ArrayLike, true: ArrayLike) -> np.ndarray:
    """Pearson's correlation of each column.

    Args:
        predicted: (n, columns).
        true: (n, columns).

    Returns:
        (columns,) float64; NaN where a column is constant.

    Raises:
        ValueError: the shapes differ, there are fewer than two rows, or values are not finite.
    """
    predicted, true = _pair(predicted, true)
    if len(true) < 2:
        raise ValueError(f"{len(true)} rows: a correlation needs at least two")
    p, t = predicted - predicted.mean(axis=0), true - true.mean(axis=0)
    scale = np.sqrt((p**2).sum(axis=0) * (t**2).sum(axis=0))
    return np.divide((p * t).sum(axis=0), scale, out=np.full(true.shape[1], np.nan), where=scale > 0)


def localization_report(
    predicted: ArrayLike, true: ArrayLike, targets: tuple[str, ...] = TARGETS
) -> dict[str, dict[str, float]]:
    """Correlation and errors of each target, and of the change of frequency.

    Onset and offset frequency of a chirp of limited band correlate by construction, so that r of the offset frequency
    says little; r of the change, offset minus onset frequency, is the honest number beside it.

    Args:
        predicted: (n, targets) in seconds and Hz.
        true: the same.
        targets: names of the columns.

    Returns:
        Target -> r, mae, bias (mean error), sd (of the error), and quantiles q05 ... q95 of the error; also
        "frequency_change" where both frequencies are among the targets.

    Raises:
        ValueError: shapes or targets that do not fit.
    """
    check_targets(tuple(targets))
    predicted, true = _pair(predicted, true)
    if true.shape[1] != len(targets):
        raise ValueError(f"{true.shape[1]} columns for the targets {', '.join(targets)}: one of each is needed")
    columns = {name: (predicted[:, i], true[:, i]) for i, name in enumerate(targets)}
    if {"onset_frequency", "offset_frequency"} <= set(targets):
        pairs = zip(columns["offset_frequency"], columns["onset_frequency"], strict=True)
        columns["frequency_change"] = tuple(offset - onset for offset, onset in pairs)  # type: ignore[assignment]
    return {name: _errors(p, t) for name, (p, t) in columns.items()}


def trivial_bounds(true: ArrayLike, targets: tuple[str, ...] = TARGETS) -> dict[str, float]:
    """What a prediction without a look at the spectrogram reaches.

    Args:
        true: (n, targets) in seconds and Hz.
        targets: names of the columns.

    Returns:
        "<target> mae" of predicting the mean of each; and "offset from onset r", the correlation of the offset
        frequency with the true onset frequency, where both are among the targets.
    """
    check_targets(tuple(targets))
    true = np.asarray(true, dtype=np.float64)
    bounds = {
        f"{name} mae": float(np.abs(column - column.mean()).mean())
        for name, column in zip(targets, true.T, strict=True)
    }
    if {"onset_frequency", "offset_frequency"} <= set(targets):
        onset, offset = (true[:, [targets.index(name)]] for name in ("onset_frequency", "offset_frequency"))
        bounds["offset from onset r"] = float(pearson_per_target(onset, offset)[0])
    return bounds


def describe(prediction: ArrayLike, targets: tuple[str, ...] = TARGETS) -> str:
    """One prediction in a sentence.

    Args:
        prediction: (targets,) in seconds and Hz.
        targets: their names.
    """
    check_targets(tuple(targets))
    values = dict(zip(targets, np.asarray(prediction, dtype=np.float64), strict=True))
    parts = [f"{name.replace('_', ' ')} {value:.2f} {UNITS[name]}" for name, value in values.items()]
    return f"Chirp with {', '.join(parts)}."


def _errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    error = predicted - true
    numbers = {
        "r": float(pearson_per_target(predicted[:, None], true[:, None])[0]),
        "mae": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "sd": float(error.std()),
    }
    quantiles = np.quantile(error, _QUANTILES)
    return numbers | {f"q{100 * q:02.0f}": float(value) for q, value in zip(_QUANTILES, quantiles, strict=True)}


def _pair(predicted: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = (np.asarray(values, dtype=np.float64) for values in (predicted, true))
    if predicted.shape != true.shape or true.ndim != 2:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape}: the same (n, columns) is needed")
    for name, values in (("predicted", predicted), ("true", true)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise ValueError(f"{name}[{row}] is not finite: correlations and errors need finite numbers")
    return predicted, true
