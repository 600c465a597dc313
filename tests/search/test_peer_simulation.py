"""Networks of peers, attacked and not."""

from __future__ import annotations

import numpy as np
import pytest

from fullrank.search import Catalogue, P2PSimulation
from fullrank.search.catalogue import read_catalogue, synthetic_catalogue
from fullrank.search.network_agreement import AgreementMeter, positional_distance
from fullrank.search.peer_scenarios import Timeline

CATALOGUE = synthetic_catalogue(40, 8, 3)


def test_a_network_comes_to_agree():
    simulation = P2PSimulation(8, CATALOGUE, F=1, steps=300, seed=0)
    found = simulation.run(every=100)
    assert [snapshot.step for snapshot in found] == [0, 100, 200, 300]
    assert found[-1].distance < found[0].distance
    assert found[-1].count_distance < 0.2 * found[0].count_distance
    assert found[-1].top_share > found[0].top_share
    assert found[-1].count_top_share > 0.9
    assert found[0].rows < found[-1].rows <= 8 * 8 + 300
    assert found[-1].packed_kb < found[-1].largest_kb / 20
    assert found == simulation.run(every=100) != P2PSimulation(8, CATALOGUE, F=1, steps=100, seed=1).run(every=100)


def test_agreement_is_what_the_rankings_say():
    simulation = P2PSimulation(5, CATALOGUE, F=1, steps=60, seed=1)
    last = simulation.run(every=60)[-1]
    meter = AgreementMeter(CATALOGUE)
    peers = list(simulation.peers.values())
    clicks = {(row.term, row.item): 0 for peer in peers for row in peer.ranker.log}
    for peer in peers:
        for row in peer.ranker.log:
            clicks[row.term, row.item] += row.node == peer.node_id
    distances, counted, tops = [], [], []
    for peer in peers:
        for term in CATALOGUE.terms:
            items = CATALOGUE.items_of(term)
            reference = sorted(items, key=lambda item: (-clicks.get((term, item), 0), item))
            scores = peer.ranker.score(term, items)
            ranking = sorted(items, key=lambda item: (-round(scores[item], 9), item))
            shown = [item for item in peer.search(term).items if item in scores and scores[item] > 0]
            assert ranking[: len(shown)] == shown
            counts = [(row.term, row.item) for row in peer.ranker.log]
            local = sorted(items, key=lambda item: (-counts.count((term, item)), item))
            distances.append(positional_distance(ranking, reference))
            counted.append(positional_distance(local, reference))
            tops.append(ranking[0] == reference[0] and scores[ranking[0]] > 0)
    assert last.distance == pytest.approx(np.mean(distances))
    assert last.count_distance == pytest.approx(np.mean(counted))
    assert last.top_share == pytest.approx(np.mean(tops))
    own = meter.clicks(peers[0])
    assert own.sum() == sum(row.node == 0 and row.item in CATALOGUE.items_of(row.term) for row in peers[0].ranker.log)


@pytest.mark.parametrize(
    ("scenario", "attackers", "rows"),
    [("targeted", 1, 40), ("inflation", 1, 400), ("epic", 18, 40), ("pull", 1, 40), ("push", 1, 40)],
)
def test_attackers_come_and_click(scenario, attackers, rows):
    simulation = P2PSimulation(6, CATALOGUE, scenario, F=1, steps=240, seed=0)
    simulation.run()
    assert len(simulation.peers) == 6 + attackers
    made = [row for row in simulation.peers[6].ranker.log if row.node == 6]
    assert len(made) == rows
    assert (len({row.term for row in made}) == 1) == (scenario == "targeted")
    heard = {row.node for node in range(6) for row in simulation.peers[node].ranker.log}
    assert heard & {*range(6, 6 + attackers)}


def test_what_honest_peers_click():
    lowest = P2PSimulation(4, CATALOGUE, F=1, steps=80, seed=0, click="lowest-id")
    lowest.run()
    shared = P2PSimulation(4, CATALOGUE, F=1, steps=20, seed=0, click=lambda node, term, items: items[-1])
    shared.run()
    top = P2PSimulation(4, CATALOGUE, F=1, steps=80, seed=0)
    top.run()
    logs = [{(row.node, row.number, row.item) for row in s.peers[0].ranker.log} for s in (lowest, shared, top)]
    assert logs[0] != logs[2] != logs[1]


def test_an_attack_of_many_is_worse_than_one_of_few():
    few, many = (P2PSimulation(6, CATALOGUE, name, F=1, steps=160, seed=0).run(160)[-1] for name in ("pull", "epic"))
    assert many.distance > few.distance


def test_catalogues(tmp_path):
    assert {len(terms) for terms in CATALOGUE.values()} == {3}
    assert CATALOGUE.items_of(0) == [item for item in CATALOGUE if 0 in CATALOGUE[item]]
    skewed = synthetic_catalogue(300, 39, 3, zipf=1.0)
    assert len(skewed.items_of(0)) > 3 * len(skewed.items_of(20))
    (tmp_path / "tags.csv").write_text(",album,artist,tags\n0,a,b,['house' 'trip_hop']\n1,c,d,\"house, jazz\"\n")
    assert dict(read_catalogue(tmp_path / "tags.csv")) == {0: {"house", "trip_hop"}, 1: {"house", "jazz"}}
    (tmp_path / "tags.csv").write_text("tags\r\nhouse\r\n", "utf-8-sig")  # as spreadsheets write it
    assert dict(read_catalogue(tmp_path / "tags.csv")) == {0: {"house"}}
    (tmp_path / "tags.csv").write_text("album,tags\na,\n")
    with pytest.raises(ValueError, match="no item with a tag"):
        read_catalogue(tmp_path / "tags.csv")
    (tmp_path / "tags.csv").write_text("album\na\n")
    with pytest.raises(ValueError, match="a column tags is needed"):
        read_catalogue(tmp_path / "tags.csv")
    with pytest.raises(ValueError, match="per_item=9"):
        synthetic_catalogue(4, 8, 9)


def test_bad_calls(unchecked):
    with pytest.raises(ValueError, match="scenario='flood' is not known; accepted: baseline"):
        P2PSimulation(4, CATALOGUE, "flood")
    with pytest.raises(ValueError, match="n_nodes=0"):
        P2PSimulation(0, CATALOGUE)
    with pytest.raises(ValueError, match="click='worst'"):
        P2PSimulation(4, CATALOGUE, click="worst")
    with pytest.raises(ValueError, match="F is a finite number"):
        P2PSimulation(4, CATALOGUE, F=-1).run()
    with pytest.raises(ValueError, match="every=0"):
        P2PSimulation(4, CATALOGUE).run(every=0)
    with pytest.raises(ValueError, match="no term that could be searched"):
        Timeline(4, Catalogue({1: []}))
