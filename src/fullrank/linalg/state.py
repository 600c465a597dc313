"""Tell whether tensors were edited since something was made from them."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor, device, dtype

State = tuple[tuple[int, int, dtype, device], ...]


def state_of(*tensors: Shaped[Tensor, "..."]) -> State | None:
    """The address, number of edits, dtype and device of each tensor; equal while torch has recorded no edit of one.

    Writing through `.data` is not recorded.

    Args:
        tensors: of any shape and dtype, outside `torch.compile`.

    Returns:
        None if one was made in inference mode, where torch does not count edits: nothing made from it can be kept.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device) for tensor in tensors)
