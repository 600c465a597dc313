"""A peer on disk: what it has heard, whom it knows, and every click of its owner as soon as it is made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fullrank._files import write_json
from fullrank.search.click_rows import Click, Vocabulary, read_word
from fullrank.search.click_similarity import Term
from fullrank.search.g_rank import GRank
from fullrank.search.gossip import GossipPeer

Addresses = dict[Hashable, tuple[str, int]]


class PeerStore:
    """A folder with one peer.

    `ranker.npz` holds log, library and options, `peers.json` the known peers and how far their logs were read, and
    `clicks.jsonl` the owner's clicks since `ranker.npz` was written. A peer that is killed loses what it heard since
    the last `save`, and hears it again; it loses none of its owner's clicks, so no number of a query is used twice.

    Args:
        folder: of this peer alone; it is made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, peer: GossipPeer, addresses: Mapping[Hashable, tuple[str, int]] | None = None) -> None:
        """Write a peer and from now on each of its clicks.

        The progress is written behind the rows: after a kill between both it is too low, and rows are asked for twice.

        Raises:
            OSError: the disk is full; what was there stays.
            TypeError: a node, term or item that is neither text nor a whole number.
        """
        peer.ranker.save(self.folder / "ranker.npz")
        about = {
            "known": list(peer.known),
            "progress": [[node, *place] for node, place in peer.progress.items()],
            "addresses": [[node, *address] for node, address in (addresses or {}).items()],
            "forged": peer.forged,
        }
        write_json(self.folder / "peers.json", about)
        self._journal.unlink(missing_ok=True)
        peer.journal = self.append

    def append(self, click: Click) -> None:
        """Write one click of the owner.

        Raises:
            OSError: the disk is full; the journal is as it was.
        """
        with self._journal.open("ab") as file:
            start = file.tell()
            try:
                file.write(json.dumps(click).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self._journal, start)
                raise

    def load(
        self,
        catalogue: Mapping[Any, Iterable[Term]] | None = None,
        matcher: Callable[[Any, Any], bool] | None = None,
        vocabulary: Vocabulary | None = None,
        seed: int | list[int] = 0,
    ) -> tuple[GossipPeer, Addresses]:
        """The peer as it was saved, with all its clicks since, and the addresses of others.

        Args:
            catalogue: see `GRank`.
            matcher: see `GRank`.
            vocabulary: see `GRank`.
            seed: see `GossipPeer`.

        Raises:
            ValueError: a damaged file, by its name.
            FileNotFoundError: nothing was saved here.
        """
        ranker = GRank.load(self.folder / "ranker.npz", catalogue, matcher, vocabulary)
        peer = GossipPeer(ranker, seed)
        clicks = self._clicks()
        ranker.partial_fit(clicks)
        if ranker.metadata.library is not None:
            ranker.metadata.library.update(click.item for click in clicks)
        path = self.folder / "peers.json"
        try:
            about = json.loads(path.read_bytes())
            progress = {read_word(node): (int(epoch), int(position)) for node, epoch, position in about["progress"]}
            peer.resume(map(read_word, about["known"]), progress)
            addresses: Addresses = {read_word(node): (host, port) for node, host, port in about["addresses"]}
            peer.forged = int(about["forged"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); without it the peer asks for all rows again") from error
        peer.journal = self.append
        return peer, addresses

    @property
    def _journal(self) -> Path:
        return self.folder / "clicks.jsonl"

    def _clicks(self) -> list[Click]:
        """The clicks in the journal. A last line without an end was cut off by a kill, before anybody heard of it."""
        if not self._journal.exists():
            return []
        content = self._journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._journal, len(whole))
        found = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                node, term, item, *rest = json.loads(line)
                found.append(Click(read_word(node), read_word(term), read_word(item), *map(int, rest)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self._journal}, line {number} is no click: {line[:80]!r} ({error})") from error
        return found
