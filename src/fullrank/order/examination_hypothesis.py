"""A click is an examined place and an attractive document, P(c = 1) = e a: both factors from counts of clicks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import xlog1py, xlogy
from sklearn.exceptions import ConvergenceWarning

_START = 0.9  # examination, as regression EM starts
_EVEN = 0.5  # attraction


class Factors(NamedTuple):
    """What explains the clicks.

    Attributes:
        examination: e, of the places.
        attraction: a, of the items.
        log_posteriors: of every iteration's parameters; they never decrease.
    """

    examination: Float[np.ndarray, " places"]
    attraction: Float[np.ndarray, " items"]
    log_posteriors: list[float]


def factorise_clicks(
    place: Int[np.ndarray, " cells"],
    item: Int[np.ndarray, " cells"],
    clicks: Float[np.ndarray, " cells"],
    skips: Float[np.ndarray, " cells"],
    places: int,
    items: int,
    smoothing: float | int = 0.0,
    max_iter: int = 100,
    tol: float | int = 1e-7,
) -> Factors:
    """Expectation maximisation of examination and attraction.

    E-step, for a place without click: P(e=1, a=0) = e (1 - a) / (1 - e a), P(e=0, a=1) = (1 - e) a / (1 - e a).
    M-step: e = mean of P(e=1 | c) over its cells, a likewise.

    The clicks tell the product alone: e and a are known up to one factor where the cells connect all.

    Args:
        place: of every cell, from 0.
        item: of every cell, from 0.
        clicks: how many, or their weight.
        skips: how often there was none, or their weight.
        places: how many there are.
        items: how many there are.
        smoothing: see `smoothed`.
        max_iter: see `iterate`.
        tol: see `iterate`.
    """
    views = clicks + skips
    seen_place, seen_item = np.bincount(place, views, places), np.bincount(item, views, items)
    e, a = np.full(places, _START), np.full(items, _EVEN)

    def step() -> float:
        nonlocal e, a
        neither = 1 - e[place] * a[item]
        share = np.divide(skips, neither, out=np.zeros_like(neither), where=neither > 0)
        examined = clicks + share * e[place] * (1 - a[item])
        attracted = clicks + share * (1 - e[place]) * a[item]
        e = smoothed(np.bincount(place, examined, places), seen_place, smoothing, e)
        a = smoothed(np.bincount(item, attracted, items), seen_item, smoothing, a)
        p = e[place] * a[item]
        return float((xlogy(clicks, p) + xlog1py(skips, -p)).sum()) + log_prior(smoothing, e, a)

    log_posteriors = iterate(step, float(views.sum()), max_iter, tol)
    return Factors(e, a, log_posteriors)


def iterate(step: Callable[[], float], size: float, max_iter: int, tol: float | int) -> list[float]:
    """Expectation maximisation: repeat a step that returns the log posterior of its result.

    Args:
        step: one E-step and M-step.
        size: documents that were shown.
        max_iter: the most steps.
        tol: gain in log posterior for each document that is too small to go on.

    Warns:
        ConvergenceWarning: the gain is still larger after `max_iter` steps.
    """
    found = [step()]
    while len(found) < max_iter:
        found.append(step())
        if found[-1] - found[-2] <= tol * size:
            return found
    if tol > 0:
        warnings.warn(
            f"expectation maximisation has not converged in max_iter={max_iter} steps; allow more, or a larger tol",
            ConvergenceWarning,
            stacklevel=4,
        )
    return found


def smoothed(
    count: Shaped[np.ndarray, "*shape"] | np.floating,
    total: Shaped[np.ndarray, "*shape"] | np.floating,
    smoothing: float | int,
    otherwise: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """(count + s) / (total + 2 s): the most probable value under Beta(1 + s, 1 + s).

    Args:
        count: of successes.
        total: of trials.
        smoothing: s.
        otherwise: the values where there is no trial and s is 0.
    """
    total = total + 2 * smoothing
    return np.divide(count + smoothing, total, out=np.array(otherwise, dtype=np.float64), where=total > 0)


def log_prior(smoothing: float | int, *parameters: Float[np.ndarray, "..."]) -> float:
    """log Beta(1 + s, 1 + s) of the parameters, less its constant."""
    return sum(float((xlogy(smoothing, p) + xlog1py(smoothing, -p)).sum()) for p in parameters)
