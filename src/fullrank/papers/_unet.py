"""A small U-Net, the plain network beside an unfolded one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fullrank.nn import RPCANetOutput


class SmallUNet(nn.Module):
    """Two levels down and up, two convolutions with batch norm each; any size of at least 4 x 4.

    Args:
        channels: at full size; doubled at every level.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.down = nn.ModuleList([_block(1, c), _block(c, 2 * c), _block(2 * c, 4 * c)])
        self.up = nn.ModuleList([_block(6 * c, 2 * c), _block(3 * c, c)])
        self.head = nn.Conv2d(c, 1, 1)

    def forward(self, x: Tensor) -> RPCANetOutput:
        """The object's logits; the image is passed through as it is."""
        kept = []
        u = x
        for level, block in enumerate(self.down):
            u = block(nn.functional.max_pool2d(u, 2) if level else u)
            kept.append(u)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            u = block(torch.cat([nn.functional.interpolate(u, size=skip.shape[-2:]), skip], 1))
        return RPCANetOutput(x, self.head(u))

    def object_logits(self, x: Tensor) -> Tensor:
        """The logits alone."""
        return self(x).object_logits


def _block(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip
