"""Analyze a model: choose one, follow, read the report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from fullrank.hub.jobs import Jobs
from fullrank.hub.models import bundled_model, choose, models_in
from fullrank.hub.rendering import respond
from fullrank.hub.store import Job

router = APIRouter()
_TYPES = {"html": "text/html", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


@router.get("/analyze")
def analyze(request: Request) -> Response:
    """Models to choose from, and the analyses so far."""
    folders = request.app.state.settings.models
    offered = [bundled_model(), *models_in(folders)]
    data = {
        "models": [model.name for model in offered],
        "folders": [str(folder) for folder in folders],
        "analyses": [vars(job) for job in request.app.state.store.jobs("analysis", count=30)],
    }
    return respond(request, "analyze.html", data)


@router.post("/analyses")
def start(request: Request, model: Annotated[str, Form()] = "", path: Annotated[str, Form()] = "") -> Response:
    """Analyze a model; a path that is typed goes before one that is chosen."""
    chosen = choose(path or model, request.app.state.settings.models)
    job = request.app.state.jobs.submit("analysis", str(chosen.path), chosen.name)
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/analyses/{id}")
def analysis(request: Request, id: int) -> Response:
    """The report of an analysis."""
    from fullrank.spectra import Report  # brings torch

    job, file = _finished(request, id)
    report = Report.load(file)
    return respond(
        request,
        "analysis.html",
        vars(job) | {"report": report.to_dict()},
        fragment=Markup(report.to_html(fragment=True)),
    )


@router.get("/analyses/{id}/report.{format}")
def download(request: Request, id: int, format: Literal["html", "csv", "parquet"]) -> Response:
    """The report as a file."""
    from fullrank.spectra import Report  # brings torch

    job, file = _finished(request, id)
    with tempfile.TemporaryDirectory() as folder:
        content = Report.load(file).save(Path(folder) / f"report.{format}").read_bytes()
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in Path(job.title).name)
    headers = {"Content-Disposition": f'attachment; filename="rank-report-{name}.{format}"'}
    return Response(content, media_type=_TYPES[format], headers=headers)


def _finished(request: Request, id: int) -> tuple[Job, Path]:
    jobs: Jobs = request.app.state.jobs
    job = jobs.store.job(id)
    if job.kind != "analysis" or job.state != "finished":
        raise LookupError(f"job {id} is no finished analysis")
    return job, jobs.folder(job) / "report.json"
