"""A vision transformer small enough to train from nothing on a processor."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import ViTConfig, ViTModel

_WAVELENGTHS = 10_000.0  # from 1 to this many patches, as in the original transformer


def small_backbone(
    grid: tuple[int, int] = (64, 64), width: int = 96, layers: int = 4, heads: int = 4, patch: int = 8
) -> ViTModel:
    """A ViT for spectrograms of a grid, with random weights: 0.45 million parameters by default.

    Its positions start as sines and cosines of a patch's row and column. A network without pretraining then knows from
    the beginning which patches are neighbours, and learns to tell places in a fraction of the steps.

    Args:
        grid: (n_freq, n_time).
        width: of the tokens; a multiple of 4 and of `heads`.
        layers: blocks.
        heads: of a block.
        patch: side of a patch in bins.

    Raises:
        ValueError: a width that does not divide.
    """
    if width % 4 or width % heads:
        raise ValueError(f"width={width}: a multiple of 4 and of heads={heads} is needed")
    side = -(-max(grid) // patch)
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        image_size=side * patch, patch_size=patch,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.position_embeddings[0, 1:] = _places(side, width)
    return model


def _places(side: int, width: int) -> Float[Tensor, "patches width"]:
    """Half of the numbers tell the row, half the column."""
    frequencies = _WAVELENGTHS ** -(torch.arange(width // 4) / (width // 4))
    phases = torch.arange(side)[:, None] * frequencies
    along = torch.cat([phases.sin(), phases.cos()], dim=1) / 2
    rows, columns = along[:, None].expand(-1, side, -1), along[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).reshape(side**2, width)
