"""Peers on TCP: what they say arrives, what hostile ones say is refused and counted, and nobody falls over."""

from __future__ import annotations

import asyncio
import json
import struct

import pytest

from fullrank.search import ClickLog, GossipPeer, GRank, NetworkPeer
from fullrank.search import gossip as gossip_module
from fullrank.search.gossip import Message, Request
from fullrank.search.gossip_network import Limits
from fullrank.search.gossip_wire import Address, Frame, Refused, message_frame, read_frame, request_frame

CATALOGUE = {item: [item % 3] for item in range(9)}
PORT = 4711  # nobody is asked there


def peer(name, limits=None, clicks=(), **options):
    found = GossipPeer(GRank(isolation=1, node_id=name, catalogue=CATALOGUE, **options))
    for item in clicks:
        found.click(item % 3, item)
    return NetworkPeer(found, limits=limits)


def rows(*clicks):
    return ClickLog().encode(clicks)


async def say(target, content, wait=True):
    """Raw bytes to a peer; its answer, if it gives one."""
    reader, writer = await asyncio.open_connection(*target.address)
    try:
        writer.write(content)
        if not wait:
            writer.write_eof()
        return await read_frame(reader, 1 << 22)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    finally:
        writer.transport.abort()


def test_pull_push_and_bootstrap_between_three():
    async def scene():
        async with peer("one", clicks=[3, 4]) as one, peer("two", clicks=range(9)) as two, peer("three") as three:
            sample = await one.bootstrap("two", two.address, most=3)
            assert len(sample.rows) == 1  # a tenth of nine
            assert len((await one.pull("two")).rows) == 9
            assert len((await one.pull("two")).rows) == 0
            assert set(one.peer.ranker.log) >= set(two.peer.ranker.log)
            assert two.addresses == {"one": one.address}  # who asks says where it listens
            await three.bootstrap("one", one.address)
            await three.pull("one")
            assert three.addresses == {"one": one.address, "two": two.address}  # its rows bring its address
            assert len((await three.pull("two")).rows) == 9
            three.peer.click(0, 6)
            assert len((await three.push("two")).rows) == three.peer.ranker.n_rows_
            assert len((await three.push("two")).rows) == 0
            assert two.peer.search(0).items[0] == 3
            assert (await two.gossip()) is not None
            return one, two, three

    found = asyncio.run(scene())
    assert [node.refused for node in found] == [{}, {}, {}]
    assert [node.unreached for node in found] == [0, 0, 0]


def test_a_log_that_is_larger_than_a_frame_comes_in_parts():
    async def scene():
        limits = Limits(rows=40, frame_bytes=400)
        async with peer("one", limits) as one, peer("two", limits, clicks=[n % 9 for n in range(200)]) as two:
            one.addresses["two"] = two.address
            sizes = []
            while len(sizes) < 20 and one.peer.ranker.n_rows_ < 200:
                sizes.append(len((await one.pull("two")).rows))
            assert max(sizes) <= 40
            assert len(sizes) >= 5
            assert set(one.peer.ranker.log) == set(two.peer.ranker.log)

    asyncio.run(scene())


def test_disconnection_is_met_by_searching_on_and_asking_later():
    async def scene():
        one, two = peer("one", clicks=[3]), peer("two", clicks=[4, 5])
        async with one:
            assert await one.gossip() is None  # it knows nobody
            await two.start()
            await one.bootstrap("two", two.address)
            await two.close()
            assert await one.gossip() is None
            with pytest.raises(ConnectionError, match=r"'two' at 127\.0\.0\.1:[0-9]+ does not answer"):
                await one.pull("two")
            with pytest.raises(ConnectionError, match="no address of 'nine' is known; bootstrap"):
                await one.pull("nine")
            assert one.unreached == 3
            assert one.peer.search(0).items[0] == 3  # offline, from what it has
            two.peer.click(0, 6)
            async with two:  # back, where it was
                assert len((await one.pull("two")).rows) == 3
            two.port = 0
            async with two:  # back, elsewhere: it speaks, and is found again
                await one.gossip()
                await two.pull("one")
                assert one.addresses["two"] == two.address
                assert len((await one.pull("two")).rows) == 1

    asyncio.run(scene())


