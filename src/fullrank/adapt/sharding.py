"""Parameters that several processes train together: replicated, or divided by rows (`fully_shard`)."""

from __future__ import annotations

from torch import Tensor, distributed
from torch.distributed.tensor import DTensor


def in_parallel() -> bool:
    """Whether other processes wait for a gradient of every parameter that was trained at the start."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def whole(parameter: Tensor) -> Tensor:
    """The values of a parameter, without its graph; gathered where it is divided, by all processes at once."""
    values = parameter.detach()
    return values.full_tensor() if isinstance(values, DTensor) else values


def own_rows(matrix: Tensor) -> Tensor:
    """The rows that this process holds, without their graph and not copied; all where the matrix is not divided."""
    values = matrix.detach()
    return values.to_local() if isinstance(values, DTensor) else values
