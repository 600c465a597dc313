"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded in turn, and later ones make up for the error."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.compress.quantization import Grid, QuantizedWeight, wide
from fullrank.linalg import require_finite

#: Columns between two updates of the rest of the matrix.
BLOCK = 128
_DAMPING = 0.01
_RETRIES = 2


def gptq_quantize(
    weight: Float[Tensor, "out in"],
    hessian: Float[Tensor, "in in"],
    grid: Grid,
    *,
    block_size: int | None = None,
    damping: float = _DAMPING,
    name: str = "weight",
    tokens: int | None = None,
) -> QuantizedWeight:
    """Round a layer's weight so that its outputs on calibration data change least.

    With C the upper Cholesky factor of H^-1, column j is rounded, and its error (w_j - w'_j) / C_jj is taken off the
    columns behind it by the row C_j; beyond a block of columns that is one matrix product a block. An input that is
    always 0 takes weight 0.

    Args:
        weight: of the layer.
        hessian: H = 2 / n sum x x^T of the layer's inputs; its scale does not matter.
        grid: codes, groups and scales. A group's scale is fitted to its weights when its first column is reached, and
            to the whole matrix before the first column where there is one group a row.
        block_size: columns between updates of the rest; by default 128 or a part of it in which every group begins a
            block, so that scales are fitted to weights that all earlier errors have reached.
        damping: part of the mean of H's diagonal that is added to it; ten times as much is tried twice where H is not
            positive definite.
        name: of the layer, in errors.
        tokens: how many H was gathered from, in errors.

    Raises:
        ValueError: a weight or Hessian that is not finite, shapes that do not fit, or a group size that does not divide
            the inputs.
        RuntimeError: H is not positive definite after all damping.
    """
    require_finite(weight, name)
    outputs, inputs = weight.shape
    if hessian.shape != (inputs, inputs):
        raise ValueError(f"{name}: hessian has shape {tuple(hessian.shape)}, its weight needs ({inputs}, {inputs})")
    if not bool(hessian.isfinite().all()):
        raise ValueError(f"{name}: its calibration inputs are not finite, so its Hessian is not: check the data")
    size = grid.group_of(inputs, name)
    block = block_size or (BLOCK if size == inputs else math.gcd(size, BLOCK))
    W, H = wide(weight).clone(), wide(hessian).to(weight.device, copy=True)
    whole = grid.fit(W) if size == inputs else None
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    W[:, dead] = 0
    C = _inverse_factor(H, damping, name, tokens).to(W.dtype)
    codes = torch.empty_like(W)
    fitted: list[tuple[Tensor, Tensor]] = [] if whole is None else [whole]
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        columns, errors = W[:, start:stop].clone(), W.new_empty(outputs, stop - start)
        rows = C[start:stop, start:stop]
        for place, j in enumerate(range(start, stop)):
            if whole is None and j % size == 0:
                fitted.append(grid.fit(W[:, j : j + size]))
            scales, zeros = fitted[-1]
            w = columns[:, place]
            q = grid.encode(w.unsqueeze(1), scales, zeros).squeeze(1)
            errors[:, place] = (w - scales * (q - zeros)) / rows[place, place]
            columns[:, place + 1 :].addr_(errors[:, place], rows[place, place + 1 :], alpha=-1)
            codes[:, j] = q
        W[:, stop:].addmm_(errors, C[start:stop, stop:], alpha=-1)
    scales, zeros = (torch.stack(parts, dim=1) for parts in zip(*fitted, strict=True))
    return grid.quantized(codes, scales, zeros)


def _inverse_factor(H: Tensor, damping: float, name: str, tokens: int | None) -> Tensor:
    """The upper Cholesky factor of the inverse of H, damped as much as it takes; H is overwritten."""
    diagonal = H.diagonal().clone()
    for attempt in range(_RETRIES + 1):
        H.diagonal().copy_(diagonal + 10**attempt * damping * diagonal.mean())
        lower, failed = torch.linalg.cholesky_ex(H)
        if bool(failed):
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not bool(failed) and bool(upper.isfinite().all()):
            return upper
    seen = "" if tokens is None else f" of {tokens} calibration tokens"
    raise RuntimeError(
        f"{name}: the Hessian{seen} is not positive definite, even with a damping of {10**_RETRIES * damping:g} of its "
        "mean diagonal: give more and more varied calibration data (128 sequences of 2048 tokens are typical), or a "
        "larger damping"
    )
