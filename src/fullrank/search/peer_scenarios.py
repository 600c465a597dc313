"""What happens in a network of G-Rank peers, event by event: who joins, who asks what, who attacks and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from fullrank.search.catalogue import Catalogue
from fullrank.search.click_rows import Vocabulary
from fullrank.search.click_similarity import Item, Term
from fullrank.search.g_rank import GRank
from fullrank.search.gossip import GossipPeer
from fullrank.search.run import at_least_one

Scenario = Literal["baseline", "targeted", "inflation", "epic", "pull", "push"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
_LIBRARY = 0.1  # of the catalogue


@dataclass(frozen=True)
class Attack:
    """What attackers do.

    Attributes:
        share: attackers over honest peers.
        clicks: rows that each makes, as a multiple of what an honest peer makes in the whole run.
        one_term: whether all aim at the same term; otherwise each row has a random one.
        random: whether they click on any result; otherwise on the last.
    """

    share: float
    clicks: float | int
    one_term: bool = False
    random: bool = False

    def rows(self, peer: GossipPeer, terms: Sequence[Term], target: Term, count: int) -> list[tuple[Term, Item]]:
        """What an attacker clicks, by its own ranking before the attack."""
        shown: dict[Term, list[Item]] = {}
        found: list[tuple[Term, Item]] = []
        for _ in range(count):
            term = target if self.one_term else terms[int(peer.random.integers(len(terms)))]
            items = shown.setdefault(term, peer.search(term).items if term not in shown else [])
            if items:
                found.append((term, items[int(peer.random.integers(len(items))) if self.random else -1]))
        return found


ATTACKS: dict[Scenario, Attack] = {
    "targeted": Attack(0.1, 1, one_term=True),
    "inflation": Attack(0.1, 10, random=True),
    "epic": Attack(3.0, 1),
    "pull": Attack(0.1, 1),
    "push": Attack(0.1, 1),
}


class Event(NamedTuple):
    """One thing that happens.

    Attributes:
        step: queries so far.
        kind: "join" (a node, by the help of a host), "query" (a node, a term), "attack" (a node, a target term),
            "leave" and "return" (a node that is cut off, and still searches, and one that is back), or "measure".
        node: who.
        host: who gives a newcomer a sample; None for the first.
        term: what.
    """

    step: int
    kind: Literal["join", "query", "attack", "leave", "return", "measure"]
    node: int = -1
    host: int | None = None
    term: Term = ""


@dataclass(frozen=True)
class Timeline:
    """The events of a run. Honest nodes are 0 to n_nodes - 1, attackers follow.

    Args:
        n_nodes: honest peers.
        catalogue: items with terms; a query is one term.
        scenario: "baseline"; "targeted" (a tenth of attackers, all on one term, last result); "inflation" (ten times
            the clicks, random results); "epic" (three of four nodes attack); "pull" and "push" (a tenth, last results,
            by either way of gossip). Attackers join after a quarter of the steps and attack after half.
        steps: queries.
        seed: of all choices.
        away: share of the honest peers that is cut off at any time, between the first and the last twentieth of the
            steps; others at every twentieth.

    Raises:
        ValueError: an unknown scenario, numbers below 1, a share outside [0, 1), or a catalogue without terms.
    """

    n_nodes: int
    catalogue: Catalogue
    scenario: Scenario = "baseline"
    steps: int = 2_000
    seed: int = 0
    away: float | int = 0.0

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"scenario={self.scenario!r} is not known; accepted: {', '.join(SCENARIOS)}")
        for name, value in (("n_nodes", self.n_nodes), ("steps", self.steps)):
            at_least_one(value, name)
        if not 0 <= self.away < 1:
            raise ValueError(f"away={self.away} is not accepted; it is a share of the peers, from 0 to below 1")
        if not self.catalogue.terms:
            raise ValueError("catalogue={} has no term that could be searched; give items with terms")

    @property
    def push(self) -> bool:
        """Whether rows are pushed rather than pulled."""
        return self.scenario == "push"

    @property
    def attack(self) -> Attack | None:
        """What attackers do, if there are any."""
        return ATTACKS.get(self.scenario)

    @property
    def attackers(self) -> range:
        """The nodes that attack."""
        count = max(1, round(self.attack.share * self.n_nodes)) if self.attack else 0
        return range(self.n_nodes, self.n_nodes + count)

    @property
    def attack_rows(self) -> int:
        """Rows that each attacker makes."""
        return max(1, round(self.attack.clicks * self.steps / self.n_nodes)) if self.attack else 0

    def events(self, every: int) -> Iterator[Event]:
        """All events in order, a measurement at the start, every so many steps and at the end.

        Raises:
            ValueError: every below 1.
        """
        at_least_one(every, "every")
        rng = np.random.default_rng([self.seed, 2**31])
        terms = self.catalogue.terms
        for node in range(self.n_nodes):
            yield Event(0, "join", node, host=int(rng.integers(node)) if node else None)
        yield Event(0, "measure")
        away: set[int] = set()
        for step in range(1, self.steps + 1):
            for event in self._churn(step):
                (away.add if event.kind == "leave" else away.discard)(event.node)
                yield event
            if step == max(1, self.steps // 4):
                present = sorted({*range(self.n_nodes)} - away)
                for node in self.attackers:
                    yield Event(step - 1, "join", node, host=present[int(rng.integers(len(present)))])
            if step == max(1, self.steps // 2):
                target = terms[int(rng.integers(len(terms)))]
                for node in self.attackers:
                    yield Event(step - 1, "attack", node, term=target)
            node, term = int(rng.integers(self.n_nodes)), terms[int(rng.integers(len(terms)))]
            yield Event(step, "query", node, term=term)
            if step % every == 0 or step == self.steps:
                yield Event(step, "measure")

    def _churn(self, step: int) -> Iterator[Event]:
        """Those who were cut off come back, and others are cut off."""
        period = max(1, self.steps // 20)
        if not self.away or step % period:
            return
        turn, last = step // period, self.steps // period - 1
        turns: tuple[tuple[Literal["return", "leave"], int], ...] = (("return", turn - 1), ("leave", turn))
        for kind, number in turns:
            if 1 <= number < last:
                rng = np.random.default_rng([self.seed, number, 2**30])
                for node in rng.choice(self.n_nodes, int(self.away * self.n_nodes), replace=False).tolist():
                    yield Event(step - 1, kind, node)

    def sample(self, node: int) -> int | None:
        """How many rows a newcomer is given at most: a few if it is honest; attackers take a whole tenth."""
        return 5 if node < self.n_nodes else None

    def attack_clicks(self, peer: GossipPeer, target: Term) -> list[tuple[Term, Item]]:
        """What an attacker clicks; nothing in a scenario without an attack."""
        return self.attack.rows(peer, self.catalogue.terms, target, self.attack_rows) if self.attack else []

    def peer(self, node: int, isolation: float | int, vocabulary: Vocabulary | None = None) -> GossipPeer:
        """A node as it starts: with a tenth of the catalogue and, if honest, a click for every term.

        The click is on a random item of the library that matches, or on any of the library where none does.
        """
        rng = np.random.default_rng([self.seed, node])
        items = list(self.catalogue)
        size = max(1, round(_LIBRARY * len(items)))
        library = [items[place] for place in np.sort(rng.choice(len(items), size, replace=False))]
        ranker = GRank(
            isolation=isolation, node_id=node, catalogue=self.catalogue, library=library, vocabulary=vocabulary
        )
        peer = GossipPeer(ranker, seed=[self.seed, node, 1])
        if node < self.n_nodes:
            owned = set(library)
            for term in self.catalogue.terms:
                matching = [item for item in self.catalogue.items_of(term) if item in owned] or library
                peer.click(term, matching[int(rng.integers(len(matching)))])
        return peer
