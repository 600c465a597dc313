"""Adapt a model: choose one, data and a method; follow; read the report, take the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from fullrank._model_hub import is_compressed
from fullrank.hub.adapter_choices import (
    ADAPTER_PAPERS,
    PROPOSED,
    Epochs,
    ExampleCount,
    ModelAndData,
    Size,
    SizeByBudget,
    choices,
    choose_method,
    model_and_data,
)
from fullrank.hub.downloads import download
from fullrank.hub.libraries import load_adapt
from fullrank.hub.rendering import respond
from fullrank.hub.store import Job

if TYPE_CHECKING:
    from fullrank.adapt import AdaptReport

router = APIRouter(dependencies=[Depends(load_adapt)])


@router.get("/adapt")
def adapt(request: Request, method: str = PROPOSED["method"]) -> Response:
    """Models, data and methods to choose from, and the adaptations so far."""
    chosen = choose_method(method).name
    jobs = request.app.state.store.jobs("adaptation", count=30)
    data = choices(request) | {"adaptations": [vars(job) for job in jobs]}
    return respond(request, "adapt.html", data, chosen=chosen)


@router.post("/adaptations")
def start(
    request: Request,
    given: Annotated[ModelAndData, Depends(model_and_data)],
    method: Annotated[str, Form()] = PROPOSED["method"],
    size: Size = None,
    budget: SizeByBudget = None,
    examples: ExampleCount = PROPOSED["examples"],
    epochs: Epochs = PROPOSED["epochs"],
) -> Response:
    """Adapt a model."""
    if size is not None and budget is not None:
        raise ValueError(f"size {size} and budget {budget} are both given; give one of them, or none")
    options = {
        "data": given.data.source,
        "method": choose_method(method).name,
        "size": size,
        "budget": budget,
        "examples": examples,
        "epochs": epochs,
    }
    job = request.app.state.jobs.submit("adaptation", str(given.model.path), given.model.name, options)
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/adaptations/{id}")
def adaptation(request: Request, id: int) -> Response:
    """What an adaptation did."""
    job, report, folder = _finished(request, id)
    return respond(
        request,
        "adaptation.html",
        vars(job) | {"report": report.to_dict()},
        code=loading_code(report),
        archive=(folder / "adapter.zip").stat().st_size,
        paper=report.method if report.method in ADAPTER_PAPERS else "",
    )


@router.get("/adaptations/{id}/adapter.zip")
def adapter(request: Request, id: int) -> Response:
    """The adapter as PEFT keeps it, with its tokenizer and report."""
    job, _, folder = _finished(request, id)
    return download((folder / "adapter.zip").read_bytes(), f"{_name(job)}.zip")


@router.get("/adaptations/{id}/report")  # its JSON twin: report.json
def report_file(request: Request, id: int) -> Response:
    """The report as a file."""
    job, _, folder = _finished(request, id)
    return download((folder / "report.json").read_bytes(), f"{_name(job)}-report.json")


def loading_code(report: AdaptReport) -> str:
    """Python that loads the adapter of a report from the folder `adapter`."""
    language = report.task == "causal-lm"
    auto = "AutoModelForCausalLM" if language else "AutoModelForSequenceClassification"
    labels = ", ".join(f"{number}: {_quoted(str(label))}" for number, label in enumerate(report.labels))
    head = "" if language else f", id2label={{{labels}}}" if labels else ", num_labels=1"
    ours = ["import fullrank.adapt  # makes its methods known to PEFT"] if report.method in ADAPTER_PAPERS else []
    compressed = ["import fullrank.compress  # lets transformers load compressed layers"]
    lines = [
        *ours,
        *(compressed if is_compressed(report.model) else []),
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"base = {auto}.from_pretrained(",
        f"    {_quoted(report.model)}{head}",
        ")",
        'model = PeftModel.from_pretrained(base, "adapter").eval()',
        'tokenizer = AutoTokenizer.from_pretrained("adapter")',
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Text as Python writes it, in double quotes like the rest."""
    return json.dumps(text, ensure_ascii=False)


def _finished(request: Request, id: int) -> tuple[Job, AdaptReport, Path]:
    from fullrank.adapt import AdaptReport  # brings torch

    job, folder = request.app.state.jobs.finished(id, "adaptation")
    return job, AdaptReport.load(folder / "report.json"), folder


def _name(job: Job) -> str:
    return f"{Path(job.title).name}-{job.options['method']}-{Path(job.options['data']).stem}"
