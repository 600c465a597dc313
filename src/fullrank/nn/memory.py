"""What a forward pass keeps in memory for its gradient, counted exactly and the same on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def kept_bytes(forward: Callable[[], Any], resident: Iterable[Tensor]) -> int:
    """Bytes of the tensors that a computation keeps for its backward pass; views of one storage count once.

    Args:
        forward: runs it, and returns what holds its graph.
        resident: tensors that are there anyway, and are not counted.
    """
    counted = {tensor.untyped_storage().data_ptr(): 0 for tensor in resident}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        counted.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor.detach()  # a saved output that holds its own graph would keep it for ever

    # `kept` holds the graph, and with it every storage, until all of them are counted.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = forward()
    del kept
    return sum(counted.values())
