"""What every request passes: JSON twins, size, origin, and headers that keep a page to itself."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BODY = 64 * 1024  # bytes; forms here are a few words
_UPLOADS = {"/segment": 8 * 1024**2, "/chirps": 8 * 1024**2}  # address -> bytes, where a file is sent
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class JsonTwin:
    """`/page.json` is `/page` with `request.state.json` set; `/index.json` is `/`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            twin = path.endswith(".json")
            scope.setdefault("state", {})["json"] = twin
            if twin:
                scope["path"] = path.removesuffix(".json").removesuffix("/index") or "/"
                scope["raw_path"] = scope["path"].encode()
        await self.app(scope, receive, send)


class SameOrigin:
    """Refuses what changes something when another site's page asked for it, and bodies larger than any form here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            refusal = _refusal(headers, _UPLOADS.get(scope["path"], _BODY))
            if refusal is not None:
                await refusal(scope, receive, send)
                return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _refusal(headers: Headers, most: int) -> PlainTextResponse | None:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    foreign = site not in (None, "same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != headers.get("host")
    )
    if foreign:
        return PlainTextResponse("This was asked by another site's page, so it is refused.\n", 403)
    length = headers.get("content-length")
    if length is None or not length.isdigit():
        return PlainTextResponse("A request that changes something says how long it is.\n", 411)
    if int(length) > most:
        return PlainTextResponse(f"At most {most} bytes are accepted.\n", 413)
    return None
