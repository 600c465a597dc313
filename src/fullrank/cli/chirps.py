"""The verb that finds chirps in recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fullrank.cli.output import check_outputs, console, errors, print_json, progress_bar

if TYPE_CHECKING:
    from fullrank.fields.chirps import Chirp, ChirpReport


def chirps(
    files: Annotated[list[Path], typer.Argument(help="WAV or EDF files.")],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Write .html, .json, .csv or .parquet; repeatable."),
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Name or number of a channel; repeatable. [default: all]")
    ] = None,
    window: Annotated[float, typer.Option(help="Length of a window in seconds.")] = 60.0,
    max_frequency: Annotated[
        float | None, typer.Option(help="Highest frequency in Hz. [default: 100, or half the sampling frequency]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find sweeps of frequency in recordings: when they begin, from where to where they go, how far they stand out.

    Example: `fullrank chirps night.edf --channel "EEG Fp1" -o chirps.html`
    """
    from fullrank.fields.chirps import ChirpReport, localize_recording, read_recording  # brings torch

    outputs = output or []
    check_outputs(outputs, (".html", ".json", ".csv", ".parquet"), overwrite)
    recordings = [read_recording(file) for file in files]  # all of them, before the work begins
    for recording in recordings:
        recording.choose(channel or [])
    with progress_bar() as move:
        reports = [localize_recording(r, channel or [], window, max_frequency, on_progress=move) for r in recordings]
    report = ChirpReport.join(reports)
    for path in outputs:
        errors.print(f"wrote {report.save(path)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(report.to_dict())
        return
    console.print(_table(report))
    found, limits = sum(map(report.found, report.windows)), report.noise_score
    console.print(
        f"{found} of {len(report.windows)} windows have a sweep that stands out: a score above "
        f"{limits['ridge']:.1f}, or {limits['network']:.1f} of the network, which noise alone stays below in 99 of 100 "
        "windows.",
        highlight=False,
    )


def _table(report: ChirpReport) -> Table:
    several = len(report.files) > 1
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in (*(("file",) if several else ()), "channel", "window s"):
        table.add_column(name, no_wrap=True)
    for name in ("onset s", "onset Hz", "offset Hz", "score", "network: onset s", "onset Hz", "offset Hz", "score"):
        table.add_column(name, justify="right")
    for result in report.windows:
        names = [*((result.file,) if several else ()), result.channel]
        span = f"{result.start:.0f} to {result.start + result.length:.0f}"
        style = "" if report.found(result) else "dim"
        table.add_row(*names, span, *_cells(result.ridge), *_cells(result.network), style=style)
    return table


def _cells(chirp: Chirp | None) -> list[str]:
    if chirp is None:
        return ["", "", "", "constant"]
    frequencies = (chirp.onset_frequency, chirp.offset_frequency, chirp.score)
    return [f"{chirp.onset_time:.2f}", *(f"{number:.1f}" for number in frequencies)]
