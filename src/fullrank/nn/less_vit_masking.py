"""Hide some of the patches or channels of a grid, and put them back in their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """Which items (patches or channels) of every image stay visible, and the way back to their places.

    The CLS entry of an axis, its index 0, is no item: it stays where it is and is never hidden.

    Attributes:
        ids_restore: where each item is found when the visible ones come first, (batch, items): the inverse of the
            permutation that was applied.
        visible: how many items are visible, the same in every image.
    """

    ids_restore: Int[Tensor, "batch items"]
    visible: int

    @classmethod
    def random(
        cls,
        noise: Float[Tensor, "batch items"],
        visible: int,
        eligible: Bool[Tensor, "items"] | None = None,
    ) -> Masking:
        """Keep the items with the least noise.

        Args:
            noise: uniform numbers.
            visible: how many stay.
            eligible: items that may stay at all; the others are always hidden.
        """
        if eligible is not None:
            noise = noise.masked_fill(~eligible, torch.inf)
        order = noise.argsort(dim=1, stable=True)
        return cls(order.argsort(dim=1), visible)

    @classmethod
    def from_mask(cls, mask: Bool[Tensor, "batch items"], name: str = "mask") -> Masking:
        """From a mask that is True where an item is hidden.

        Raises:
            ValueError: the images hide different numbers of items, or all of them.
        """
        visible = (~mask).sum(dim=1)
        if not bool((visible == visible[0]).all()):
            raise ValueError(
                f"{name} leaves {visible.tolist()} visible in the images of the batch: every image must keep the same "
                "number"
            )
        if visible[0] == 0:
            raise ValueError(f"{name} hides everything: leave at least one visible")
        return cls(mask.long().argsort(dim=1, stable=True).argsort(dim=1), int(visible[0]))

    @property
    def ids_keep(self) -> Int[Tensor, "batch visible"]:
        """The visible items, in the order in which they are encoded."""
        return self.ids_restore.argsort(dim=1)[:, : self.visible]

    @property
    def mask(self) -> Bool[Tensor, "batch items"]:
        """True where an item is hidden."""
        return self.ids_restore >= self.visible

    def keep(self, items: Tensor, axis: int) -> Tensor:
        """The visible items of a tensor (batch, ...) without CLS entry."""
        return _gather(items, self.ids_keep, axis)

    def keep_after_cls(self, tokens: Tensor, axis: int) -> Tensor:
        """The CLS entry and the visible items of a tensor (batch, ...)."""
        cls, items = tokens.split([1, tokens.shape[axis] - 1], dim=axis)
        return torch.cat([cls, self.keep(items, axis)], dim=axis)

    def restore_after_cls(self, tokens: Tensor, hidden: Tensor, axis: int) -> Tensor:
        """The CLS entry and all items in their places, the hidden ones from `hidden`."""
        cls, items = tokens.split([1, tokens.shape[axis] - 1], dim=axis)
        return torch.cat([cls, _gather(torch.cat([items, hidden], dim=axis), self.ids_restore, axis)], dim=axis)

    def keep_pairs(self, allowed: Bool[Tensor, "tokens tokens"]) -> Bool[Tensor, "batch kept kept"]:
        """An attention mask with a CLS token, cut down to the visible items of every image."""
        kept = torch.nn.functional.pad(self.ids_keep + 1, (1, 0))
        return allowed[kept[:, :, None], kept[:, None, :]]


def _gather(items: Tensor, ids: Tensor, axis: int) -> Tensor:
    index = ids.view(len(ids), *(-1 if dim == axis else 1 for dim in range(1, items.ndim)))
    shape = [ids.shape[1] if dim == axis else size for dim, size in enumerate(items.shape)]
    return items.gather(axis, index.expand(shape))
