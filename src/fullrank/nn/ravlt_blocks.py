"""What a stage of RAVLT is made of: convolutional positions, attention, and a convolutional feed-forward part, on maps.

Source: arXiv 2411.07635 and its official code.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fullrank.nn.axial_rotation import Rotation
from fullrank.nn.gated_attention import GatedAttention

Map = Float[Tensor, "batch channels rows columns"]
OtherMap = Float[Tensor, "batch _ _ _"]  # of another width and grid than the input

_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a (batch, channels, rows, columns) map, with eps 1e-6.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=_EPS)

    def forward(self, input: Map) -> Map:
        """Normalise every place by itself."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth: while training, leave a residual branch out for some images, and scale it up for the others.

    Args:
        rate: share of images.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Map) -> Map:
        """Zero or x / (1 - rate), image by image."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3g}"


class ConvolutionalFeedForward(nn.Module):
    """Two linear maps with GELU and a residual 3 x 3 depthwise convolution between them.

    Args:
        dim: channels.
        hidden: channels between the maps.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Map) -> Map:
        """fc2(u + DWConv(u)) with u = GELU(fc1(x))."""
        u = functional.gelu(self.fc1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        u = u + self.dwconv(u)
        return self.fc2(u.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + DWConv(x), then attention and feed-forward, each normalised before and scaled by channel after.

    Args:
        dim: channels.
        attention: the attention layer.
        hidden: channels inside the feed-forward part.
        drop_path: rate of stochastic depth.
        layer_scale: initial value of both channel scales; None for none.
    """

    def __init__(
        self, dim: int, attention: GatedAttention, hidden: int, drop_path: float, layer_scale: float | None
    ) -> None:
        super().__init__()
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)
        self.attn, self.ffn = attention, ConvolutionalFeedForward(dim, hidden)
        self.drop_path = DropPath(drop_path)
        self.scale1, self.scale2 = _channel_scale(dim, layer_scale), _channel_scale(dim, layer_scale)

    def forward(self, x: Map, rotation: Rotation | None) -> Map:
        """One block on a map; `rotation` is the stage's table."""
        x = x + self.position(x)
        x = x + self.drop_path(_scaled(self.attn(self.norm1(x), rotation=rotation), self.scale1))
        return x + self.drop_path(_scaled(self.ffn(self.norm2(x)), self.scale2))


def _channel_scale(dim: int, value: float | None) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(torch.full((dim,), value))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale[:, None, None]


class Stage(nn.Module):
    """A downsampling convolution (not in the first stage) and blocks on one grid.

    Args:
        blocks: the blocks, all of one width.
        downsample: what halves the grid before them, or None.
    """

    def __init__(self, blocks: Iterable[Block], downsample: nn.Module | None) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Map) -> OtherMap:
        """The map after the last block."""
        if self.downsample is not None:
            x = self.downsample(x)
        x = x.contiguous(memory_format=torch.channels_last)
        rows, columns = x.shape[2:]
        if rows * columns == 1 and not torch.compiler.is_compiling():
            warnings.warn(
                f"a stage of {x.shape[1]} channels sees a single token: the input is too small for attention there",
                stacklevel=2,
            )
        rotation = cast(Block, self.blocks[0]).attn.rotation((rows, columns), x)  # one table for all blocks
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, use_reentrant=False)
            else:
                x = block(x, rotation)
        return x
