"""A gossiping peer on TCP: one exchange a connection; bad messages are refused and counted, lost ones asked again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType

from fullrank.search import gossip
from fullrank.search import gossip_wire as wire
from fullrank.search.gossip import GossipPeer, Message
from fullrank.search.gossip_wire import Address, Frame, Refused

_NEWCOMER = 0.1  # of the rows, as a sample


@dataclass(frozen=True)
class Limits:
    """What others may cost a peer.

    Attributes:
        seconds: that an exchange may last.
        rows: of a message; longer logs are read in parts.
        frame_bytes: of the rows of a message; at least 4 MiB, in which every single row fits.
        connections: that are served at the same time.
    """

    seconds: float | int = 5.0
    rows: int = 50_000
    frame_bytes: int = 1 << 22
    connections: int = 64


class NetworkPeer:
    """A peer that listens, answers and asks. Names are not proved: who matters must be told apart by its clicks.

    A peer's address is known from what it says when it speaks, at the host it speaks from, and from messages with its
    rows. An address is replaced only once nobody answers there.

    Args:
        peer: what it knows.
        host: to listen at, an IP address.
        port: to listen at; any free one by default.
        limits: what others may cost.

    Attributes:
        addresses: of other peers.
        refused: messages, connections and rows that were not accepted, by reason.
        unreached: exchanges that failed because nobody answered, or not to the end.
    """

    def __init__(self, peer: GossipPeer, host: str = "127.0.0.1", port: int = 0, limits: Limits | None = None) -> None:
        self.peer, self.host, self.port = peer, host, port
        self.limits = Limits() if limits is None else limits
        self.addresses: dict[Hashable, Address] = {}
        self.refused: Counter[str] = Counter()
        self.unreached = 0
        self._silent: set[Hashable] = set()  # nobody answered at their addresses
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Address:
        """Where it listens, once it does."""
        return Address(self.host, self.port)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken, or the host is none of this machine.
        """
        self._server = await asyncio.start_server(self._connected, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening; whoever is being served is cut off. The peer can still search, and start again."""
        if self._server is None:
            return
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> NetworkPeer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def gossip(self, push: bool = False) -> Message | None:
        """Pull from, or push to, a known peer, each with the same probability.

        Returns:
            What was said; None where nobody is known, nobody answers, or the answer is refused.
        """
        partner = self.peer.partner()
        if partner is None:
            return None
        try:
            return await (self.push(partner) if push else self.pull(partner))
        except (ConnectionError, Refused):
            return None

    async def pull(self, node: Hashable) -> Message:
        """Ask a peer for what it has not given yet, and learn it.

        Raises:
            ConnectionError: nobody answers, or not to the end.
            Refused: the answer is not accepted.
        """
        return await self._fetch("pull", node, self._where(node))

    async def bootstrap(self, node: Hashable, address: Address, most: int | None = 5) -> Message:
        """Join the network by a tenth of the rows, at most so many, of a peer at a known address; see `pull`."""
        return await self._fetch("sample", node, address, most)

    async def push(self, node: Hashable) -> Message:
        """Tell a peer what it has not been told yet; see `pull`."""
        message, frame = self._fitting("push", lambda most: self.peer.news(node, most))

        def told(answer: Frame) -> Message:
            self.peer.told(node, message)
            return message

        return await self._exchange(node, self._where(node), frame, "taken", told)

    def _where(self, node: Hashable) -> Address:
        address = self.addresses.get(node)
        if address is None:
            self.unreached += 1
            raise ConnectionError(f"no address of {node!r} is known; bootstrap from it, or wait until it speaks")
        return address

    async def _fetch(self, kind: str, node: Hashable, address: Address, most: int | None = None) -> Message:
        frame = wire.request_frame(kind, self.peer.request(node), self.port, most)
        return await self._exchange(node, address, frame, "rows", lambda found: self._learn(found, address.host, node))

    async def _exchange(
        self, node: Hashable, address: Address, frame: Frame, kind: str, learn: Callable[[Frame], Message]
    ) -> Message:
        """Say something to a peer, and learn from an answer of the right kind."""
        try:
            answer = await self._ask(address, frame)
            if answer.kind == "refused":
                raise Refused("refused by others", f"{node!r} refuses: {str(answer.header.get('why'))[:200]}")
            if answer.kind != kind:
                raise Refused("malformed", f"{node!r} answers {frame.kind!r} by {answer.kind!r}; {kind!r} is accepted")
            message = learn(answer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.unreached += 1
            self._silent.add(node)
            raise ConnectionError(f"{node!r} at {address.host}:{address.port} does not answer ({error!r})") from error
        except Refused as error:
            self.refused[error.reason] += 1
            raise
        self.addresses[node] = address
        self._silent.discard(node)
        return message

    async def _ask(self, address: Address, frame: Frame) -> Frame:
        async with asyncio.timeout(self.limits.seconds):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(frame.to_bytes())
                await writer.drain()
                return await wire.read_frame(reader, self.limits.frame_bytes)
            finally:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one exchange; whatever comes, this ends, and the peer stays."""
        if len(self._serving) >= self.limits.connections:
            self.refused["too many connections"] += 1
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self._serve(reader, writer)
        except TimeoutError:
            self.refused["too slow"] += 1
        except (OSError, asyncio.IncompleteReadError):
            self.refused["cut off"] += 1
        finally:
            self._serving.discard(task)
            writer.transport.abort()  # a close would wait for who does not read

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("peername")[0]
        try:
            answer = self._answer(await wire.read_frame(reader, self.limits.frame_bytes), host)
        except Refused as error:
            self.refused[error.reason] += 1
            answer = Frame("refused", {"why": str(error)})
        writer.write(answer.to_bytes())
        writer.close()
        await writer.wait_closed()

    def _answer(self, frame: Frame, host: str) -> Frame:
        if frame.kind == "push":
            self._learn(frame, host)
            return Frame("taken", {})
        if frame.kind not in ("pull", "sample"):
            raise Refused("malformed", f"{frame.kind!r} is an answer; pull, sample and push are accepted")
        request, port, most = wire.read_request(frame), wire.read_port(frame), wire.read_most(frame)
        if request.asker == self.peer.node_id:
            raise Refused("not learned", f"{request.asker!r} is the name of who is asked; take another")
        self._hear_of(request.asker, Address(host, port))

        def say(count: int) -> Message:
            if frame.kind == "sample":
                return self.peer.sample(request.asker, _NEWCOMER, count)
            return self.peer.answer(request, count)

        return self._fitting("rows", say, most)[1]

    def _learn(self, frame: Frame, host: str, asked: Hashable = None) -> Message:
        """Take rows that were pushed or asked for."""
        message, port, others = wire.read_message(frame), wire.read_port(frame), wire.read_addresses(frame, host)
        if len(message.rows) > self.limits.rows:
            raise Refused("too large", f"{len(message.rows)} rows; at most {self.limits.rows} are accepted")
        try:
            taken = self.peer.take(message, asked)
        except (ValueError, OverflowError) as error:
            raise Refused("not learned", str(error)) from error
        if taken.refused:
            self.refused["rows"] += taken.refused
        self._hear_of(message.sender, Address(host, port))
        for node, address in others.items():
            self._hear_of(node, address)
        return message

    def _hear_of(self, node: Hashable, address: Address) -> None:
        """An address by hearsay, or by who claims it: taken where none is known that works."""
        if node == self.peer.node_id or len(self.addresses) >= gossip.MOST_KNOWN:
            return
        if node not in self.addresses or node in self._silent:
            self.addresses[node] = address
            self._silent.discard(node)

    def _fitting(self, kind: str, say: Callable[[int], Message], most: int | None = None) -> tuple[Message, Frame]:
        """As many rows as a frame takes."""
        count = self.limits.rows if most is None else min(most, self.limits.rows)
        while True:
            message = say(count)
            frame = wire.message_frame(kind, message, self.port, self.addresses)
            if frame.fits(self.limits.frame_bytes):
                return message, frame
            count = len(message.rows) // 2
