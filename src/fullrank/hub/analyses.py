"""Analyze a model: choose one, follow, read the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from fullrank.hub.downloads import download
from fullrank.hub.models import bundled_model, choose, models_in
from fullrank.hub.rendering import respond
from fullrank.hub.store import Job

router = APIRouter()


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

    job, folder = _finished(request, id)
    report = Report.load(folder / "report.json")
    return respond(
        request,
        "analysis.html",
        vars(job) | {"report": report.to_dict()},
        fragment=Markup(report.to_html(fragment=True)),
    )


@router.get("/analyses/{id}/report.{format}")
def report_file(request: Request, id: int, format: Literal["html", "csv", "parquet"]) -> Response:
    """The report as a file."""
    from fullrank.spectra import Report  # brings torch

    job, folder = _finished(request, id)
    report = Report.load(folder / "report.json")
    return download(report, f"rank-report-{Path(job.title).name}.{format}")


def _finished(request: Request, id: int) -> tuple[Job, Path]:
    return request.app.state.jobs.finished(id, "analysis")
