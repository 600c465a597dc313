"""Click models whose examination depends on the place alone: its rank, or its distance to the last click too."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from sklearn.utils.validation import check_is_fitted

from fullrank.order.click_behaviours import Behaviour, ByLastClick, ByPosition
from fullrank.order.click_model import ClickModel, IterativeClickModel, check_smoothing
from fullrank.order.click_simulation import ClickSimulator
from fullrank.order.examination_hypothesis import factorise_clicks, smoothed

Unit = Literal["all", "rank", "document"]


class ClickThroughRate(ClickModel):
    """A baseline: one click-through rate for all, for each rank, or for each pair of query and document.

    Args:
        by: "all", "rank" or "document".
        smoothing: s, clicks and skips added to the counts: (clicks + s) / (views + 2 s).

    Attributes:
        examination_: the rates by rank; 1 for "document". Attraction is 1 for the others.
    """

    _LEARNED: ClassVar[tuple[str, ...]] = ("examination_",)

    def __init__(self, by: Unit = "document", smoothing: float | int = 1.0) -> None:
        self.by = by
        self.smoothing = smoothing

    def _check_parameters(self) -> None:
        check_smoothing(self.smoothing)
        if self.by not in get_args(Unit):
            raise ValueError(f"by={self.by!r} is not known; accepted: {', '.join(get_args(Unit))}")

    def _estimate(self, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> None:
        ranks = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        self.examination_, self.attraction_ = np.ones(mask.shape[1]), np.ones(len(self.pairs_))
        if self.by == "document":
            self.attraction_ = self._rates(clicks[mask], pairs[mask], len(self.pairs_))
        elif self.by == "rank":
            self.examination_ = self._rates(clicks[mask], ranks[mask], mask.shape[1])
        else:
            self.examination_ = self.examination_ * self._rates(clicks[mask], np.zeros(mask.sum(), dtype=int), 1)

    def _rates(self, clicks: np.ndarray, unit: np.ndarray, units: int) -> Float[np.ndarray, " units"]:
        views = np.bincount(unit, minlength=units)
        return smoothed(np.bincount(unit, clicks, units), views, self.smoothing, np.zeros(units))

    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> ByPosition:
        return ByPosition(self.examination_)

    def _unfitted(self, ranks: int) -> ByPosition:
        return ByPosition(np.ones(ranks))


class _ByPlace(IterativeClickModel):
    """Examination of places and attraction of pairs by expectation maximisation."""

    _LEARNED: ClassVar[tuple[str, ...]] = ("examination_",)

    def _factorised(
        self, clicks: np.ndarray, place: np.ndarray, pair: np.ndarray, places: int
    ) -> Float[np.ndarray, " places"]:
        """The examination of the places; sets the attraction. Equal places, pairs and clicks are counted first."""
        seen = (place.astype(np.int64) * len(self.pairs_) + pair) * 2 + clicks
        distinct, counts = np.unique(seen, return_counts=True)
        place, pair = np.divmod(distinct // 2, len(self.pairs_))
        clicked, skipped = counts * (distinct % 2.0), counts * (1.0 - distinct % 2)
        found = factorise_clicks(
            place, pair, clicked, skipped, places, len(self.pairs_), self.smoothing, self.max_iter, self.tol
        )
        self.attraction_, self.log_posteriors_ = found.attraction, found.log_posteriors
        return found.examination


class PBM(_ByPlace):
    """The position-based model (Craswell et al. 2008): P(c_k) = e_k a.

    The clicks tell e up to one factor, by whose inverse a is off: use `propensities`. Where every document is always
    shown at one rank, they do not tell e and a apart at all.

    Args:
        smoothing: s, of the prior Beta(1 + s, 1 + s) of every parameter; 0 for maximum likelihood.
        max_iter: the most steps of expectation maximisation.
        tol: gain in log posterior for each document shown that is too small to go on.

    Attributes:
        examination_: e, (ranks,).
    """

    examination_: Float[np.ndarray, " ranks"]

    def propensities(self) -> Float[np.ndarray, " ranks"]:
        """Examination of every rank over that of the first.

        Raises:
            NotFittedError: nothing was learned yet.
        """
        check_is_fitted(self, "examination_")
        return self.examination_ / self.examination_[0]

    def _estimate(self, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> None:
        ranks = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        self.examination_ = self._factorised(clicks[mask], ranks[mask], pairs[mask], mask.shape[1])

    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> ByPosition:
        return ByPosition(self.examination_)

    def _unfitted(self, ranks: int) -> Behaviour:
        return ClickSimulator("pbm").users(ranks)


class UBM(_ByPlace):
    """The user browsing model (Dupret and Piwowarski 2008): P(c_k | clicks above) = e[k, distance to the last click] a.

    Args:
        smoothing: s, of the prior Beta(1 + s, 1 + s) of every parameter; 0 for maximum likelihood.
        max_iter: the most steps of expectation maximisation.
        tol: gain in log posterior for each document shown that is too small to go on.

    Attributes:
        examination_: e, (ranks, ranks): [k, k - last - 1] below a last click, [k, k] without one.
    """

    examination_: Float[np.ndarray, "ranks ranks"]

    def _estimate(self, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> None:
        ranks = mask.shape[1]
        place = np.broadcast_to(np.arange(ranks), mask.shape)
        latest = np.maximum.accumulate(np.where(clicks, place, -1), axis=1)
        last = np.concatenate([np.full((len(mask), 1), -1), latest[:, :-1]], axis=1)
        cells = place * ranks + place - last - 1  # without a click last is -1, and the distance leads to the diagonal
        self.examination_ = self._factorised(clicks[mask], cells[mask], pairs[mask], ranks**2).reshape(ranks, ranks)

    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> ByLastClick:
        return ByLastClick(self.examination_)

    def _unfitted(self, ranks: int) -> Behaviour:
        return ClickSimulator("ubm").users(ranks)
