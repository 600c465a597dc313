"""Where a token of a hyperspectral cube is: its place on the ground in metres, its wavelength in nanometres.

Three views of the same thing: the sum of sines that LESS ViT adds to its tokens, the mask in metres that keeps spatial
attention local, and the rotary embedding of the later release. Tables are computed in float64 and cast: the sine of
2,202 in float32 is off in the fourth digit.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Grid = tuple[int, int]
Number = float | int


def sincos(values: Tensor, dim: int, base: Number = 10_000) -> Float[Tensor, "*values {dim}"]:
    """(sin(v ω), cos(v ω)) with ω_i = base^(-i / (dim/2)), in float64.

    Args:
        values: numbers, of any shape.
        dim: even width of the embedding.
        base: of the geometric series of frequencies. Default 10,000.

    Raises:
        ValueError: `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"dim={dim}: sines and cosines come in pairs; use an even width")
    ω = base ** (-torch.arange(dim // 2, dtype=torch.float64, device=values.device) / (dim // 2))
    angles = values.double()[..., None] * ω
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ContinuousPositionChannelEmbedding(nn.Module):
    """E[c, n] = (pos_n + chan_c) / 2, from metres and nanometres; nothing is learned (section "positional-channel").

    `chan_c = sincos(λ_c)`, and `pos_n` joins the sincos of the column and of the row, each of half the width. The CLS
    column of the grid has no position and its CLS row no wavelength: index 0 of either axis.

    Args:
        dim: width of the tokens, a multiple of four.
        scale_by_patch: take the distance between patches as patch size times resolution, as the paper's text has it.
            Default False, as the authors' code: index times resolution.

    Raises:
        ValueError: `dim` is no multiple of four.
    """

    def __init__(self, dim: int, scale_by_patch: bool = False) -> None:
        super().__init__()
        if dim % 4 or dim < 4:
            raise ValueError(f"dim={dim}: column and row each need pairs of sine and cosine; use a multiple of 4")
        self.dim, self.scale_by_patch = dim, scale_by_patch

    def forward(
        self,
        wavelengths: Float[Tensor, "*batch channels"],
        grid: Grid,
        resolution: Number,
        patch_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "*batch rows columns dim"]:
        """The embedding of a grid with its CLS row and column.

        Args:
            wavelengths: in nanometres, one list for all images or one an image.
            grid: rows and columns of patches.
            resolution: ρ, metres per pixel.
            patch_size: p, pixels along a side of a patch; used with `scale_by_patch`.
            dtype: what the table, computed in float64, is cast to.
        """
        step = float(resolution * (patch_size if self.scale_by_patch else 1))
        position = _position_table(grid, step, self.dim, wavelengths.device)
        channel = nn.functional.pad(sincos(wavelengths, self.dim), (0, 0, 1, 0))
        return ((position + channel[..., None, :]) / 2).to(dtype)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training too
def _position_table(grid: Grid, step: float, dim: int, device: torch.device) -> Tensor:
    """pos_n of every patch, a zero for the CLS column before them: (N + 1, dim)."""
    row, column = (index.flatten() * step for index in _indices(grid, device))
    table = torch.cat([sincos(column, dim // 2), sincos(row, dim // 2)], dim=-1)
    return nn.functional.pad(table, (0, 0, 1, 0))


def _indices(grid: Grid, device: torch.device) -> tuple[Tensor, ...]:
    rows, columns = (torch.arange(size, dtype=torch.float64, device=device) for size in grid)
    return torch.meshgrid(rows, columns, indexing="ij")


def perception_field_mask(
    grid: Grid,
    patch_size: int,
    resolution: Number,
    radius: Number,
    cls: bool = True,
    device: torch.device | str = "cpu",
) -> Bool[Tensor, "tokens tokens"]:
    """Which patches may attend to each other: those whose centres are at most `radius` metres apart.

    Args:
        grid: rows and columns of patches.
        patch_size: p, pixels along a side of a patch.
        resolution: ρ, metres per pixel.
        radius: in metres. The paper's default is 640.
        cls: put a CLS token before the patches, which attends and is attended to everywhere. Default True.
        device: where the mask lives; it is kept there for the next call.

    Returns:
        True where token i (row) may attend to token j.

    Raises:
        ValueError: a size, resolution or radius that is not positive.

    Warns:
        UserWarning: the radius is shorter than a patch, so that every patch sees itself alone.
    """
    for name, value in (("patch_size", patch_size), ("resolution", resolution), ("radius", radius)):
        if not value > 0:
            raise ValueError(f"{name}={value}: use a positive number")
    patch = patch_size * resolution
    if radius < patch and grid != (1, 1):
        warnings.warn(
            f"radius={radius} m is shorter than a patch of {patch} m: every patch attends to itself alone",
            stacklevel=2,
        )
    return _perception_field(tuple(grid), float(patch), float(radius), cls, torch.device(device))


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _perception_field(grid: Grid, patch: float, radius: float, cls: bool, device: torch.device) -> Tensor:
    places = torch.stack([index.flatten() for index in _indices(grid, device)], dim=-1)
    offsets = places[:, None] - places[None]
    near = offsets.square().sum(-1).sqrt() * patch <= radius
    return nn.functional.pad(near, (1, 0, 1, 0), value=True) if cls else near


# --- rotary embedding of the later release (arXiv 2605.18541) ---------------------------------------------------------

Rotation = tuple[Tensor, Tensor]


def spatial_rotation(grid: Grid, dim: int, base: Number = 100, device: torch.device | str = "cpu") -> Rotation:
    """Cosine and sine that rotate the patches' queries and keys, (N + 1, dim) each; the CLS token is not turned.

    The centre of row i of H has the coordinate 2 (i + 1/2) / H - 1, a column likewise.

    Raises:
        ValueError: `dim`, the width of a head, is no multiple of four.
    """
    if dim % 4:
        raise ValueError(f"dim={dim}: rows and columns are rotated in pairs; use a head width that is a multiple of 4")
    coordinates = [
        2 * (index.flatten() + 0.5) / size - 1
        for index, size in zip(_indices(grid, torch.device(device)), grid, strict=True)
    ]
    return _rotation(torch.stack(coordinates, dim=-1), dim, base)


def spectral_rotation(
    wavelengths: Float[Tensor, "*batch channels"],
    dim: int,
    scale: tuple[Number, Number] = (400, 2500),
    base: Number = 100,
) -> Rotation:
    """Cosine and sine that rotate the channels' queries and keys, (..., C + 1, dim) each; the CLS token is not turned.

    A wavelength λ has the coordinate 2 λ' - 1, where λ' is λ scaled from the range `scale` (nanometres) to [0, 1].

    Raises:
        ValueError: `dim`, the spectral width of a head, is odd.
    """
    if dim % 2:
        raise ValueError(f"dim={dim}: features are rotated in pairs; use an even number of channel dimensions per head")
    low, high = scale
    return _rotation((2 * (wavelengths.double() - low) / (high - low) - 1)[..., None], dim, base)


def _rotation(coordinates: Float[Tensor, "*batch tokens axes"], dim: int, base: Number) -> Rotation:
    periods = dim // (2 * coordinates.shape[-1])
    frequencies = base ** (-torch.arange(periods, dtype=torch.float64, device=coordinates.device) / periods)
    angles = (2 * math.pi * coordinates[..., None] * frequencies).flatten(-2)
    angles = nn.functional.pad(torch.cat([angles, angles], dim=-1), (0, 0, 1, 0))  # a turn by zero for the CLS token
    return angles.cos().float(), angles.sin().float()


def rotate(x: Float[Tensor, "*batch tokens dim"], rotation: Rotation) -> Float[Tensor, "*batch tokens dim"]:
    """Turn the pairs (x_i, x_{i + dim/2}) by the angles of `rotation`."""
    cosine, sine = (table.to(x.dtype) for table in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
