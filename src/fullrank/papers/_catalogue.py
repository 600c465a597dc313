"""The catalogue: every paper file in this folder, in the page's order."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from fullrank.papers._paper import Paper


class UnknownPaper(LookupError):
    """No paper has that slug; the message suggests the nearest ones."""


@cache
def catalogue() -> tuple[Paper, ...]:
    """All papers, in the page's order. Discovered: a file here that declares `PAPER` is in the catalogue."""
    package = import_module("fullrank.papers")
    modules = [name for _, name, _ in iter_modules(package.__path__) if not name.startswith("_")]
    papers = [import_module(f"fullrank.papers.{name}").PAPER for name in modules]
    return tuple(sorted(papers, key=lambda paper: paper.position))


def find(slug: str) -> Paper:
    """The paper with that slug, or with that arXiv identifier.

    Raises:
        UnknownPaper: there is none; the message suggests the nearest slugs.
    """
    papers = {paper.slug: paper for paper in catalogue()}
    wanted = slug.strip().lower().replace("_", "-")
    if wanted in papers:
        return papers[wanted]
    for paper in papers.values():
        if paper.arxiv == wanted.removeprefix("arxiv:").partition("v")[0]:
            return paper
    near = difflib.get_close_matches(wanted, papers, n=3, cutoff=0.5)
    near += [name for name in papers if wanted and wanted in name and name not in near]
    hint = f"did you mean {' or '.join(near)}?" if near else "`fullrank papers` lists them all."
    raise UnknownPaper(f"there is no paper {slug!r}; {hint}")
