"""Re-ranking by comparisons of two passages: all of them, a few bubbles, or a heap (PRP, Qin et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from fullrank.search.ordering import OrderReranker
from fullrank.search.protocols import Document, Ranking

Strategy = Literal["all-pairs", "sliding", "heapsort"]


@runtime_checkable
class PairwiseModel(Protocol):
    """Compares two texts."""

    def compare(self, query: str, a: str, b: str) -> float:
        """1 where a is better, 0 where b is, 0.5 where neither."""
        ...


@runtime_checkable
class PairsModel(Protocol):
    """Compares many pairs of texts together."""

    def compare_pairs(self, query: str, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """For every pair 1 where its first is better, 0 where its second is, 0.5 where neither."""
        ...


class PairwiseReranker(OrderReranker):
    """Orders passages by a model that compares two of them.

    Args:
        model: an object with `compare(query, a, b)`, which gives 1 where a is better, 0 where b is and 0.5 where
            neither, or with `compare_pairs(query, pairs)`; or a function such as the former.
        strategy: "all-pairs" sums what every passage wins, of n (n - 1) / 2 comparisons; "sliding" passes from the
            bottom to the top, `top_k` times, after each of which one more place is decided; "heapsort" builds a heap
            and takes `top_k` passages from it, of about 2 n + 2 top_k log2 n comparisons.
        top_k: places that "sliding" and "heapsort" decide; the passages below keep the order that they have.

    Attributes:
        calls: comparisons that were made since this object was; a pair that comes again in a list is remembered.

    Raises:
        ValueError: an unknown strategy, or `top_k` below 1.
        TypeError: nothing that compares.
    """

    def __init__(
        self,
        model: PairwiseModel | PairsModel | Callable[[str, str, str], float],
        strategy: Strategy = "all-pairs",
        top_k: int = 10,
    ) -> None:
        if strategy not in get_args(Strategy):
            raise ValueError(f"strategy={strategy!r} is not known; accepted: {', '.join(get_args(Strategy))}")
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is not accepted; at least 1 place is decided")
        self._compare = _comparison(model)
        self.model, self.strategy, self.top_k = model, strategy, top_k
        self.calls = 0

    @property
    def n_malformed(self) -> int:
        """Answers of the model that were no letter, if it counts them."""
        return getattr(self.model, "n_malformed", 0)

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first; ties keep their order.

        Raises:
            ValueError: a comparison outside of [0, 1], or another number of them than of pairs.
        """
        known = _Known(self, query, texts)
        if self.strategy == "all-pairs":
            wins = known.wins()
            return sorted(range(len(texts)), key=lambda place: -wins[place])
        return _bubbled(known, self.top_k) if self.strategy == "sliding" else _heaped(known, self.top_k)

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`. Scores are the shares that were won of "all-pairs"; else they count down."""
        if self.strategy != "all-pairs":
            return super().rerank(query, documents)
        wins = _Known(self, query, [document.searched for document in documents]).wins()
        order = sorted(range(len(wins)), key=lambda place: -wins[place])
        return Ranking(query, tuple(documents[p] for p in order), tuple(wins[p] for p in order))

    def shares(self, query: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """What the first of every pair wins, by the model."""
        if not pairs:
            return []
        self.calls += len(pairs)
        shares = [float(share) for share in self._compare(query, pairs)]
        if len(shares) != len(pairs):
            raise ValueError(f"the model gave {len(shares)} comparisons for {len(pairs)} pairs; one each is needed")
        wrong = next((share for share in shares if not 0 <= share <= 1), None)
        if wrong is not None:
            raise ValueError(f"query {query!r}: a comparison gave {wrong}; a share between 0 and 1 is needed")
        return shares


class _Known:
    """Comparisons of the passages of one list."""

    def __init__(self, reranker: PairwiseReranker, query: str, texts: Sequence[str]) -> None:
        self.reranker, self.query, self.texts = reranker, query, texts
        self._shares: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def wins(self) -> list[float]:
        """s_i = sum_j share of i against j."""
        n = len(self)
        pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
        wins = [0.0] * n
        for (i, j), share in zip(pairs, self._asked(pairs), strict=True):
            wins[i] += share
            wins[j] += 1 - share
        return wins

    def beats(self, i: int, j: int) -> bool:
        """Whether passage i is better than j; of equal ones the first is."""
        share = self._shares.get((i, j))
        if share is None:
            share = self._asked([(i, j)])[0]
            self._shares[i, j], self._shares[j, i] = share, 1 - share
        return share > 0.5 or (share == 0.5 and i < j)

    def _asked(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        return self.reranker.shares(self.query, [(self.texts[i], self.texts[j]) for i, j in pairs])


def _bubbled(known: _Known, top_k: int) -> list[int]:
    order = list(range(len(known)))
    for done in range(min(top_k, len(order) - 1)):
        for place in range(len(order) - 1, done, -1):
            if known.beats(order[place], order[place - 1]):
                order[place - 1], order[place] = order[place], order[place - 1]
    return order


def _heaped(known: _Known, top_k: int) -> list[int]:
    heap = list(range(len(known)))
    for root in reversed(range(len(heap) // 2)):
        _sink(heap, root, known)
    best: list[int] = []
    while heap and len(best) < top_k:
        best.append(heap[0])
        last = heap.pop()
        if heap:
            heap[0] = last
            _sink(heap, 0, known)
    return best + sorted(heap)


def _sink(heap: list[int], root: int, known: _Known) -> None:
    """Let a passage sink below better ones."""
    while (child := 2 * root + 1) < len(heap):
        if child + 1 < len(heap) and known.beats(heap[child + 1], heap[child]):
            child += 1
        if not known.beats(heap[child], heap[root]):
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


def _comparison(model: Any) -> Callable[[str, Sequence[tuple[str, str]]], Sequence[float]]:
    if isinstance(model, PairsModel):
        return model.compare_pairs
    function: Callable[..., Any] = getattr(model, "compare", model)
    if not callable(function):
        raise TypeError(f"model={model!r} is {type(model).__name__}; a function of (query, a, b) is needed")
    return lambda query, pairs: [function(query, a, b) for a, b in pairs]
