"""What all click models share: fitting to a log, the probability of clicks, how well it fits, samples, files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import xlog1py, xlogy
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from fullrank import _saving
from fullrank.order.click_behaviours import Behaviour
from fullrank.order.click_sessions import Pairs, checked_clicks, checked_lists, unpacked
from fullrank.order.click_simulation import ClickSimulator

_Model = TypeVar("_Model", bound="ClickModel")


class Perplexity(NamedTuple):
    """How surprised a model is by clicks: 1 where it foresees each, 2 where it tosses a coin.

    Attributes:
        overall: mean over the ranks.
        by_rank: 2^(-mean log2 P(c_k)); NaN where no list is so long.
    """

    overall: float
    by_rank: Float[np.ndarray, " ranks"]


class ClickModel(BaseEstimator, ABC):
    """A click is an examined rank and an attractive document: P(c_k = 1 | clicks above) = e_k a_k.

    A list is as long as its row of `mask` says; without, all are of one length. Queries and documents are whole numbers
    or texts, and a pair of them has parameters of its own; without queries, a document has. A pair that the log does
    not show takes the mean over those that it does. A log is given as its arrays, or as one tuple of them, such as
    `ClickSessions`.

    `probabilities` and `sample` take relevance labels too, in place of documents. A model that is not fitted looks at
    lists as ULTRA's users do, or as expectation maximisation starts where ULTRA has none.

    Attributes:
        pairs_: of the log.
        attraction_: a, (pairs,).
        log_posteriors_: of every iteration; they never decrease. Empty where the solution is in closed form.
    """

    attraction_: Float[np.ndarray, " pairs"]
    log_posteriors_: list[float]
    #: Names of what is learned and saved, apart from the pairs; those of `_BY_PAIR` have an element a pair.
    _LEARNED: ClassVar[tuple[str, ...]] = ()
    _BY_PAIR: ClassVar[tuple[str, ...]] = ("attraction_",)

    def fit(
        self: _Model,
        clicks: Shaped[np.ndarray, "sessions ranks"] | tuple[Any, ...],
        documents: Shaped[np.ndarray, "sessions ranks"] | None = None,
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> _Model:
        """Learn from a log.

        Args:
            clicks: 0 or 1; or the whole log.
            documents: as they were shown.
            queries: of the sessions.
            mask: where there is a document.

        Raises:
            TypeError: no documents, and clicks that are no tuple.
            ValueError: shapes that differ, clicks that are neither 0 nor 1 or lie where there is no document, a
                document below the end of its list, or a parameter of the model out of range.

        Warns:
            ConvergenceWarning: expectation maximisation has not converged.
        """
        self._check_parameters()
        clicks, documents, queries, mask = unpacked(clicks, documents, queries, mask)
        documents, queries, mask = checked_lists(documents, queries, mask)
        clicks = checked_clicks(clicks, mask)
        self.pairs_ = Pairs.of(documents, queries, mask)
        self.log_posteriors_ = []
        self._estimate(clicks, self.pairs_.numbers(documents, queries, mask), mask)
        return self

    def click_probabilities(
        self,
        documents: Shaped[np.ndarray, "sessions ranks"],
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> Float[np.ndarray, "sessions ranks"]:
        """P(c_k = 1), whatever is clicked above; 0 where there is no document.

        Args:
            documents: as they are shown.
            queries: of the sessions, as in `fit`.
            mask: where there is a document.
        """
        behaviour, attraction, mask = self._prepared(documents, queries, mask)
        return np.where(mask, behaviour.unconditional(attraction) * attraction, 0)

    def examination_probabilities(
        self,
        documents: Shaped[np.ndarray, "sessions ranks"],
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> Float[np.ndarray, "sessions ranks"]:
        """P(rank k is examined), whatever is clicked above; 0 where there is no document. See `click_probabilities`."""
        behaviour, attraction, mask = self._prepared(documents, queries, mask)
        return np.where(mask, behaviour.unconditional(attraction), 0)

    def conditional_click_probabilities(
        self,
        clicks: Shaped[np.ndarray, "sessions ranks"] | tuple[Any, ...],
        documents: Shaped[np.ndarray, "sessions ranks"] | None = None,
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> Float[np.ndarray, "sessions ranks"]:
        """P(c_k = 1 | clicks above); 0 where there is no document. See `fit` for the arguments."""
        clicks, documents, queries, mask = unpacked(clicks, documents, queries, mask)
        behaviour, attraction, mask = self._prepared(documents, queries, mask)
        clicks = checked_clicks(clicks, mask)
        return np.where(mask, behaviour.given(attraction, clicks) * attraction, 0)

    def log_likelihood(
        self,
        clicks: Shaped[np.ndarray, "sessions ranks"] | tuple[Any, ...],
        documents: Shaped[np.ndarray, "sessions ranks"] | None = None,
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> Float[np.ndarray, " sessions"]:
        """log P(clicks) of every session, in nats; minus infinity where the model holds them impossible."""
        clicks, documents, queries, mask = unpacked(clicks, documents, queries, mask)
        p = self.conditional_click_probabilities(clicks, documents, queries, mask)
        return log_probability(np.asarray(clicks), p).sum(1)

    def score(
        self,
        clicks: Shaped[np.ndarray, "sessions ranks"] | tuple[Any, ...],
        documents: Shaped[np.ndarray, "sessions ranks"] | None = None,
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> float:
        """Mean of the sessions' log-likelihoods."""
        return float(self.log_likelihood(clicks, documents, queries, mask).mean())

    def perplexity(
        self,
        clicks: Shaped[np.ndarray, "sessions ranks"] | tuple[Any, ...],
        documents: Shaped[np.ndarray, "sessions ranks"] | None = None,
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
        conditional: bool = False,
    ) -> Perplexity:
        """How well every rank's clicks are foreseen.

        Args:
            clicks: see `fit`.
            documents: see `fit`.
            queries: see `fit`.
            mask: see `fit`.
            conditional: foresee each with the clicks above it at hand.
        """
        clicks, documents, queries, mask = unpacked(clicks, documents, queries, mask)
        documents, queries, mask = checked_lists(documents, queries, mask)
        clicks = checked_clicks(clicks, mask)
        if conditional:
            p = self.conditional_click_probabilities(clicks, documents, queries, mask)
        else:
            p = self.click_probabilities(documents, queries, mask)
        seen = mask.sum(0)
        bits = -log_probability(clicks, p).sum(0) / np.log(2)
        by_rank = np.exp2(np.divide(bits, seen, out=np.full(len(seen), np.nan), where=seen > 0))
        return Perplexity(float(by_rank[seen > 0].mean()), by_rank)

    def probabilities(
        self, labels: Shaped[np.ndarray, "*lists ranks"], mask: Bool[np.ndarray, "*lists ranks"] | None = None
    ) -> Float[np.ndarray, "*lists ranks"]:
        """P(c_k = 1), whatever is clicked above, of lists whose relevance is known.

        Args:
            labels: relevance as shown: whole numbers are grades, which attract as `ClickSimulator().attraction` says;
                floating-point numbers are the attraction itself, from 0 to 1.
            mask: where there is a document; elsewhere the probability is 0.

        Raises:
            ValueError: a negative grade, an attraction beyond 0 to 1, or a mask of another shape.
        """
        behaviour, attraction, present = self._labelled(labels, mask)
        found = np.where(present, behaviour.unconditional(attraction) * attraction, 0)
        return found.reshape(np.shape(labels))

    @overload
    def sample(
        self,
        labels: Shaped[np.ndarray, "*lists ranks"],
        rng: np.random.Generator,
        /,
        mask: Bool[np.ndarray, "*lists ranks"] | None = None,
    ) -> Int[np.ndarray, "*lists ranks"]: ...

    @overload
    def sample(
        self,
        documents: Shaped[np.ndarray, "*lists ranks"],
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "*lists ranks"] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Int[np.ndarray, "*lists ranks"]: ...

    def sample(
        self,
        documents: Shaped[np.ndarray, "*lists ranks"],
        queries: Shaped[np.ndarray, " sessions"] | np.random.Generator | None = None,
        mask: Bool[np.ndarray, "*lists ranks"] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Int[np.ndarray, "*lists ranks"]:
        """Clicks of users as the model sees them, as `simulate_clicks` draws them.

        `sample(labels, rng)` draws them from relevance labels, as `probabilities` takes them. So does a model that is
        not fitted, which knows no documents.

        Args:
            documents: as they are shown, (sessions, ranks); or labels.
            queries: of the sessions, as in `fit`; or `rng`, for labels.
            mask: where there is a document.
            rng: of the draws.
        """
        shape = np.shape(documents)
        if isinstance(queries, np.random.Generator):
            rng, prepared = queries, self._labelled(documents, mask)
        elif queries is None and not hasattr(self, "attraction_"):
            prepared = self._labelled(documents, mask)
        else:
            prepared = self._prepared(documents, queries, mask)
        behaviour, attraction, present = prepared
        clicks, _ = behaviour.draw(attraction, (rng or np.random.default_rng()).random(attraction.shape))
        return (clicks & present).astype(np.int64).reshape(shape)

    def relevance(
        self,
        documents: Shaped[np.ndarray, "sessions ranks"],
        queries: Shaped[np.ndarray, " sessions"] | None = None,
        mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    ) -> Float[np.ndarray, "sessions ranks"]:
        """Estimated relevance of documents, by which they can be ranked; 0 where there is none."""
        check_is_fitted(self, "attraction_")
        documents, queries, mask = checked_lists(documents, queries, mask)
        pairs = self.pairs_.numbers(documents, queries, mask)
        return np.where(mask, of_pairs(self._relevance(), pairs), 0)

    def run(self) -> dict[str, dict[str, float]]:
        """Relevance of the log's pairs by query and document: what `evaluate` measures.

        Raises:
            ValueError: the log had no queries.
        """
        check_is_fitted(self, "attraction_")
        if self.pairs_.queries is None:
            raise ValueError("the model was fitted without queries, which a run needs: fit(clicks, documents, queries)")
        found: dict[str, dict[str, float]] = {}
        pairs = zip(self.pairs_.queries, self.pairs_.documents, self._relevance().tolist(), strict=True)
        for query, document, relevance in pairs:
            found.setdefault(str(query), {})[str(document)] = relevance
        return found

    def save(self, path: str | Path) -> Path:
        """Write it atomically: .json for `load`, or its pairs as a table in .csv or .parquet.

        Raises:
            NotFittedError: nothing was learned yet.
            ValueError: another suffix.
        """
        check_is_fitted(self, "attraction_")
        return _saving.save(self, path)

    def to_dict(self) -> dict[str, Any]:
        """All that `load` needs."""
        queries = self.pairs_.queries
        return {
            "kind": type(self).__name__,
            "parameters": self.get_params(),
            "queries": None if queries is None else queries.tolist(),
            "documents": self.pairs_.documents.tolist(),
            "learned": {name: np.asarray(getattr(self, name)).tolist() for name in (*self._BY_PAIR, *self._LEARNED)},
            "log_posteriors": self.log_posteriors_,
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a pair: query, document, what was learned of it, and its relevance."""
        queries = [None] * len(self.pairs_) if self.pairs_.queries is None else self.pairs_.queries.tolist()
        columns = {name.rstrip("_"): getattr(self, name).tolist() for name in self._BY_PAIR}
        columns = {"query_id": queries, "doc_id": self.pairs_.documents.tolist(), **columns}
        columns["relevance"] = self._relevance().tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @classmethod
    def load(cls: type[_Model], path: str | Path) -> _Model:
        """Read what `save` wrote as .json.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another kind of model.
        """
        path = Path(path)
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            kind, parameters, learned = about["kind"], about["parameters"], about["learned"]
            queries, documents = about["queries"], np.array(about["documents"])
            if kind == cls.__name__:
                model = cls(**parameters)
                model.pairs_ = Pairs(documents, None if queries is None else np.array(queries))
                model.log_posteriors_ = about["log_posteriors"]
                for name in (*cls._BY_PAIR, *cls._LEARNED):
                    values = np.array(learned[name], dtype=np.float64)
                    if name in cls._BY_PAIR and values.shape != documents.shape:
                        raise ValueError(f"{len(documents)} documents have {name} of shape {values.shape}")
                    setattr(model, name, values)
                return model
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no click model, or damaged: {error!r}") from error
        raise ValueError(f"{path} holds a {kind}, not a {cls.__name__}: {kind}.load reads it")

    def _prepared(self, documents: Any, queries: Any, mask: Any) -> tuple[Behaviour, np.ndarray, np.ndarray]:
        """How the lists are looked through, a of their documents, and the mask."""
        check_is_fitted(self, "attraction_")
        documents, queries, mask = checked_lists(documents, queries, mask)
        pairs = self.pairs_.numbers(documents, queries, mask)
        return self._behaviour(pairs), of_pairs(self.attraction_, pairs), mask

    def _labelled(self, labels: Any, mask: Any) -> tuple[Behaviour, np.ndarray, np.ndarray]:
        """As `_prepared`, of labels with any number of dimensions: a list a row."""
        labels = np.asarray(labels)
        if not labels.ndim or not labels.shape[-1]:
            raise ValueError(f"labels have shape {labels.shape}; (lists, ranks) is needed")
        present = np.ones(labels.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if present.shape != labels.shape:
            raise ValueError(f"mask has shape {present.shape}; that of the labels, {labels.shape}, is needed")
        attraction = _attraction(labels, present).reshape(-1, labels.shape[-1])
        present = present.reshape(attraction.shape)
        if hasattr(self, "attraction_"):
            return self._behaviour(np.full(attraction.shape, -1)), attraction, present
        self._check_parameters()
        return self._unfitted(attraction.shape[1]), attraction, present

    def _relevance(self) -> Float[np.ndarray, " pairs"]:
        return self.attraction_

    @abstractmethod
    def _check_parameters(self) -> None:
        """Raise ValueError for one out of range."""

    @abstractmethod
    def _estimate(self, clicks: np.ndarray, pairs: np.ndarray, mask: np.ndarray) -> None:
        """Learn the parameters."""

    @abstractmethod
    def _behaviour(self, pairs: Int[np.ndarray, "sessions ranks"]) -> Behaviour:
        """How lists of these pairs are looked through; -1 for a pair that is not known."""

    @abstractmethod
    def _unfitted(self, ranks: int) -> Behaviour:
        """How lists of so many ranks are looked through before anything is learned."""


class IterativeClickModel(ClickModel):
    """A click model that is fitted by expectation maximisation."""

    def __init__(self, smoothing: float | int = 1.0, max_iter: int = 1000, tol: float | int = 1e-7) -> None:
        self.smoothing = smoothing
        self.max_iter = max_iter
        self.tol = tol

    def _check_parameters(self) -> None:
        check_smoothing(self.smoothing)
        if self.max_iter < 1:
            raise ValueError(f"max_iter={self.max_iter} is not accepted; a whole number from 1 on")
        if not self.tol >= 0:
            raise ValueError(f"tol={self.tol} is not accepted; it is 0 or more")


def check_smoothing(smoothing: float | int) -> None:
    """Raise ValueError for a negative one, or one that is no number."""
    if not 0 <= smoothing < np.inf:
        raise ValueError(f"smoothing={smoothing} is not accepted; it is 0 or more")


def _attraction(labels: np.ndarray, present: np.ndarray) -> Float[np.ndarray, "*lists ranks"]:
    """That of grades, or of labels that say it themselves; 0 where there is no document."""
    if labels.dtype.kind in "biu":
        return np.where(present, ClickSimulator().attraction(np.where(present, labels, 0).astype(np.int64)), 0)
    if labels.dtype.kind != "f":
        raise ValueError(
            f"labels are of type {labels.dtype}; grades are whole numbers, attraction floating-point ones; documents "
            "by their names need a fitted model"
        )
    wrong = np.argwhere(present & ~((labels >= 0) & (labels <= 1)))
    if len(wrong):
        place = wrong[0].tolist()
        raise ValueError(
            f"labels{place} is {labels[tuple(place)]}; floating-point labels are attraction, from 0 to 1, and grades "
            "are whole numbers: labels.astype(int)"
        )
    return np.where(present, labels, 0).astype(np.float64)


def of_pairs(values: Float[np.ndarray, " pairs"], pairs: np.ndarray) -> np.ndarray:
    """The values of pairs by their numbers; the mean for -1."""
    return np.append(values, values.mean())[pairs]


def log_probability(clicks: np.ndarray, p: np.ndarray) -> np.ndarray:
    """log P(c); 0 where p is 0 and nothing is clicked, as where no document is."""
    return xlogy(clicks, p) + xlog1py(1 - clicks, -p)
