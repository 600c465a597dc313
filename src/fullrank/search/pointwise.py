"""Re-ranking by a score of every passage by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fullrank.search.protocols import Document, Ranking


@runtime_checkable
class PointwiseScorer(Protocol):
    """Scores texts for a query, each by itself."""

    def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """One score per text; higher is better."""
        ...


@runtime_checkable
class PairsScorer(Protocol):
    """Scores the texts of many queries together, so that batches are full and of like length."""

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        """One score for every query with the text at its place; higher is better."""
        ...


class ModelScorer(ABC):
    """A `PointwiseScorer` whose `score_pairs` does the work."""

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text; higher is better. See `score_pairs` for errors."""
        return self.score_pairs([query] * len(texts), texts)

    @abstractmethod
    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One score for every query with the text at its place."""


class PredictingScorer(ModelScorer):
    """A model with `predict(pairs)`, such as a CrossEncoder of sentence-transformers."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One prediction per pair."""
        if not texts:
            return []
        return np.asarray(self.model.predict(list(zip(queries, texts, strict=True))), dtype=np.float64).tolist()


class PointwiseReranker:
    """Orders documents by the scores of a model.

    Args:
        scorer: an object with `score(query, texts)`, or with `predict(pairs)` as a CrossEncoder of
            sentence-transformers; or a function of a query and texts.

    Raises:
        TypeError: it is none of these.
    """

    def __init__(self, scorer: Any) -> None:
        if hasattr(scorer, "predict") and not hasattr(scorer, "score"):
            scorer = PredictingScorer(scorer)
        function: Callable[..., Any] = getattr(scorer, "score", scorer)
        if not callable(function):
            raise TypeError(
                f"scorer={scorer!r} is {type(scorer).__name__}; an object with score(query, texts) is needed"
            )
        self.scorer, self._score = scorer, function

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; equal scores keep their order.

        Raises:
            ValueError: another number of scores than of documents, or one that is not a number.
        """
        if not documents:
            return Ranking(query, (), ())
        return _sorted(query, documents, self._score(query, [document.searched for document in documents]))

    def rerank_all(self, queries: Sequence[str], documents: Sequence[Sequence[Document]]) -> list[Ranking]:
        """A ranking for every query with its documents; where the scorer can, all pairs go to it together.

        Raises:
            ValueError: see `rerank`.
        """
        if not isinstance(self.scorer, PairsScorer):
            return [self.rerank(query, found) for query, found in zip(queries, documents, strict=True)]
        pairs = [(q, d.searched) for q, found in zip(queries, documents, strict=True) for d in found]
        scores = list(self.scorer.score_pairs([query for query, _ in pairs], [text for _, text in pairs]))
        if len(scores) != len(pairs):
            raise ValueError(f"the scorer gave {len(scores)} scores for {len(pairs)} pairs; one each is needed")
        rankings: list[Ranking] = []
        start = 0
        for query, found in zip(queries, documents, strict=True):
            rankings.append(_sorted(query, found, scores[start : start + len(found)]))
            start += len(found)
        return rankings


def _sorted(query: str, documents: Sequence[Document], given: Iterable[Any]) -> Ranking:
    scores = [float(score) for score in given]
    if len(scores) != len(documents):
        raise ValueError(f"the scorer gave {len(scores)} scores for {len(documents)} documents; one each is needed")
    wrong = next((place for place, score in enumerate(scores) if not np.isfinite(score)), None)
    if wrong is not None:
        raise ValueError(f"query {query!r}: the score of {documents[wrong].id!r} is {scores[wrong]}")
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return Ranking(query, tuple(documents[p] for p in order), tuple(scores[p] for p in order))
