"""A peer on disk: after a kill it has all its owner's clicks, and goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fullrank.search import GossipPeer, GRank, PeerStore

CATALOGUE = {item: [item % 3] for item in range(9)}


def peer(name, clicks=(), **options):
    found = GossipPeer(GRank(isolation=1, node_id=name, catalogue=CATALOGUE, **options))
    for item in clicks:
        found.click(item % 3, item)
    return found


def test_a_peer_goes_on_after_a_restart(tmp_path):
    one, two, store = peer("one", [3, 4], library=[3, 4]), peer("two", [5, 6]), PeerStore(tmp_path / "one")
    one.pull(two)
    store.save(one, {"two": ("127.0.0.1", 7)})
    one.click(0, 6)
    one.click(1, 7)
    again, addresses = PeerStore(tmp_path / "one").load(CATALOGUE)
    assert list(again.ranker.log) == [*one.ranker.log]
    assert again.search(0) == one.search(0)
    assert again.ranker.metadata.library == {3, 4, 6, 7}
    assert (again.known, again.progress, addresses) == (("two",), one.progress, {"two": ("127.0.0.1", 7)})
    assert again.epoch != one.epoch
    again.click(0, 3)
    assert again.pull(two).rows == 0  # it knows how far it had read
    assert two.pull(again) == (7, 5, 0)
    assert two.ranker.n_conflicts_ == 0  # no number was used twice
    last, _ = store.load(CATALOGUE)
    assert last.ranker.log.next_number("one") == 5


def test_a_click_that_was_cut_off_was_never_made(tmp_path):
    store = PeerStore(tmp_path)
    one = peer("one", [3])
    store.save(one)
    one.click(1, 4)
    journal = tmp_path / "clicks.jsonl"
    journal.write_bytes(journal.read_bytes() + b'["one",1,')
    again, _ = store.load(CATALOGUE)
    assert again.ranker.n_rows_ == 2
    again.click(2, 5)  # behind what was cut away
    assert store.load(CATALOGUE)[0].ranker.n_rows_ == 3


def test_a_full_disk_leaves_the_journal_and_the_peer_as_they_were(tmp_path, monkeypatch):
    store = PeerStore(tmp_path)
    one = peer("one", [3])
    store.save(one)
    one.click(1, 4)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            one.click(1, 7)
    assert one.ranker.n_rows_ == 2
    one.click(2, 5)
    again, _ = store.load(CATALOGUE)
    assert [click.item for click in again.ranker.log] == [3, 4, 5]
    with pytest.raises(ValueError, match="clicks 99"):
        one.click(2, 99)
    assert len((tmp_path / "clicks.jsonl").read_text().splitlines()) == 2  # what is refused is not written


def test_what_others_forged_and_sent_is_kept(tmp_path):
    store, one = PeerStore(tmp_path), peer("one", max_rows=8)
    for item in range(9):
        one.click(item % 3, item)
    one.forged = 2
    store.save(one)
    again, _ = store.load(CATALOGUE)
    assert (again.forged, again.ranker.n_rows_) == (2, one.ranker.n_rows_)
    assert again.ranker.log.next_number("one") == 9


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ranker.npz", b"nothing", "ranker.npz is damaged"),
        ("peers.json", b"{}", "peers.json is damaged"),
        ("peers.json", b"[", "peers.json is damaged"),
        ("peers.json", b'{"known": [], "progress": [1], "addresses": [], "forged": 0}', "peers.json is damaged"),
        ("clicks.jsonl", b"{}\n", "clicks.jsonl, line 1 is no click"),
        ("clicks.jsonl", b'["one", 1, 4, 1, 0]\n["one", null, 4, 1, 0]\n', "clicks.jsonl, line 2 is no click"),
        ("clicks.jsonl", b"\xff\n", "clicks.jsonl, line 1 is no click"),
    ],
)
def test_damaged_files(name, content, words, tmp_path):
    store = PeerStore(tmp_path)
    store.save(peer("one", [3]))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        store.load(CATALOGUE)


def test_nothing_was_saved(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ranker\.npz"):
        PeerStore(tmp_path / "new").load(CATALOGUE)


CLICKER = """
import sys
from fullrank.search import GossipPeer, GRank, PeerStore
peer, store = GossipPeer(GRank(node_id="one")), PeerStore(sys.argv[1])
number = 0
while True:
    if number % 7 == 0:
        store.save(peer)
    peer.click("t", number)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_peer_has_every_click_that_it_told(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", CLICKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    heard = [int(process.stdout.readline()) for _ in range(40)]
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    heard += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    again, _ = PeerStore(tmp_path).load()
    items = [click.item for click in again.ranker.log]
    assert items == list(range(len(items)))
    assert len(items) >= len(heard) == heard[-1] + 1
    assert json.loads((tmp_path / "peers.json").read_text())["known"] == []
