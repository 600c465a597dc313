"""Images, wavelengths and sizes as LESS ViT takes them: checked, in nanometres, cut into patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from fullrank.nn.less_positions import Grid

WavelengthUnit = Literal["nm", "um"]


def check_wavelengths(
    wavelengths: Any, pixel_values: Tensor, unit: WavelengthUnit = "nm"
) -> Float[Tensor, "*batch channels"]:
    """Wavelengths in nanometres, one for every channel, on the images' device and in float64.

    Raises:
        ValueError: images of other axes or without pixels; no wavelengths given, not one for every channel, not
            positive, or in micrometres.
    """
    if wavelengths is None:
        raise ValueError(
            "wavelengths are missing: pass the central wavelength of every channel in nanometres, such as those of "
            "`fullrank.nn.sensor('sentinel-2').wavelengths`; channel numbers cannot stand in for them"
        )
    if unit not in ("nm", "um"):
        raise ValueError(f"wavelength_unit={unit!r}: use 'nm' or 'um'")
    if pixel_values.ndim != 4 or 0 in pixel_values.shape:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}: (batch, channels, height, width), none of them 0, is "
            "accepted"
        )
    λ = torch.as_tensor(wavelengths, dtype=torch.float64, device=pixel_values.device)
    batch, channels = pixel_values.shape[:2]
    if tuple(λ.shape) not in ((channels,), (1, channels), (batch, channels)):
        raise ValueError(
            f"wavelengths of shape {tuple(λ.shape)} do not fit pixel_values of {tuple(pixel_values.shape)}: use "
            f"({channels},) or ({batch}, {channels}), one for every channel; in a batch of several sensors, group the "
            "images by sensor or give every image its own"
        )
    if torch.compiler.is_compiling():
        return λ * 1000 if unit == "um" else λ
    if not bool(((λ > 0) & λ.isfinite()).all()):
        raise ValueError(f"wavelengths={λ.tolist()}: use positive, finite numbers of nanometres")
    if unit == "um":
        return λ * 1000
    if bool((λ < 100).all()):
        raise ValueError(
            f"wavelengths={λ.tolist()} look like micrometres; nanometres expected: multiply by 1000 or pass "
            "wavelength_unit='um'"
        )
    return λ


def check_resolution(resolution: object) -> float:
    """Metres per pixel, one number for the batch.

    Raises:
        ValueError: no positive number, or several.
    """
    if isinstance(resolution, Tensor) and resolution.numel() == 1:
        resolution = resolution.item()
    if isinstance(resolution, Real) and 0 < float(resolution) < math.inf:
        return float(resolution)
    raise ValueError(
        f"spatial_resolution={resolution}: use one positive number of metres per pixel; group images of different "
        "resolutions into batches of their own"
    )


def check_modality_sizes(sizes: Sequence[int] | None, channels: int, modalities: Sequence[str]) -> tuple[int, ...]:
    """How many channels every modality has, in their order; None: all are of the first one.

    Raises:
        ValueError: not one number for every modality, or a sum that is not the number of channels.
    """
    if sizes is None:
        return (channels, *(0 for _ in modalities[1:]))
    if len(sizes) != len(modalities) or min(sizes) < 0 or sum(sizes) != channels:
        raise ValueError(
            f"modality_sizes={list(sizes)}: use one number of channels for each of {', '.join(modalities)}, "
            f"{channels} in all"
        )
    return tuple(int(size) for size in sizes)


def whole_patches(
    pixel_values: Float[Tensor, "batch channels height width"], patch_size: int, padded: bool = False
) -> Float[Tensor, "batch channels padded_height padded_width"]:
    """The images themselves where they consist of whole patches; with `padded` filled up with zeros below and right.

    Raises:
        ValueError: sides that are no multiples of the patch size, without `padded`; the message has the nearest size.
    """
    height, width = pixel_values.shape[-2:]
    missing = [-side % patch_size for side in (height, width)]
    if not any(missing):
        return pixel_values
    if padded:
        return pad(pixel_values, (0, missing[1], 0, missing[0]))
    nearest = [max(round(side / patch_size), 1) * patch_size for side in (height, width)]
    raise ValueError(
        f"images of {height} x {width} pixels do not consist of whole patches of {patch_size}: resize or crop to "
        f"{nearest[0]} x {nearest[1]}, or set pad=True in the configuration"
    )


def finite_pixels(pixel_values: Tensor, nodata_mask: Tensor | None) -> Tensor:
    """The images with zeros where `nodata_mask`, of (batch, channels or 1, height, width), is True.

    Raises:
        ValueError: pixels that are NaN or infinite and not marked as no data; a mask of another shape.
    """
    if nodata_mask is not None:
        batch, channels, *sides = pixel_values.shape
        if nodata_mask.dtype != torch.bool or tuple(nodata_mask.shape) not in (
            (batch, 1, *sides),
            (batch, channels, *sides),
        ):
            raise ValueError(
                f"nodata_mask of {nodata_mask.dtype} and shape {tuple(nodata_mask.shape)}: use bool and shape "
                f"{(batch, channels, *sides)}, or 1 in place of {channels}"
            )
        pixel_values = pixel_values.masked_fill(nodata_mask, 0)
    if not torch.compiler.is_compiling() and not bool(pixel_values.isfinite().all()):
        raise ValueError("pixel_values hold NaN or infinity: pass nodata_mask, True at the pixels without data")
    return pixel_values


def patchify(
    images: Shaped[Tensor, "batch channels height width"], patch_size: int
) -> Shaped[Tensor, "batch channels patches pixels"]:
    """Patches row by row, the pixels of each row by row."""
    batch, channels, height, width = images.shape
    p = patch_size
    cut = images.reshape(batch, channels, height // p, p, width // p, p)
    return cut.transpose(3, 4).reshape(batch, channels, -1, p * p)


def unpatchify(
    patches: Float[Tensor, "batch channels patches pixels"], grid: Grid
) -> Float[Tensor, "batch channels height width"]:
    """The images again; `grid` is rows and columns of patches."""
    batch, channels, _, pixels = patches.shape
    p = round(pixels**0.5)
    cut = patches.reshape(batch, channels, *grid, p, p)
    return cut.transpose(3, 4).reshape(batch, channels, grid[0] * p, grid[1] * p)
