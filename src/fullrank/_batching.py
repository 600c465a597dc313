"""Items in lists of a bounded length, read one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one perhaps shorter; memory holds one list."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
