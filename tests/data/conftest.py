"""A web server in the process of the test, whose answers are chosen by path, and a user's cache of its own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BODY = b'{"question": "2 + 2?", "answer": "4"}\n{"question": "3 + 3?", "answer": "6"}\n'
SHA256 = hashlib.sha256(BODY).hexdigest()


class Answers(BaseHTTPRequestHandler):
    """`/whole`, `/whole-slowly`, `/truncated`, `/silent`, `/hang-up`, `/redirect`, `/circle`; the rest is a 404."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        match self.path:
            case "/whole":
                self._send(BODY)
            case "/whole-slowly":
                self._send(BODY, pause=0.005)
            case "/truncated":
                self._send(BODY[:40])
            case "/silent":
                self._send(BODY[:40], wait=True)
            case "/hang-up":
                pass
            case "/redirect":
                self._redirect("/whole")
            case "/circle":
                self._redirect("/circle")
            case _:
                self.send_error(404)

    def _send(self, content: bytes, pause: float = 0.0, wait: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        for start in range(0, len(content), 8):
            self.wfile.write(content[start : start + 8])
            self.wfile.flush()
            time.sleep(pause)
        if wait:
            self.server.closing.wait(10)

    def _redirect(self, path: str) -> None:
        self.send_response(302)
        self.send_header("Location", path)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    """Knows its address and what was asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.requests: list[str] = []
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data sets in a user's cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FULLRANK_DATA", raising=False)
    return tmp_path / "cache" / "fullrank" / "data"
