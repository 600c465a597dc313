"""Segment image files, and report what was found: numbers, masks, and one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from torch import from_numpy

from fullrank._files import write_bytes
from fullrank._saving import save
from fullrank.nn.segmenter import RobustPCASegmenter, SparseObjectSegmenter
from fullrank.spectra import Spectrum

SegmentationMethod = Literal["rpcanet", "robust-pca"]

_SAYS = {
    "rpcanet": "a small RPCANet++ that was trained on defects of steel surfaces (NEU-Seg)",
    "robust-pca": "robust PCA (principal component pursuit), without training",
}
_DEEP = 65_535  # white of a 16-bit image
_READABLE = "PNG, JPEG and TIFF are accepted"
_FORMATS = ("PNG", "JPEG", "TIFF")


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """One image taken apart.

    Attributes:
        file: its path as given.
        image: grey values in [0, 1], (H, W).
        background: B of the last stage.
        probability: of the object.
        mask: where the object is.
        input_rank, background_rank: effective ranks.
        density: share of the object map above zero.
    """

    file: str
    image: np.ndarray
    background: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    input_rank: float
    background_rank: float
    density: float

    @property
    def height(self) -> int:
        """Rows."""
        return self.image.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.image.shape[1]

    @property
    def object_share(self) -> float:
        """Share of the pixels that belong to the object."""
        return float(self.mask.mean())

    @property
    def objects(self) -> int:
        """Connected parts of the mask, diagonal neighbours included."""
        return int(ndimage.label(self.mask, np.ones((3, 3)))[1])  # pyright: ignore[reportIndexIssue]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, JSON-like."""
        return {
            "file": self.file,
            "height": self.height,
            "width": self.width,
            "object_share": self.object_share,
            "objects": self.objects,
            "input_effective_rank": self.input_rank,
            "background_effective_rank": self.background_rank,
            "object_density": self.density,
        }

    def pictures(self) -> list[tuple[str, str]]:
        """Image, background, object and mask: name and data address."""
        shown = {
            "image": self.image,
            "background": self.background,
            "object, its probability": self.probability,
            "mask": self.mask.astype(float),
        }
        return [
            (name, f"data:image/png;base64,{base64.b64encode(_png(part)).decode()}") for name, part in shown.items()
        ]


@dataclass(frozen=True, eq=False)
class SegmentationReport:
    """What was found in images.

    Attributes:
        method: "rpcanet" or "robust-pca".
        threshold: of the probability.
        images: one each.
    """

    method: SegmentationMethod
    threshold: float
    images: tuple[SegmentedImage, ...]

    @property
    def says(self) -> str:
        """The method in words."""
        return _SAYS[self.method]

    def to_rows(self) -> list[dict[str, Any]]:
        """One row of numbers for every image."""
        return [image.to_dict() for image in self.images]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, JSON-like."""
        return {"method": self.method, "threshold": self.threshold, "images": self.to_rows()}

    def to_html(self, fragment: bool = False) -> str:
        """One self-contained page with pictures, or with `fragment` its content and style."""
        from fullrank.spectra._html import render  # loads Jinja

        names = [Path(image.file).name for image in self.images]
        title = f"Objects in {names[0]}" if len(names) == 1 else f"Objects in {len(names)} images"
        return render("segmentation.html", title, fragment, package="fullrank.nn", report=self)

    def save(self, path: str | Path) -> Path:
        """Write it as .html, .json, .csv or .parquet, atomically.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)

    def save_masks(self, folder: str | Path) -> list[Path]:
        """Write every mask as PNG, 255 where the object is, under the names of `mask_paths`."""
        paths = mask_paths([image.file for image in self.images], folder)
        return [
            write_bytes(path, _png(image.mask.astype(float))) for path, image in zip(paths, self.images, strict=True)
        ]


