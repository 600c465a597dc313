"""Papers, runs and measurements as plain data and short text, for whoever prints or serves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullrank.papers._paper import Paper
from fullrank.papers._published import state_of
from fullrank.papers._result import ClaimResult, Result
from fullrank.papers._runs import RunInfo
from fullrank.papers._trial import Number, Stated

_SHOWN = 6  # numbers of one measurement that are shown in a line


def paper_row(paper: Paper) -> dict[str, Any]:
    """A paper as one row."""
    return {
        "slug": paper.slug,
        "title": paper.title,
        "authors": paper.authors,
        "published": paper.published,
        "comments": paper.comments,
        "arxiv": paper.arxiv,
        "topics": list(paper.topics),
        "claims": len(paper.claims),
        "state": state_of(paper),
    }


def paper_details(paper: Paper, result: Result | None) -> dict[str, Any]:
    """A whole paper, its claims beside the measurements of a result."""
    return paper_row(paper) | {
        "repository": paper.repository,
        "project_page": paper.project_page,
        "venue": paper.venue,
        "summary": paper.summary,
        "notes": paper.notes,
        "methods": list(paper.methods),
        "usage": paper.usage,
        "claims": [vars(claim) for claim in claims_of(paper, result)],
        "result": result.to_dict() if result else None,
    }


def claims_of(paper: Paper, result: Result | None) -> tuple[ClaimResult, ...]:
    """Every claim, with what a result measured for it."""
    return result.claims if result else tuple(ClaimResult.of(claim) for claim in paper.claims)


def run_row(info: RunInfo) -> dict[str, Any]:
    """A run as one row."""
    return {
        "slug": info.slug,
        "run": info.run,
        "scale": info.scale,
        "status": info.status,
        "done": info.done,
        "total": info.total,
        "text": info.text,
        "reason": info.reason,
        "seconds": info.seconds,
        "folder": str(info.folder),
    }


def readable(value: Stated | None, unit: str = "") -> str:
    """A measurement or a paper's value as short text; a hyphen where there is none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        shown = [f"{name} {_short(item)}" for name, item in list(value.items())[:_SHOWN]]
        more = f", and {len(value) - _SHOWN} more" if len(value) > _SHOWN else ""
        return ", ".join(shown) + more
    return f"{_short(value)} {unit}".strip()


def _short(value: Number) -> str:
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.4g}"
