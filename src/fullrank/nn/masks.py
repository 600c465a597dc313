"""Object masks: zeros and ones, made from labels only where that is asked for."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

Mask = TypeVar("Mask", Tensor, np.ndarray)


def binary_mask(mask: Mask, binarize: bool = False) -> Mask:
    """True where the object is, in the library that the mask came in.

    Args:
        mask: any shape and dtype.
        binarize: count every value above 0 as object: labels 0..3, or 0 and 255.

    Raises:
        ValueError: other values than 0 and 1, and `binarize` is False.
    """
    other = (mask != 0) & (mask != 1)
    if not binarize and bool(other.any()):
        raise ValueError(
            f"mask has {float(mask[other].flatten()[0]):g} among its values: 0 and 1 are accepted; pass binarize=True "
            "to count every value above 0 as object"
        )
    return mask > 0
