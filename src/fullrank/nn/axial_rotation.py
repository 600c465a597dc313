"""Rotary positions on a grid: half of the features turn with the row, half with the column.

Source: arXiv 2411.07635 and its official code (`RoPE`), after Su et al. (2021).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Rotation = Float[Tensor, "tokens pairs 2"]


def axial_frequencies(
    head_dim: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "quarter"]:
    """Angles per step of one axis: theta_m = 10000^(-m / (d/4 - 1)) for m = 0 .. d/4 - 1, the last exactly 1e-4.

    Args:
        head_dim: width d of one head, a multiple of 4.
        device: where the numbers are made.
        dtype: floating dtype.

    Raises:
        ValueError: `head_dim` is not a positive multiple of 4.
    """
    if head_dim < 4 or head_dim % 4:
        raise ValueError(
            f"head_dim={head_dim}: axial rotary positions turn pairs of features, half by row and half by column, so "
            "the width of a head must be a multiple of 4; choose other dim and num_heads, or switch RoPE off"
        )
    return 10_000.0 ** -torch.linspace(0, 1, head_dim // 4, device=device, dtype=dtype)


def axial_rotation(
    grid: tuple[int, int],
    head_dim: int,
    *,
    num_prefix_tokens: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Rotation:
    """Cosine and sine by which `rotate` turns every pair of features of every token.

    Args:
        grid: rows and columns; tokens are in row-major order.
        head_dim: width d of one head, a multiple of 4. The first d/4 pairs turn with the row, the rest with the column.
        num_prefix_tokens: tokens before the grid (class, registers); they are not turned.
        device: where the table is made.
        dtype: floating dtype of the table.

    Returns:
        (num_prefix_tokens + rows * columns, d/2, 2): cosine and sine by token and pair.

    Raises:
        ValueError: `head_dim` is not a positive multiple of 4.
    """
    height, width = grid
    theta = axial_frequencies(head_dim, device=device, dtype=dtype)
    rows, columns = (
        torch.arange(length, device=device, dtype=dtype)[:, None] * theta for length in (height, width)
    )  # (length, d/4)
    shape = (height, width, len(theta))
    by_row, by_column = (
        torch.stack([angle.cos(), angle.sin()], dim=-1).unsqueeze(axis).expand(*shape, 2)
        for angle, axis in ((rows, 1), (columns, 0))
    )
    table = torch.cat([by_row, by_column], dim=2).flatten(0, 1)
    if not num_prefix_tokens:
        return table
    still = torch.tensor([1.0, 0.0], device=device, dtype=dtype).expand(num_prefix_tokens, head_dim // 2, 2)
    return torch.cat([still, table])


def rotate(x: Float[Tensor, "*batch tokens dim"], rotation: Rotation) -> Float[Tensor, "*batch tokens dim"]:
    """Turn adjacent pairs of features: (a, b) -> (a cos - b sin, a sin + b cos).

    Args:
        x: any floating dtype, the last axis even; half precision is turned in float32.
        rotation: as `axial_rotation` makes it.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs, rotation = x.to(wide).unflatten(-1, (-1, 2)), rotation.to(wide)
    if torch.compiler.is_compiling():  # the compiler fuses real products, and takes complex ones as they are
        a, b = pairs.unbind(-1)
        cos, sin = rotation.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    else:
        # A pair is a complex number: one pass over memory instead of seven.
        if pairs.stride(-1) != 1 or any(step % 2 for step in (pairs.storage_offset(), *pairs.stride()[:-1])):
            pairs = pairs.clone(memory_format=torch.contiguous_format)  # complex numbers begin at even places
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return turned.flatten(-2).to(x.dtype)
