"""A page as its reader gets it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "input", "img", "br", "hr", "path", "line", "rect", "circle"}


class Page(HTMLParser):
    """Checks that tags match and collects what a screen reader needs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.problems: list[str] = []
        self.fields: list[dict[str, Any]] = []
        self.labels: set[str] = set()
        self.links: set[str] = set()
        self.hidden: dict[str, list[str]] = {}
        self.text = ""
        self.code = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        if named.get("id"):
            self.ids.append(str(named["id"]))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img" and not named.get("alt"):
            self.problems.append("a picture without words")
        if tag == "label" and named.get("for"):
            self.labels.add(str(named["for"]))
        if tag == "input" and named.get("type") == "hidden":
            self.hidden.setdefault(str(named["name"]), []).append(str(named["value"]))
        if tag == "input" and named.get("type") not in ("hidden", "radio", "checkbox"):
            self.fields.append(named)
        if tag == "a" and str(named.get("href", "")).startswith("/"):
            self.links.add(str(named["href"]).partition("#")[0])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-2:] == ["pre", "code"]:
            self.code += data

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")


def read(html: str) -> Page:
    """What a person and a screen reader get from a page, and what is wrong with it."""
    page = Page()
    page.feed(html)
    page.problems += [f"<{tag}> is never closed" for tag in page.open]
    page.problems += [f"id {id} twice" for id in set(page.ids) if page.ids.count(id) > 1]
    page.problems += [f"field without a label: {field}" for field in page.fields if field.get("id") not in page.labels]
    if page.headings.count(1) != 1:
        page.problems.append(f"{page.headings.count(1)} first-level headings")
    steps = zip(page.headings, page.headings[1:], strict=False)
    page.problems += [f"heading level {low} after {high}" for high, low in steps if low > high + 1]
    return page
