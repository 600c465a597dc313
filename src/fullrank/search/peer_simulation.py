"""A network of G-Rank peers in one process, honest ones and attackers (the protocol of arXiv 2301.12530)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from fullrank.search.catalogue import Catalogue
from fullrank.search.click_rows import Vocabulary
from fullrank.search.click_similarity import Item, Term, sort_key
from fullrank.search.gossip import GossipPeer
from fullrank.search.network_agreement import AgreementMeter, Snapshot, Traffic, summary
from fullrank.search.peer_scenarios import Event, Scenario, Timeline

Choice = Callable[[Any, Term, list[Item]], Item]


class P2PSimulation:
    """Peers query, click, and gossip; one query a step.

    Args:
        n_nodes: honest peers.
        catalogue: item -> terms; a query is one term.
        scenario: see `Timeline`.
        F: isolation constant.
        steps: queries.
        seed: of all choices.
        click: what an honest peer clicks: "top", "lowest-id" (of the results that match, as the original code does), or
            `click(node, term, results) -> item`.
        introductions: see `GossipPeer`.
        away: see `Timeline`.

    Attributes:
        peers: all peers so far, by node.

    Raises:
        ValueError: an unknown scenario or click, or numbers below 1.
    """

    def __init__(
        self,
        n_nodes: int,
        catalogue: Mapping[Any, Iterable[Term]],
        scenario: Scenario = "baseline",
        F: float | int = 0.0,
        steps: int = 2_000,
        seed: int = 0,
        click: Literal["top", "lowest-id"] | Choice = "top",
        introductions: bool = True,
        away: float | int = 0.0,
    ) -> None:
        if not callable(click) and click not in ("top", "lowest-id"):
            raise ValueError(f"click={click!r} is not known; accepted: top, lowest-id, or a function")
        catalogue = catalogue if isinstance(catalogue, Catalogue) else Catalogue(catalogue)
        self.timeline = Timeline(n_nodes, catalogue, scenario, steps, seed, away)
        self.F, self.click, self.introductions = F, click, introductions
        self.peers: dict[Any, GossipPeer] = {}
        self._vocabulary = Vocabulary.empty()
        self._meter = AgreementMeter(catalogue)
        self._traffic = Traffic()
        self._away: set[Any] = set()

    def run(self, every: int = 100) -> list[Snapshot]:
        """The network every so many steps, and at the start.

        Raises:
            ValueError: every below 1.
        """
        self.peers.clear()
        self._traffic, self._away = Traffic(), set()
        self._vocabulary = Vocabulary.empty()
        found = []
        for event in self.timeline.events(every):
            if event.kind == "join":
                self._join(event)
            elif event.kind == "query":
                self._query(self.peers[event.node], event.term)
            elif event.kind == "attack":
                self._attack(self.peers[event.node], event.term)
            elif event.kind == "measure":
                found.append(self._measure(event.step))
            else:
                (self._away.add if event.kind == "leave" else self._away.discard)(event.node)
        return found

    def _join(self, event: Event) -> None:
        peer = self.timeline.peer(event.node, self.F, self._vocabulary)
        peer.introductions = self.introductions
        self.peers[event.node] = peer
        if event.host is not None:
            peer.bootstrap(self.peers[event.host], most=self.timeline.sample(event.node))

    def _query(self, peer: GossipPeer, term: Term) -> None:
        items = peer.search(term).items
        if items:
            peer.click(term, self._choice(peer, term, items))
        self._gossip(peer)

    def _choice(self, peer: GossipPeer, term: Term, items: list[Item]) -> Item:
        if callable(self.click):
            return self.click(peer.node_id, term, items)
        if self.click == "top":
            return items[0]
        return min(peer.ranker.metadata.matching(term, items) or items, key=sort_key)

    def _gossip(self, peer: GossipPeer) -> None:
        partner = None if peer.node_id in self._away else peer.partner()
        if partner is None or partner in self._away:
            return
        other = self.peers[partner]
        if self.timeline.push:
            message = peer.news(partner)
            other.take(message)
            peer.told(partner, message)
        else:
            message = other.answer(peer.request(partner))
            peer.take(message, asked=partner)
        self._traffic.add(message)

    def _attack(self, peer: GossipPeer, target: Term) -> None:
        """All rows at once; where rows are pushed, after each to two peers."""
        for term, item in self.timeline.attack_clicks(peer, target):
            peer.click(term, item)
            for _ in range(2 if self.timeline.push else 0):
                self._gossip(peer)

    def _measure(self, step: int) -> Snapshot:
        honest = [self.peers[node] for node in range(self.timeline.n_nodes)]
        clicks = sum(map(self._meter.clicks, honest[1:]), self._meter.clicks(honest[0]))
        agreements = [self._meter.compare(peer, clicks) for peer in honest]
        traffic, self._traffic = self._traffic, Traffic()
        return summary(step, agreements, [peer.ranker.n_rows_ for peer in honest], traffic)
