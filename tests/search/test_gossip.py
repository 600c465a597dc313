"""What peers tell each other: each row once, nothing in another's name, and nothing lost by a restart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import ClickLog, GossipPeer, GRank
from fullrank.search.click_rows import ClickRows
from fullrank.search.gossip import Message, Request

CATALOGUE = {item: [item % 3] for item in range(9)}


def peer(name, **options):
    return GossipPeer(GRank(isolation=1, node_id=name, catalogue=CATALOGUE, **options))


def message(sender, rows, position=None):
    return Message(sender, 1, position, ClickLog().encode(rows))


def test_pull_fetches_what_the_other_lacks():
    one, two = peer("one"), peer("two")
    two.click(0, 3)
    two.click(1, 4)
    assert one.pull(two) == (2, 2, 0)
    assert one.pull(two) == (0, 0, 0)
    two.click(1, 7)
    assert one.pull(two) == (1, 1, 0)
    assert two.pull(one) == (3, 0, 0)  # its own rows come back, and are known
    assert one.known == ("two",)
    assert two.known == ("one",)  # who asks becomes known


def test_long_logs_come_in_parts():
    one, two = peer("one"), peer("two")
    for _ in range(5):
        two.click(0, 3)
    assert [one.pull(two, most=2).new for _ in range(4)] == [2, 2, 1, 0]


def test_push_tells_what_was_not_told_yet():
    one, two, three = peer("one"), peer("two"), peer("three")
    one.click(0, 3)
    one.pull(three)
    assert one.push(two) == (1, 1, 0)
    assert one.push(two) == (0, 0, 0)
    two.push(three)
    assert three.known == ("one", "two")  # by its rows, and by speaking
    assert three.search(0).items[0] == 3


def test_a_sample_does_not_count_as_read():
    one, two = peer("one"), peer("two")
    for item in range(9):
        two.click(item % 3, item)
    assert one.bootstrap(two, share=0.5, most=3) == (3, 3, 0)
    assert one.pull(two).new == 6
    assert peer("three").bootstrap(peer("four")) == (0, 0, 0)


def test_a_restarted_log_is_read_again(tmp_path):
    one, two = peer("one"), peer("two")
    for _ in range(3):
        two.click(0, 3)
    one.pull(two)
    saved = two.ranker.save(tmp_path / "two.npz")
    two.click(1, 4)
    one.pull(two)
    again = GossipPeer(GRank.load(saved, CATALOGUE))  # the fourth row is lost, and its number is used again
    again.click(2, 5)
    again.click(2, 8)
    assert one.pull(again) == (5, 1, 0)
    assert one.ranker.n_conflicts_ == 1


def test_nobody_speaks_in_anothers_name():
    one = peer("one")
    one.click(0, 3)
    forged = [("one", 0, 6, 5), ("two", 0, 6, 0), ("two", 0, 99, 1), ("one", 0, 3, 0)]
    assert one.take(message("two", forged)) == (4, 1, 2)
    assert (one.forged, one.ranker.n_rows_) == (1, 2)
    assert one.take(message("two", [("one", 0, 6, 0)])) == (1, 0, 0)
    assert (one.ranker.n_conflicts_, one.ranker.score(0)) == (1, {3: 2.0, 6: one.ranker.weights()[1]})


def test_a_peer_does_not_speak_to_itself():
    one = peer("one")
    for call in (
        lambda: one.pull(one),
        lambda: one.push(one),
        lambda: one.bootstrap(one),
        lambda: one.take(message("one", [])),
        lambda: one.answer(Request("one", 0, 0)),
    ):
        with pytest.raises(ValueError, match="node 'one' gossips with itself"):
            call()


def test_what_is_clicked_joins_the_library_and_the_journal():
    journal = []
    one = GossipPeer(GRank(node_id="one", catalogue=CATALOGUE, library=[]), journal=journal.append)
    one.click(0, 4)
    assert one.search(1).items == [4]
    assert journal == list(one.ranker.log)
    with pytest.raises(ValueError, match="clicks 99"):
        one.click(0, 99)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["click", "pull", "push"]), st.integers(0, 3), st.integers(0, 3)), max_size=40)
)
def test_gossip_in_any_order_ends_in_the_same_logs(steps):
    peers = [peer(name) for name in range(4)]
    for number, (what, one, other) in enumerate(steps):
        if what == "click":
            peers[one].click(number % 3, number % 9)
        elif one != other:
            getattr(peers[one], what)(peers[other], most=2)
    for _ in range(3):
        for one in peers:
            for other in peers:
                if one is not other:
                    while one.pull(other, most=50).new:
                        pass
    assert len({frozenset(one.ranker.log) for one in peers}) == 1
    assert all(one.ranker.n_rows_ == sum(what == "click" for what, _, _ in steps) for one in peers)
    assert all(one.ranker.n_conflicts_ == one.forged == 0 for one in peers)
    rows = peers[0].ranker.log.rows
    assert isinstance(rows, ClickRows)
    fresh = GRank(isolation=1, node_id=2, catalogue=CATALOGUE).fit(rows)
    assert fresh.similarity() == peers[2].ranker.similarity()


def test_without_introductions_peers_are_known_by_their_rows_alone():
    one, two = peer("one"), GossipPeer(GRank(node_id="two"), introductions=False)
    one.pull(two)
    assert (one.known, two.known) == (("two",), ())
    one.click(0, 3)
    two.pull(one)
    assert two.known == ("one",)
