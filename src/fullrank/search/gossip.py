"""Peers that rank by their click logs and exchange them: what is said, without how it travels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from fullrank.search.click_log import Click
from fullrank.search.g_rank import GRank


class GossipPeer:
    """A peer: its ranker, the peers that it knows, and what each of them has given so far.

    Args:
        node_id: of the peer.
        catalogue: item -> its terms.
        isolation: F of its ranker.
        ranker: in place of a `GRank` with these.
    """

    def __init__(
        self,
        node_id: Hashable,
        catalogue: Mapping[Any, Iterable[Hashable]],
        isolation: float | int = 0.0,
        ranker: GRank | None = None,
    ) -> None:
        self.node_id = node_id
        self.ranker = ranker or GRank(isolation=isolation, node_id=node_id, catalogue=catalogue)
        #: Known peer -> position in its log up to which its rows have come.
        self.progress: dict[Hashable, int] = {}

    def click(self, term: Hashable, item: Hashable) -> None:
        """The peer's owner searches and clicks."""
        self.ranker.partial_fit([(self.node_id, term, item)])

    def rows_since(self, position: int, most: int | None = None) -> list[Click]:
        """What this peer tells another that has all rows before a position."""
        return self.ranker.log.since(position, most)

    def receive(self, sender: Hashable, rows: Iterable[Any]) -> int:
        """Take rows from a peer; how many were new. Nodes named in them become known.

        Raises:
            ValueError: a peer that speaks to itself, or a malformed row.
        """
        if sender == self.node_id:
            raise ValueError(f"node {sender!r} gossips with itself")
        rows = list(rows)
        before = self.ranker.n_rows_
        self.ranker.partial_fit(rows)
        self.progress[sender] = self.progress.get(sender, 0) + len(rows)
        for row in rows:
            if row[0] != self.node_id:
                self.progress.setdefault(row[0], 0)
        return self.ranker.n_rows_ - before

    def partner(self, rng: np.random.Generator) -> Hashable | None:
        """A known peer, each with the same probability; None while none is known."""
        others = list(self.progress)
        return others[int(rng.integers(len(others)))] if others else None

    def pull(self, other: GossipPeer, most: int | None = None) -> int:
        """Ask a peer for the rows that it has not given yet; how many were new. Who is asked knows who asks."""
        other.progress.setdefault(self.node_id, 0)
        return self.receive(other.node_id, other.rows_since(self.progress.get(other.node_id, 0), most))
