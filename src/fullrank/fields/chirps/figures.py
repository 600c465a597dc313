"""Pictures and tables in the layout of the official generator, out and in."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from fullrank._files import write_bytes, write_text
from fullrank.fields.chirps.configuration import KINDS, LABELS, ChirpSpectrogramConfig
from fullrank.fields.chirps.generator import ChirpDataset

TABLE = "labels.csv"
#: Column of the official table -> label.
COLUMNS = {
    "Chirp_Start_Time": "onset_time",
    "Chirp_Start_Freq": "onset_frequency",
    "Chirp_End_Freq": "offset_frequency",
    "Chirp_Duration": "duration",
    "Chirp_Type": "kind",
}


def render_figure(
    Z: np.ndarray, config: ChirpSpectrogramConfig | None = None, kind: str = "", number: int = 1
) -> np.ndarray:
    """A spectrogram as the official generator saves it: axes, colour bar, and a title that gives away the kind.

    Args:
        Z: (n_freq, n_time).
        config: its extents.
        kind: of the sweep, for the title.
        number: of the sample, for the title.

    Returns:
        (480, 640, 3) uint8.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    config = config or ChirpSpectrogramConfig()
    with rc_context({"image.cmap": "viridis", "font.size": 10}):
        figure = Figure(figsize=(6.4, 4.8), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        extent = (0, config.duration, 0, config.max_frequency)
        image = axes.imshow(Z, aspect="auto", origin="lower", cmap="viridis", extent=extent)
        axes.set(xlabel="Time (s)", ylabel="Frequency (Hz)", title=f"{kind.capitalize()} Chirp Spectrogram {number}")
        figure.colorbar(image, ax=axes, label="Amplitude")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def export_png(dataset: ChirpDataset, folder: str | Path) -> Path:
    """Write every example as picture i.png (from 1) with a table of labels, as the official generator does.

    Args:
        dataset: the examples.
        folder: made where it is missing.

    Raises:
        FileExistsError: the folder has pictures or a table already.
    """
    folder = Path(folder)
    if any(folder.glob("*.png")) or (folder / TABLE).exists():
        raise FileExistsError(f"{folder} has pictures or {TABLE} already: name a new folder")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for index in range(len(dataset)):
        (Z,), (label,) = dataset.batch([index])
        writer.writerow([label[name] for name in COLUMNS.values()])
        content = io.BytesIO()
        Image.fromarray(render_figure(Z, dataset.config, str(label["kind"]), index + 1)).save(content, "png")
        write_bytes(folder / f"{index + 1}.png", content.getvalue())
    write_text(folder / TABLE, text.getvalue())  # last: a folder with a table is whole
    return folder


def read_png(folder: str | Path, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures and labels in the official layout.

    Args:
        folder: pictures with a number in their name and one .csv file; row i belongs to number i, from 1.
        size: pictures are resized to it, bicubically as in the official training.

    Returns:
        Pictures (n, 3, size, size) float32 in [0, 1], and labels (n,) of dtype `LABELS` with `noise` 0.

    Raises:
        FileNotFoundError: no folder, or no table in it.
        ValueError: columns are missing, or the pictures do not match the rows; the first missing number is named.
    """
    folder = Path(folder)
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise FileNotFoundError(f"{folder} has {len(tables)} .csv files: one with the labels is needed")
    with tables[0].open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if missing := sorted(set(COLUMNS) - set(reader.fieldnames or ())):
        raise ValueError(f"{tables[0]} has no column {missing[0]!r}: {', '.join(COLUMNS)} are needed")
    pictures = {
        int(found[0][-1]): file for file in folder.glob("*.png") if (found := [re.findall(r"\d+", file.stem)])[0]
    }
    for number in range(1, max(len(rows), max(pictures, default=0)) + 1):
        if number not in pictures:
            raise ValueError(
                f"{folder} has {len(rows)} labels and {len(pictures)} pictures: number {number} has no picture"
            )
        if number > len(rows):
            raise ValueError(
                f"{folder} has {len(rows)} labels and {len(pictures)} pictures: number {number} has no label"
            )
    labels = np.zeros(len(rows), LABELS)
    for label, row in zip(labels, rows, strict=True):
        for column, name in COLUMNS.items():
            label[name] = row[column].strip().lower() if name == "kind" else float(row[column])
        if label["kind"] not in KINDS:
            raise ValueError(f"{tables[0]} has the chirp type {str(label['kind'])!r}: {', '.join(KINDS)} are known")
    images = np.empty((len(rows), 3, size, size), np.float32)
    for number, image in enumerate(images, start=1):
        with Image.open(pictures[number]) as opened:
            image[:] = np.asarray(opened.convert("RGB").resize((size, size))).transpose(2, 0, 1) / 255
    return images, labels
