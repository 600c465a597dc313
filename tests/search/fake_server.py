"""A server of the tests' own, on loopback."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer(ThreadingHTTPServer):
    """Answers with what `reply(request)` gives: a status, headers, and a body."""

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.requests: list[dict] = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        body = json.loads(content) if content and not content.endswith(b"\n") else {}  # lines are several objects
        request = {"method": self.command, "path": self.path, "content": content, **body}
        request |= {"key": self.headers.get("Authorization"), "api-key": self.headers.get("api-key")}
        request["account"] = self.headers.get("OpenAI-Organization")
        with server.lock:
            server.requests.append(request)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            status, headers, content = server.reply(request)
        finally:
            with server.lock:
                server.now -= 1
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except OSError:  # the client is gone: that is what a test of time-outs is about
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST  # noqa: N815

    def log_message(self, *words):
        pass


@contextmanager
def serving(reply):
    server = FakeServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
