"""Tables that depend on sizes alone, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Table = TypeVar("Table")


def kept(tables: int) -> Callable[[Callable[P, Table]], Callable[P, Table]]:
    """Let a function keep its latest `tables` results, for inference and training alike.

    While torch.compile traces, the table is made in its graph: small ones cost nothing there, and no cache is traced.

        @kept(64)
        def _angles(n: int, dtype: torch.dtype, device: torch.device) -> Tensor: ...
    """

    def decorate(make: Callable[P, Table]) -> Callable[P, Table]:
        cached = lru_cache(tables)(make)

        @wraps(make)
        def get(*args: P.args, **kwargs: P.kwargs) -> Table:
            if torch.compiler.is_compiling():
                return make(*args, **kwargs)
            with torch.inference_mode(False):  # a tensor made in inference mode cannot serve training
                return cached(*args, **kwargs)  # pyright: ignore[reportArgumentType]

        return get

    return decorate
