"""Layers and models with low rank built in: attention, factorised maps, unfolded decompositions.

What needs torch alone is here at once; a model that needs transformers loads with its first use.
"""

from importlib import import_module
from typing import Any

__all__: list[str] = []

#: Names that load with their first use, by module.
_LATER: dict[str, str] = {}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.nn.{_LATER[name]}"), name)
