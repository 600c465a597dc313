"""The network between processes is the simulated one, with churn and kills as well."""

from __future__ import annotations

import asyncio

import pytest

from fullrank.search import GossipPeer, GRank, NetworkPeer, P2PSimulation, ProcessNetwork, Timeline
from fullrank.search.catalogue import synthetic_catalogue
from fullrank.search.peer_host import Host, Plan

CATALOGUE = synthetic_catalogue(40, 8, 3)


@pytest.mark.parametrize(("scenario", "away"), [("baseline", 0.0), ("push", 0.4), ("epic", 0.4)])
def test_over_tcp_the_same_happens_as_in_one_process(scenario, away):
    simulated = P2PSimulation(5, CATALOGUE, scenario, F=1, steps=120, seed=3, away=away).run(every=40)
    network = ProcessNetwork(Timeline(5, CATALOGUE, scenario, 120, 3, away), F=1, processes=2)
    found = network.run(every=40)
    assert [snapshot._replace(packed_kb=0) for snapshot in found] == [
        snapshot._replace(packed_kb=0) for snapshot in simulated
    ]
    assert found[-1].packed_kb == pytest.approx(simulated[-1].packed_kb, rel=0.05)
    assert network.refused == {}
    assert (network.unreached > 0) == (away > 0)


def test_it_agrees_in_spite_of_churn_and_killed_processes(tmp_path):
    timeline = Timeline(6, CATALOGUE, steps=300, away=0.34, seed=0)
    network = ProcessNetwork(timeline, 1, processes=2, in_flight=12, folder=tmp_path, kills=[100, 180])
    found = network.run(every=100)
    assert [snapshot.step for snapshot in found] == [0, 100, 200, 300]
    assert found[-1].count_distance < 0.2 * found[0].count_distance
    assert found[-1].top_share > found[0].top_share
    assert network.unreached > 0
    assert {folder.name for folder in tmp_path.iterdir()} == set("012345")


def test_hostile_peers_are_counted_where_they_speak():
    async def scene():
        host = Host(Plan(Timeline(1, CATALOGUE, steps=20), 1, None, {}))
        events = list(host.plan.timeline.events(every=20))
        address = await host.join(events[0], None)
        stranger = GossipPeer(GRank(node_id="stranger", isolation=1))
        stranger.click("no such term", "no such item")
        async with NetworkPeer(stranger) as speaker:
            await speaker.bootstrap(0, address)
            await speaker.push(0)
            look = await host.look(await host.clicks())
            await host.see_to([event for event in events if event.kind == "query"])
        await host.peers[0].close()
        return look, host

    look, host = asyncio.run(scene())
    assert look.refused == {"rows": 1}
    assert look.unreached == 0
    assert host.peers[0].peer.ranker.n_rows_ == 8 + 20
    assert host.peers[0].peer.known == ("stranger",)


def test_who_is_away_in_a_timeline():
    timeline = Timeline(10, CATALOGUE, "epic", steps=200, away=0.3)
    away: set[int] = set()
    sizes = []
    for event in timeline.events(every=200):
        if event.kind in ("leave", "return"):
            (away.add if event.kind == "leave" else away.remove)(event.node)
        if event.kind == "query":
            sizes.append(len(away))
        if event.kind == "join" and event.host is not None:
            assert event.host not in away
    assert (sizes[0], set(sizes[20:-25]), sizes[-1]) == (0, {3}, 0)


def test_a_process_that_fails_or_ends_ends_the_run(monkeypatch):
    network = ProcessNetwork(Timeline(3, CATALOGUE, steps=20))
    monkeypatch.setattr(ProcessNetwork, "_measure", lambda self, step: self._tell({0: ("no such order",)}))
    with pytest.raises(RuntimeError, match=r"process 0 of the network failed: .*no such order"):
        network.run()

    def kill_and_ask(self, step):
        self._started[1][0].kill()
        self._started[1][0].join()
        self._tell({1: ("clicks",)})

    monkeypatch.setattr(ProcessNetwork, "_measure", kill_and_ask)
    with pytest.raises(RuntimeError, match="a process of the network has ended"):
        network.run()


def test_bad_calls(unchecked):
    timeline = Timeline(3, CATALOGUE)
    with pytest.raises(ValueError, match="processes=0"):
        ProcessNetwork(timeline, processes=0)
    with pytest.raises(ValueError, match="in_flight=0"):
        ProcessNetwork(timeline, in_flight=0)
    with pytest.raises(ValueError, match=r"kills=\[5\] without a folder would lose peers"):
        ProcessNetwork(timeline, kills=[5])
    for away in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"away={away} is not accepted"):
            Timeline(3, CATALOGUE, away=away)
