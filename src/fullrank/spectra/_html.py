"""Self-contained HTML pages: one stylesheet, no network, no script, light and dark."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, title: str, fragment: bool, package: str = "fullrank.spectra", **context: Any) -> str:
    """Render a template.

    Args:
        template: its file name; its classes begin with "fr-", and it needs nothing from the page around it.
        title: of the page.
        fragment: only the template, with its style, to embed in another page.
        package: whose `templates` hold it; the page and the style are this room's.
        context: what the template shows.
    """
    environment = _environment(package)
    content = environment.get_template(template).render(title=title, **context)
    return content if fragment else environment.get_template("page.html").render(title=title, content=content)


def human_count(number: float | int) -> str:
    """1234567 -> "1.23 M", unbroken."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{number:.0f}"


def percent(share: float | int, digits: int = 0) -> str:
    """0.231 -> "23 %", unbroken."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("fullrank.spectra")]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": human_count, "percent": percent}
    return environment
