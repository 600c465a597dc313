"""The peers of one process, and what the process is told to do with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fullrank.search.click_rows import Vocabulary
from fullrank.search.gossip import GossipPeer
from fullrank.search.gossip_network import NetworkPeer
from fullrank.search.gossip_wire import Address
from fullrank.search.network_agreement import Agreement, AgreementMeter, Traffic
from fullrank.search.peer_scenarios import Event, Timeline
from fullrank.search.peer_store import PeerStore


class Look(NamedTuple):
    """What a process says of its honest peers when the network is measured, and of all its peers since the last time.

    Attributes:
        agreements: by peer.
        rows: of the log, by peer.
        traffic: messages that went over.
        refused: reason -> messages, connections and rows that were not accepted.
        unreached: exchanges that failed.
    """

    agreements: list[Agreement]
    rows: list[int]
    traffic: Traffic
    refused: Counter[str]
    unreached: int


@dataclass(frozen=True)
class Plan:
    """What a process has to know.

    Attributes:
        timeline: of the run.
        F: isolation constant.
        folder: where its peers are stored, each in a folder of its own; None where they are not.
        ports: node -> port, of peers that are stored and go on after a kill.
        away: nodes that are cut off at its start.
        life: how often the process was killed.
    """

    timeline: Timeline
    F: float | int
    folder: Path | None
    ports: dict[int, int]
    away: frozenset[int] = frozenset()
    life: int = 0


class Host:
    """The peers of one process.

    Args:
        plan: what to do.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.peers: dict[int, NetworkPeer] = {}
        self._away = set(plan.away)
        self._meter = AgreementMeter(plan.timeline.catalogue)
        self._vocabulary = Vocabulary.empty()
        self._traffic = Traffic()

    async def resume(self) -> None:
        """Read the peers that were stored, and listen where they listened."""
        for node, port in self.plan.ports.items():
            seed = [self.plan.timeline.seed, node, 1, self.plan.life]
            peer, addresses = self._store(node).load(self.plan.timeline.catalogue, None, self._vocabulary, seed)
            found = self.peers[node] = NetworkPeer(peer, port=port)
            found.addresses = {name: Address(*address) for name, address in addresses.items()}
            if node not in self._away:
                await found.start()

    async def join(self, event: Event, host: Address | None) -> Address:
        """A new peer; where it listens."""
        found = NetworkPeer(self.plan.timeline.peer(event.node, self.plan.F, self._vocabulary))
        self.peers[event.node] = found
        await found.start()
        if host is not None:
            await found.bootstrap(event.host, host, self.plan.timeline.sample(event.node))
        self._save(event.node)
        return found.address

    async def see_to(self, events: list[Event]) -> None:
        """Queries and attacks: those of a peer one after another, those of different peers at the same time."""
        by_node: dict[int, list[Event]] = {}
        for event in events:
            by_node.setdefault(event.node, []).append(event)
        await asyncio.gather(*(self._see_to(self.peers[node], found) for node, found in by_node.items()))

    async def leave(self, node: int) -> None:
        """Cut a peer off."""
        self._away.add(node)
        await self.peers[node].close()

    async def come_back(self, node: int) -> None:
        """End that."""
        self._away.discard(node)
        await self.peers[node].start()

    async def clicks(self) -> np.ndarray:
        """Of the honest peers: (terms, items of the term)."""
        return sum(map(self._meter.clicks, self._honest()), np.zeros(1))

    async def look(self, clicks: np.ndarray) -> Look:
        """The honest peers beside the whole network."""
        for node in self.peers:
            self._save(node)
        honest = self._honest()
        refused = sum((peer.refused for peer in self.peers.values()), Counter())
        unreached = sum(peer.unreached for peer in self.peers.values())
        for peer in self.peers.values():
            peer.refused, peer.unreached = Counter(), 0
        traffic, self._traffic = self._traffic, Traffic()
        agreements = [self._meter.compare(peer, clicks) for peer in honest]
        return Look(agreements, [peer.ranker.n_rows_ for peer in honest], traffic, refused, unreached)

    def _honest(self) -> list[GossipPeer]:
        return [self.peers[node].peer for node in sorted(self.peers) if node < self.plan.timeline.n_nodes]

    async def _see_to(self, speaker: NetworkPeer, events: list[Event]) -> None:
        for event in events:
            if event.kind == "query":
                items = speaker.peer.search(event.term).items
                if items:
                    speaker.peer.click(event.term, items[0])
                await self._gossip(speaker)
                continue
            for term, item in self.plan.timeline.attack_clicks(speaker.peer, event.term):
                speaker.peer.click(term, item)
                for _ in range(2 if self.plan.timeline.push else 0):
                    await self._gossip(speaker)

    async def _gossip(self, speaker: NetworkPeer) -> None:
        if speaker.peer.node_id in self._away:
            return
        message = await speaker.gossip(self.plan.timeline.push)
        if message is not None:
            self._traffic.add(message)

    def _store(self, node: int) -> PeerStore:
        assert self.plan.folder is not None
        return PeerStore(self.plan.folder / str(node))

    def _save(self, node: int) -> None:
        if self.plan.folder is not None:
            self._store(node).save(self.peers[node].peer, self.peers[node].addresses)


def serve(connection: Connection, plan: Plan) -> None:
    """Do what comes through a connection until it ends, and answer: what failed, and what it gave."""
    asyncio.run(_serve(connection, Host(plan)))


async def _serve(connection: Connection, host: Host) -> None:
    await host.resume()
    try:
        while True:
            name, *arguments = await asyncio.to_thread(connection.recv)
            try:
                answer = None, await getattr(host, name)(*arguments)
            except Exception as error:  # whatever it is, who waits for the answer must hear of it
                answer = repr(error), None
            connection.send(answer)
    except EOFError:  # the other end is closed: the run is over
        for peer in host.peers.values():
            await peer.close()
