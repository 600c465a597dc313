"""The command in the process of the test, in folders of its own."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fullrank.cli import main, output


@dataclass(frozen=True)
class Outcome:
    """What a call of the command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one message of bad input: nothing else is printed, and no traceback; what it continues is indented."""
        assert self.code == 2, self
        assert self.out == ""
        assert "Traceback" not in self.err
        first, *more = self.err.strip().splitlines()
        assert first.startswith("error: ")
        assert all(line.startswith("  ") for line in more), self.err
        return first.removeprefix("error: ")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs` and `results` below a folder that is the working directory."""
    monkeypatch.setenv("FULLRANK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FULLRANK_RESULTS", str(tmp_path / "results"))
    for console in (output.console, output.errors):  # they were made when the command was imported
        monkeypatch.setattr(console, "width", 160)
    monkeypatch.setenv("COLUMNS", "160")  # for what the command starts
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fullrank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`fullrank("show", "rankme")` is the command with these arguments."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fullrank", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        return Outcome(exit.value.code or 0, out, err)

    return call


@pytest.fixture
def server(monkeypatch):
    """A server of one model, which says how many passages it was shown; gives its address and its requests."""
    pytest.importorskip("openai")
    for name in ("OPENAI_API_KEY", "FULLRANK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send({"object": "list", "data": [{"id": "only", "object": "model", "created": 0, "owned_by": "o"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body | {"key": self.headers["Authorization"]})
            text = f"Final Answer: {body['messages'][0]['content'].count('</passage ')} passages"
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            self.send({"id": "1", "object": "chat.completion", "created": 0, "model": "only", "choices": [choice]})

        def send(self, answer):
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words): ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1", requests
    http.shutdown()
    thread.join()
    http.server_close()
