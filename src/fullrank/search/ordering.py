"""Re-rankers that give an order without scores of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fullrank.search.protocols import Document, Ranking


class OrderReranker(ABC):
    """A `Reranker` whose `order` does the work."""

    @abstractmethod
    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first."""

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; scores count down from the number of documents."""
        order = self.order(query, [document.searched for document in documents])
        scores = tuple(float(len(documents) - place) for place in range(len(order)))
        return Ranking(query, tuple(documents[place] for place in order), scores)
