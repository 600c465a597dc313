"""Segment an image: upload one, read what was found. Nothing is kept."""

from __future__ import annotations

import threading
from pathlib import PurePath
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from markupsafe import Markup

from fullrank.hub.jobs import TooMany
from fullrank.hub.rendering import respond

router = APIRouter()

METHODS = {
    "rpcanet": "a small RPCANet++, trained on defects of steel surfaces",
    "robust-pca": "robust PCA, without training",
}
MOST_PIXELS = 1_000_000

_ONE_IMAGE = threading.Lock()


@router.get("/segment")
def segment(request: Request) -> Response:
    """What can be uploaded, and the methods to choose from."""
    return respond(request, "segment.html", {"methods": METHODS, "most_pixels": MOST_PIXELS})


@router.post("/segment")
def segmented(
    request: Request,
    image: Annotated[UploadFile, File()],
    method: Annotated[Literal["rpcanet", "robust-pca"], Form()] = "rpcanet",
    threshold: Annotated[float, Form(gt=0, lt=1)] = 0.5,
) -> Response:
    """Background, object and mask of the uploaded image."""
    from fullrank.nn.segmentation_report import decode_grey, segment_pictures  # brings torch

    name = PurePath(image.filename or "image").name
    grey = decode_grey(image.file.read(), name, MOST_PIXELS)
    if not _ONE_IMAGE.acquire(blocking=False):
        raise TooMany("another image is being segmented: try again in a moment")
    try:
        report = segment_pictures([(name, grey)], method, threshold)
    finally:
        _ONE_IMAGE.release()
    return respond(
        request, "segmentation.html", report.to_dict(), name=name, fragment=Markup(report.to_html(fragment=True))
    )
