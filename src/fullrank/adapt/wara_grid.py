"""Wavelet bands of two axes, and WaRA's patch grid: what acts on the bands of an image of tokens (Heidari et al., v2).

On the grid, a linear map that treats all bands alike commutes with the transform: only gates, an activation or dropped
bands make it more than LoRA. The transform therefore runs over the r projected channels, not over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftConfig
from torch import Tensor, nn

from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.tuner import DeltaModel
from fullrank.linalg import band_sizes, dwt, idwt

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}

#: Model types -> tokens before the patches. A DeiT of transformers has a class and a distillation token.
_PREFIX_TOKENS: tuple[tuple[str, int], ...] = (
    ("vit vit_msn beit data2vec-vision dinov2 clip_vision_model dinov2_with_registers dinov3_vit", 1),
    ("deit", 2),
    ("swin swinv2 siglip_vision_model ijepa", 0),
)
PREFIX_TOKENS = {kind: count for kinds, count in _PREFIX_TOKENS for kind in kinds.split()}


def band_names(levels: int = 1) -> tuple[str, ...]:
    """LL, then LH, HL, HH of every level from coarse to fine; LH is low along axis 1 and high along axis 0.

    PyWavelets calls LH, HL and HH cH, cV and cD. Axis 0 is the height of an image and the output axis of a weight.
    """
    return ("LL", *(f"{kind}{level}" for level in range(levels, 0, -1) for kind in ("LH", "HL", "HH")))


def dwt2_grid(
    x: Float[Tensor, "... height width"], wavelet: str = "haar", levels: int = 1
) -> list[Float[Tensor, "... _ _"]]:
    """The bands of the two-dimensional wavelet transform, in the order of `band_names`.

    Both axes are continued by zeros at their end to a multiple of 2^levels, then periodically.

    Args:
        x: half precision is computed in float32.
        wavelet: an orthogonal one of PyWavelets.
        levels: how often the coarsest band is split again.

    Raises:
        ValueError: an unknown wavelet, one that is not orthogonal, or fewer than one level.
    """
    height, width = (sum(band_sizes(n, levels)) for n in x.shape[-2:])
    low = nn.functional.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
    bands: list[Tensor] = []
    for _ in range(levels):
        top, bottom = dwt(dwt(low, wavelet).mT, wavelet).mT.chunk(2, -2)
        low, HL = top.chunk(2, -1)
        LH, HH = bottom.chunk(2, -1)
        bands = [LH, HL, HH, *bands]
    return [low, *bands]


def idwt2_grid(
    bands: Sequence[Float[Tensor, "... _ _"]], height: int, width: int, wavelet: str = "haar"
) -> Float[Tensor, "... {height} {width}"]:
    """The image of given bands: inverse and adjoint of `dwt2_grid`.

    Args:
        bands: in the order of `band_names`; their number, 3 levels + 1, says the levels.
        height, width: of the image; what was zeros at its ends is cut off.
        wavelet: see `dwt2_grid`.

    Raises:
        ValueError: another number of bands, a band of another size than the image has, or see `dwt2_grid`.
    """
    levels = len(bands) // 3
    if levels < 1 or len(bands) != 3 * levels + 1:
        raise ValueError(f"{len(bands)} bands: one level has 4, and every further level 3 more")
    rows, columns = band_sizes(height, levels)[0], band_sizes(width, levels)[0]
    for place, (name, band) in enumerate(zip(band_names(levels), bands, strict=True)):
        doubled = 2 ** max(0, (place - 1) // 3)
        if band.shape[-2:] != (rows * doubled, columns * doubled):
            raise ValueError(
                f"band {name} is {band.shape[-2]} x {band.shape[-1]}, but for {height} x {width} at levels={levels} it "
                f"is {rows * doubled} x {columns * doubled}"
            )
    low, *details = bands
    for LH, HL, HH in zip(details[::3], details[1::3], details[2::3], strict=True):
        both = torch.cat([torch.cat([low, HL], -1), torch.cat([LH, HH], -1)], -2)
        rows, columns = both.shape[-2:]
        low = idwt(idwt(both.mT, rows, wavelet).mT, columns, wavelet)
    return low[..., :height, :width]


def analysis_matrix(n: int, wavelet: str = "haar", levels: int = 1) -> Float[Tensor, "padded {n}"]:
    """T_n in float64, T^T T = I: rows are the coarsest approximation, then details from coarse to fine.

    Args:
        n: size of the axis; `padded` is the next multiple of 2^levels.
        wavelet: an orthogonal one of PyWavelets.
        levels: levels of the transform.

    Raises:
        ValueError: an unknown wavelet, one that is not orthogonal, or a size or level below 1.
    """
    return dwt(torch.eye(n, dtype=torch.float64), wavelet, levels).mT


def expand_to_weight(
    bands: Mapping[str, Float[Tensor, "_ _"]],
    out_features: int,
    in_features: int,
    wavelet: str = "haar",
    levels: int = 1,
) -> Float[Tensor, "{out_features} {in_features}"]:
    """IDWT2 of the bands C_b of an update, out_features x in_features.

    Args:
        bands: band name (see `band_names`) -> coefficients; bands that are left out are zero.
        out_features, in_features: size of the update.
        wavelet: an orthogonal one of PyWavelets.
        levels: levels of the transform.

    Raises:
        ValueError: no band, an unknown name, or a band of another size.
    """
    names = band_names(levels)
    unknown = [name for name in bands if name not in names]
    if unknown or not bands:
        raise ValueError(f"bands={list(bands)}: levels={levels} has {', '.join(names)}; give at least one of them")
    like = next(iter(bands.values()))
    sizes = [(band_sizes(out_features, levels)[0], band_sizes(in_features, levels)[0])] * 4
    for level in range(1, levels):
        sizes += [(sizes[0][0] * 2**level, sizes[0][1] * 2**level)] * 3
    full = [bands.get(name, like.new_zeros(size)) for name, size in zip(names, sizes, strict=True)]
    return idwt2_grid(full, out_features, in_features, wavelet)


def on_grid(
    u: Float[Tensor, "batch tokens r"],
    grid: tuple[int, int],
    gates: Sequence[Float[Tensor, "#r"] | None],
    activation: str | None = None,
    wavelet: str = "haar",
) -> Float[Tensor, "batch tokens r"]:
    """Gate and activate each wavelet band of the grid; tokens before it take the activation only.

    Args:
        u: projected tokens: a prefix, then the grid row by row.
        grid: (height, width).
        gates: of every band, in the order of `band_names`; None drops the band.
        activation: a key of `ACTIVATIONS`, applied before the gate; default none.
        wavelet: an orthogonal one of PyWavelets.
    """
    height, width = grid
    act = ACTIVATIONS[activation] if activation else lambda band: band
    prefix, patches = u.split([u.shape[1] - height * width, height * width], 1)
    image = patches.mT.unflatten(-1, grid)  # (batch, r, height, width)
    bands = [
        torch.zeros_like(band) if gate is None else act(band) * gate[:, None, None]
        for band, gate in zip(dwt2_grid(image, wavelet, len(gates) // 3), gates, strict=True)
    ]
    return torch.cat([act(prefix), idwt2_grid(bands, height, width, wavelet).flatten(-2).mT.to(u.dtype)], 1)


def grid_of(
    shape: torch.Size, grid_size: tuple[int, int] | None, prefix_tokens: int, levels: int, name: str
) -> tuple[int, int]:
    """(height, width) of the patch grid in an input of a layer.

    Raises:
        ValueError: the input is not (batch, tokens, features), its tokens are not the prefix and the grid, no square if
            no grid size is given, or the grid is too small for the levels.
    """
    if len(shape) != 3:
        raise ValueError(
            f"the grid form needs (batch, tokens, features), but {name!r} got an input of shape {tuple(shape)}: leave "
            "this layer out with exclude_modules, or use another mode"
        )
    patches = shape[1] - prefix_tokens
    if grid_size is None:
        side = math.isqrt(max(patches, 0))
        if patches < 1 or side**2 != patches:
            raise ValueError(
                f"{name!r} got {shape[1]} tokens, {patches} after num_prefix_tokens={prefix_tokens}, which is no "
                "square grid: set grid_size=(height, width) or num_prefix_tokens"
            )
        grid_size = side, side
    if patches != math.prod(grid_size):
        raise ValueError(
            f"{name!r} got {shape[1]} tokens, {patches} after num_prefix_tokens={prefix_tokens}, but grid_size="
            f"{grid_size} has {math.prod(grid_size)}: correct grid_size or num_prefix_tokens"
        )
    if 2**levels > min(grid_size):
        possible = int(math.log2(min(grid_size)))
        advice = f"use at most {possible}" if possible else "exclude the layer with exclude_modules"
        raise ValueError(
            f"levels={levels} halves a grid more often than the {grid_size[0]} x {grid_size[1]} tokens of {name!r} "
            f"allow: {advice}"
        )
    return grid_size


class PrefixAwareModel(DeltaModel):
    """A tuner that knows how many class and register tokens the model has before its patches."""

    def _prepare_adapter_config(self, peft_config: DeltaConfig, model_config: dict[str, Any]) -> PeftConfig:
        prepared: Any = super()._prepare_adapter_config(peft_config, model_config)
        if prepared.form == "grid" and prepared.num_prefix_tokens is None:
            prepared.num_prefix_tokens = prefix_tokens(model_config)
        return prepared


def prefix_tokens(model_config: dict[str, Any]) -> int:
    """How many tokens a vision model has before its patches.

    Raises:
        ValueError: the type of the model is not known.
    """
    kind = model_config.get("model_type")
    if kind not in PREFIX_TOKENS:
        raise ValueError(
            f"num_prefix_tokens=None is known for {', '.join(PREFIX_TOKENS)} only, not for a model of type {kind!r}: "
            "set num_prefix_tokens to the number of class and register tokens before the patches"
        )
    return PREFIX_TOKENS[kind] + (model_config.get("num_register_tokens") or 0)
