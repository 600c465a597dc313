"""Find chirps in a recording: upload one, read what was found. Nothing is kept."""

from __future__ import annotations

import math
import tempfile
import threading
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from markupsafe import Markup

from fullrank.hub.jobs import TooMany
from fullrank.hub.rendering import respond

if TYPE_CHECKING:
    from fullrank.fields.chirps import Recording

router = APIRouter()

MOST_WINDOWS = 200

_ONE_RECORDING = threading.Lock()


@router.get("/chirps")
def chirps(request: Request) -> Response:
    """What can be uploaded."""
    return respond(request, "chirps.html", {"most_windows": MOST_WINDOWS})


@router.post("/chirps")
def localized(
    request: Request,
    recording: Annotated[UploadFile, File()],
    channels: Annotated[str, Form(max_length=500)] = "",
    window: Annotated[float, Form(gt=0, le=86_400)] = 60.0,
    max_frequency: Annotated[float | None, Form(gt=0)] = None,
) -> Response:
    """The sweeps in every window of the uploaded recording."""
    from fullrank.fields.chirps import localize_recording, read_recording  # brings torch

    name = _file_name(recording.filename)
    names = [part for part in map(str.strip, channels.split(",")) if part]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(recording.file.read())
        try:
            opened = read_recording(path)
            _check_size(opened, names, window)
            if not _ONE_RECORDING.acquire(blocking=False):
                raise TooMany("another recording is being read: try again in a moment")
            try:
                report = localize_recording(opened, names, window, max_frequency)
            finally:
                _ONE_RECORDING.release()
        except (ValueError, LookupError) as error:  # they name the file, which lies elsewhere for its owner
            raise type(error)(str(error.args[0]).replace(f"{folder}/", "")) from error
    return respond(
        request, "chirps_found.html", report.to_dict(), name=name, fragment=Markup(report.to_html(fragment=True))
    )


def _file_name(given: str | None) -> str:
    name = PurePath(given or "").name
    return name if 0 < len(name.encode()) <= 200 and not name.startswith(".") else f"recording{PurePath(name).suffix}"


def _check_size(recording: Recording, names: list[str], window: float) -> None:
    count = sum(math.ceil(channel.duration / window) for channel in recording.choose(names))
    if count > MOST_WINDOWS:
        raise ValueError(
            f"{recording.path}: {count} windows of {window:g} s are more than the {MOST_WINDOWS} that are read here: "
            "choose channels, or use the command `fullrank chirps`"
        )
