"""Serve the hub until Ctrl-C."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout

from fullrank.hub.app import create_app
from fullrank.hub.settings import Settings

_EVERYWHERE = ("0.0.0.0", "::")
_GRACE = 2  # seconds that open connections get at the end


class _Server(uvicorn.Server):
    """Prints the address once it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
            print(f"Fullrank is at http://{shown}:{port}  (Ctrl-C stops it)", flush=True)


def serve(host: str, port: int, *, runs: Path, models: tuple[Path, ...] = ()) -> None:
    """Serve the hub; prints its address once it answers, returns after Ctrl-C.

    Args:
        host: address to listen on; anything but this machine's own lets others run papers here.
        port: 0 takes a free one.
        runs: folder of runs.
        models: folders whose models and data visitors may name by path.

    Raises:
        OSError: the port is in use or not allowed, or there is no such address.
        ValueError: a folder of models is not there, or the hub's database is of a newer Fullrank.
        RuntimeError: another hub serves the same runs.
    """
    hosts = Settings(runs).hosts if host in ("127.0.0.1", "localhost", "::1") else ("*",)
    settings = Settings(runs, models, hosts)
    with _listening(host, port) as listener, _alone(settings):
        app = create_app(settings)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE, server_header=False)
        server = _Server(config)
        server.run([listener])
    if not server.started:
        raise RuntimeError("the hub could not start; the lines above say why")


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Two hubs on the same runs would start each other's jobs."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.folder / "lock", timeout=0):
            yield
    except Timeout:
        raise RuntimeError(
            f"another hub serves the runs in {settings.runs}; stop it, or give this one another folder with --runs"
        ) from None


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(_refused(host, port, error)) from error
    return listener


def _refused(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; take another, such as fullrank serve --port 8001 (make run PORT=8001)"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by you; take one above 1023, such as --port 8000"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"
