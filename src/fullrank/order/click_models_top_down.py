"""Click models whose users look from the top down until they stop: cascade, dependent clicks, dynamic Bayesian."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fullrank.order.click_behaviours import TopDown
from fullrank.order.click_model import ClickModel, IterativeClickModel, check_smoothing, log_probability, of_pairs
from fullrank.order.examination_hypothesis import iterate, log_prior, smoothed

_EVEN = 0.5  # where a probability starts
_ONWARDS = 0.9  # where that to go on below a skip starts


class DistinctSessions(NamedTuple):
    """Sessions of a log, equal ones once.

    Attributes:
        clicks: (distinct, ranks).
        pairs: (distinct, ranks).
        mask: (distinct, ranks).
        counts: (distinct, 1), how often each occurs.
    """

    clicks: Bool[np.ndarray, "distinct ranks"]
    pairs: Int[np.ndarray, "distinct ranks"]
    mask: Bool[np.ndarray, "distinct ranks"]
    counts: Float[np.ndarray, "distinct 1"]

    @classmethod
    def of(cls, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> DistinctSessions:
        """Those of a log."""
        rows = np.ascontiguousarray(2 * pairs + clicks)  # -2 where no document is
        whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()  # compared as bytes, in one go
        _, first, counts = np.unique(whole, return_index=True, return_counts=True)
        return cls(clicks[first], pairs[first], mask[first], counts[:, None].astype(np.float64))


def examined_given_all(
    clicks: Bool[np.ndarray, "sessions ranks"],
    mask: Bool[np.ndarray, "sessions ranks"],
    attraction: Float[np.ndarray, "sessions ranks"],
    after_click: Float[np.ndarray, "sessions ranks"],
    after_skip: float,
) -> Float[np.ndarray, "sessions ranks"]:
    """P(e_k = 1 | all clicks): 1 down to the last click, then what the skips leave.

    b_k = P(no click from k on | e_k = 1) = (1 - a_k) [1 - g + g b_{k+1}], g = `after_skip`, and 1 below the list.
    Below a click that is the last, P(e_{k+1} = 1) = r b_{k+1} / (1 - r + r b_{k+1}), r = `after_click`; below a skip it
    is P(e_k = 1) g b_{k+1} / (1 - g + g b_{k+1}).

    Args:
        clicks: of the sessions.
        mask: where there is a document.
        attraction: a.
        after_click: r.
        after_skip: g.
    """
    sessions, ranks = clicks.shape
    b = np.ones((sessions, ranks + 1))
    for k in reversed(range(ranks)):
        b[:, k] = np.where(mask[:, k], (1 - attraction[:, k]) * (1 - after_skip + after_skip * b[:, k + 1]), 1)
    last = np.where(clicks.any(1), ranks - 1 - np.argmax(clicks[:, ::-1], axis=1), -1)
    examined = np.zeros((sessions, ranks))
    examined[:, 0] = 1
    for k in range(1, ranks):
        onwards = np.where(last == k - 1, after_click[:, k - 1], after_skip)
        skipped = 1 - onwards + onwards * b[:, k]
        # Where all is certain to attract and the user certain to go on, the session is impossible, and went on.
        share = np.divide(onwards * b[:, k], skipped, out=np.ones(sessions), where=skipped > 0)
        examined[:, k] = np.where(k <= last, 1, examined[:, k - 1] * share)
    return np.where(mask, examined, 0)


class Cascade(ClickModel):
    """The cascade model (Craswell et al. 2008): users look until the first click, and go no further.

    What lies below the first click is left out of the fit; a session with a second click is impossible under the model.

    Args:
        smoothing: s, of the prior Beta(1 + s, 1 + s) of every parameter; 0 for maximum likelihood.
    """

    def __init__(self, smoothing: float | int = 1.0) -> None:
        self.smoothing = smoothing

    def _check_parameters(self) -> None:
        check_smoothing(self.smoothing)

    def _estimate(self, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> None:
        examined = mask & (np.cumsum(clicks, axis=1) - clicks == 0)
        size = len(self.pairs_)
        views = np.bincount(pairs[examined], minlength=size)
        clicked = np.bincount(pairs[examined], clicks[examined], size)
        self.attraction_ = smoothed(clicked, views, self.smoothing, np.full(size, _EVEN))

    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> TopDown:
        return self._unfitted(pairs.shape[1])

    def _unfitted(self, ranks: int) -> TopDown:
        return TopDown(np.zeros(ranks), after_skip=1.0)


class _SeveralClicks(IterativeClickModel):
    """Expectation maximisation over where the user stopped, for models that allow more than one click."""

    def _estimate(self, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> None:
        log = DistinctSessions.of(clicks, pairs, mask)
        self.attraction_ = np.full(len(self.pairs_), _EVEN)
        self._start(mask.shape[1])
        self.log_posteriors_ = iterate(lambda: self._step(log), float(mask.sum()), self.max_iter, self.tol)

    def _step(self, log: DistinctSessions) -> float:
        """E-step, M-step, and the log posterior of what they give."""
        behaviour, attraction = self._behaviour(log.pairs), self.attraction_[log.pairs]
        r = np.broadcast_to(behaviour.after_click, log.clicks.shape)
        examined = examined_given_all(log.clicks, log.mask, attraction, r, behaviour.after_skip)
        self.attraction_ = self._share_of_pairs(log, log.clicks & log.mask, examined, self.attraction_)
        self._maximise(log, examined, r)
        p = self._behaviour(log.pairs).given(self.attraction_[log.pairs], log.clicks) * self.attraction_[log.pairs]
        sessions = np.where(log.mask, log_probability(log.clicks, p), 0)
        return float((log.counts * sessions).sum()) + log_prior(self.smoothing, self.attraction_, *self._others())

    def _share_of_pairs(
        self, log: DistinctSessions, part: np.ndarray, whole: np.ndarray, otherwise: np.ndarray
    ) -> Float[np.ndarray, " pairs"]:
        """How much of what happens to each pair is of one kind, smoothed."""
        pairs, size = log.pairs[log.mask], len(self.pairs_)
        counted, total = (np.bincount(pairs, (log.counts * values)[log.mask], size) for values in (part, whole))
        return smoothed(counted, total, self.smoothing, otherwise)

    @abstractmethod
    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> TopDown:
        """How lists of these pairs are looked through."""

    @abstractmethod
    def _start(self, ranks: int) -> None:
        """Parameters other than attraction before the first step."""

    @abstractmethod
    def _maximise(self, log: DistinctSessions, examined: np.ndarray, after_click: np.ndarray) -> None:
        """M-step of those parameters, from P(e = 1 | all clicks) and r of the step before."""

    @abstractmethod
    def _others(self) -> tuple[np.ndarray, ...]:
        """Those of them that the log tells."""


class DCM(_SeveralClicks):
    """The dependent click model (Guo et al. 2009): after a click at rank k users go on with a probability l_k.

    Users who do not click go on for certain. Where users stopped is summed over, where the authors' closed form takes
    the last click for the end.

    Args:
        smoothing: s, of the prior Beta(1 + s, 1 + s) of every parameter; 0 for maximum likelihood.
        max_iter: the most steps of expectation maximisation.
        tol: gain in log posterior for each document shown that is too small to go on.

    Attributes:
        continuation_: l, (ranks - 1,), of all ranks but the last.
    """

    _LEARNED: ClassVar[tuple[str, ...]] = ("continuation_",)
    continuation_: Float[np.ndarray, " ranks"]

    def _start(self, ranks: int) -> None:
        self.continuation_ = np.full(max(ranks - 1, 1), _EVEN)

    def _maximise(self, log: DistinctSessions, examined: np.ndarray, after_click: np.ndarray) -> None:
        session, rank = np.nonzero(log.clicks[:, :-1] & log.mask[:, 1:])
        weight = log.counts[session, 0]
        size = len(self.continuation_)
        went_on = np.bincount(rank, weight * examined[:, 1:][session, rank], size)
        self.continuation_ = smoothed(went_on, np.bincount(rank, weight, size), self.smoothing, self.continuation_)

    def _others(self) -> tuple[np.ndarray, ...]:
        return (self.continuation_,)

    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> TopDown:
        rank = np.minimum(np.arange(pairs.shape[1]), len(self.continuation_) - 1)
        return TopDown(self.continuation_[rank], after_skip=1.0)

    def _unfitted(self, ranks: int) -> TopDown:
        return TopDown(np.full(ranks, _EVEN), after_skip=1.0)


class DBN(_SeveralClicks):
    """The dynamic Bayesian network (Chapelle and Zhang 2009): a clicked document may satisfy, and then users stop.

    Users who are not satisfied go on with probability g. The relevance of a document is attraction times satisfaction.

    Args:
        continuation: g; estimated by default, 1 for the simplified model.
        smoothing: s, of the prior Beta(1 + s, 1 + s) of every parameter; 0 for maximum likelihood.
        max_iter: the most steps of expectation maximisation.
        tol: gain in log posterior for each document shown that is too small to go on.

    Attributes:
        satisfaction_: (pairs,), probability that a click satisfies.
        continuation_: g.
    """

    _LEARNED: ClassVar[tuple[str, ...]] = ("continuation_",)
    _BY_PAIR: ClassVar[tuple[str, ...]] = ("attraction_", "satisfaction_")
    satisfaction_: Float[np.ndarray, " pairs"]
    continuation_: Float[np.ndarray, ""]

    def __init__(
        self,
        continuation: float | int | None = None,
        smoothing: float | int = 1.0,
        max_iter: int = 1000,
        tol: float | int = 1e-7,
    ) -> None:
        super().__init__(smoothing, max_iter, tol)
        self.continuation = continuation

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.continuation is not None and not 0 <= self.continuation <= 1:
            raise ValueError(f"continuation={self.continuation} is not accepted; it is a probability, or None")

    def _start(self, ranks: int) -> None:
        self.satisfaction_ = np.full(len(self.pairs_), _EVEN)
        self.continuation_ = np.array(self._first_continuation())

    def _maximise(self, log: DistinctSessions, examined: np.ndarray, after_click: np.ndarray) -> None:
        counted = np.pad(log.mask[:, 1:], ((0, 0), (0, 1)))  # what follows the last document cannot be seen
        went_on = np.pad(examined[:, 1:], ((0, 0), (0, 1)))
        clicked = log.clicks & counted
        # P(satisfied | stopped below the click) = s / (1 - r)
        share = np.divide(of_pairs(self.satisfaction_, log.pairs), 1 - after_click, out=np.zeros_like(went_on),
                          where=after_click < 1)  # fmt: skip
        satisfied = clicked * (1 - went_on) * share
        self.satisfaction_ = self._share_of_pairs(log, satisfied, clicked, self.satisfaction_)
        if self.continuation is None:
            free = (log.counts * counted * (examined - satisfied)).sum()
            self.continuation_ = smoothed(
                (log.counts * counted * went_on).sum(), free, self.smoothing, self.continuation_
            )

    def _others(self) -> tuple[np.ndarray, ...]:
        return (self.satisfaction_,) if self.continuation is not None else (self.satisfaction_, self.continuation_)

    def _first_continuation(self) -> float:
        return _ONWARDS if self.continuation is None else float(self.continuation)

    def _relevance(self) -> Float[np.ndarray, " pairs"]:
        return self.attraction_ * self.satisfaction_

    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> TopDown:
        g = float(self.continuation_)
        return TopDown(g * (1 - of_pairs(self.satisfaction_, pairs)), g)

    def _unfitted(self, ranks: int) -> TopDown:
        g = self._first_continuation()
        return TopDown(np.full(ranks, g * (1 - _EVEN)), g)
