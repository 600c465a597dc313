"""The verb that finds sparse objects in images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from fullrank.cli.output import check_places, console, errors, print_json, progress_bar

if TYPE_CHECKING:
    from fullrank.nn.segmentation_report import SegmentationReport

_REPORTS = (".html", ".json", ".csv", ".parquet")


def segment(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or TIFF files.", show_default=False)],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--output", help="Write .html, .json, .csv or .parquet; or masks into a folder; repeatable."
        ),
    ] = None,
    method: Annotated[
        Literal["rpcanet", "robust-pca"], typer.Option(help="A trained network, or robust PCA without training.")
    ] = "rpcanet",
    threshold: Annotated[
        float | None, typer.Option(help="Probability above which a pixel belongs to the object. [default: 0.5]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take images apart into a low-rank background and sparse objects, and write the objects' masks.

    Example: `fullrank segment plate.png -o report.html -o masks`
    """
    from fullrank.nn.segmentation_report import mask_paths, segment_images  # brings torch

    reports = [path for path in output or [] if path.suffix.lower() in _REPORTS]
    folders = [path for path in output or [] if path not in reports]
    for folder in folders:
        if folder.suffix and not folder.is_dir():
            raise ValueError(f"{folder} names no format: {', '.join(_REPORTS)} or a folder for masks is accepted")
    check_places((*reports, *(mask for folder in folders for mask in mask_paths(images, folder))), overwrite)
    with progress_bar() as move:
        report = segment_images(images, method, threshold, on_progress=move)
    written = [report.save(path) for path in reports] + [
        mask for folder in folders for mask in report.save_masks(folder)
    ]
    for path in written:
        errors.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    print_json(report.to_dict()) if as_json else console.print(_table(report))


def _table(report: SegmentationReport) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("image", overflow="fold")
    for name in ("pixels", "object", "parts", "rank", "of background"):
        table.add_column(name, justify="right", no_wrap=True)
    for image in report.images:
        table.add_row(
            image.file,
            f"{image.height} x {image.width}",
            f"{image.object_share:.1%}",
            str(image.objects),
            f"{image.input_rank:.1f}",
            f"{image.background_rank:.1f}",
        )
    return table
