"""Numbers that callers give: those of NumPy are as good as Python's, and become them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral
from typing import Any

import numpy as np

Whole = int | np.integer
Number = int | float | np.integer | np.floating


def is_whole(number: Any, least: int) -> bool:
    """Whether it is a whole number of at least `least`; True and False are none."""
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= least


def plain(number: Any) -> Any:
    """A number of NumPy as Python's; anything else as it is."""
    return number.item() if isinstance(number, np.number) else number


def make_plain(options: Any) -> None:
    """Turn the NumPy numbers of a frozen dataclass, and of its mappings, into Python's."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Mapping):
            object.__setattr__(options, field.name, {key: plain(entry) for key, entry in value.items()})
        elif isinstance(value, np.number):
            object.__setattr__(options, field.name, plain(value))
