"""How alike the owner of a log and every other node search and click, kept up to date row by row.

S_i(j) = (kappa_t + kappa_m^2) / kappa_u: kappa_t shared ones of the K most frequent terms, kappa_m items that both have
clicked under terms that both have searched, kappa_u items that either has clicked; 0 without a shared term.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from fullrank.search.click_rows import Words

Node = Hashable
Term = str | int
Item = Hashable
Variant = Literal["paper", "code"]
Match = Literal["items", "pairs"]


def sort_key(value: Hashable) -> tuple[str, Any]:
    """Orders numbers and text as they are, other values by how they are written, and types by their names."""
    plain = value.item() if isinstance(value, np.generic) else value
    return type(plain).__name__, plain if isinstance(plain, int | float | str) else repr(plain)


class TermClicks:
    """The clicks under one term: parallel arrays of node, item and number of rows."""

    def __init__(self) -> None:
        self.nodes, self.items, self.counts = array("i"), array("i"), array("i")

    def add(self, node: int, item: int) -> int:
        """A pair that had no row; its place."""
        self.nodes.append(node)
        self.items.append(item)
        self.counts.append(1)
        return len(self.counts) - 1

    def remove(self, place: int) -> tuple[int, int]:
        """Take a pair out. The last one moves to its place: (node, item) of that one."""
        for column in (self.nodes, self.items, self.counts):
            column[place] = column[-1]
            column.pop()
        return (self.nodes[place], self.items[place]) if place < len(self.nodes) else (-1, -1)

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of nodes, items and counts."""
        return np.array(self.nodes), np.array(self.items), np.array(self.counts)


