"""Peers that rank by their click logs and exchange rows of them: what is said, whatever carries it."""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from fullrank.search.catalogue import Query
from fullrank.search.click_rows import Click, ClickRows
from fullrank.search.click_similarity import sort_key
from fullrank.search.g_rank import GRank, RankedItems

MOST_KNOWN = 100_000  # peers: whoever invents names does not fill the memory


class Request(NamedTuple):
    """What a peer that pulls says: who it is, and how far it has read the log of the other."""

    asker: Hashable
    epoch: int
    position: int


class Message(NamedTuple):
    """Rows of the sender's log.

    Attributes:
        sender: whose log it is.
        epoch: of that log; a log that was read from disk has another, because it may have lost rows.
        position: up to which the receiver has now read it; None for a sample.
        rows: of whomever.
    """

    sender: Hashable
    epoch: int
    position: int | None
    rows: ClickRows


class Taken(NamedTuple):
    """What became of a message.

    Attributes:
        rows: in it.
        new: rows that were learned.
        refused: rows that claim to be the receiver's own though it has not made them, or whose item the catalogue
            lacks.
    """

    rows: int
    new: int
    refused: int


class GossipPeer:
    """A peer: its ranker, the peers that it knows, and how far it has read their logs and told them its own.

    Args:
        ranker: what it ranks with; its owner is the peer.
        seed: of the choice of partners and samples.
        introductions: a peer becomes known by its rows, or by speaking; otherwise by its rows alone.
        journal: called with every click of the owner before anybody else can hear of it.

    Attributes:
        forged: rows so far that others made in this peer's name.
        epoch: of the log.
    """

    def __init__(
        self,
        ranker: GRank,
        seed: int | list[int] = 0,
        introductions: bool = True,
        journal: Callable[[Click], object] | None = None,
    ) -> None:
        self.ranker, self.introductions, self.journal = ranker, introductions, journal
        self.node_id = ranker.node_id
        self.forged = 0
        self.epoch = secrets.randbits(62)
        self.random = np.random.default_rng(seed)
        self._known: list[Hashable] = []
        self._met: set[Hashable] = set()
        self._read: dict[Hashable, tuple[int, int]] = {}  # peer -> epoch and position in its log
        self._told: dict[Hashable, int] = {}  # peer -> position in this log

    @property
    def known(self) -> tuple[Hashable, ...]:
        """Known peers, in order."""
        return tuple(self._known)

    @property
    def progress(self) -> dict[Hashable, tuple[int, int]]:
        """Peer -> epoch of its log, and position up to which it was read."""
        return dict(self._read)

    def resume(self, known: Iterable[Hashable], progress: Mapping[Hashable, tuple[int, int]]) -> None:
        """Go on with the peers and the progress of an earlier life; the log must have all that was read by then."""
        for node in known:
            self.meet(node)
        self._read.update(progress)

    def meet(self, node: Hashable) -> None:
        """Get to know a peer; beyond `MOST_KNOWN` nobody is added."""
        if node == self.node_id or node in self._met or len(self._met) >= MOST_KNOWN:
            return
        self._met.add(node)
        bisect.insort(self._known, node, key=sort_key)

    def partner(self) -> Hashable | None:
        """A known peer, each with the same probability; None while none is known."""
        return self._known[int(self.random.integers(len(self._known)))] if self._known else None

    def search(self, query: Query, k: int | None = None) -> RankedItems:
        """What the peer shows its owner: by all that it has heard, also when it is offline."""
        return self.ranker.rank(query, k)

    def click(self, term: Query, item: Hashable, time: int = 0) -> None:
        """The owner has searched and clicked; what was clicked joins the library.

        Raises:
            TypeError: a term or item that could not be told to others; see `ClickRows.to_bytes`.
            ValueError: an item that the catalogue does not have, or a missing term or item.
        """
        row = Click(self.node_id, term, item, self.ranker.log.next_number(self.node_id), time)
        encoded = self.ranker.log.encode([row])
        encoded.to_bytes()
        self.ranker.check(encoded)
        if self.journal is not None:
            self.journal(row)
        self.ranker.partial_fit(encoded)
        if self.ranker.metadata.library is not None:
            self.ranker.metadata.library.add(item)

    def request(self, node: Hashable) -> Request:
        """What to ask a peer with: for the rows that it has not given yet."""
        epoch, position = self._read.get(node, (0, 0))
        return Request(self.node_id, epoch, position)

    def answer(self, request: Request, most: int | None = None) -> Message:
        """The rows that the asker lacks, at most so many. Who asks becomes known.

        Raises:
            ValueError: a peer that asks itself.
        """
        self._spoken(request.asker)
        position = request.position if request.epoch == self.epoch else 0
        rows = self.ranker.log.since(position, most)
        return Message(self.node_id, self.epoch, self.ranker.log.position_after(position, len(rows)), rows)

    def sample(self, asker: Hashable, share: float, most: int | None = None) -> Message:
        """A random share of the rows for a newcomer, at least one and at most so many, each once.

        Raises:
            ValueError: a peer that asks itself.
        """
        self._spoken(asker)
        rows = self.ranker.log.rows
        count = min(len(rows), max(1, round(share * len(rows))), len(rows) if most is None else most)
        chosen = np.sort(self.random.choice(len(rows), count, replace=False)) if count else np.zeros(0, dtype=int)
        return Message(self.node_id, self.epoch, None, rows.choose(chosen))

    def news(self, node: Hashable, most: int | None = None) -> Message:
        """The rows that a peer has not been told, to be pushed; `told` says that they have arrived."""
        position = self._told.get(node, 0)
        rows = self.ranker.log.since(position, most)
        return Message(self.node_id, self.epoch, self.ranker.log.position_after(position, len(rows)), rows)

    def told(self, node: Hashable, message: Message) -> None:
        """A peer has taken what was pushed."""
        self._told[node] = message.position or 0

    def take(self, message: Message, asked: Hashable = None) -> Taken:
        """Learn what a peer says. The sender and all whose rows come become known.

        Args:
            message: what it says.
            asked: the peer whom this answers; None for what comes unasked. Only an answer moves how far that peer's
                log counts as read: else anybody could speak in its name and make the receiver skip its rows.

        Raises:
            ValueError: a peer that speaks to itself, or another one than was asked.
        """
        if asked is not None and message.sender != asked:
            raise ValueError(f"{message.sender!r} answers, but {asked!r} was asked; refuse the message")
        self._spoken(message.sender)
        honest = self._acceptable(message.rows)
        rows = message.rows if honest.all() else message.rows.choose(honest)
        before = self.ranker.log.position
        self.ranker.partial_fit(rows)
        for node in self.ranker.log.since(before).nodes:
            self.meet(node)
        if asked is not None and message.position is not None:
            self._read[asked] = (message.epoch, message.position)
        return Taken(len(message.rows), self.ranker.log.position - before, int((~honest).sum()))

    def pull(self, other: GossipPeer, most: int | None = None) -> Taken:
        """Ask a peer for what it has not given yet."""
        return self.take(other.answer(self.request(other.node_id), most), asked=other.node_id)

    def push(self, other: GossipPeer, most: int | None = None) -> Taken:
        """Tell a peer what it has not been told yet."""
        message = self.news(other.node_id, most)
        taken = other.take(message)
        self.told(other.node_id, message)
        return taken

    def bootstrap(self, other: GossipPeer, share: float = 0.1, most: int | None = 5) -> Taken:
        """Join the network by a sample of a peer's rows."""
        return self.take(other.sample(self.node_id, share, most))

    def _acceptable(self, rows: ClickRows) -> np.ndarray:
        """Rows that may be learned: not in the peer's own name, which it knows best, and of items that exist."""
        owner = rows.vocabulary.nodes.find(self.node_id)
        own = rows.columns[0] == (-1 if owner is None else owner)
        invented = own & (rows.columns[3] >= self.ranker.log.next_number(self.node_id))
        self.forged += int(invented.sum())
        return ~invented & ~self.ranker.metadata.unknown(rows)

    def _spoken(self, node: Hashable) -> None:
        if node == self.node_id:
            raise ValueError(f"node {node!r} gossips with itself; name another peer")
        if self.introductions:
            self.meet(node)
