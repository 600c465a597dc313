"""What peers say as bytes: a frame is its length, a JSON header and rows. Whatever comes may come from anybody."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import struct
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from fullrank.search.click_rows import ClickRows, read_word
from fullrank.search.gossip import Message, Request

_LENGTHS = struct.Struct(">II")  # of the header, of the rows
_MOST_HEADER = 1 << 20  # bytes
KINDS = ("pull", "sample", "push", "rows", "taken", "refused")


class Address(NamedTuple):
    """Where a peer listens."""

    host: str
    port: int


class Refused(ValueError):
    """A message that is not learned from.

    Args:
        reason: in one or two words; refusals are counted by it.
        text: what was wrong.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Frame(NamedTuple):
    """One thing said.

    Attributes:
        kind: "pull", "sample" and "push" are answered, by "rows", "rows" and "taken"; or by "refused".
        header: JSON object.
        rows: as bytes.
    """

    kind: str
    header: Mapping[str, Any]
    rows: bytes = b""

    def fits(self, most: int) -> bool:
        """Whether `read_frame` accepts it."""
        return len(self.rows) <= most and len(self._header) <= _MOST_HEADER

    @property
    def _header(self) -> bytes:
        return json.dumps({"kind": self.kind, **self.header}, separators=(",", ":")).encode()

    def to_bytes(self) -> bytes:
        """Lengths, header, rows."""
        header = self._header
        return _LENGTHS.pack(len(header), len(self.rows)) + header + self.rows


async def read_frame(reader: asyncio.StreamReader, most: int) -> Frame:
    """The next frame.

    Args:
        reader: of a connection.
        most: bytes of rows that are accepted.

    Raises:
        Refused: it is too large, or no frame.
        asyncio.IncompleteReadError: the connection ends before the frame does.
    """
    header_size, rows_size = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    if header_size > _MOST_HEADER or rows_size > most:
        raise Refused("too large", f"a frame of {header_size} + {rows_size} bytes; at most {_MOST_HEADER} + {most}")
    header, rows = await reader.readexactly(header_size), await reader.readexactly(rows_size)
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"the header is no JSON ({error})") from error
    if not isinstance(found, dict) or found.get("kind") not in KINDS:
        raise Refused("malformed", f"the header {header[:60]!r} names no kind of message; {', '.join(KINDS)} are")
    return Frame(found["kind"], found, rows)


def request_frame(kind: str, request: Request, port: int, most: int | None = None) -> Frame:
    """A request for rows, at most so many, by a peer that listens at a port."""
    return Frame(kind, {**request._asdict(), "port": port, "most": most})


def read_request(frame: Frame) -> Request:
    """What `request_frame` wrote.

    Raises:
        Refused: it is something else.
    """
    return Request(_name(frame, "asker"), _whole(frame, "epoch"), _whole(frame, "position"))


def message_frame(kind: str, message: Message, port: int, addresses: Mapping[Hashable, Address]) -> Frame:
    """Rows of a peer that listens at a port, with the addresses of those who made them, where they are known."""
    found = {node: addresses.get(node) for node in message.rows.nodes}
    known = [[node, *address] for node, address in found.items() if address is not None]
    header = {"sender": message.sender, "epoch": message.epoch, "position": message.position}
    return Frame(kind, {**header, "port": port, "addresses": known}, message.rows.to_bytes())


def read_message(frame: Frame) -> Message:
    """What `message_frame` wrote, without the addresses.

    Raises:
        Refused: it is something else.
    """
    position = None if frame.header.get("position") is None else _whole(frame, "position")
    try:
        rows = ClickRows.from_bytes(frame.rows)
    except ValueError as error:
        raise Refused("malformed", str(error)) from error
    return Message(_name(frame, "sender"), _whole(frame, "epoch"), position, rows)


def read_addresses(frame: Frame, host: str) -> dict[Hashable, Address]:
    """Addresses of others that a message brings; from elsewhere none on this machine itself.

    Args:
        frame: the message.
        host: whose it is.

    Raises:
        Refused: they are something else.
    """
    entries = frame.header.get("addresses", [])
    if not isinstance(entries, list):
        raise Refused("malformed", f"addresses are a list, not {type(entries).__name__}")
    found = {}
    for entry in entries:
        try:
            node, where, port = entry
            here = ipaddress.ip_address(where).is_loopback and not ipaddress.ip_address(host).is_loopback
            name, address = read_word(node), Address(str(ipaddress.ip_address(where)), _port(port))
        except (TypeError, ValueError) as error:
            raise Refused("malformed", f"{str(entry)[:60]} is no node with its address ({error})") from error
        if not here:
            found[name] = address
    return found


def read_port(frame: Frame) -> int:
    """Where the speaker listens.

    Raises:
        Refused: it is no port.
    """
    return _port(frame.header.get("port"))


def read_most(frame: Frame) -> int | None:
    """How many rows are wanted at most; None for any number.

    Raises:
        Refused: it is no number.
    """
    return None if frame.header.get("most") is None else _whole(frame, "most")


def _port(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**16:
        return value
    raise Refused("malformed", f"port={str(value)[:40]} is not accepted; 1 to 65535 is")


def _name(frame: Frame, field: str) -> Hashable:
    try:
        return read_word(frame.header.get(field))
    except ValueError as error:
        raise Refused("malformed", f"{field}: {error}") from error


def _whole(frame: Frame, field: str) -> int:
    value = frame.header.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise Refused("malformed", f"{field}={str(value)[:40]} is not accepted; a whole number from 0 on is")