class ClickCounts:
    """Clicks of every node by term and item, and what the owner shares with each. All are codes of a log.

    Adding or taking back a row of another node costs O(1), or O(items of the owner under the term) where the node has
    not searched the term before; a row of the owner costs O(nodes that share what is new in it).

    Args:
        owner: the node whose similarities are kept.
        top_k: K.
        variant: which of the two formulas.
        match: kappa_m counts items, or pairs of term and item.
        terms: the terms that the codes stand for.
    """

    def __init__(self, owner: int, top_k: int, variant: Variant, match: Match, terms: Words) -> None:
        self.owner, self.top_k, self.variant, self.match = owner, top_k, variant, match
        self._words = terms
        self._keys: list[tuple[str, Any]] = []  # of the terms, to sort by
        self._by_term: dict[int, TermClicks] = {}
        self._clicks: list[dict[int, dict[int, int]]] = []  # node -> term -> item -> place in the term's clicks
        self._terms: list[dict[int, int]] = []  # node -> term -> rows
        self._items: list[dict[int, set[int]]] = []  # node -> item -> terms
        self._clickers: dict[int, set[int]] = {}  # item -> nodes
        self._both: list[set[Any]] = []  # what kappa_m counts
        self._common: list[int] = []  # items that owner and node have clicked under any terms
        self._top: list[frozenset[int] | None] = []  # None: to be found anew
        self._least: list[int] = []  # rows of the rarest of the most frequent terms; 0 where there is room for more
        self._raw: list[float] = []
        self._stale: set[int] = set()
        self._all_stale = False
        self._reach(owner)

    @property
    def nodes(self) -> list[int]:
        """Nodes with a row, and the owner."""
        return [node for node, terms in enumerate(self._terms) if terms or node == self.owner]

    def clicks(self, term: int) -> TermClicks | None:
        """The clicks under a term."""
        return self._by_term.get(term)

    def raw(self) -> np.ndarray:
        """S of every node before it is normalised: (nodes,)."""
        own = self._terms_on_top(self.owner)
        for node in range(len(self._raw)) if self._all_stale else self._stale:
            self._raw[node] = self._similarity(node, own)
        self._stale.clear()
        self._all_stale = False
        return np.array(self._raw)

    def add(self, node: int, term: int, item: int) -> None:
        """Count a row."""
        self._reach(node)
        rows = self._terms[node].get(term, 0) + 1
        self._terms[node][term] = rows
        top = self._top[node]
        if top is not None and rows >= self._least[node] and term not in top:
            self._renew_top(node)
        under = self._clicks[node].setdefault(term, {})
        clicks = self._by_term.get(term)
        if clicks is None:
            clicks = self._by_term[term] = TermClicks()
        place = under.get(item)
        if place is not None:
            clicks.counts[place] += 1
            return
        under[item] = clicks.add(node, item)
        self._pair_came(node, term, item)
        self._compare(node, term, item, term_changed=rows == 1)

    def remove(self, node: int, term: int, item: int) -> None:
        """Take back a row that was counted."""
        rows = self._terms[node][term] - 1
        self._terms[node][term] = rows
        self._renew_top(node)
        under, clicks = self._clicks[node][term], self._by_term[term]
        place = under[item]
        clicks.counts[place] -= 1
        if clicks.counts[place]:
            return
        del under[item]
        moved_node, moved_item = clicks.remove(place)
        if moved_node >= 0:
            self._clicks[moved_node][term][moved_item] = place
        if rows == 0:
            del self._terms[node][term], self._clicks[node][term]
        self._pair_went(node, term, item)
        self._compare(node, term, item, term_changed=rows == 0)

    def _reach(self, node: int) -> None:
        while len(self._terms) <= node:
            self._stale.add(len(self._terms))
            self._clicks.append({})
            self._terms.append({})
            self._items.append({})
            self._both.append(set())
            self._common.append(0)
            self._top.append(None)
            self._least.append(0)
            self._raw.append(0.0)

    def _pair_came(self, node: int, term: int, item: int) -> None:
        under = self._items[node].setdefault(item, set())
        under.add(term)
        if len(under) == 1:
            self._clickers.setdefault(item, set()).add(node)
            self._count_common(node, item, 1)

    def _pair_went(self, node: int, term: int, item: int) -> None:
        under = self._items[node][item]
        under.remove(term)
        if under:
            return
        del self._items[node][item]
        self._clickers[item].remove(node)
        if not self._clickers[item]:
            del self._clickers[item]
        self._count_common(node, item, -1)

    def _count_common(self, node: int, item: int, sign: int) -> None:
        """An item that a node clicks for the first time, or no longer."""
        if node != self.owner:
            self._common[node] += sign * (item in self._items[self.owner])
            return
        for other in self._clickers.get(item, ()):
            self._common[other] += sign

    def _compare(self, node: int, term: int, item: int, term_changed: bool) -> None:
        """Count anew what a pair that came or went may have changed."""
        if node != self.owner:
            self._stale.add(node)
            self._check(node, term, item)
            if term_changed and self.match == "items":
                for other_item in self._clicks[self.owner].get(term, ()):
                    self._check(node, term, other_item)
            return
        self._all_stale = True
        for other in self._clickers.get(item, ()):
            self._check(other, term, item)
        if term_changed and self.match == "items" and (clicks := self._by_term.get(term)):
            for other, other_item in zip(clicks.nodes, clicks.items, strict=True):
                self._check(other, term, other_item)

    def _check(self, node: int, term: int, item: int) -> None:
        """Whether an item, or a pair of term and item, counts for kappa_m."""
        if node == self.owner:
            return
        if self.match == "pairs":
            what: Any = (term, item)
            holds = item in self._clicks[self.owner].get(term, ()) and item in self._clicks[node].get(term, ())
        else:
            what = item
            own, other = self._items[self.owner].get(item), self._items[node].get(item)
            holds = (  # each has clicked it under a term that both have searched
                own is not None
                and other is not None
                and not own.isdisjoint(self._terms[node].keys())
                and not other.isdisjoint(self._terms[self.owner].keys())
            )
        (self._both[node].add if holds else self._both[node].discard)(what)

    def _similarity(self, node: int, own: frozenset[int]) -> float:
        items = self._items[node]
        if node == self.owner:
            shared, union = len(own), len(items)
            matches = len(items) if self.match == "items" else sum(map(len, self._clicks[node].values()))
        else:
            if self._terms[self.owner].keys().isdisjoint(self._terms[node].keys()):
                return 0.0
            shared, matches = len(own & self._terms_on_top(node)), len(self._both[node])
            union = len(self._items[self.owner]) + len(items) - self._common[node]
        if union == 0:
            return 0.0
        return (shared + matches**2) / union if self.variant == "paper" else (matches + shared**2) / union

    def _renew_top(self, node: int) -> None:
        self._top[node] = None
        if node == self.owner:
            self._all_stale = True
        else:
            self._stale.add(node)

    def _terms_on_top(self, node: int) -> frozenset[int]:
        """The K most frequent terms; of equally frequent ones the first by `sort_key`."""
        found = self._top[node]
        if found is not None:
            return found
        rows = self._terms[node]
        best: Iterable[int] = rows
        if len(rows) > self.top_k:
            best = sorted(rows, key=self._order(rows))[: self.top_k]
        found = self._top[node] = frozenset(best)
        self._least[node] = min(map(rows.__getitem__, found)) if len(found) == self.top_k else 0
        return found

    def _order(self, rows: Mapping[int, int]) -> Any:
        while len(self._keys) < len(self._words):
            self._keys.append(sort_key(self._words.values[len(self._keys)]))
        return lambda term: (-rows[term], self._keys[term])
