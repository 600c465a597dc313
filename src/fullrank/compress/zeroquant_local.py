"""ZQ-Local (ZeroQuant-V2): layer-wise distillation trains a weight so that its rounded outputs stay what they were.

    min over V of  mean over x of ||W x - Q(V) x||^2 = tr((W - Q(V)) M (W - Q(V))^T),   M = mean x x^T

Rounding passes gradients straight through. The published hyper-parameters are not known; those here are ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.compress.quantization import Grid, QuantizedWeight, wide
from fullrank.linalg import require_finite


def zeroquant_local_quantize(
    weight: Float[Tensor, "out in"],
    moments: Float[Tensor, "in in"],
    grid: Grid,
    *,
    steps: int = 100,
    rate: float = 0.003,
    name: str = "weight",
) -> QuantizedWeight:
    """Train a weight under its own rounding; the best of all steps is kept, and plain rounding is the first.

    Args:
        weight: of the layer.
        moments: M, the mean x x^T of its inputs; its scale does not matter.
        grid: scales follow the weight that is trained.
        steps: of Adam.
        rate: of the first step, in mean steps of the grid; it falls linearly to 0.
        name: of the layer, in errors.

    Raises:
        ValueError: a weight or moments that are not finite, or shapes that do not fit.
    """
    require_finite(weight, name)
    require_finite(moments, f"the calibration inputs of {name}")
    inputs = weight.shape[1]
    if moments.shape != (inputs, inputs):
        raise ValueError(f"{name}: moments have shape {tuple(moments.shape)}, its weight needs ({inputs}, {inputs})")
    W, M = wide(weight), wide(moments).to(weight)
    M = M.to(W.dtype) / M.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    V = W.clone().requires_grad_()
    best, least = grid.quantize(W, name), float("inf")
    optimizer = torch.optim.Adam([V], lr=rate * float(best.scales.float().mean()))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(steps, 1))
    for _ in range(steps + 1):
        quantized = grid.quantize(V.detach(), name)
        error = quantized.dequantize(W.dtype) - W
        gradient = error @ M
        loss = float((gradient * error).sum())
        if loss < least:
            best, least = quantized, loss
        V.grad = 2 * gradient
        optimizer.step()
        schedule.step()
    return best
