"""Pages and their JSON twins."""

from __future__ import annotations

import re
import shlex
from datetime import date, datetime
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import PurePath
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

import fullrank
from fullrank._files import to_json
from fullrank.papers._plain import readable


def respond(request: Request, template: str, data: dict[str, Any], status: int = 200, **more: Any) -> Response:
    """The page, or its data as JSON where the address ends in `.json`.

    Args:
        request: what was asked.
        template: of the page.
        data: plain data: what the JSON twin says, also given to the template.
        status: of the answer.
        more: what only the template needs.
    """
    if request.state.json:
        return Response(to_json(data), status, media_type="application/json")
    context = data | more | {"request": request, "path": request.url.path}
    return HTMLResponse(_environment().get_template(template).render(context), status)


def readable_date(day: str | None) -> str:
    """2024-11-12 -> Nov 12, 2024"""
    return "" if day is None else f"{date.fromisoformat(day):%b %-d, %Y}"


def readable_time(moment: str) -> str:
    """An ISO time in UTC -> Nov 12, 2024, 09:30 UTC"""
    return f"{datetime.fromisoformat(moment):%b %-d, %Y, %H:%M} UTC" if moment else ""


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s"""
    whole = round(seconds)
    if whole >= 60:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"


def step_time(seconds: float) -> str:
    """0.0312 -> 31 ms"""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"


def mebibytes(count: int) -> str:
    """3500000 -> 3.3 MiB"""
    return f"{count / 2**20:,.0f} MiB" if count >= 100 * 2**20 else f"{count / 2**20:.2g} MiB"


def file_name(path: str) -> str:
    """/models/reviews.tsv -> reviews.tsv"""
    return PurePath(path).name


def grouped(count: int) -> str:
    """22713216 -> 22,713,216"""
    return f"{count:,}"


def marked(passage: str) -> Markup:
    """A passage whose matching words stand between U+0002 and U+0003, as HTML."""
    return Markup(str(escape(passage)).replace("\x02", "<mark>").replace("\x03", "</mark>"))


def posted(field: str, name: str) -> str:
    """What curl takes to send a file, as a shell reads it: image, my plate.png -> 'image=@"my plate.png"'"""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{field}=@"{quoted}"' if re.search(r'[\s;,"]', name) else f"{field}=@{name}")


def quantity(count: int, noun: str) -> str:
    """3, "author" -> 3 authors"""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fullrank.hub"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "date": readable_date,
        "time": readable_time,
        "duration": duration,
        "step_time": step_time,
        "mebibytes": mebibytes,
        "grouped": grouped,
        "file_name": file_name,
        "json": lambda value: to_json(value, None),
        "marked": marked,
        "readable": readable,
    }
    environment.globals |= {"version": fullrank.__version__, "asset": _asset, "posted": posted, "quantity": quantity}
    return environment


@cache
def _asset(name: str) -> str:
    """Address of a static file; another content has another address, so browsers may keep it."""
    content = resources.files("fullrank.hub").joinpath("static", name).read_bytes()
    return f"/static/{name}?{sha256(content).hexdigest()[:10]}"
