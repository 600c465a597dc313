"""Servers: where one is, how often it is asked again, and what is said when it does not answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http.client import responses
from typing import Literal, TypeVar
from urllib.parse import urlsplit

_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_WAIT = 0.5, 8.0, 120.0
Answered = TypeVar("Answered")


class Failure(Exception):
    """Why a request was not answered.

    Args:
        kind: no answer in time, no connection, a status of HTTP, or an answer that cannot be read.
        reason: what the server or the connection said.
        status: of HTTP.
        pause: seconds after which the server wants to be asked again.
    """

    def __init__(
        self,
        kind: Literal["time-out", "connection", "status", "unreadable"],
        reason: str = "",
        status: int = 0,
        pause: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.status, self.pause = kind, reason, status, pause

    @property
    def passing(self) -> bool:
        """Whether asking again may help."""
        return self.kind in ("time-out", "connection") or self.status == 429 or self.status >= 500


class Server:
    """A server that is asked with patience.

    Args:
        url: its address; a name and password in it are not shown.
        timeout: seconds that one try of a request may take.
        retries: tries after the first, where the server is busy (429), failing (5xx) or out of reach.
        secret: is cut out of what the server says.
        remedy: how another key is given.
        argument: name of the argument that `url` came from.
        example: of an address.

    Raises:
        ValueError: a url that is none, or a number out of range.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: int,
        *,
        secret: str,
        remedy: str,
        argument: str = "url",
        example: str,
    ) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"{argument}={url!r} is no address; accepted: such as {example}")
        for name, value, least in (("timeout", timeout, 1e-3), ("retries", retries, 0)):
            if value < least:
                raise ValueError(f"{name}={value} is not accepted; {least} or more is needed")
        self.url = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
        self.host, self.timeout, self.retries = address.hostname, timeout, retries
        self._secrets = [part for part in (secret, address.password) if part]
        self._remedy = remedy

    def ask(self, request: Callable[[], Answered], failure: Callable[[Exception], Failure | None]) -> Answered:
        """What a request gives; asked again after the pause that the server wants, or a growing one.

        Args:
            request: one try.
            failure: what an exception of it means; None for one that is to be raised as it is.

        Raises:
            Failure: it was not answered; see `error`.
        """
        pause, left = _FIRST_PAUSE, self.retries
        while True:
            try:
                return request()
            except Exception as error:
                failed = error if isinstance(error, Failure) else failure(error)
                if failed is None:
                    raise
                if not left or not failed.passing:
                    raise failed from None
            time.sleep(pause if failed.pause is None else min(failed.pause, _LONGEST_WAIT))
            pause, left = min(2 * pause, _LONGEST_PAUSE), left - 1

    def error(self, failure: Failure) -> Exception:
        """One sentence about a failure, as the exception that is customary for it."""
        url, said = self.url, self.said(failure.reason)
        if failure.kind == "time-out":
            return TimeoutError(
                f"{url} gave no answer within {self.timeout} s, asked {self.retries + 1} times; try again, or allow "
                f"more: timeout=..."
            )
        if failure.kind == "connection":
            return ConnectionError(
                f"{url} is out of reach ({said or 'no connection'}); is the server running, and is the address right?"
            )
        if failure.kind == "unreadable":
            return RuntimeError(f"{url} gave an answer that cannot be read: {said}")
        if failure.status in (401, 403):
            return PermissionError(
                f"{url} does not accept the key ({failure.status}); give another one: {self._remedy}"
            )
        return RuntimeError(
            f"{url} refused with {failure.status}: {said or responses.get(failure.status, 'no reason')}"
        )

    def said(self, reason: object) -> str:
        """What the server said, in one short line without secrets."""
        text = " ".join(str(reason).split())[:300]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return re.sub(r"://[^/@\s]+@", "://", text)
