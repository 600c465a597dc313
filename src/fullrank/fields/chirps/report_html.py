"""The report of a recording as one self-contained HTML page."""

from __future__ import annotations

import base64
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from fullrank._saving import svg
from fullrank.fields.chirps.localizing import Chirp, ChirpReport
from fullrank.fields.chirps.plots import window_figure


def render_report(report: ChirpReport, fragment: bool = False) -> str:
    """The page, or with `fragment` its content and style without the document around it."""
    pictures = [
        {
            "window": (window := report.windows[number]),
            "says": sentence(window.ridge) if window.ridge is not None else "",
            "source": _data_address(svg(window_figure(Z, window))),
        }
        for number, Z in report.grids.items()
    ]
    title = f"Chirps in {report.files[0]}" if len(report.files) == 1 else f"Chirps in {len(report.files)} files"
    content = (
        _environment()
        .get_template("chirps.html")
        .render(
            report=report,
            channels={(window.file, window.channel) for window in report.windows},
            standing_out=sum(map(report.found, report.windows)),
            pictures=pictures,
        )
    )
    return content if fragment else _environment().get_template("page.html").render(title=title, content=content)


def sentence(chirp: Chirp) -> str:
    """A sweep in words."""
    return (
        f"sweep from {chirp.onset_frequency:.1f} to {chirp.offset_frequency:.1f} Hz at {chirp.onset_time:.2f} s over "
        f"{chirp.duration:.2f} s, score {chirp.score:.1f}"
    )


def _data_address(picture: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"


@cache
def _environment() -> Environment:
    """The templates of this package, and the page and style that all reports share."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("fullrank.fields.chirps"), PackageLoader("fullrank.spectra")]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
