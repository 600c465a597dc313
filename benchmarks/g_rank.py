"""A step of a G-Rank network, a query of a long log, and the memory of a row.

The peer of the first table keeps each log in a pandas DataFrame and computes similarities and scores from it anew, as
the original does (whose notebook has no licence and needs pandas 1, so it cannot be run here): the same protocol, 200
steps, F = 1, pull gossip. Both sides' similarities are compared at the end. Targets: at least 100 times faster; less
than 1 ms for a query of 100,000 rows; less than 50 bytes a row.

    python benchmarks/g_rank.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from _timing import Pairs, seconds, show, timed
from fullrank.search import Catalogue, GossipPeer, GRank, Timeline
from fullrank.search.catalogue import synthetic_catalogue
from fullrank.search.peer_scenarios import Event

TOP_K = 10
COLUMNS = ["node", "term", "item", "number"]


class FramePeer:
    """A peer whose log is a DataFrame."""

    def __init__(self, node: int, timeline: Timeline) -> None:
        peer = timeline.peer(node, 1)
        self.node, self.catalogue, self.random = node, timeline.catalogue, peer.random
        self.library = set(peer.ranker.metadata.library or ())
        self.log: Any = pd.DataFrame(peer.ranker.log.to_rows())[COLUMNS]
        self.raw = {node: self.similarity(node)}
        self.read: dict[int, int] = {}

    def similarity(self, other: Any) -> float:
        """S before it is normalised, from the whole log."""
        own, others = (self.log[self.log["node"] == node] for node in (self.node, other))
        shared = set(own["term"]) & set(others["term"])
        if not shared:
            return 0.0
        tops = [
            set(side["term"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index[:TOP_K])
            for side in (own, others)
        ]
        matching = [set(side[side["term"].isin(shared)]["item"]) for side in (own, others)]
        union = set(own["item"]) | set(others["item"])
        return (len(tops[0] & tops[1]) + len(matching[0] & matching[1]) ** 2) / len(union)

    def top(self, term: Any) -> Any:
        """The item on top of the ranking."""
        largest = max(self.raw.values())
        rows = self.log[self.log["term"] == term]
        weights = rows["node"].map({node: raw / largest + 1 for node, raw in self.raw.items()})
        scores = weights.groupby(rows["item"]).sum().round(9).to_dict()
        at_hand = [item for item in self.catalogue.items_of(term) if item in self.library]
        return min({*scores, *at_hand}, key=lambda item: (term not in self.catalogue[item], -scores.get(item, 0), item))

    def click(self, term: Any) -> None:
        """The owner searches, and clicks what is on top."""
        item = self.top(term)
        number = int((self.log["node"] == self.node).sum())
        self.log = pd.concat([self.log, pd.DataFrame([[self.node, term, item, number]], columns=COLUMNS)])
        self.library.add(item)
        self.raw = {node: self.similarity(node) for node in self.raw}

    def take(self, rows: Any, sender: int) -> None:
        """Learn rows."""
        self.log = pd.concat([self.log, rows]).drop_duplicates(["node", "number"])
        for node in {sender, *rows["node"]}:
            self.raw[node] = self.similarity(node)

    def pull(self, other: FramePeer) -> None:
        """Ask for what the other has not given yet."""
        self.take(other.log.iloc[self.read.get(other.node, 0) :], other.node)
        self.read[other.node] = len(other.log)
        other.raw.setdefault(self.node, 0.0)


def begin(timeline: Timeline) -> tuple[dict[int, GossipPeer], dict[int, FramePeer]]:
    """The peers of both sides before the first step."""
    ours: dict[int, GossipPeer] = {}
    frames: dict[int, FramePeer] = {}
    for event in timeline.events(every=timeline.steps):
        if event.kind == "join":
            ours[event.node], frames[event.node] = timeline.peer(event.node, 1), FramePeer(event.node, timeline)
            if event.host is not None:
                ours[event.node].bootstrap(ours[event.host])
                frames[event.node].take(frames[event.host].log.sample(4, random_state=event.node), event.host)
    return ours, frames


def our_steps(peers: dict[int, GossipPeer], queries: Sequence[Event]) -> None:
    """Search, click, pull."""
    for event in queries:
        peer = peers[event.node]
        peer.click(event.term, peer.search(event.term).items[0])
        partner = peer.partner()
        if partner is not None:
            peer.pull(peers[partner])  # pyright: ignore[reportArgumentType]


def frame_steps(peers: dict[int, FramePeer], queries: Sequence[Event]) -> None:
    """The same."""
    for event in queries:
        peer = peers[event.node]
        peer.click(event.term)
        known = sorted(set(peer.raw) - {peer.node})
        if known:
            peer.pull(peers[known[int(peer.random.integers(len(known)))]])


def network(nodes: int, count: int, pairs: int) -> list[str]:
    """Time of a step on both sides, alternating."""
    timeline = Timeline(nodes, synthetic_catalogue(), steps=count)
    queries = [event for event in timeline.events(every=count) if event.kind == "query"]
    times = []
    for pair in range(pairs):
        ours, frames = begin(timeline)
        sides = {"ours": lambda ours=ours: our_steps(ours, queries), "peer": lambda f=frames: frame_steps(f, queries)}
        found = {name: timed(sides[name]) / count for name in sorted(sides, reverse=pair % 2 == 1)}
        times.append((found["ours"], found["peer"]))
        check(frames)
    mine, peers = zip(*times, strict=True)
    return [f"{nodes} peers", *Pairs(mine, peers).cells()]


def check(peers: dict[int, FramePeer]) -> None:
    """Both sides compute the same similarities from the same log."""
    for peer in list(peers.values())[:5]:
        ranker = GRank(node_id=peer.node).fit(peer.log.to_numpy().tolist())
        found = {node: peer.similarity(node) for node in ranker.known_nodes_}
        assert np.allclose([ranker.raw_similarity(node) for node in found], list(found.values())), peer.node


def long_log(rows: int, catalogue: Catalogue) -> list[list[str]]:
    """Time of a query, of a row, and bytes of a row, in a log of so many rows of 100 nodes."""
    rng = np.random.default_rng(0)
    items, terms = len(catalogue), len(catalogue.terms)
    clicks = np.stack([rng.integers(high, size=rows) for high in (100, terms, items)], axis=1).tolist()
    ranker = GRank(isolation=1, catalogue=catalogue).fit(clicks)
    queries = [timed(lambda: list(map(ranker.rank, catalogue.terms))) / terms for _ in range(5)]
    added = [
        timed(lambda part=part: [ranker.partial_fit([click]).similarity() for click in part]) / len(part)
        for part in (clicks[start : start + 50] for start in range(0, 250, 50))
    ]
    return [
        ["a query", seconds(statistics.median(queries)), seconds(max(queries))],
        ["one more row, and all similarities", seconds(statistics.median(added)), seconds(max(added))],
        ["bytes of a row", f"{ranker.log.nbytes / len(ranker.log):.1f}", ""],
        ["bytes of a row, as sent", f"{len(ranker.log.to_bytes()) / len(ranker.log):.1f}", ""],
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=int, nargs="+", default=[40, 100], help="sizes of the network")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3, help="how often both sides are timed")
    given = parser.parse_args()
    rows = [network(nodes, given.steps, given.pairs) for nodes in given.peers]
    show(f"A step of a network, of {given.steps}", ["", "Fullrank", "DataFrames", "ratio", "from-to"], rows)
    show("A log of 100,000 rows", ["", "median", "largest"], long_log(100_000, synthetic_catalogue()))


if __name__ == "__main__":
    main()
