"""What a RAVLT costs: multiply-adds by closed form, counted where they happen."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fullrank.nn.gated_attention import GatedAttention, GatedSoftmaxAttention


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image.

    Attributes:
        convolutions: convolutions and linear maps alone, which is what published FLOPs of RAVLT count.
        all: with the products between tokens, and 5 for each normalised number of a layer normalisation, 2 of a batch
            normalisation, as fvcore counts them.
    """

    convolutions: int
    all: int


def multiply_adds(model: nn.Module, image_size: tuple[int, int] = (224, 224), in_chans: int = 3) -> MultiplyAdds:
    """Count the multiply-adds of one image in evaluation mode. Nothing is computed when the model lies on "meta".

    Products between tokens: 2 N^2 C for softmax attention, 2 N C d + 2 N C for RALA with N tokens, C channels and heads
    of width d.

    Args:
        model: a network of convolutions, linear maps, normalisations and the attention of this package.
        image_size: rows and columns.
        in_chans: channels.
    """
    counted: list[tuple[bool, int]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: counted.append(_cost(module, inputs[0], output)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm | nn.BatchNorm2d | GatedAttention)
    ]
    training, reference = model.training, next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_chans, *image_size, device=reference.device, dtype=reference.dtype))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return MultiplyAdds(sum(cost for basic, cost in counted if basic), sum(cost for _, cost in counted))


def _cost(module: nn.Module, x: Tensor, y: Any) -> tuple[bool, int]:
    """Whether this is a convolution or linear map, and its multiply-adds beside those of its parts."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return True, y.numel() * module.weight[0].numel()
    if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
        return False, y.numel() * (5 if isinstance(module, nn.LayerNorm) else 2)
    assert isinstance(module, GatedAttention)
    tokens = x.numel() // module.dim
    if isinstance(module, GatedSoftmaxAttention):
        return False, 2 * tokens * x.numel()
    return False, 2 * x.numel() * (module.head_dim + 1)
