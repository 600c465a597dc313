"""A network of G-Rank peers, step by step, with honest ones and attackers (the protocol of arXiv 2301.12530)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from fullrank.search.g_rank import positional_distance
from fullrank.search.gossip import GossipPeer
from fullrank.search.run import at_least_one

Scenario = Literal["baseline", "targeted", "inflation", "epic", "push"]
_BYTES = 600  # of a row as text


@dataclass(frozen=True)
class Attack:
    """What attackers do.

    Attributes:
        share: attackers over honest peers.
        clicks: rows that each makes.
        random: whether it clicks on any result; otherwise on the last.
    """

    share: float
    clicks: int
    random: bool = False


ATTACKS = {
    "targeted": Attack(0.1, 100),
    "inflation": Attack(0.1, 1000, random=True),
    "epic": Attack(3.0, 100),
    "push": Attack(0.1, 100),
}


class Snapshot(NamedTuple):
    """The state of the network at a step.

    Attributes:
        step: number of queries so far.
        distance: mean positional distance of the honest peers' orders by clicks from the network's; items without a
            click follow by number.
        ranked_distance: the same of their similarity-weighted rankings.
        top_share: share of (peer, term) pairs whose most clicked item is the network's.
        rows: mean length of the honest peers' logs.
        message_kilobytes: largest message so far.
    """

    step: int
    distance: float
    ranked_distance: float
    top_share: float
    rows: float
    message_kilobytes: float


def synthetic_catalogue(
    items: int = 256, tags: int = 39, per_item: int = 3, zipf: float = 0.0, seed: int = 0
) -> dict[int, tuple[int, ...]]:
    """Items with tags, drawn uniformly, or with probability 1 / rank^zipf.

    Raises:
        ValueError: more tags an item than there are.
    """
    if not 1 <= per_item <= tags:
        raise ValueError(f"per_item={per_item} is not accepted; it lies between 1 and tags={tags}")
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, tags + 1) ** zipf
    return {
        item: tuple(rng.choice(tags, per_item, replace=False, p=weight / weight.sum()).tolist())
        for item in range(items)
    }


class P2PSimulation:
    """Peers query, click, and gossip; one query a step.

    Args:
        n_nodes: honest peers.
        catalogue: item -> tags; a query is one tag.
        scenario: "baseline", an attack ("targeted", "inflation", "epic"), or "push": the targeted attack where rows are
            pushed rather than pulled.
        isolation: F.
        steps: queries.
        seed: of all choices.
        push: rows are pushed, whatever the scenario.

    Raises:
        ValueError: an unknown scenario, or numbers below 1.
    """

    def __init__(
        self,
        n_nodes: int,
        catalogue: Mapping[int, Iterable[int]],
        scenario: Scenario = "baseline",
        isolation: float | int = 0.0,
        steps: int = 2_000,
        seed: int = 0,
        push: bool | None = None,
    ) -> None:
        if scenario not in get_args(Scenario):
            raise ValueError(f"scenario={scenario!r} is not known; accepted: {', '.join(get_args(Scenario))}")
        for name, value in (("n_nodes", n_nodes), ("steps", steps)):
            at_least_one(value, name)
        self.catalogue = {item: tuple(tags) for item, tags in catalogue.items()}
        self.steps, self.scenario = steps, scenario
        self.push = scenario == "push" if push is None else push
        self._rng = np.random.default_rng(seed)
        self._tagged: dict[int, list[int]] = defaultdict(list)
        for item, tags in self.catalogue.items():
            for tag in tags:
                self._tagged[tag].append(item)
        self.terms = sorted(self._tagged)
        self.peers: dict[Any, GossipPeer] = {}
        self._honest: list[Any] = []
        self._clicks: dict[int, Counter[int]] = defaultdict(Counter)  # of honest peers, by term and item
        self._largest = 0
        self._pushed: dict[tuple[Any, Any], int] = defaultdict(int)
        for node in range(n_nodes):
            self._join(node, isolation)
        self._isolation = isolation

    def run(self, every: int = 100) -> list[Snapshot]:
        """The network every so many steps, and at the start.

        Args:
            every: steps from one snapshot to the next.
        """
        attack = ATTACKS.get(self.scenario)
        found = [self.snapshot(0)]
        for step in range(1, self.steps + 1):
            if attack is not None and step == self.steps // 4:
                self._infiltrate(attack)
            if attack is not None and step == self.steps // 2:
                self._strike(attack)
            self._step(self._honest[int(self._rng.integers(len(self._honest)))])
            if step % every == 0 or step == self.steps:
                found.append(self.snapshot(step))
        return found

    def snapshot(self, step: int) -> Snapshot:
        """What the network looks like now."""
        orders = {term: self._global_order(term) for term in self.terms}
        distances, ranked, tops, pairs = [], [], 0, 0
        for node in self._honest:
            peer = self.peers[node]
            for term in self.terms:
                counts = self._counts(peer, term)
                local = sorted(self._tagged[term], key=lambda item, counts=counts: (-counts[item], item))
                distances.append(positional_distance(local, orders[term]))
                ranked.append(positional_distance(peer.ranker.rank(term)[0], orders[term]))
                pairs += 1
                tops += local[0] == orders[term][0]
        rows = float(np.mean([self.peers[node].ranker.n_rows_ for node in self._honest]))
        share = tops / pairs if pairs else 0.0
        return Snapshot(step, float(np.mean(distances)), float(np.mean(ranked)), share, rows, self._largest / 1000)

    def _join(self, node: Any, isolation: float | int, honest: bool = True) -> None:
        peer = GossipPeer(node, self.catalogue, isolation)
        others = list(self.peers)
        if honest:
            for term in self.terms:
                own = self._tagged[term]
                self._click(peer, term, own[int(self._rng.integers(len(own)))])
            self._honest.append(node)
        if others:  # a tenth of an earlier peer's rows, at most five
            other = self.peers[others[int(self._rng.integers(len(others)))]]
            rows = other.rows_since(0)
            count = min(5, max(1, len(rows) // 10))
            chosen = sorted(self._rng.choice(len(rows), min(count, len(rows)), replace=False).tolist()) if rows else []
            peer.receive(other.node_id, [rows[place] for place in chosen])
            peer.progress[other.node_id] = 0  # a sample: the rest, and it again, is still to come
        self.peers[node] = peer

    def _step(self, node: Any) -> None:
        peer = self.peers[node]
        term = self.terms[int(self._rng.integers(len(self.terms)))]
        results: list[Any] = peer.ranker.rank(term)[0]
        if results:
            self._click(peer, term, results[0])
        if self.push:
            self._give(peer)
            return
        partner = peer.partner(self._rng)
        if partner is not None:
            before = peer.progress.get(partner, 0)
            peer.pull(self.peers[partner])
            self._largest = max(self._largest, _BYTES * (peer.progress[partner] - before))

    def _give(self, peer: GossipPeer, most: int = 1) -> None:
        """Push the rows that a known peer has not been given."""
        for _ in range(most):
            partner = peer.partner(self._rng)
            if partner is None:
                return
            pair = (peer.node_id, partner)
            rows = peer.rows_since(self._pushed[pair])
            self._pushed[pair] += len(rows)
            self._largest = max(self._largest, _BYTES * len(rows))
            self.peers[partner].receive(peer.node_id, rows)

    def _click(self, peer: GossipPeer, term: int, item: int) -> None:
        peer.click(term, item)
        self._clicks[term][item] += 1

    def _infiltrate(self, attack: Attack) -> None:
        for number in range(max(1, round(attack.share * len(self._honest)))):
            self._join(("attacker", number), self._isolation, honest=False)
            honest = self.peers[self._honest[int(self._rng.integers(len(self._honest)))]]
            honest.progress.setdefault(("attacker", number), 0)

    def _strike(self, attack: Attack) -> None:
        attackers = [peer for node, peer in self.peers.items() if isinstance(node, tuple)]
        targeted = self.terms[int(self._rng.integers(len(self.terms)))]
        for peer in attackers:
            for _ in range(attack.clicks):
                term = self.terms[int(self._rng.integers(len(self.terms)))] if attack.random else targeted
                items = self._tagged[term]
                item = items[int(self._rng.integers(len(items)))] if attack.random else max(items)
                peer.click(term, item)
            if self.push:
                self._give(peer, most=2)

    def _global_order(self, term: int) -> list[int]:
        counts = self._clicks[term]
        return sorted(self._tagged[term], key=lambda item: (-counts[item], item))

    def _counts(self, peer: GossipPeer, term: int) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        for by_item in peer.ranker.clicks_of(term):
            for item, count in by_item.items():
                counts[item] += count
        return counts
