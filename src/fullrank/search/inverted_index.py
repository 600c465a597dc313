"""An inverted index: what every term adds to the documents that hold it, and the sums of a query's terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fullrank.order import trec_order
from fullrank.search.empty_queries import tell_empty
from fullrank.search.protocols import Document, Queries, named
from fullrank.search.run import Run, at_least_one
from fullrank.search.segmented_index import SegmentedIndex
from fullrank.search.segments import Segment

# Below one posting per this many documents, postings are merged rather than added to an array of all.
_SPARSE = 32


class Scored(NamedTuple):
    """What a term adds to documents.

    Attributes:
        documents: that hold it.
        values: what it adds to them, beyond what it adds to all.
        absent: what it adds to all.
    """

    documents: Int[np.ndarray, " postings"]
    values: Float[np.ndarray, " postings"]
    absent: float


class InvertedIndex(SegmentedIndex[Segment]):
    """Retrieval by sums over the terms that query and document share.

    A subclass says which terms a query has and what each adds to a document.
    """

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; documents without any of a query's terms are not results.

        A query without terms finds nothing, and a warning names it.

        Raises:
            ValueError: k below 1.
            RuntimeError: nothing is indexed yet.
        """
        self._check_indexed()
        at_least_one(k)
        texts = named(queries)
        run = Run()
        weighted = dict(zip(texts, self._query_weights(list(texts.values())), strict=True))
        tell_empty(query_id for query_id, weights in weighted.items() if not weights)
        for query_id, weights in weighted.items():
            run[query_id] = self._best(weights, k)
        return run

    def explain(self, query: str, document_id: str) -> dict[str, float]:
        """What every term of a query adds to a document's score, largest first; they sum to it.

        Raises:
            LookupError: the index has no such document.
        """
        number = self._number(document_id)
        parts: dict[str, float] = {}
        for term, weight in self._query_weights([query])[0].items():
            scored = self._scored(term)
            if scored is None:
                continue
            at = np.searchsorted(scored.documents, number)
            held = at < len(scored.documents) and scored.documents[at] == number
            value = float(scored.values[at]) + scored.absent if held else scored.absent
            if value:
                parts[term] = weight * value
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    @property
    def documents(self) -> Mapping[str, Document]:
        """The indexed documents by id, read when they are asked for."""
        return _Documents(self)

    # --- what a subclass says ------------------------------------------------------------------------------------

    @abstractmethod
    def _query_weights(self, texts: Sequence[str]) -> Sequence[Mapping[str, int | float]]:
        """The terms of every query, and how much each counts."""

    @abstractmethod
    def _scored(self, term: str) -> Scored | None:
        """What a term adds to documents; None where none holds it."""

    # --- within --------------------------------------------------------------------------------------------------

    def _postings(self, term: str) -> list[tuple[int, Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
        """Number of every segment that holds a term, its documents there that do, and how often."""
        found = [(number, segment.postings(term)) for number, segment in enumerate(self._segments)]
        return [(number, *postings) for number, postings in found if postings is not None]

    def _best(self, weights: Mapping[str, int | float], k: int) -> dict[str, float]:
        """The k best documents of one query that hold a term of it, in the order of `Run`."""
        parts = [(weight, scored) for term, weight in weights.items() if (scored := self._scored(term)) is not None]
        if not parts:
            return {}
        found, scores = _summed(parts, self._count)
        reached = scores + sum(weight * absent for weight, (_, _, absent) in parts)
        if len(found) > k:  # ties of the last place stay in, so that their order decides
            last = np.partition(reached.astype(np.float32), len(found) - k)[len(found) - k]
            best = reached.astype(np.float32) >= last
            found, reached = found[best], reached[best]
        ids = self._ids(found)
        order = trec_order(ids, reached)[:k].tolist()
        return {ids[place]: float(reached[place]) for place in order}

    def _document(self, id: str) -> Document:
        ((segment, place),) = self._places(np.array([self._number(id)]))
        return segment.document(place)


def _summed(
    parts: Sequence[tuple[int | float, Scored]], documents: int
) -> tuple[Int[np.ndarray, " found"], Float[np.ndarray, " found"]]:
    """Documents that stand in any part, ascending, and the sums of their values times the part's weight."""
    weighted = [scored.values if weight == 1 else weight * scored.values for weight, scored in parts]
    if len(parts) == 1:
        return parts[0][1].documents, weighted[0]
    places, values = np.concatenate([scored.documents for _, scored in parts]), np.concatenate(weighted)
    if len(places) * _SPARSE > documents:
        holds = np.zeros(documents, dtype=bool)
        holds[places] = True
        found = np.flatnonzero(holds)
        return found, np.bincount(places, values, documents)[found]
    order = np.argsort(places, kind="stable")  # which merges what is sorted already
    places = places[order]
    first = np.flatnonzero(np.diff(places, prepend=-1))
    return places[first], np.add.reduceat(values[order], first)


class _Documents(Mapping[str, Document]):
    """The documents of an index by id."""

    def __init__(self, index: InvertedIndex) -> None:
        self._index = index

    def __getitem__(self, id: str) -> Document:
        try:
            return self._index._document(id)
        except LookupError as error:
            raise KeyError(id) from error

    def __iter__(self) -> Iterator[str]:
        return (id for segment in self._index._segments for id in segment.ids)

    def __len__(self) -> int:
        return len(self._index)
