"""One square kilometre of Sentinel-2 at four clear dates: crops to train on, and patches whose land use is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullrank.data import load

#: Columns west of this one train, the others test.
BORDER = 70
#: Land use with enough pixels to be told apart.
LAND_USES = (2, 3, 4, 8)


@dataclass(frozen=True)
class Scene:
    """Scaled images and land use of one part of the scene.

    Attributes:
        images: (dates, 13, rows, columns), float32, scaled to [0, 1] with mean and deviation of the training part.
        land_use: (rows, columns).
    """

    images: NDArray[np.float32]
    land_use: NDArray[np.integer]

    def random_crops(self, count: int, side: int, generator: np.random.Generator) -> NDArray[np.float32]:
        """Square crops at random dates and places, each turned upside down and left to right by chance."""
        dates, _, rows, columns = self.images.shape
        corners = zip(
            generator.integers(dates, size=count),
            generator.integers(rows - side + 1, size=count),
            generator.integers(columns - side + 1, size=count),
            strict=True,
        )
        crops = [self.images[d, :, r : r + side, c : c + side] for d, r, c in corners]
        steps = generator.choice((-1, 1), size=(count, 2))
        return np.stack([crop[:, ::down, ::right] for crop, (down, right) in zip(crops, steps, strict=True)])

    def tiles(self, side: int, patch: int) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """Squares that cover every date, and the most frequent land use of every patch of each: (tiles, patches)."""
        _, _, rows, columns = self.images.shape
        corners = [(r, c) for r in _starts(rows, side) for c in _starts(columns, side)]
        images = [image[:, r : r + side, c : c + side] for image in self.images for r, c in corners]
        labels = [_majority(self.land_use[r : r + side, c : c + side], patch) for r, c in corners]
        return np.stack(images), np.tile(np.stack(labels), (len(self.images), 1))


@cache
def sentinel_scene() -> tuple[Scene, Scene]:
    """Western part to train on and eastern part to test on, both without the cloudy first date."""
    images = next(iter(load("sentinel2-scene", "scenes")))["reflectance"][1:].transpose(0, 3, 1, 2)
    land_use = next(iter(load("sentinel2-scene", "land-use")))["class"][..., 0]
    train = images[..., :BORDER]
    mean, std = (statistic(axis=(0, 2, 3), keepdims=True) for statistic in (train.mean, train.std))
    scaled = ((images - (mean - 2 * std)) / (4 * std)).clip(0, 1).astype(np.float32)
    return Scene(scaled[..., :BORDER], land_use[:, :BORDER]), Scene(scaled[..., BORDER:], land_use[:, BORDER:])


def _starts(length: int, side: int) -> list[int]:
    """Where squares begin that cover a length; the last one ends at its end."""
    return sorted({*range(0, length - side + 1, side), length - side})


def _majority(land_use: NDArray[Any], patch: int) -> NDArray[np.integer]:
    rows, columns = (side // patch for side in land_use.shape)
    cut = land_use.reshape(rows, patch, columns, patch).swapaxes(1, 2).reshape(rows * columns, -1)
    return np.array([np.bincount(pixels).argmax() for pixels in cut])
