"""How far the peers of a network agree with what the whole network has clicked (arXiv 2301.12530)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fullrank.search.catalogue import Catalogue
from fullrank.search.click_rows import ClickRows
from fullrank.search.click_similarity import Item
from fullrank.search.gossip import GossipPeer, Message

_TEXT_ROW = 600  # bytes of a row as the original writes it


def positional_distance(order: Sequence[Item], reference: Sequence[Item]) -> int:
    """Sum of |place in one order - place in the other| over the items that both have."""
    places = {item: place for place, item in enumerate(reference)}
    return sum(abs(place - places[item]) for place, item in enumerate(order) if item in places)


def top_item_share(orders: Iterable[Sequence[Item]], references: Iterable[Sequence[Item]]) -> float:
    """Share of orders that begin as their references do; those without a reference are not counted.

    Raises:
        ValueError: another number of orders than of references.
    """
    pairs = [(order, reference) for order, reference in zip(orders, references, strict=True) if reference]
    return sum(bool(order) and order[0] == reference[0] for order, reference in pairs) / len(pairs) if pairs else 0.0


class Agreement(NamedTuple):
    """One peer beside the network, term by term: (terms,) each.

    Attributes:
        distance: positional distance of the peer's ranking from the network's order.
        count_distance: the same of its order by plain counts of the rows that it has.
        top: whether its ranking begins with the network's top item.
        count_top: whether its most clicked item is the network's.
    """

    distance: np.ndarray
    count_distance: np.ndarray
    top: np.ndarray
    count_top: np.ndarray


class AgreementMeter:
    """Compares orders of the items that match a term: by score, ties and items without a click by item.

    So all orders of a term are of the same items, and a peer that knows few of them is not taken for a close one.

    Args:
        catalogue: of items.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.terms = catalogue.terms
        self._term: dict[Hashable, int] = {term: row for row, term in enumerate(self.terms)}
        self._item = {item: column for column, item in enumerate(catalogue)}
        self._width = max(len(catalogue.items_of(term)) for term in self.terms)
        self._cell = np.full((len(self._term) + 1, len(self._item) + 1), -1)  # (term, item) -> place in the table
        self._present = np.zeros((len(self._term), self._width), dtype=bool)
        for row, term in enumerate(self.terms):
            for column, item in enumerate(catalogue.items_of(term)):
                self._cell[row, self._item[item]] = row * self._width + column
                self._present[row, column] = True

    def clicks(self, peer: GossipPeer) -> np.ndarray:
        """The peer's own clicks: (terms, items of the term)."""
        rows = peer.ranker.log.rows
        return self._table(rows.choose(rows.columns[0] == rows.vocabulary.nodes.find(peer.node_id)))

    def compare(self, peer: GossipPeer, clicks: np.ndarray) -> Agreement:
        """A peer beside the network.

        Args:
            peer: any.
            clicks: of all honest peers: the sum of their `clicks`.
        """
        rows = peer.ranker.log.rows
        scores = self._table(rows, peer.ranker.weights()[rows.columns[0]] if len(rows) else None)
        reference, top = self._places(clicks), clicks.argmax(1)
        found = []
        for table in (scores, self._table(rows)):
            distance = np.where(self._present, np.abs(self._places(table) - reference), 0).sum(1)
            found.append((distance, (table.argmax(1) == top) & (table.max(1) > 0)))
        (distance, first), (count_distance, count_first) = found
        return Agreement(distance, count_distance, first, count_first)

    def _table(self, rows: ClickRows, weights: np.ndarray | None = None) -> np.ndarray:
        """Rows, or their weights, by term and matching item."""
        terms, items = rows.vocabulary.terms.values, rows.vocabulary.items.values
        by_term = np.array([self._term.get(term, -1) for term in terms], dtype=int)
        by_item = np.array([self._item.get(item, -1) for item in items], dtype=int)
        if not len(rows):
            return np.zeros(self._present.shape)
        cells = self._cell[by_term[rows.columns[1]], by_item[rows.columns[2]]]
        known = cells >= 0
        counts = np.bincount(cells[known], None if weights is None else weights[known], self._present.size)
        return np.round(counts.reshape(self._present.shape), 9)

    def _places(self, table: np.ndarray) -> np.ndarray:
        order = np.argsort(np.where(self._present, -table, np.inf), axis=1, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(order.shape[1])[None, :], axis=1)
        return places


@dataclass
class Traffic:
    """Messages that were exchanged.

    Attributes:
        rows: of each.
        packed: bytes of the largest as it is sent, without its header.
    """

    rows: list[int] = field(default_factory=list)
    packed: int = 0

    def add(self, message: Message) -> None:
        """One more."""
        if len(message.rows) > max(self.rows, default=-1):
            self.packed = len(message.rows.to_bytes())
        self.rows.append(len(message.rows))

    def join(self, other: Traffic) -> Traffic:
        """The messages of both."""
        larger = max(self, other, key=lambda traffic: max(traffic.rows, default=-1))
        return Traffic(self.rows + other.rows, larger.packed)


class Snapshot(NamedTuple):
    """The state of the network at a step; distances and shares are means over honest peers and terms.

    Attributes:
        step: queries so far.
        distance: positional distance of the peers' rankings from the network's order by clicks.
        count_distance: the same of their orders by plain counts, as the original measures.
        top_share: share of rankings that begin with the network's top item.
        count_top_share: share of (peer, term) pairs whose most clicked item is the network's.
        median_top_share: median over terms of that share.
        rows: mean length of the logs.
        message_kb: mean message since the last snapshot, at 600 bytes a row.
        largest_kb: largest message since the last snapshot, at 600 bytes a row.
        over_600_kb: share of messages since the last snapshot that exceed 600 kB at 600 bytes a row.
        packed_kb: largest message since the last snapshot, as it is sent.
    """

    step: int
    distance: float
    count_distance: float
    top_share: float
    count_top_share: float
    median_top_share: float
    rows: float
    message_kb: float
    largest_kb: float
    over_600_kb: float
    packed_kb: float


def summary(step: int, agreements: Sequence[Agreement], rows: Sequence[int], traffic: Traffic) -> Snapshot:
    """What single peers and messages come to."""
    distance, count_distance, top, count_top = (np.array(part) for part in zip(*agreements, strict=True))
    sizes = np.array(traffic.rows or [0])
    return Snapshot(
        step=step,
        distance=float(distance.mean()),
        count_distance=float(count_distance.mean()),
        top_share=float(top.mean()),
        count_top_share=float(count_top.mean()),
        median_top_share=float(np.median(count_top.mean(0))),
        rows=float(np.mean(rows)),
        message_kb=float(sizes.mean()) * _TEXT_ROW / 1000,
        largest_kb=float(sizes.max()) * _TEXT_ROW / 1000,
        over_600_kb=float((sizes * _TEXT_ROW > 600_000).mean()),
        packed_kb=traffic.packed / 1000,
    )
