"""What a block of LESS ViT and one with joint attention cost: seconds, and memory kept for the gradient."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fullrank.papers._less_vit_models import HEADS


def exponent(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Slope of log time over log channels, over the larger half of the channels."""
    times = [(row["channels"], row[f"{name} ms"]) for row in rows if row[f"{name} ms"] is not None]
    channels, milliseconds = np.log(np.array(times[len(times) // 2 - 1 :])).T
    return float(np.polyfit(channels, milliseconds, 1)[0])


def block_cost(dim: int, patches: int, channels: int, device: str) -> dict[str, Any]:
    import torch
    from torch import nn

    from fullrank.nn import LESSBlock

    torch.manual_seed(0)
    less = LESSBlock(dim, HEADS).to(device).eval()
    joint = nn.TransformerEncoderLayer(dim, HEADS, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True).to(device)
    grid = torch.randn(1, channels + 1, patches + 1, dim, device=device)
    row: dict[str, Any] = {"patches": patches, "channels": channels}
    for name, block, inputs in (("LESS", less, grid), ("joint attention", joint, grid.flatten(1, 2))):
        try:
            row[f"{name} ms"] = _milliseconds(block, inputs)
            row[f"{name} MiB for the gradient"] = _kept(block, inputs) / 2**20
        except torch.OutOfMemoryError:
            row[f"{name} ms"] = row[f"{name} MiB for the gradient"] = None
    row["LESS us per token"] = 1000 * row["LESS ms"] / grid[..., 0].numel()
    return row


def _milliseconds(block: Any, inputs: Any) -> float:
    """The fastest of several runs without gradient: whatever else the machine does only slows one down."""
    import torch

    def once() -> float:
        began = time.perf_counter()
        block(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began)

    with torch.inference_mode():
        first = once()
        return min(once() for _ in range(max(3, min(30, int(600 / max(first, 1))))))


def _kept(block: Any, inputs: Any) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights left out."""
    from fullrank.nn.memory import kept_bytes

    kept = kept_bytes(lambda: block(inputs.requires_grad_()), block.parameters())
    inputs.requires_grad_(False)
    return kept
