"""The networks of filter pruning papers: ResNet-20 to 110 and VGG-16 for small images."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_WIDTHS = (16, 32, 64)


class ResidualBlock(nn.Module):
    """Two convolutions, and a shortcut that takes every second pixel and fills up channels with zeros (option A).

    The shortcut follows the channels that it meets: half of the missing ones in front, half behind; too many are cut
    off in the same way. So the block stays whole when its convolutions are pruned one by one.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        """The block's output, not negative."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        missing = y.shape[1] - shortcut.shape[1]
        if missing:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return self.relu2(y + shortcut)


class CifarResNet(nn.Module):
    """A residual network of 6 n + 2 layers with stages of 16, 32 and 64 channels (He et al. 2015).

    Args:
        depth: 20, 32, 44, 56, 110 or another number 6 n + 2.
        classes: how many.

    Raises:
        ValueError: another depth.
    """

    def __init__(self, depth: int = 56, classes: int = 10) -> None:
        super().__init__()
        blocks = _blocks(depth)
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        stages, inputs = [], _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS):
            first = ResidualBlock(inputs, width, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(blocks - 1))))
            inputs = width
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class CifarVGG(nn.Sequential):
    """VGG-16 with batch normalisation and a classifier of two layers, for images of 32 x 32.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for widths in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        head = [nn.Linear(inputs, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, classes)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def resnet_ratios(depth: int, rates: Sequence[float]) -> dict[str, float]:
    """Pruning ratios by layer name, from a rate list of the official code.

    Args:
        depth: of a `CifarResNet`.
        rates: of the stem, of the block outputs of stages 1 and 2, and then of the middle of each block.

    Raises:
        ValueError: another number of rates.
    """
    blocks = _blocks(depth)
    if len(rates) != 3 + 3 * blocks:
        raise ValueError(
            f"rates has {len(rates)} numbers, ResNet-{depth} takes {3 + 3 * blocks}: three and one a block"
        )
    stem, *stages = rates[:3]
    ratios = {"conv1": stem}
    for number, middle in enumerate(rates[3:]):
        stage, block = divmod(number, blocks)
        name = f"layer{stage + 1}.{block}"
        ratios |= {f"{name}.conv1": middle, f"{name}.conv2": (*stages, 0.0)[stage]}  # stage 3 keeps its outputs
    return ratios


def _blocks(depth: int) -> int:
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth={depth}: 6 n + 2 layers are accepted, such as 20, 56 or 110")
    return (depth - 2) // 6
