"""Queries without tokens, such as blanks or stop words alone: they find nothing, of which a search warns once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SHOWN = 10
_gathering: ContextVar[list[str] | None] = ContextVar("gathering", default=None)


def tell_empty(queries: Iterable[str], stacklevel: int = 3) -> None:
    """Warn of queries that have no tokens; within `gathered_empty` note them there instead.

    Args:
        queries: their ids; without any, nothing is said.
        stacklevel: whom the warning names: 3 for the caller of the function that calls this.
    """
    ids = list(queries)
    gathering = _gathering.get()
    if gathering is not None:
        gathering += ids
    elif ids:
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        shown = ", ".join(map(repr, ids[:_SHOWN]))
        words = f"query {shown} has" if len(ids) == 1 else f"queries {shown}{more} have"
        warnings.warn(f"{words} no tokens to search for, and so no results", stacklevel=stacklevel)


@contextmanager
def gathered_empty() -> Iterator[list[str]]:
    """The ids of queries without tokens that searches meet within, of which they do not warn."""
    ids: list[str] = []
    before = _gathering.set(ids)
    try:
        yield ids
    finally:
        _gathering.reset(before)
