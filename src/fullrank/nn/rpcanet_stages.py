"""The operators of RPCANet and RPCANet++, and the stage that applies them in turn (arXiv 2311.00917, 2508.04190)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.nn.contrast import ContrastPrior
from fullrank.nn.convolutional_lstm import ConvolutionalLSTM, Memory

Image = Float[Tensor, "batch channels height width"]


class StageOutput(NamedTuple):
    """What one stage made of the image, each (batch, channels, height, width).

    Attributes:
        background: B, meant to be low in rank.
        object: T, the logits of the object.
        image: D, the restored image.
    """

    background: Image
    object: Image
    image: Image


class ResidualBlock(nn.Module):
    """u + C2 ReLU(C1 u), without batch norm and without an activation behind the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, channels)

    def forward(self, u: Image) -> Image:
        """The same shape."""
        return u + self.conv2(torch.relu(self.conv1(u)))


class PlainBackground(nn.Module):
    """B = x + P(x), P a stack of convolutions with batch norm: the background of RPCANet."""

    def __init__(self, image_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = _normed_stack(image_channels, channels, depth)

    def forward(self, x: Image, memory: Memory | None) -> tuple[Image, None]:
        """The background of x; nothing is remembered."""
        return x + self.layers(x), None


class MemoryBackground(nn.Module):
    """B = x + P(x), with features that pass a convolutional LSTM between two residual blocks.

    Args:
        image_channels, channels: of the image and of the features.
        first: whether this is the first stage, which has no memory to read.
        memory: False leaves the LSTM out.
        unused_gates: see `ConvolutionalLSTM`.
    """

    def __init__(
        self, image_channels: int, channels: int, first: bool, memory: bool = True, unused_gates: bool = False
    ) -> None:
        super().__init__()
        self.embed = _conv(image_channels, channels)
        self.norm = nn.BatchNorm2d(channels)
        self.before = ResidualBlock(channels)
        self.lstm = ConvolutionalLSTM(channels, first, unused_gates) if memory else None
        self.after = ResidualBlock(channels)
        self.project = _conv(channels, image_channels)

    def forward(self, x: Image, memory: Memory | None) -> tuple[Image, Memory | None]:
        """The background of x, and the memory for the next stage."""
        f = self.before(torch.relu(self.norm(self.embed(x))))
        if self.lstm is None:
            return x + self.project(self.after(f)), None
        remembered: Memory = self.lstm(f, memory)
        return x + self.project(self.after(remembered.h)), remembered


class ObjectExtraction(nn.Module):
    """T = X - eps G(X + C(X)): a learned gradient step, its place moved by the contrast prior C where there is one."""

    def __init__(self, image_channels: int, channels: int, depth: int, prior: ContrastPrior | None) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(image_channels, channels), nn.ReLU()]
        for _ in range(depth):
            layers += [_conv(channels, channels), nn.ReLU()]
        self.gradient = nn.Sequential(*layers, _conv(channels, image_channels))
        self.epsilon = nn.Parameter(torch.tensor([0.01]))
        self.prior = prior

    def forward(self, X: Image) -> Image:
        """The object's logits."""
        at = X if self.prior is None else X + self.prior(X)
        return X - self.epsilon * self.gradient(at)


class Restoration(nn.Module):
    """D = M(B + T), not residual: the network has to reproduce the image."""

    def __init__(self, image_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = _normed_stack(image_channels, channels, depth)

    def forward(self, x: Image) -> Image:
        """The restored image."""
        return self.layers(x)


class Stage(nn.Module):
    """One step on B, then T, then D."""

    def __init__(
        self, background: PlainBackground | MemoryBackground, object: ObjectExtraction, restoration: Restoration
    ) -> None:
        super().__init__()
        self.background = background
        self.object = object
        self.restoration = restoration

    def forward(
        self, D: Image, T: Image, memory: Memory | None, restore: bool = True
    ) -> tuple[Image, Image, Image | None, Memory | None]:
        """B, T, D and the memory; without `restore` no D, which a last stage can save."""
        B, memory = self.background(D - T, memory)
        T = self.object(T + D - B)
        return B, T, self.restoration(B + T) if restore else None, memory


def _conv(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)


def _normed_stack(image_channels: int, channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(image_channels, channels), nn.BatchNorm2d(channels), nn.ReLU()]
    for _ in range(depth):
        layers += [_conv(channels, channels), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, _conv(channels, image_channels))
