"""The rank report as one self-contained HTML page: no network, no script, light and dark."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape

from fullrank.spectra.report import ERRORS, HeadReport, MatrixReport, Report

_LAYER = re.compile(r"(?<=\.)(\d+)(?=\.)")
_LINES = 8  # lines in the chart of shares by layer; more cannot be told apart
_WIDTH, _HEIGHT, _MARGIN = 720, 260, 36


@dataclass(frozen=True)
class Line:
    """One role's effective-rank share over the layers, as SVG coordinates."""

    role: str
    points: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class HeatMap:
    """Effective ranks of one product, layers by heads."""

    product: str
    rows: tuple[tuple[HeadReport, ...], ...]
    lowest: float
    highest: float


def render_report(report: Report, fragment: bool = False) -> str:
    """The page, or with `fragment` its content and style without the document around it.

    Args:
        report: what to show.
        fragment: for embedding; all classes begin with "fr-".
    """
    environment = Environment(
        loader=PackageLoader("fullrank.spectra"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": human_count, "spark": sparkline}
    template = environment.get_template("report_fragment.html" if fragment else "report.html")
    return template.render(
        report=report,
        errors=ERRORS,
        cheapest=report.cheapest(0.1, 10),
        lines=share_lines(report.matrices),
        chart={"width": _WIDTH, "height": _HEIGHT, "margin": _MARGIN},
        heat_maps=heat_maps(report.heads),
    )


def human_count(number: float) -> str:
    """1234567 -> "1.23 M"."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def sparkline(spectrum: Sequence[float], width: int = 120, height: int = 28) -> str:
    """SVG path of a spectrum on a logarithmic axis down to a thousandth of the largest value."""
    if not spectrum:
        return ""
    thinned = spectrum[:: max(1, len(spectrum) // 60)]
    step = width / max(1, len(thinned) - 1)
    heights = (min(1.0, -math.log10(max(value, 1e-3)) / 3) * (height - 2) + 1 for value in thinned)
    return "M" + " L".join(f"{index * step:.1f} {y:.1f}" for index, y in enumerate(heights))


def share_lines(matrices: Sequence[MatrixReport]) -> list[Line]:
    """Roles that recur over layers, each with its share of effective rank by layer."""
    roles: dict[str, list[tuple[int, MatrixReport]]] = {}
    for matrix in matrices:
        if match := _LAYER.search(matrix.name):
            role = matrix.name[match.end() + 1 :].removesuffix(".weight")
            roles.setdefault(role, []).append((int(match[1]), matrix))
    recurring = sorted((role for role, found in roles.items() if len(found) > 1), key=lambda role: -len(roles[role]))
    last = max((layer for role in recurring for layer, _ in roles[role]), default=1) or 1
    lines = []
    for role in recurring[:_LINES]:
        dots = tuple(
            (
                _MARGIN + (_WIDTH - 2 * _MARGIN) * layer / last,
                _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * matrix.rank_share,
                f"layer {layer}: effective rank {matrix.effective_rank:.1f}, {matrix.rank_share:.0%}",
            )
            for layer, matrix in sorted(roles[role], key=lambda item: item[0])
        )
        lines.append(Line(role, " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots), dots))
    return lines


def heat_maps(heads: Sequence[HeadReport]) -> list[HeatMap]:
    """One map per product."""
    maps = []
    for product in ("QK", "OV"):
        chosen = [head for head in heads if head.product == product]
        layers = sorted({head.layer for head in chosen})
        if not layers:
            continue
        rows = tuple(tuple(head for head in chosen if head.layer == layer) for layer in layers)
        ranks = [head.effective_rank for head in chosen]
        maps.append(HeatMap(product, rows, min(ranks), max(ranks)))
    return maps
