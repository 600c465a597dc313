"""Compare adapter methods at equal size: choose them, follow, read the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from fullrank.hub.adapter_choices import (
    PROPOSED,
    Budget,
    Epochs,
    ExampleCount,
    ModelAndData,
    Seeds,
    choices,
    choose_method,
    model_and_data,
)
from fullrank.hub.downloads import download, drawing
from fullrank.hub.libraries import load_adapt
from fullrank.hub.rendering import respond
from fullrank.hub.store import Job

if TYPE_CHECKING:
    from fullrank.adapt import AdapterComparison

router = APIRouter(dependencies=[Depends(load_adapt)])
_PROPOSED = ("lora", "loca")


@router.get("/compare-adapters")
def compare(request: Request) -> Response:
    """Models, data and methods to choose from, and the comparisons so far."""
    jobs = request.app.state.store.jobs("comparison", count=30)
    data = choices(request) | {"comparisons": [vars(job) for job in jobs]}
    return respond(request, "compare_adapters.html", data, chosen=_PROPOSED)


@router.post("/comparisons")
def start(
    request: Request,
    given: Annotated[ModelAndData, Depends(model_and_data)],
    methods: Annotated[tuple[str, ...], Form()] = (),
    budget: Budget = PROPOSED["budget"],
    seeds: Seeds = PROPOSED["seeds"],
    examples: ExampleCount = PROPOSED["examples"],
    epochs: Epochs = PROPOSED["epochs"],
) -> Response:
    """Compare methods."""
    chosen_methods = list(dict.fromkeys(choose_method(name).name for name in methods))
    if not chosen_methods:
        raise ValueError("no method is chosen; choose one or more")
    options = {
        "data": given.data.source,
        "methods": chosen_methods,
        "budget": budget,
        "seeds": seeds,
        "examples": examples,
        "epochs": epochs,
    }
    job = request.app.state.jobs.submit("comparison", str(given.model.path), given.model.name, options)
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/comparisons/{id}")
def comparison(request: Request, id: int) -> Response:
    """Methods side by side."""
    job, found = _finished(request, id)
    return respond(
        request,
        "comparison.html",
        vars(job) | {"comparison": found.to_dict()},
        rows=[vars(row) | {"mean": row.mean, "spread": row.spread} for row in found.methods],
    )


@router.get("/comparisons/{id}/figure.svg")
def figure(request: Request, id: int) -> Response:
    """Quality against time."""
    _, folder = request.app.state.jobs.finished(id, "comparison")
    return drawing((folder / "comparison.svg").read_bytes())


@router.get("/comparisons/{id}/comparison")  # its JSON twin: comparison.json
def comparison_file(request: Request, id: int) -> Response:
    """The comparison as a file of plain data."""
    return table_file(request, id, "json")


@router.get("/comparisons/{id}/comparison.{format}")
def table_file(request: Request, id: int, format: Literal["json", "csv", "parquet"]) -> Response:
    """The comparison as a file."""
    job, found = _finished(request, id)
    return download(found, f"{Path(job.title).name}-methods-{Path(job.options['data']).stem}.{format}")


def _finished(request: Request, id: int) -> tuple[Job, AdapterComparison]:
    from fullrank.adapt import AdapterComparison  # brings torch

    job, folder = request.app.state.jobs.finished(id, "comparison")
    return job, AdapterComparison.load(folder / "comparison.json")
