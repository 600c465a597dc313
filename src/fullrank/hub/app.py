"""The application: its state, its pages, its errors."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fullrank import papers
from fullrank._optional import MissingExtra
from fullrank.hub import adaptations, adapter_comparisons, analyses, chirping, compressions, feed, runs, segmenting
from fullrank.hub.allowed import NotAllowed
from fullrank.hub.jobs import Jobs, TooMany
from fullrank.hub.libraries import load_search
from fullrank.hub.rendering import respond
from fullrank.hub.security import JsonTwin, SameOrigin
from fullrank.hub.settings import Settings
from fullrank.hub.store import Store

_STATUS: dict[type[Exception], int] = {
    NotAllowed: 403,
    LookupError: 404,
    FileNotFoundError: 404,
    ValueError: 422,
    TooMany: 429,
    MissingExtra: 501,
}
_NAMES = {403: "Refused", 404: "Not found", 405: "Not possible", 422: "Not accepted", 429: "Busy", 501: "Not installed"}


def create_app(settings: Settings) -> FastAPI:
    """The hub as an ASGI application.

    Args:
        settings: what the operator decides.

    Raises:
        ValueError: the hub's database is of a newer Fullrank, or damaged.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.jobs.start()
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
        try:
            yield
        finally:
            app.state.jobs.stop()

    app = FastAPI(title="Fullrank", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    store = Store(settings.folder / "hub.sqlite")
    store.index(papers.catalogue())
    app.state.settings = settings
    app.state.store = store
    app.state.jobs = Jobs(settings, store)
    for room in (feed, runs, analyses, adaptations, adapter_comparisons, compressions, segmenting, chirping):
        app.include_router(room.router)
    app.mount("/static", StaticFiles(packages=[("fullrank.hub", "static")]), name="static")
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _words(status))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(SameOrigin)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts), www_redirect=False)
    app.add_middleware(JsonTwin)
    return app


def _words(status: int) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, KeyError | IndexError):  # a mistake of ours, not something that is not there
            raise error
        text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
        return _error(request, status, text)

    return answer


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # what it is registered for
    path = request.url.path
    says = {404: f"There is no page at {path}.", 405: f"{path} takes what a form sends, and is no page to open."}
    return _error(request, error.status_code, says.get(error.status_code, str(error.detail)))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # what it is registered for
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return _error(request, 422, f"{field[:1].upper()}{field[1:]}: {first['msg']}")


def _error(request: Request, status: int, text: str) -> Response:
    return respond(request, "error.html", {"status": status, "error": text}, status, name=_NAMES.get(status, "Error"))


def _warm_up() -> None:
    """Load the encoder before the first visitor searches."""
    load_search()
