"""Errors of a masked autoencoder on a part of the scene that it never saw, against means and a regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullrank.papers._less_vit_models import PATCH, Size, sentinel


def reconstruction_errors(model: Any, size: Size, seed: int, device: str) -> dict[str, float]:
    import torch

    from fullrank.nn.less_vit_inputs import patchify
    from fullrank.papers._sentinel_scene import sentinel_scene

    train, test = sentinel_scene()
    images = torch.from_numpy(test.tiles(size.side, PATCH)[0]).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.inference_mode():
        output = model(images, sentinel().wavelengths, generator=generator)
    pixels = patchify(images, PATCH)
    squares = (output.reconstruction - pixels).square().mean(-1)
    patch_mask, channel_mask = output.patch_mask, output.channel_mask
    at_patches = ~channel_mask[:, :, None] & patch_mask[:, None]
    in_channels = channel_mask[:, :, None] & ~patch_mask[:, None]
    seen_patches = _mean(pixels, ~patch_mask[:, None, :, None], (2, 3))
    seen_channels = _mean(pixels, ~channel_mask[:, :, None, None], (1,))
    of_band = torch.from_numpy(train.images.mean((0, 2, 3))).to(device).view(1, -1, 1, 1)
    regressed = _regressed(train.images, pixels, channel_mask)

    def error(predicted: Any, where: Any) -> float:
        return float((predicted - pixels).square().mean(-1)[where].mean())

    return {
        "patches": float(squares[at_patches].mean()),
        "patches: mean of the visible": error(seen_patches, at_patches),
        "channels": float(squares[in_channels].mean()),
        "channels: mean of the visible": error(seen_channels, in_channels),
        "channels: mean of the band in training": error(of_band, in_channels),
        "channels: linear regression": error(regressed, in_channels),
        "both hidden": float(squares[channel_mask[:, :, None] & patch_mask[:, None]].mean()),
    }


def _mean(pixels: Any, visible: Any, axes: tuple[int, ...]) -> Any:
    """The mean of what is visible."""
    return (pixels * visible).sum(axes, keepdim=True) / visible.expand_as(pixels).sum(axes, keepdim=True)


def _regressed(images: NDArray[np.float32], pixels: Any, channel_mask: Any) -> Any:
    """Hidden channels of every image from its visible ones, by least squares on the training pixels."""
    import torch

    known = torch.from_numpy(images).movedim(1, 0).flatten(1).to(pixels.device)  # (13, pixels)
    predicted = torch.zeros_like(pixels)
    for image, mask in enumerate(channel_mask):
        ones = torch.ones_like(known[:1])
        seen = torch.cat([known[~mask], ones])
        weights = torch.linalg.lstsq(seen.mT, known[mask].mT).solution
        here = torch.cat([pixels[image][~mask], torch.ones_like(pixels[image][:1])])
        predicted[image, mask] = torch.einsum("vh,vnp->hnp", weights, here)
    return predicted
