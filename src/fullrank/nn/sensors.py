"""Satellite sensors: their bands in nanometres, their ground resolution, and the statistics to scale images by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fullrank.nn.less_positions import Number


@dataclass(frozen=True)
class SensorSpec:
    """A sensor, as a model that reads wavelengths needs to know it.

    Args:
        name: such as "sentinel-2".
        wavelengths: central wavelength of every band in nanometres.
        mean, std: of every band over a large archive, in the units of its usual product; empty where none are known,
            then `scale` takes those of the images themselves.
        resolution: metres per pixel.
        bands: names of the bands, in the same order. Default B1, B2 and so on.
        modality: "optical" or "radar".

    Raises:
        ValueError: lists of different lengths, a resolution or wavelength that is not positive.
    """

    name: str
    wavelengths: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float]
    resolution: float
    bands: Sequence[str] = ()
    modality: str = "optical"

    def __post_init__(self) -> None:
        count = len(self.wavelengths)
        if not len(self.bands):
            object.__setattr__(self, "bands", _numbered("B", range(1, count + 1)))
        for name in ("wavelengths", "bands", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            found = len(getattr(self, name))
            if found != count and (name == "bands" or found):
                raise ValueError(f"{self.name!r} has {count} wavelengths but {found} entries of {name}")
        if not count or not all(0 < number < math.inf for number in (*self.wavelengths, self.resolution)):
            raise ValueError(f"{self.name!r}: wavelengths (nm) and resolution (m) are positive numbers")

    def select(self, bands: Sequence[str]) -> SensorSpec:
        """The same sensor with some of its bands, in the order given.

        Raises:
            LookupError: a band that the sensor does not have.
        """
        if unknown := [band for band in bands if band not in self.bands]:
            raise LookupError(f"{self.name!r} has no band {unknown[0]!r}; it has {', '.join(self.bands)}")
        index = [self.bands.index(band) for band in bands]
        chosen = {
            name: tuple(getattr(self, name)[i] for i in index if getattr(self, name))
            for name in ("wavelengths", "bands", "mean", "std")
        }
        return SensorSpec(self.name, resolution=self.resolution, modality=self.modality, **chosen)

    def scale(
        self, images: Shaped[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Images scaled to [0, 1] with `scale_by_deviation` and the sensor's statistics, or their own without."""
        if images.shape[-3] != len(self.wavelengths):
            raise ValueError(f"images of {images.shape[-3]} channels: {self.name!r} has {len(self.wavelengths)} bands")
        return scale_by_deviation(images, self.mean or None, self.std or None)


def scale_by_deviation(
    images: Shaped[Tensor, "*batch channels height width"],
    mean: Sequence[Number] | Float[Tensor, "channels"] | None = None,
    std: Sequence[Number] | Float[Tensor, "channels"] | None = None,
) -> Float[Tensor, "*batch channels height width"]:
    """(x - (μ - 2σ)) / 4σ, clipped to [0, 1]: two standard deviations around the mean of every channel fill the range.

    Args:
        images: in any unit; integers, as archives store them, are read as float32.
        mean, std: of every channel in that unit. Default: those of `images`.

    Raises:
        ValueError: one of `mean` and `std` without the other, or not one number for every channel.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: pass both, or neither")
    images = images if images.is_floating_point() else images.float()
    if mean is None or std is None:
        others = [axis for axis in range(images.ndim) if axis != images.ndim - 3]
        μ, σ = images.mean(others), images.std(others)
    else:
        μ, σ = (torch.as_tensor(each, dtype=images.dtype, device=images.device) for each in (mean, std))
    if μ.shape != σ.shape or μ.shape != images.shape[-3:-2]:
        raise ValueError(f"mean of {tuple(μ.shape)}, std of {tuple(σ.shape)}: use ({images.shape[-3]},), one a channel")
    μ, σ = μ[:, None, None], σ[:, None, None].clamp(min=torch.finfo(images.dtype).tiny)
    return ((images - (μ - 2 * σ)) / (4 * σ)).clamp(0, 1)


def _evenly(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(first + (last - first) * index / (count - 1) for index in range(count))


def _numbered(prefix: str, numbers: Sequence[object]) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in numbers)


_ETM = (483.0, 560.0, 662.0, 835.0, 1648.0, 11335.0, 2206.0)
_OLI = (443.0, 482.0, 561.4, 654.6, 864.7, 1608.9, 2200.7, 589.5, 1373.4, 10895.0, 12005.0)

#: EnMAP's two spectrometers: 88 bands of 420 to 1000 nm and 114 of 900 to 2450 nm, here at even steps.
_ENMAP = _evenly(420.0, 1000.0, 88) + _evenly(900.0, 2450.0, 114)

SENSORS: tuple[SensorSpec, ...] = (
    SensorSpec(
        "sentinel-1",
        (5500.0, 5700.0),  # the paper's stand-ins for VV and VH: radar has no wavelength in this range
        (-12.59, -20.26),
        (5.26, 5.91),
        10.0,
        ("VV", "VH"),
        modality="radar",
    ),
    SensorSpec(
        "sentinel-2",
        (442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1373.5, 1613.7, 2202.4),
        (1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4),
        (791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9),
        10.0,
        _numbered("B", ("01", "02", "03", "04", "05", "06", "07", "08", "8A", "09", "10", "11", "12")),
    ),
    SensorSpec("landsat-4", (486.0, 570.0, 660.0, 840.0, 1676.0, 11435.0, 2223.0), (), (), 30.0),
    SensorSpec("landsat-5", (485.0, 569.0, 660.0, 840.0, 1676.0, 11435.0, 2223.0), (), (), 30.0),
    SensorSpec("landsat-7", (*_ETM, 706.0), (), (), 30.0),
    SensorSpec("landsat-8", _OLI, (), (), 30.0),
    SensorSpec("landsat-9", _OLI, (), (), 30.0),
    SensorSpec("landsat-mss", (550.0, 650.0, 750.0, 950.0), (), (), 80.0, ("B4", "B5", "B6", "B7")),
    SensorSpec("enmap", _ENMAP, (), (), 30.0),
    SensorSpec(
        "modis",
        (645.0, 858.5, 469.0, 555.0, 1240.0, 1640.0, 2130.0),  # the land bands
        (),
        (),
        500.0,
    ),
)


def sensor(name: str) -> SensorSpec:
    """The sensor of that name.

    Raises:
        LookupError: no such sensor.
    """
    for spec in SENSORS:
        if spec.name == name:
            return spec
    raise LookupError(f"no sensor {name!r}; known: {', '.join(spec.name for spec in SENSORS)}")
