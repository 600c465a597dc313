"""Peers that gossip, and networks of them."""

from __future__ import annotations

import pytest

from fullrank.search.gossip import GossipPeer
from fullrank.search.peer_simulation import P2PSimulation, synthetic_catalogue

CATALOGUE = synthetic_catalogue(40, 8, 3)


def test_peers_exchange_what_the_other_lacks():
    one, two = GossipPeer("one", CATALOGUE), GossipPeer("two", CATALOGUE)
    two.click(0, 1)
    two.click(1, 2)
    assert one.pull(two) == 2
    assert one.pull(two) == 0
    two.click(1, 3)
    assert one.pull(two, most=1) == 1
    assert two.pull(one) == 0  # its own rows come back, and are known
    assert one.ranker.n_rows_ == two.ranker.n_rows_ == 3
    with pytest.raises(ValueError, match="node 'one' gossips with itself"):
        one.pull(one)


def test_a_network_comes_to_agree():
    found = P2PSimulation(8, CATALOGUE, isolation=1, steps=300, seed=0).run(every=100)
    assert [snapshot.step for snapshot in found] == [0, 100, 200, 300]
    assert found[-1].distance < found[0].distance
    assert found[-1].top_share > found[0].top_share
    assert found[-1].rows > found[0].rows
    assert found == P2PSimulation(8, CATALOGUE, isolation=1, steps=300, seed=0).run(every=100)


@pytest.mark.parametrize("scenario", ["targeted", "inflation", "epic", "push"])
def test_attacks_change_the_network(scenario):
    simulation = P2PSimulation(6, CATALOGUE, scenario, isolation=1, steps=80, seed=0)
    found = simulation.run(every=40)
    attackers = [node for node in simulation.peers if isinstance(node, tuple)]
    assert len(attackers) == (18 if scenario == "epic" else 1)
    assert len(found) == 3


def test_bad_calls(unchecked):
    with pytest.raises(ValueError, match="scenario='flood' is not known"):
        P2PSimulation(4, CATALOGUE, "flood")
    with pytest.raises(ValueError, match="n_nodes=0"):
        P2PSimulation(0, CATALOGUE)
    with pytest.raises(ValueError, match="per_item=9"):
        synthetic_catalogue(4, 8, 9)
