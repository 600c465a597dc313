"""Order training samples by what their gradients say, and take the two ends of any score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from fullrank.spectra.gradient_report import SpectraReport

#: Which way each metric points at quality, as the paper finds: high ranks, small norms.
_BETTER = {"effective_rank": 1, "stable_rank": 1, "nuclear_norm": -1, "frobenius": -1}
_BINS = 10

LengthControl = Literal["residual", "bin"]


@dataclass(frozen=True, eq=False)
class SampleRanking:
    """Samples in order of quality.

    Attributes:
        order: indices of the ranked samples, best first; samples whose status is not "ok" are left out.
        scores: (samples,) what the order follows, higher is better; NaN for those left out.
        length_correlation: Spearman correlation of the scores with the response length; near 1 or -1 the order says
            little more than how long the responses are.
    """

    order: tuple[int, ...]
    scores: Float[Tensor, "samples"]
    length_correlation: float


class Extremes(NamedTuple):
    """The two ends of a score.

    Attributes:
        high: records of the highest scores, highest first.
        low: records of the lowest scores, lowest first.
    """

    high: list[Any]
    low: list[Any]


def rank_samples(
    report: SpectraReport, by: str = "effective_rank", length_control: LengthControl | None = "residual"
) -> SampleRanking:
    """Order samples by a spectral metric of their gradients, its mean over layers and projections.

    High effective and stable ranks come first, and small norms, which the paper finds in data of quality. Both follow
    from sheer length too, so length is controlled for unless told otherwise.

    Args:
        report: the samples' gradient spectra.
        by: "effective_rank", "stable_rank", "nuclear_norm" or "frobenius".
        length_control: "residual" takes what a rank regression on the response length leaves (ranks on ranks, so that
            any monotone dependence goes); "bin" takes the rank within each tenth of the samples by length; None the
            metric itself.

    Raises:
        ValueError: `by` is no metric of the report or points nowhere, an unknown `length_control`, or fewer than two
            usable samples.
    """
    accepted = [name for name in _BETTER if name in report.metrics]
    if by not in accepted:
        raise ValueError(f"by={by!r} does not order these samples; accepted: {', '.join(map(repr, accepted))}")
    if length_control not in ("residual", "bin", None):
        raise ValueError(f'length_control={length_control!r} is not known; accepted: "residual", "bin", None')
    usable = np.flatnonzero([status == "ok" for status in report.status])
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} samples with a gradient: at least 2 are needed to be ordered")
    quality = _BETTER[by] * report.metrics[by][usable].nanmean((1, 2)).numpy()
    lengths = report.n_response_tokens[usable].numpy()
    if length_control == "residual":
        quality = _residual(rankdata(quality), rankdata(lengths))
    elif length_control == "bin":
        quality = _within_bins(quality, lengths)
    scores = torch.full((len(report),), torch.nan, dtype=torch.float64)
    scores[usable] = torch.from_numpy(quality).double()
    order = usable[np.argsort(-quality, kind="stable")]
    return SampleRanking(tuple(order.tolist()), scores, _correlation(quality, lengths))


def select_by_metric(
    records: Sequence[Any],
    key: str | Callable[[Any], float],
    count: int = 200,
    valid: Callable[[float], bool] = math.isfinite,
) -> Extremes:
    """The records of the highest and of the lowest scores, as the paper forms its two subsets.

    Args:
        records: mappings with the score under `key`, or anything that a callable `key` scores.
        key: name of the score, or the function that computes it.
        count: how many of each end.
        valid: records whose score it refuses are dropped first; NaN is always dropped. For IFD the authors keep
            `lambda score: 0 <= score <= 1`.

    Raises:
        ValueError: fewer than 2 * count valid records, so that the ends would overlap, or a record without the score.
    """
    if count < 1:
        raise ValueError(f"count={count}: at least 1 record of each end is needed")
    scores = [_score(record, key, index) for index, record in enumerate(records)]
    kept = [index for index, score in enumerate(scores) if not math.isnan(score) and valid(score)]
    if len(kept) < 2 * count:
        raise ValueError(
            f"{len(kept)} of {len(records)} records have a valid score, but two ends of count={count} need {2 * count}"
        )
    ascending = [records[index] for index in sorted(kept, key=lambda index: scores[index])]
    return Extremes(ascending[: -count - 1 : -1], ascending[:count])


def _score(record: Any, key: str | Callable[[Any], float], index: int) -> float:
    if callable(key):
        return float(key(record))
    if not isinstance(record, Mapping) or key not in record:
        raise ValueError(f"record {index} has no {key!r}: give mappings that have it, or a function as `key`")
    return math.nan if record[key] is None else float(record[key])


def _residual(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(), y - y.mean()
    variance = x @ x
    return y if variance == 0 else y - (x @ y) / variance * x


def _within_bins(quality: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Each sample's rank among those of similar length, as a share of them."""
    bins = np.ceil(rankdata(lengths) / len(lengths) * _BINS)  # equal lengths share a bin
    shares = np.empty(len(quality))
    for number in np.unique(bins):
        within = bins == number
        shares[within] = (rankdata(quality[within]) - 0.5) / within.sum()
    return shares


def _correlation(scores: np.ndarray, lengths: np.ndarray) -> float:
    if np.ptp(scores) == 0 or np.ptp(lengths) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(scores), rankdata(lengths))[0, 1])
