"""Several retrievers as one, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Sequence

from fullrank.search.empty_queries import gathered_empty, tell_empty
from fullrank.search.fusion import reciprocal_rank_fusion
from fullrank.search.protocols import Queries, Retriever
from fullrank.search.run import Run, at_least_one


class HybridRetriever:
    """Asks every retriever and fuses their rankings.

    Args:
        retrievers: over the same collection.
        k0: see `reciprocal_rank_fusion`.
        weights: see `reciprocal_rank_fusion`.
        depth: how many results of each retriever are fused, at least.

    Raises:
        ValueError: no retrievers, or another number of weights.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        k0: int = 60,
        weights: Sequence[float] | None = None,
        depth: int = 100,
    ) -> None:
        if not retrievers:
            raise ValueError("retrievers=[] leaves nothing to fuse; give at least one")
        if weights is not None and len(weights) != len(retrievers):
            raise ValueError(f"weights has {len(weights)} entries for {len(retrievers)} retrievers; one each is needed")
        self.retrievers = tuple(retrievers)
        self.k0 = k0
        self.weights = weights
        self.depth = depth

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; scores are sums of reciprocal ranks.

        Of a query that has no tokens for any of the retrievers there is a warning.

        Raises:
            ValueError: k below 1.
        """
        deep = max(at_least_one(k), self.depth)
        runs: list[Run] = []
        empty: list[list[str]] = []
        for retriever in self.retrievers:
            with gathered_empty() as ids:
                runs.append(retriever.search(queries, deep))
            empty.append(ids)
        tell_empty(query_id for query_id in empty[0] if all(query_id in ids for ids in empty[1:]))
        return reciprocal_rank_fusion(runs, self.k0, self.weights).top(k)
