"""G-Rank: ranking from the clicks of peers, each in the measure of its likeness to the owner (arXiv 2301.12530).

R_i(k | Q) = sum_j C_kj(Q) (S_i(j) + F): rows of node j with the term Q and a click on k, in the measure of j.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fullrank._files import write_bytes
from fullrank.search.click_log import ClickLog
from fullrank.search.click_similarity import ClickCounts, Item, Match, Node, Term, Variant, sort_key

Query = Hashable | Sequence[Hashable]


class GRank:
    """A ranker that learns from every row that it sees, and trains nothing.

    Args:
        top_k: K, the most frequent terms that are compared.
        isolation: F, weight of every contributor beside its similarity; at 0 only alike ones count.
        variant: "paper" (kappa_t + kappa_m^2) / kappa_u, or "code" (kappa_m + kappa_t^2) / kappa_u.
        match: what kappa_m counts: "items" clicked by both, or "pairs" of term and item.
        metadata_first: items that match the query rank above those that are known by clicks alone.
        noise: probability of swapping two random places of what `rank` gives.
        node_id: the owner.
        catalogue: item -> its terms (tags, words of the title, ...); what a query can match.
        matcher: `matcher(query, item) -> bool` in place of the catalogue.
        max_rows: the oldest rows are forgotten beyond.
        seed: of the noise.

    Raises:
        ValueError: top_k or max_rows below 1, isolation negative or not finite, noise outside [0, 1], or an unknown
            variant or match.
    """

    def __init__(
        self,
        top_k: int = 10,
        isolation: float | int = 0.0,
        variant: Variant = "paper",
        match: Match = "items",
        metadata_first: bool = True,
        noise: float | int = 0.0,
        node_id: Hashable = 0,
        catalogue: Mapping[Any, Iterable[Hashable]] | None = None,
        matcher: Callable[[Any, Any], bool] | None = None,
        max_rows: int | None = None,
        seed: int = 0,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is not accepted; at least 1 term is needed")
        if not (math.isfinite(isolation) and isolation >= 0):
            raise ValueError(f"isolation={isolation} is not accepted; F is a finite number of at least 0")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise={noise} is not accepted; it is a probability")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows={max_rows} is not accepted; at least 1 row, or None for all")
        for name, value, known in (("variant", variant, get_args(Variant)), ("match", match, get_args(Match))):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; accepted: {', '.join(known)}")
        self.top_k, self.isolation = top_k, isolation
        self.variant: Variant = variant
        self.match: Match = match
        self.metadata_first, self.noise, self.node_id = metadata_first, noise, node_id
        self.max_rows, self.seed = max_rows, seed
        self.catalogue = None if catalogue is None else {item: frozenset(terms) for item, terms in catalogue.items()}
        self.matcher = matcher
        self._random = np.random.default_rng(seed)
        self._forget()

    @property
    def n_rows_(self) -> int:
        """Rows in the log."""
        return len(self.log)

    @property
    def known_nodes_(self) -> tuple[Node, ...]:
        """Nodes with a row in the log, and the owner, in order."""
        return tuple(sorted({*self._counts.terms, self.node_id}, key=sort_key))

    @property
    def n_conflicts_(self) -> int:
        """Rows that came with the key of another row and other content."""
        return self.log.n_conflicts

    def fit(self, entries: Iterable[Any]) -> GRank:
        """Forget everything, then learn from rows; see `partial_fit`."""
        self._forget()
        return self.partial_fit(entries)

    def partial_fit(self, entries: Iterable[Any]) -> GRank:
        """Learn from rows.

        Args:
            entries: (node, term, item), or (node, term, item, number) with the number of the node's query: a row whose
                (node, number) is known already is not counted again.

        Raises:
            ValueError: a row of another form, by its place; or an item that the catalogue does not have.
        """
        for place, entry in enumerate(entries):
            row: tuple[Any, ...] = tuple(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else ()
            if len(row) not in (3, 4):
                raise ValueError(f"row {place} is {entry!r}; (node, term, item), with a number or without, is needed")
            if self.catalogue is not None and row[2] not in self.catalogue:
                raise ValueError(f"row {place} clicks {row[2]!r}, which is not in the catalogue")
            try:
                added = self.log.append(*row)
            except (TypeError, ValueError) as error:
                raise ValueError(f"row {place}: {error}") from error
            if added:
                self._counts.add(row[0], row[1], row[2])
                self._similarities = None
        if self.max_rows is not None and len(self.log) > self.max_rows:
            self.evict(len(self.log) - self.max_rows)
        return self

    def evict(self, count: int) -> GRank:
        """Forget the oldest rows."""
        for click in self.log.drop_first(count):
            self._counts.add(click.node, click.term, click.item, -1)
        self._similarities = None
        return self

    def similarity(self, node: Node | None = None) -> Any:
        """S of a node, or of every known node, normalised by the largest: between 0 and 1.

        Raises:
            LookupError: the node has no row in the log.
        """
        if self._similarities is None:
            raw = {other: self.raw_similarity(other) for other in self.known_nodes_}
            largest = max(raw.values(), default=0.0)
            self._similarities = {other: value / largest if largest > 0 else 0.0 for other, value in raw.items()}
        if node is None:
            return dict(self._similarities)
        if node not in self._similarities:
            known = ", ".join(map(repr, self.known_nodes_[:10]))
            raise LookupError(f"node {node!r} has no row in the log; known are {known}")
        return self._similarities[node]

    def raw_similarity(self, node: Node) -> float:
        """S of a node before it is normalised."""
        return self._counts.raw(node, self.variant)

    def clicks_of(self, term: Term) -> list[Mapping[Item, int]]:
        """Rows of a term by item, of every node that has some."""
        found = (clicks.get(term) for clicks in self._counts.clicks.values())
        return [counts for counts in found if counts]

    def score(self, query: Query, items: Sequence[Item] | None = None) -> Any:
        """R of items, by item where none are given; a query of several terms has the sum of theirs."""
        scores: Counter[Item] = Counter()
        for node, weight in self.similarity().items():
            weight += self.isolation
            if weight <= 0:
                continue
            clicks = self._counts.clicks.get(node, {})
            for term in self._terms(query):
                for item, count in clicks.get(term, {}).items():
                    scores[item] += count * weight
        return dict(scores) if items is None else [float(scores.get(item, 0.0)) for item in items]

    def rank(self, query: Query, k: int | None = None) -> tuple[list[Item], list[float]]:
        """Items and their scores, best first; ties by item.

        Items that match the query come first, clicked or not. A query that nothing is known for gives the most clicked
        items of the log.

        Args:
            query: a term, or a list of terms.
            k: how many at most.
        """
        scores = self.score(query)
        matching = self._matching(query)
        if not scores and not matching:
            scores = self._popular()
        first = matching if self.metadata_first else set()
        everything = scores.keys() | matching
        # Sums of the same weights in another order differ in the last digits: they are ties.
        order = sorted(
            everything, key=lambda item: (item not in first, -round(scores.get(item, 0.0), 12), sort_key(item))
        )
        if self.noise and len(order) > 1 and self._random.random() < self.noise:
            one, other = self._random.choice(len(order), 2, replace=False)
            order[one], order[other] = order[other], order[one]
        order = order[:k]
        return order, [float(scores.get(item, 0.0)) for item in order]

    def order(self, query: Query, items: Sequence[Item]) -> list[int]:
        """A permutation of items, best first; equal ones keep their order."""
        scores = self.score(query, items)
        first = self._matching(query) if self.metadata_first else set()
        return sorted(range(len(items)), key=lambda place: (items[place] not in first, -round(scores[place], 12)))

    def explain(self, query: Query, item: Item) -> dict[Node, float]:
        """What each node contributes to an item's score; they sum to it."""
        found: dict[Node, float] = {}
        for node, weight in self.similarity().items():
            clicks = self._counts.clicks.get(node, {})
            count = sum(clicks.get(term, {}).get(item, 0) for term in self._terms(query))
            if count and weight + self.isolation > 0:
                found[node] = count * (weight + self.isolation)
        return found

    def save(self, path: str | Path) -> Path:
        """Write log and options, atomically; the catalogue and the matcher are given anew to `load`."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        head = json.dumps(options).encode()
        return write_bytes(Path(path), len(head).to_bytes(4, "little") + head + self.log.to_bytes())

    @classmethod
    def load(
        cls,
        path: str | Path,
        catalogue: Mapping[Any, Iterable[Hashable]] | None = None,
        matcher: Callable[[Any, Any], bool] | None = None,
    ) -> GRank:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged.
        """
        content = Path(path).read_bytes()
        size = int.from_bytes(content[:4], "little")
        try:
            made = cls(**json.loads(content[4 : 4 + size]), catalogue=catalogue, matcher=matcher)
            log = ClickLog.from_bytes(content[4 + size :])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged, or no saved GRank: {error}") from error
        return made.partial_fit(log)

    def _forget(self) -> None:
        self.log = ClickLog()
        self._counts = ClickCounts(self.node_id, self.top_k, self.match)
        self._similarities: dict[Node, float] | None = None

    def _terms(self, query: Query) -> tuple[Term, ...]:
        if isinstance(query, list | tuple | set | frozenset):
            return tuple(query)
        if not isinstance(query, Hashable):
            raise TypeError(f"query={query!r} is {type(query).__name__}; a term, or a list of terms, is needed")
        return (query,)

    def _matching(self, query: Query) -> set[Item]:
        """Items whose metadata match the query."""
        if self.matcher is not None:
            items = self.catalogue or {click.item for click in self.log}
            return {item for item in items if self.matcher(query, item)}
        wanted = self._terms(query)
        return {item for item, terms in (self.catalogue or {}).items() if any(term in terms for term in wanted)}

    def _popular(self) -> dict[Item, float]:
        counts: Counter[Item] = Counter()
        for terms in self._counts.clicks.values():
            for items in terms.values():
                counts.update(items)
        return {item: float(count) for item, count in counts.items()}


_OPTIONS = ("top_k", "isolation", "variant", "match", "metadata_first", "noise", "node_id", "max_rows", "seed")


def positional_distance(order: Sequence[Item], reference: Sequence[Item]) -> int:
    """Sum of |place in one order - place in the other| over the items that both have."""
    places = {item: place for place, item in enumerate(reference)}
    return sum(abs(place - places[item]) for place, item in enumerate(order) if item in places)


def top_item_share(orders: Iterable[Sequence[Item]], references: Iterable[Sequence[Item]]) -> float:
    """Share of orders that begin as their references do; those without a reference are not counted."""
    pairs = [(order, reference) for order, reference in zip(orders, references, strict=True) if reference]
    return sum(bool(order) and order[0] == reference[0] for order, reference in pairs) / len(pairs) if pairs else 0.0
