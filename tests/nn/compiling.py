"""Compiles layers whole, with warnings as errors; a process of its own, without checks in every function."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from fullrank.nn import LESSBlock, LinformerEncoderLayer, LowRankConv2d, LowRankLinear, LowRankTransformerEncoderLayer

LAYERS = [
    (LESSBlock(24, 2, rank=2), (2, 3, 4, 24)),
    (LowRankLinear(6, 5, 2), (4, 6)),
    (LowRankConv2d(3, 5, 2, 3, padding=1), (2, 3, 6, 7)),
    (LowRankTransformerEncoderLayer(16, 4, 32, 4, 0.0, batch_first=True), (2, 6, 16)),
    (LinformerEncoderLayer(16, 4, 8, 3, 32, 0.0), (2, 6, 16)),
]


def main() -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch's own modules
    for layer, shape in LAYERS:
        check(layer, torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def check(layer: nn.Module, x: torch.Tensor) -> None:
    weights = list(layer.parameters())
    outputs = [layer(x), torch.compile(layer, fullgraph=True, backend="aot_eager")(x)]
    gradients = [torch.autograd.grad(y.square().sum(), weights) for y in outputs]
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])


if __name__ == "__main__":
    main()
