"""The feed, the search, and a paper's page."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from fullrank import papers
from fullrank.hub.adapter_choices import ADAPTER_PAPERS
from fullrank.hub.downloads import drawing
from fullrank.hub.libraries import load_search
from fullrank.hub.rendering import respond
from fullrank.hub.store import Store
from fullrank.papers import SCALES, Mode, Paper, PaperHit, Result, Scale
from fullrank.papers._plain import paper_details, paper_row, run_row

router = APIRouter()
Search = Literal["hybrid", "semantic", "keyword"]
_FOUND = 20


@router.get("/")
def feed(request: Request, topic: str = "", runnable: bool = False) -> Response:
    """All papers in the page's order, or those of a topic."""
    every = papers.catalogue()
    chosen = [paper for paper in every if (not topic or topic in paper.topics) and (not runnable or paper.built)]
    return respond(
        request,
        "feed.html",
        {"topic": topic, "runnable": runnable, "papers": [_entry(paper) for paper in chosen]},
        topics=_topics(every),
        total=len(every),
        built=sum(paper.built for paper in every),
    )


@router.get("/search")
def search(request: Request, q: str = "", mode: Search = "hybrid") -> Response:
    """Papers for a query: by meaning and words, by meaning alone, or by words alone."""
    query = q.strip()[:500]
    store: Store = request.app.state.store
    found = _found(store, query, mode) if query else []
    return respond(request, "search.html", {"query": query, "mode": mode, "papers": found})


@router.get("/papers/{slug}")
def paper(request: Request, slug: str, scale: Scale | None = None) -> Response:
    """A paper: what it says, how to use it, its claims beside measurements, its runs."""
    paper = papers.find(slug)
    kept = {name: result for name in SCALES if (result := papers.kept_result(paper, name)) is not None}
    runs = papers.list_runs(paper.slug, request.app.state.settings.runs)
    result = kept.get(scale) if scale else papers.kept_result(paper)
    store: Store = request.app.state.store
    data = paper_details(paper, result) | {
        "runs": [run_row(info) for info in runs],
        "jobs": [vars(job) for job in store.jobs("run", ("waiting", "running")) if job.subject == paper.slug],
    }
    return respond(
        request,
        "paper.html",
        data,
        built=paper.built,
        kept=list(kept),
        scales=SCALES[:2],
        adapts=paper.slug in ADAPTER_PAPERS,
    )


@router.get("/papers/{slug}/results/{scale}/figures/{name}.svg")
def figure(slug: str, scale: Scale, name: str) -> Response:
    """A figure of a kept result."""
    paper = papers.find(slug)
    return svg(papers.kept_result(paper, scale), papers.results_folder() / paper.slug / scale, name)


def svg(result: Result | None, folder: Any, name: str) -> Response:
    """A figure of a result; only those that it names.

    Raises:
        LookupError: it names none of that name.
    """
    if result is None or name not in result.figures:
        raise LookupError(f"there is no figure {name!r} here")
    return drawing((folder / result.figures[name]).read_bytes())


def _entry(paper: Paper) -> dict[str, Any]:
    return paper_row(paper) | {"summary": paper.summary}


def _topics(every: tuple[Paper, ...]) -> list[tuple[str, int]]:
    return [(topic, sum(topic in paper.topics for paper in every)) for topic in papers.TOPICS]


def _found(store: Store, query: str, mode: Mode) -> list[dict[str, Any]]:
    passages = {hit.slug: hit.passage for hit in store.find_text(query, 100, every=False)}
    if mode == "keyword":
        exact = {hit.slug for hit in store.find_text(query, 100)}  # those that hold all words
        hits = [hit for hit in papers.search(query, 100, "keyword") if hit.paper.slug in exact][:_FOUND]
    else:
        load_search()
        hits = papers.search(query, _FOUND, mode)
    return [
        _entry(hit.paper) | {"why": _why(hit), "passage": passages.get(hit.paper.slug, ""), "reasons": _reasons(hit)}
        for hit in hits
    ]


def _reasons(hit: PaperHit) -> dict[str, Any]:
    """What the score is made of."""
    return {"score": hit.score, "words": dict(hit.contributions), "cosine": hit.cosine}


def _why(hit: PaperHit) -> str:
    reasons = []
    if hit.cosine is not None:
        reasons.append(f"similar in meaning: {hit.cosine:.2f}")
    if hit.terms:
        reasons.append(f"has the words {', '.join(hit.terms)}")
    return "; ".join(reasons)
