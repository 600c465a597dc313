"""The learned centre-surround contrast of RPCANet++: a cue for objects that differ from what lies around them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.nn.large_kernel import LargeKernelConv2d, Method

_REDUCTION = 4  # of the squeeze branch


class ContrastLayer(nn.Module):
    """theta ∘ (sum W) u - W ⋆ u: a centre, weighted per channel and image, against a wide surround.

    The centre is the kernel's spatial sum applied as a 1 x 1 convolution, so with theta = 1 a constant image gives zero
    away from the border. theta = sigma(BN(C2 ReLU(BN(C1 GAP(u))))) with a quarter of the channels in between.

    Args:
        channels: of the maps, at least 4.
        kernel_size: of the surround, odd. Default 17.
        method: how the surround is convolved, see `LargeKernelConv2d`.

    Raises:
        ValueError: fewer than 4 channels, or an even kernel.
    """

    def __init__(self, channels: int, kernel_size: int = 17, method: Method = "auto") -> None:
        super().__init__()
        if channels < _REDUCTION:
            raise ValueError(
                f"channels={channels}: the contrast prior squeezes them to a quarter, so use at least {_REDUCTION}"
            )
        squeezed = channels // _REDUCTION
        self.surround = LargeKernelConv2d(channels, channels, kernel_size, method)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, u: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """The contrast of every channel."""
        theta = torch.sigmoid(self.squeeze(u))
        centre = nn.functional.conv2d(u, self.surround.weight.sum((2, 3), keepdim=True))
        return theta * centre - self.surround(u)

    @property
    def squeeze_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The batch norms over 1 x 1 maps, which need two images to train."""
        return tuple(layer for layer in self.squeeze if isinstance(layer, nn.BatchNorm2d))


class ContrastPrior(nn.Module):
    """Deep contrast prior: image -> contrast map, which moves the point where the object's gradient is taken.

    Args:
        image_channels: of the image and of the map.
        channels: of the features.
        kernel_size, method: see `ContrastLayer`.
    """

    def __init__(self, image_channels: int, channels: int, kernel_size: int = 17, method: Method = "auto") -> None:
        super().__init__()
        self.embed = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.contrast = ContrastLayer(channels, kernel_size, method)
        self.norm = nn.BatchNorm2d(channels)
        self.project = nn.Conv2d(channels, image_channels, 3, padding=1)

    def forward(self, X: Float[Tensor, "batch image height width"]) -> Float[Tensor, "batch image height width"]:
        """The contrast map of the image."""
        u = torch.relu(self.embed(X))
        return self.project(nn.functional.leaky_relu(self.norm(self.contrast(u)), 0.1))