def mask_paths(files: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Where the masks of images go: FOLDER/NAME-mask.png.

    Raises:
        ValueError: two images would share a mask.
    """
    paths = [Path(folder) / f"{Path(file).stem}-mask.png" for file in files]
    twice = {path.name for path in paths if paths.count(path) > 1}
    if twice:
        raise ValueError(f"two images would both be written to {min(twice)}: give them in two calls, or rename one")
    return paths


def read_grey(path: str | Path) -> np.ndarray:
    """An image file as grey values in [0, 1], float32 (H, W); 16 bits and floating-point values are kept.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is no image that can be read, or its values are outside of that range.
    """
    return decode_grey(Path(path).read_bytes(), str(path))


def decode_grey(content: bytes, name: str, most_pixels: int | None = None) -> np.ndarray:
    """The content of an image file as grey values, see `read_grey`.

    Args:
        content: PNG, JPEG or TIFF.
        name: how errors call it.
        most_pixels: refuse larger images before they are unpacked; default no limit.

    Raises:
        ValueError: it is no image that can be read, too large, or its values are outside of [0, 1].
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            too_large = most_pixels is not None and picture.width * picture.height > most_pixels
            if not too_large:
                picture.load()
            white = 1 if picture.mode == "F" else _DEEP if picture.mode.startswith("I") else 255
            size = f"{picture.height} x {picture.width}"
            grey = picture.convert("L") if white == 255 and not too_large else picture
            values = None if too_large else np.asarray(grey, dtype=np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        words = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(f"{name} cannot be read: {words}; {_READABLE}") from error
    if values is None:
        raise ValueError(f"{name} has {size} pixels: at most {most_pixels:,} in all are accepted here")
    if not (values.min() >= 0 and values.max() <= white):
        raise ValueError(f"{name} has values from {values.min():g} to {values.max():g}: 0 to {white} is accepted")
    return values / white


def segment_images(
    files: Sequence[str | Path],
    method: SegmentationMethod = "rpcanet",
    threshold: float | None = None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> SegmentationReport:
    """Find sparse objects in image files.

    Args:
        files: PNG, JPEG or TIFF; colour is made grey.
        method: "rpcanet" is the small RPCANet++ that travels with the package; "robust-pca" needs no training.
        threshold: of the probability, default 0.5; with "robust-pca" it is a share of the largest |S|.
        on_progress: told of every image, with (done, total, text).

    Raises:
        OSError: a file is not there.
        ValueError: a file is no image, an unknown method, or a threshold outside 0..1. All files are read before the
            work begins.
    """
    pictures = [(str(file), read_grey(file)) for file in files]
    return segment_pictures(pictures, method, threshold, on_progress)


def segment_pictures(
    pictures: Sequence[tuple[str, np.ndarray]],
    method: SegmentationMethod = "rpcanet",
    threshold: float | None = None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> SegmentationReport:
    """Find sparse objects in grey images, given by name; see `segment_images`."""
    if method not in get_args(SegmentationMethod):
        raise ValueError(f"method={method!r}: use one of {', '.join(map(repr, get_args(SegmentationMethod)))}")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: use a probability between 0 and 1")
    segmenter = SparseObjectSegmenter.pretrained() if method == "rpcanet" else RobustPCASegmenter(tolerance=1e-5)
    segmenter.set_params(threshold=threshold or 0.5)
    found = []
    for done, (file, image) in enumerate(pictures):
        on_progress(done, len(pictures), Path(file).name)
        found.append(_segmented(segmenter, file, image))
    return SegmentationReport(method, segmenter.threshold, tuple(found))


def _segmented(segmenter: SparseObjectSegmenter | RobustPCASegmenter, file: str, image: np.ndarray) -> SegmentedImage:
    stage = segmenter.decompose(image[None])[0][-1]
    probability = segmenter.probability(stage)
    object = stage.object if isinstance(segmenter, SparseObjectSegmenter) else stage.object.abs()
    return SegmentedImage(
        file,
        image,
        stage.background.numpy(),
        probability,
        probability > segmenter.threshold,
        float(Spectrum.of(from_numpy(image)).effective_rank.nan_to_num(0.0)),
        float(Spectrum.of(stage.background).effective_rank.nan_to_num(0.0)),
        float((object > 0).float().mean()),
    )


def _png(values: np.ndarray) -> bytes:
    """Grey values in [0, 1] as a PNG file; what is outside is clipped."""
    buffer = io.BytesIO()
    Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