def frame(header, body=b"", sizes=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">II", *(sizes or (len(text), len(body)))) + text + body


PULL = {"kind": "pull", "asker": "x", "epoch": 0, "position": 0, "port": PORT, "most": None}
PUSH = {"kind": "push", "sender": "x", "epoch": 0, "position": 1, "port": PORT, "addresses": []}
GOOD = rows(("x", 0, 3)).to_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "too large"),
        (frame(PUSH, sizes=(100, 2**31)), "too large"),
        (frame(b"\xff\xfe"), "malformed"),
        (frame(b"[" * 100_000), "malformed"),
        (frame([1, 2]), "malformed"),
        (frame({"kind": "steal"}), "malformed"),
        (frame({"kind": ["pull"]}), "malformed"),
        (frame({"kind": "rows"}), "malformed"),
        (frame({"kind": "pull"}), "malformed"),
        *((frame(PULL | {field: value}), "malformed") for field, value in [
            ("asker", None), ("asker", 1.5), ("asker", {"a": 1}), ("asker", "x" * 5000), ("epoch", -1), ("epoch", True),
            ("position", -1), ("position", 2**70), ("position", "0"), ("port", 0), ("port", 2**16), ("port", "22"),
        ]),
        (frame(PULL | {"kind": "sample", "most": -1}), "malformed"),
        (frame(PULL | {"asker": "one"}), "not learned"),
        *((frame(PUSH | {field: value}, GOOD), "malformed") for field, value in [
            ("sender", None), ("position", -1), ("port", None), ("addresses", 3), ("addresses", [3]),
            ("addresses", [["y", "no.such.host", 1]]), ("addresses", [["y", "127.0.0.1", 0]]),
            ("addresses", [[{}, "127.0.0.1", 1]]),
        ]),
        (frame(PUSH, b"rubbish"), "malformed"),
        (frame(PUSH, GOOD[:-1]), "malformed"),
        (frame(PUSH | {"sender": "one"}, GOOD), "not learned"),
        (frame(PUSH, rows(*[("x", 0, 3)] * 101).to_bytes()), "too large"),
        (b"\0\0", "cut off"),
        (frame(PUSH, GOOD)[:-3], "cut off"),
    ],
)  # fmt: skip
def test_bad_messages_are_refused_and_counted(content, reason):
    async def scene():
        async with peer("one", Limits(rows=100, seconds=2), clicks=[3]) as one:
            answer = await say(one, content, wait=reason != "cut off")
            assert answer is None or answer.kind == "refused"
            await asyncio.sleep(0.01)
            assert one.refused == {reason: 1}
            assert (one.peer.ranker.n_rows_, one.addresses) == (1, {})
            assert (await say(one, frame(PULL))).kind == "rows"  # it goes on

    asyncio.run(scene())


def test_rows_that_are_no_good_are_left_out_and_counted():
    async def scene():
        async with peer("one", clicks=[3]) as one:
            bad = rows(("x", 0, 6, 0), ("x", 0, 99, 1), ("one", 0, 6, 7), ("one", 0, 6, 0))
            assert (await say(one, frame(PUSH, bad.to_bytes()))).kind == "taken"
            assert one.refused == {"rows": 2}  # no such item, and made in this peer's name
            assert (one.peer.forged, one.peer.ranker.n_conflicts_, one.peer.ranker.n_rows_) == (1, 1, 2)

    asyncio.run(scene())


def test_who_is_too_slow_or_comes_too_often_is_cut_off():
    async def scene():
        async with peer("one", Limits(seconds=0.15, connections=2)) as one:
            slow = [asyncio.create_task(say(one, b"\0")) for _ in range(3)]
            assert await asyncio.gather(*slow) == [None] * 3
            assert one.refused == {"too slow": 2, "too many connections": 1}
            assert (await say(one, frame(PULL))).kind == "rows"
            await asyncio.sleep(0.01)
            waiting = asyncio.create_task(say(one, b"\0"))
            await asyncio.sleep(0.01)
        assert await waiting is None  # closing does not wait for it

    asyncio.run(scene())


