"""Compress a model, or compare compressors: choose, follow, read the proof, take the smaller model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from fullrank import papers
from fullrank.hub.adapter_choices import ExampleCount, ModelAndData, choices, model_and_data
from fullrank.hub.downloads import download, drawing
from fullrank.hub.libraries import load_adapt, load_compress
from fullrank.hub.rendering import respond
from fullrank.hub.store import Job
from fullrank.hub.worker import size_of

if TYPE_CHECKING:
    from fullrank.compress import CompressorComparison

router = APIRouter(dependencies=[Depends(load_adapt), Depends(load_compress)])
#: What the form says of a method; a method that is not named here takes part with its name alone.
_SUMMARIES = {
    "svd": "the best approximation of every weight, all entries alike",
    "asvd": "errors weigh as the mean input",
    "whiten": "the least error at the layers’ outputs (SVD-LLM)",
    "fwsvd": "errors weigh as the task’s Fisher information, by input",
    "fwsvd-output": "the same, by output",
    "fwsvd-both": "the same, by input and output",
    "snmf": "a semi-non-negative factorisation (Greenformers)",
    "rtn": "whole numbers of few bits, rounded to the nearest",
    "gptq": "whole numbers of few bits, each error made up by the next columns",
    "lorc": "whole numbers of few bits, and the error’s strongest directions beside them",
}
_PAPERS = {"fwsvd": "fwsvd", "fwsvd-output": "fwsvd", "fwsvd-both": "fwsvd", "snmf": "greenformers", "lorc": "lorc"}
_PROPOSED = {"data": "stsb", "method": "fwsvd", "keep": 50, "bits": 4, "examples": 500, "recover": 0}
_COMPARED = ("svd", "asvd", "whiten", "fwsvd", "fwsvd-output", "fwsvd-both")
_EPOCHS = 20

Keep = Annotated[int, Form(ge=1, le=100)]
Bits = Annotated[int, Form(ge=2, le=8)]
Recover = Annotated[int, Form(ge=0, le=_EPOCHS)]


@router.get("/compress")
def compress(request: Request, method: str = _PROPOSED["method"]) -> Response:
    """Models, data and methods to choose from, and the compressions so far."""
    chosen = _choose_method(method)
    jobs = request.app.state.store.jobs("compression", count=30)
    data = _choices(request) | {"compressions": [vars(job) for job in jobs]}
    return respond(request, "compress.html", data, chosen=chosen, epochs=_EPOCHS)


@router.post("/compressions")
def start(
    request: Request,
    given: Annotated[ModelAndData, Depends(model_and_data)],
    method: Annotated[str, Form()] = _PROPOSED["method"],
    keep: Keep = _PROPOSED["keep"],
    bits: Bits = _PROPOSED["bits"],
    examples: ExampleCount = _PROPOSED["examples"],
    recover: Recover = _PROPOSED["recover"],
) -> Response:
    """Compress a model."""
    from fullrank.compress import check_compression  # brings torch

    name = _choose_method(method)
    options = {
        "data": given.data.source,
        "method": name,
        "keep": None if _takes_bits(name) else keep,
        "bits": bits if _takes_bits(name) else None,
        "examples": examples,
        "recover": recover,
    }
    check_compression(given.model.path, name, given.data, recover=recover, **size_of(options))
    job = request.app.state.jobs.submit("compression", str(given.model.path), given.model.name, options)
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/compressions/{id}")
def compression(request: Request, id: int) -> Response:
    """What a compression did, and what is left of size, time and quality."""
    job, report, folder = _compressed(request, id)
    return respond(
        request,
        "compression.html",
        vars(job) | {"report": report},
        archive=(folder / "model.zip").stat().st_size,
        paper=_PAPERS.get(job.options["method"], ""),
    )


@router.get("/compressions/{id}/model.zip")
def model_file(request: Request, id: int) -> Response:
    """The compressed model as a Hugging Face folder."""
    job, _, folder = _compressed(request, id)
    return download((folder / "model.zip").read_bytes(), f"{Path(job.title).name}-{job.options['method']}.zip")


@router.get("/compressions/{id}/report")  # its JSON twin: report.json
def report_file(request: Request, id: int) -> Response:
    """The report as a file."""
    job, _, folder = _compressed(request, id)
    name = f"{Path(job.title).name}-{job.options['method']}-report.json"
    return download((folder / "report.json").read_bytes(), name)


@router.get("/compare-compressors")
def compare(request: Request) -> Response:
    """Models, data and methods to choose from, and the frontiers so far."""
    jobs = request.app.state.store.jobs("frontier", count=30)
    data = _choices(request) | {"frontiers": [vars(job) for job in jobs]}
    return respond(request, "compare_compressors.html", data, chosen=_COMPARED)


@router.post("/frontiers")
def start_frontier(
    request: Request,
    given: Annotated[ModelAndData, Depends(model_and_data)],
    methods: Annotated[tuple[str, ...], Form()] = (),
    examples: ExampleCount = _PROPOSED["examples"],
) -> Response:
    """Compare methods."""
    from fullrank.compress import check_compression  # brings torch

    chosen_methods = list(dict.fromkeys(_choose_method(name) for name in methods))
    if not chosen_methods:
        raise ValueError("no method is chosen; choose one or more")
    for name in chosen_methods:
        check_compression(given.model.path, name, given.data)
    options = {"data": given.data.source, "methods": chosen_methods, "examples": examples}
    job = request.app.state.jobs.submit("frontier", str(given.model.path), given.model.name, options)
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/frontiers/{id}")
def frontier(request: Request, id: int) -> Response:
    """Methods side by side."""
    job, found = _compared(request, id)
    data = vars(job) | {"comparison": found.to_dict(), "rows": found.to_rows()}
    return respond(request, "frontier.html", data)


@router.get("/frontiers/{id}/figure.svg")
def figure(request: Request, id: int) -> Response:
    """Quality against size."""
    _, folder = request.app.state.jobs.finished(id, "frontier")
    return drawing((folder / "frontier.svg").read_bytes())


@router.get("/frontiers/{id}/comparison.{format}")
def table_file(request: Request, id: int, format: Literal["csv", "parquet"]) -> Response:
    """The comparison as a file."""
    job, found = _compared(request, id)
    return download(found, f"{Path(job.title).name}-frontier.{format}")


def _choices(request: Request) -> dict[str, Any]:
    """What may be chosen, as plain data."""
    found = choices(request)
    methods = [
        {"name": name, "summary": _SUMMARIES.get(name, ""), "bits": _takes_bits(name), "paper": _paper(name)}
        for name in _methods()
    ]
    return found | {"methods": methods, "proposed": _PROPOSED}


def _methods() -> list[str]:
    """Methods of layers of a language model or encoder; pruning needs a convolutional network's own inputs."""
    from fullrank.compress import METHODS  # brings torch

    return [name for name in METHODS if name in _SUMMARIES]


def _paper(method: str) -> str:
    return papers.find(_PAPERS[method]).title if method in _PAPERS else ""


def _choose_method(name: str) -> str:
    if name not in _methods():
        raise ValueError(f"there is no method {name!r}; there are {', '.join(_methods())}")
    return name


def _takes_bits(name: str) -> bool:
    from fullrank.compress.methods import method_of  # brings torch

    return "bits" in method_of(name, {}).options()


def _compressed(request: Request, id: int) -> tuple[Job, dict[str, Any], Path]:
    job, folder = request.app.state.jobs.finished(id, "compression")
    return job, json.loads((folder / "report.json").read_text()), folder


def _compared(request: Request, id: int) -> tuple[Job, CompressorComparison]:
    from fullrank.compress import CompressorComparison  # brings torch

    job, folder = request.app.state.jobs.finished(id, "frontier")
    return job, CompressorComparison.load(folder / "frontier.json")
