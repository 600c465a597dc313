"""The rank report as one self-contained HTML page: what each part of it shows, as SVG coordinates."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fullrank.spectra._html import percent, render
from fullrank.spectra.report import ERRORS, HeadReport, MatrixReport, Report

_LAYER = re.compile(r"(?<=\.)(\d+)(?=\.)")
_ROLES = 8  # roles in a chart; more cannot be told apart
_WIDTH, _HEIGHT, _LEFT, _MARGIN = 720, 280, 48, 28
_DECADES = 3  # spectra are drawn down to 10^-3 of the largest value
_POINTS = 48  # points of a drawn spectrum


@dataclass(frozen=True)
class Line:
    """One role's effective-rank share over the layers, as SVG coordinates."""

    role: str
    points: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Chart:
    """Effective-rank shares over the layers.

    Attributes:
        lines: one for every role.
        levels: height and label of the horizontal lines.
        layers: place and number of the layers that are labelled.
        width, height, left, margin: of the drawing.
    """

    lines: tuple[Line, ...]
    levels: tuple[tuple[float, str], ...]
    layers: tuple[tuple[float, int], ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    margin: int = _MARGIN


@dataclass(frozen=True)
class Panel:
    """The spectra of one role, first layer palest."""

    role: str
    curves: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class HeatMap:
    """Effective ranks of one product, layers by heads."""

    product: str
    says: str
    rows: tuple[tuple[HeadReport, ...], ...]
    lowest: float
    highest: float

    def strength(self, head: HeadReport) -> float:
        """Place between the lowest and the highest, 0 to 1."""
        span = self.highest - self.lowest
        return (head.effective_rank - self.lowest) / span if span else 1.0


def render_report(report: Report, fragment: bool = False) -> str:
    """The page, or with `fragment` its content and style without the document around it.

    Args:
        report: what to show.
        fragment: for embedding; all classes begin with "fr-".
    """
    roles = _roles(report.matrices)
    return render(
        "report.html",
        f"Rank of {report.model}",
        fragment,
        report=report,
        errors=ERRORS,
        cheapest=report.cheapest(0.1, 10),
        chart=_chart(roles),
        panels=_panels(roles),
        heat_maps=_heat_maps(report.heads),
        curve=_curve,
        decades=_DECADES,
    )


Roles = dict[str, list[tuple[int, MatrixReport]]]


def _roles(matrices: Sequence[MatrixReport]) -> Roles:
    """Weights that recur over the layers, by their name without the layer; most frequent first, layers ascending."""
    roles: Roles = {}
    for matrix in matrices:
        if match := _LAYER.search(matrix.name):
            role = matrix.name[match.end() + 1 :].removesuffix(".weight")
            roles.setdefault(role, []).append((int(match[1]), matrix))
    recurring = sorted((role for role in roles if len(roles[role]) > 1), key=lambda role: -len(roles[role]))
    return {role: sorted(roles[role], key=lambda item: item[0]) for role in recurring[:_ROLES]}


def _chart(roles: Roles) -> Chart | None:
    if not roles:
        return None
    layers = sorted({layer for found in roles.values() for layer, _ in found})
    span = (layers[-1] - layers[0]) or 1

    def across(layer: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _MARGIN) * (layer - layers[0]) / span

    def up(share: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * share

    lines = []
    for role, found in roles.items():
        dots = tuple(
            (
                across(layer),
                up(matrix.rank_share),
                f"{role}, layer {layer}: effective rank {matrix.effective_rank:.1f}, {percent(matrix.rank_share)}",
            )
            for layer, matrix in found
        )
        lines.append(Line(role, " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots), dots))
    levels = tuple((up(share), percent(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    labelled = layers[:: -(-len(layers) // 16)]
    return Chart(tuple(lines), levels, tuple((across(layer), layer) for layer in labelled))


def _panels(roles: Roles) -> list[Panel]:
    panels = []
    for role, found in roles.items():
        strengths = (0.3 + 0.7 * place / len(found) for place in range(1, len(found) + 1))
        curves = (_curve(matrix.spectrum, 200, 100) for _, matrix in found)
        panels.append(Panel(role, tuple(zip(curves, strengths, strict=True))))
    return panels


def _curve(spectrum: Sequence[float], width: int, height: int) -> str:
    """SVG path of a spectrum on a logarithmic axis."""
    thinned = spectrum[:: -(-len(spectrum) // _POINTS)]
    step = width / max(1, len(thinned) - 1)
    depths = (min(1.0, -math.log10(max(value, 10.0**-_DECADES)) / _DECADES) for value in thinned)
    return "M" + " L".join(f"{index * step:.1f} {1 + depth * (height - 2):.1f}" for index, depth in enumerate(depths))


def _heat_maps(heads: Sequence[HeadReport]) -> list[HeatMap]:
    """One map per product."""
    maps = []
    for product, says in (("QK", "which tokens attend"), ("OV", "what they pass on")):
        chosen = [head for head in heads if head.product == product]
        if not chosen:
            continue
        layers = sorted({head.layer for head in chosen})
        rows = tuple(tuple(head for head in chosen if head.layer == layer) for layer in layers)
        ranks = [head.effective_rank for head in chosen]
        maps.append(HeatMap(product, says, rows, min(ranks), max(ranks)))
    return maps