async def hostile(answer):
    """A server that reads a frame and says what it is told to."""

    async def speak(reader, writer):
        await read_frame(reader, 1 << 22)
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    return server, Address(*server.sockets[0].getsockname()[:2])


ROWS = PUSH | {"kind": "rows"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", None),
        (b"\0\0\0\1", None),
        (frame(ROWS, sizes=(10, 2**30)), "too large"),
        (frame(ROWS, b"rubbish"), "malformed"),
        (frame({"kind": "taken"}), "malformed"),
        (frame(ROWS | {"sender": "another"}, GOOD), "not learned"),
        (frame({"kind": "refused", "why": "go away"}), "refused by others"),
    ],
)
def test_answers_of_hostile_peers(answer, reason):
    async def scene():
        server, address = await hostile(answer)
        async with server, peer("one") as one:
            one.addresses["x"] = address
            one.peer.meet("x")
            assert await one.gossip() is None
            with pytest.raises(ConnectionError if reason is None else Refused):
                await one.pull("x")
            assert one.refused == ({} if reason is None else {reason: 2})
            assert one.unreached == (2 if reason is None else 0)
            assert one.peer.ranker.n_rows_ == 0
            one.peer.click(0, 3)
            if b"taken" not in answer:  # which is what a push is answered by
                with pytest.raises((ConnectionError, Refused)):
                    await one.push("x")
            assert len(one.peer.news("x").rows) == 1  # not told yet

    asyncio.run(scene())


def test_nobody_makes_a_peer_skip_the_rows_of_another():
    async def scene():
        async with peer("one") as one, peer("two", clicks=[3, 4]) as two:
            await say(one, message_frame("push", Message("two", two.peer.epoch, 10**6, rows()), PORT, {}).to_bytes())
            one.addresses["two"] = two.address
            assert len((await one.pull("two")).rows) == 2

    asyncio.run(scene())


def test_an_address_that_works_is_not_replaced_and_none_of_this_machine_comes_from_elsewhere():
    one = peer("one")
    one.addresses["two"] = Address("192.0.2.1", PORT)
    hearsay = [["two", "192.0.2.9", 1], ["three", "192.0.2.3", 3], ["four", "127.0.0.1", 22], ["one", "192.0.2.9", 1]]
    pushed = message_frame("push", Message("x", 0, None, rows()), PORT, {})
    one._learn(pushed._replace(header={**pushed.header, "addresses": hearsay}), "192.0.2.7")
    assert one.addresses == {
        "two": ("192.0.2.1", PORT),
        "x": ("192.0.2.7", PORT),
        "three": ("192.0.2.3", 3),
    }


def test_invented_names_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(gossip_module, "MOST_KNOWN", 3)

    async def scene():
        async with peer("one") as one:
            for number in range(5):
                await say(one, request_frame("pull", Request(f"sybil {number}", 0, 0), PORT).to_bytes())
            assert len(one.peer.known) == len(one.addresses) == 3

    asyncio.run(scene())


def test_what_could_not_be_told_is_not_clicked():
    one = GossipPeer(GRank(node_id="one"))
    for term, item in (("t", 1.5), ("t" * 5000, 1), (("t",) * 65, 1)):
        with pytest.raises(TypeError, match="name nodes, terms and items so"):
            one.click(term, item)
    assert one.ranker.n_rows_ == 0
    longest = "\U0001f600" * 4096
    one.click(tuple(str(number) + longest[2:] for number in range(64)), longest)
    assert len(one.ranker.log.to_bytes()) < Limits().frame_bytes  # the largest row that there is


def test_a_peer_whose_port_is_taken():
    async def scene():
        async with peer("one") as one:
            with pytest.raises(OSError, match="address already in use"):
                await NetworkPeer(one.peer, port=one.port).start()

    asyncio.run(scene())


def test_a_frame_is_read_as_written():
    async def scene():
        reader = asyncio.StreamReader()
        said = Frame("pull", {"asker": "ü"}, b"abc")
        reader.feed_data(said.to_bytes())
        found = await read_frame(reader, 3)
        assert (found.kind, found.header["asker"], found.rows) == ("pull", "ü", b"abc")

    asyncio.run(scene())
