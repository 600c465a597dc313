"""How a weight is cut into subvectors of m entries, and put together again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Axis = Literal["in", "out"]


@dataclass(frozen=True)
class SubvectorLayout:
    """The cut of one weight.

    Args:
        shape: of the weight, (out, in / groups, *kernel).
        m: entries of a subvector.
        axis: "in" takes consecutive entries of a row (out channel), so that m = 9 is one 3 x 3 kernel; "out" takes
            consecutive output channels of a group at one input channel and kernel position.
        groups: of a convolution; no subvector crosses them.
        pad: fill up with zeros where m does not divide the length.
        name: how errors call the layer.

    Raises:
        ValueError: an unknown axis, m below 1, or an m that does not divide the length, with those that do.
    """

    shape: tuple[int, ...]
    m: int
    axis: Axis = "in"
    groups: int = 1
    pad: bool = False
    name: str = "weight"

    def __post_init__(self) -> None:
        if self.axis not in get_args(Axis):
            raise ValueError(f"axis={self.axis!r} is not known; accepted: 'in', 'out'")
        if self.m < 1:
            raise ValueError(f"{self.name}: m={self.m}: subvectors of at least one entry are needed")
        if self.length % self.m and not self.pad:
            valid = [size for size in range(1, self.length + 1) if self.length % size == 0]
            what = "entries of a row" if self.axis == "in" else "output channels of a group"
            raise ValueError(
                f"{self.name}: m={self.m} does not divide its {self.length} {what} (axis={self.axis!r}): valid m are "
                f"{', '.join(map(str, valid))}; or fill up with zeros by pad=True"
            )

    @property
    def length(self) -> int:
        """Entries that runs of m are taken from."""
        return math.prod(self.shape[1:]) if self.axis == "in" else self.shape[0] // self.groups

    @property
    def count(self) -> int:
        """n, the number of subvectors."""
        runs = math.ceil(self.length / self.m)
        return runs * (self.shape[0] if self.axis == "in" else self.groups * math.prod(self.shape[1:]))

    def cut(self, weight: Float[Tensor, "out *rest"]) -> Float[Tensor, "n m"]:
        """The subvectors of a weight, row by row."""
        fill = -self.length % self.m
        if self.axis == "in":
            return functional.pad(weight.reshape(self.shape[0], -1), (0, fill)).reshape(-1, self.m)
        grouped = functional.pad(weight.reshape(self.groups, self.length, -1), (0, 0, 0, fill))
        return grouped.unflatten(1, (-1, self.m)).transpose(2, 3).reshape(-1, self.m)

    def join(self, subvectors: Float[Tensor, "n m"]) -> Float[Tensor, "out *rest"]:
        """The weight of its subvectors; what was filled up is left out."""
        if self.axis == "in":
            return subvectors.reshape(self.shape[0], -1)[:, : self.length].reshape(self.shape)
        rest = math.prod(self.shape[1:])
        runs = subvectors.reshape(self.groups, -1, rest, self.m).transpose(2, 3)
        return runs.reshape(self.groups, -1, rest)[:, : self.length].reshape(self.shape)
