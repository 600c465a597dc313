"""How alike two peers search and click, kept up to date row by row.

S_i(j) = (kappa_t + kappa_m^2) / kappa_u: kappa_t shared ones of the K most frequent terms, kappa_m items that both have
clicked under terms that both have searched, kappa_u items that either has clicked; 0 without a shared term.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import Literal

Node = Hashable
Term = Hashable
Item = Hashable
Variant = Literal["paper", "code"]
Match = Literal["items", "pairs"]


def sort_key(value: Hashable) -> tuple[str, object]:
    """Orders values of one type as they are, and different types by the type's name."""
    return type(value).__name__, value


class ClickCounts:
    """Clicks of every node by term and item, and what the owner shares with each of them.

    Args:
        owner: the node whose similarities are kept.
        top_k: K.
        match: kappa_m counts items, or pairs of term and item.
    """

    def __init__(self, owner: Node, top_k: int, match: Match) -> None:
        self.owner, self.top_k, self.match = owner, top_k, match
        #: node -> term -> item -> rows.
        self.clicks: dict[Node, dict[Term, Counter[Item]]] = {}
        self.terms: dict[Node, Counter[Term]] = {}
        self._items: dict[Node, Counter[Item]] = {}  # terms under which the node has clicked the item
        self._searched: dict[Term, set[Node]] = defaultdict(set)
        self._clicked: dict[Item, set[Node]] = defaultdict(set)
        self._own: dict[Node, Counter[Item]] = defaultdict(Counter)  # the owner's items under shared terms
        self._other: dict[Node, Counter[Item]] = defaultdict(Counter)  # the node's items under shared terms
        self._matches: Counter[Node] = Counter()  # kappa_m
        self._pairs: Counter[Node] = Counter()
        self._common: Counter[Node] = Counter()  # items that both have clicked at all
        self._shared: Counter[Node] = Counter()  # shared terms
        self._top: dict[Node, frozenset[Term]] = {}

    def add(self, node: Node, term: Term, item: Item, sign: int = 1) -> None:
        """Count one row, or with `sign=-1` take one back that was counted."""
        self._top.pop(node, None)
        if sign > 0:
            terms = self.terms.setdefault(node, Counter())
            terms[term] += 1
            if terms[term] == 1:
                self._term(node, term, 1)
            found = self.clicks.setdefault(node, {}).setdefault(term, Counter())
            found[item] += 1
            if found[item] == 1:
                self._pair(node, term, item, 1)
            return
        found = self.clicks[node][term]
        found[item] -= 1
        if found[item] == 0:
            self._pair(node, term, item, -1)
            del found[item]
        self.terms[node][term] -= 1
        if self.terms[node][term] == 0:
            self._term(node, term, -1)
            del self.terms[node][term], self.clicks[node][term]
        if not self.terms[node]:
            del self.terms[node], self.clicks[node]

    def raw(self, node: Node, variant: Variant) -> float:
        """S before it is normalised."""
        if node == self.owner:
            clicked = len(self._items.get(node, ()))
            pairs = sum(len(items) for items in self.clicks.get(node, {}).values())
            matches, union, shared = (clicked if self.match == "items" else pairs), clicked, len(self.top(node))
        else:
            if self._shared[node] == 0:
                return 0.0
            matches = self._matches[node] if self.match == "items" else self._pairs[node]
            own, other = self._items.get(self.owner, Counter()), self._items.get(node, Counter())
            union = len(own) + len(other) - self._common[node]
            shared = len(self.top(self.owner) & self.top(node))
        if union == 0:
            return 0.0
        return (shared + matches**2) / union if variant == "paper" else (matches + shared**2) / union

    def top(self, node: Node) -> frozenset[Term]:
        """The K most frequent terms; of equal ones the first."""
        if node not in self._top:
            counts = self.terms.get(node, Counter())
            best = sorted(counts, key=lambda term: (-counts[term], sort_key(term)))
            self._top[node] = frozenset(best[: self.top_k])
        return self._top[node]

    def _term(self, node: Node, term: Term, sign: int) -> None:
        """A term that the node searches for the first time, or no longer."""
        if node == self.owner:
            partners = self._searched[term] - {node}
        else:
            partners = {node} if self.owner in self._searched[term] else set()
        (self._searched[term].add if sign > 0 else self._searched[term].discard)(node)
        for partner in partners:
            self._shared[partner] += sign
            for item in self.clicks.get(self.owner, {}).get(term, ()):
                self._bump(self._own, self._other, partner, item, sign)
            for item in self.clicks.get(partner, {}).get(term, ()):
                self._bump(self._other, self._own, partner, item, sign)

    def _pair(self, node: Node, term: Term, item: Item, sign: int) -> None:
        """An item that the node clicks under a term for the first time, or no longer."""
        items = self._items.setdefault(node, Counter())
        before = items[item]
        items[item] += sign
        if (before, sign) in ((0, 1), (1, -1)):
            self._item(node, item, sign)
        if items[item] == 0:
            del items[item]
        if node == self.owner:
            for partner in self._searched[term] - {node}:
                self._bump(self._own, self._other, partner, item, sign)
                self._pairs[partner] += sign * (item in self.clicks.get(partner, {}).get(term, ()))
        elif self.owner in self._searched[term]:
            self._bump(self._other, self._own, node, item, sign)
            self._pairs[node] += sign * (item in self.clicks.get(self.owner, {}).get(term, ()))

    def _item(self, node: Node, item: Item, sign: int) -> None:
        """An item that the node clicks at all for the first time, or no longer."""
        if node == self.owner:
            for partner in self._clicked[item] - {node}:
                self._common[partner] += sign
        elif self.owner in self._clicked[item]:
            self._common[node] += sign
        (self._clicked[item].add if sign > 0 else self._clicked[item].discard)(node)

    def _bump(
        self, side: dict[Node, Counter[Item]], facing: dict[Node, Counter[Item]], partner: Node, item: Item, sign: int
    ) -> None:
        """Count a shared term more or less under which one side has clicked an item."""
        counts = side[partner]
        before = counts[item]
        counts[item] += sign
        if (before, sign) in ((0, 1), (1, -1)) and facing[partner][item] > 0:
            self._matches[partner] += sign
