"""A plain vision transformer whose attention can be swapped: no convolution, no rotary or local position term."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fullrank.nn import GatedAttention


class PlainBlock(nn.Module):
    """Attention and a feed-forward part, each normalised before and added."""

    def __init__(self, dim: int, attention: GatedAttention, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = attention
        self.ffn = nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """One block on tokens."""
        x = x + self.attn(self.norm1(x), grid)
        return x + self.ffn(self.norm2(x))


class PlainViT(nn.Module):
    """An isotropic transformer on patches, with learned positions and mean pooling.

    Args:
        attention: makes the attention layer of a block.
        dim: channels.
        depth: blocks.
        patch: pixels on a side of a patch.
        image: pixels on a side of an image.
        ratio: width of the feed-forward part over the channels.
        classes: classes.
    """

    def __init__(
        self,
        attention: Callable[[], GatedAttention],
        dim: int,
        depth: int,
        *,
        patch: int = 4,
        image: int = 32,
        ratio: int = 2,
        classes: int = 10,
    ) -> None:
        super().__init__()
        side = image // patch
        self.grid, self.patch = (side, side), patch
        self.embed = nn.Linear(3 * patch**2, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(side * side, dim))
        self.blocks = nn.ModuleList(PlainBlock(dim, attention(), ratio) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        patches = nn.functional.unfold(images, self.patch, stride=self.patch).mT
        x = self.embed(patches) + self.positions
        for block in self.blocks:
            x = block(x, self.grid)
        return self.head(self.norm(x).mean(dim=1))
