"""Running papers: start, follow, cancel, and what runs found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from fullrank import papers
from fullrank.hub.feed import svg
from fullrank.hub.jobs import Jobs
from fullrank.hub.rendering import respond
from fullrank.hub.store import Job, Kind
from fullrank.papers import RunInfo, Scale
from fullrank.papers._plain import run_row

router = APIRouter()
_LOOK = 0.25  # seconds between two events
_FOUND: dict[Kind, str] = {
    "analysis": "/analyses",
    "adaptation": "/adaptations",
    "comparison": "/comparisons",
    "compression": "/compressions",
    "frontier": "/frontiers",
}


@router.post("/papers/{slug}/runs")
def start(request: Request, slug: str, scale: Annotated[Scale, Form()]) -> Response:
    """Run a paper, or go on with a run of it that stopped."""
    paper = papers.find(slug)
    paper.run_study  # noqa: B018 - refuses a paper that is not built
    job = _jobs(request).submit("run", paper.slug, paper.title, {"scale": scale})
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/runs")
def runs(request: Request) -> Response:
    """Every run, newest first, and what waits."""
    found = papers.list_runs(None, request.app.state.settings.runs)
    active = request.app.state.store.jobs(states=("waiting", "running"))
    return respond(
        request, "runs.html", {"runs": [run_row(info) for info in found], "jobs": [vars(job) for job in active]}
    )


@router.get("/runs/{slug}/{run}")
def run(request: Request, slug: str, run: str) -> Response:
    """A run: where it stands, or what it found."""
    info = _info(request, slug, run)
    paper = papers.find(slug)
    result = info.result() if info.status == "finished" else None
    return respond(
        request,
        "run.html",
        run_row(info) | {"result": result.to_dict() if result else None},
        title=paper.title,
        resumable=info.resumable,
    )


@router.get("/runs/{slug}/{run}/figures/{name}.svg")
def figure(request: Request, slug: str, run: str, name: str) -> Response:
    """A figure of a run."""
    info = _info(request, slug, run)
    return svg(info.result() if info.status == "finished" else None, info.folder, name)


@router.get("/jobs/{id}")
def job(request: Request, id: int) -> Response:
    """Where a job stands; of one that is done and has a page for what it found, that page."""
    jobs = _jobs(request)
    found = jobs.store.job(id)
    if found.state == "finished" and found.kind in _FOUND:
        return RedirectResponse(f"{_FOUND[found.kind]}/{id}" + (".json" if request.state.json else ""), 303)
    return respond(request, "job.html", _standing(jobs, found))


@router.get("/jobs/{id}/events")
async def events(request: Request, id: int) -> Response:
    """Where a job stands, as server-sent events until it is over."""
    jobs = _jobs(request)
    await asyncio.to_thread(jobs.store.job, id)

    async def stream() -> AsyncIterator[str]:
        before = None
        while True:
            found = await asyncio.to_thread(jobs.store.job, id)
            standing = _standing(jobs, found)
            if standing != before:
                yield f"data: {json.dumps(standing)}\n\n"
                before = standing
            if not found.active:
                return
            await asyncio.sleep(_LOOK)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/jobs/{id}/cancel")
def cancel(request: Request, id: int) -> Response:
    """Stop a job."""
    _jobs(request).cancel(id)
    return RedirectResponse(f"/jobs/{id}", 303)


def _jobs(request: Request) -> Jobs:
    return request.app.state.jobs


def _standing(jobs: Jobs, job: Job) -> dict[str, Any]:
    return vars(job) | {"progress": vars(jobs.progress(job))}


def _info(request: Request, slug: str, run: str) -> RunInfo:
    for info in papers.list_runs(papers.find(slug).slug, request.app.state.settings.runs):
        if info.run == run:
            return info
    raise LookupError(f"{slug} has no run {run!r}")
