"""Several retrievers as one, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Sequence

from fullrank.search.protocols import Queries, Retriever
from fullrank.search.run import Run, reciprocal_rank_fusion


class HybridRetriever:
    """Asks every retriever and fuses their rankings.

    Args:
        retrievers: over the same collection.
        k0: see `reciprocal_rank_fusion`.
        depth: how many results of each retriever are fused, at least.

    Raises:
        ValueError: no retrievers.
    """

    def __init__(self, retrievers: Sequence[Retriever], k0: int = 60, depth: int = 100) -> None:
        if not retrievers:
            raise ValueError("retrievers=[] leaves nothing to fuse")
        self.retrievers = tuple(retrievers)
        self.k0 = k0
        self.depth = depth

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; scores are sums of reciprocal ranks."""
        runs = [retriever.search(queries, max(k, self.depth)) for retriever in self.retrievers]
        return reciprocal_rank_fusion(runs, self.k0).top(k)
