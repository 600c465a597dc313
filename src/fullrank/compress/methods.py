"""The methods by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fullrank.compress.fwsvd import FWSVDMethod
from fullrank.compress.greenformers import GreenformersMethod
from fullrank.compress.lorc_method import LoRCMethod
from fullrank.compress.low_rank import ASVDMethod, SVDMethod, WhiteningMethod
from fullrank.compress.lr2vq_method import LR2VQMethod
from fullrank.compress.method import Method
from fullrank.compress.pruning_method import PRUNING_CRITERIA, PruningMethod

#: What makes a method, by the name that `compress` takes.
METHODS: dict[str, Callable[..., Method]] = {
    "svd": SVDMethod,
    "fwsvd": FWSVDMethod,
    "fwsvd-output": partial(FWSVDMethod, weight_side="output"),
    "fwsvd-both": partial(FWSVDMethod, weight_side="both"),
    "asvd": ASVDMethod,
    "whiten": WhiteningMethod,
    "snmf": GreenformersMethod,
    "rtn": partial(LoRCMethod, name="rtn", rank=0),
    "gptq": partial(LoRCMethod, name="gptq", quantizer="gptq", rank=0),
    "lorc": LoRCMethod,
    "lr2vq": LR2VQMethod,
    **{name: partial(PruningMethod, name=name) for name in PRUNING_CRITERIA},
}


def method_of(method: str | Method, options: Mapping[str, Any]) -> Method:
    """A method by name with its options, or the method itself.

    Raises:
        ValueError: an unknown name, or an option that the method does not have.
    """
    if isinstance(method, Method):
        if options:
            raise ValueError(f"options {', '.join(options)} belong to a method given by name; this one is made already")
        return method
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(METHODS)}"
        raise ValueError(f"method={method!r} is not known; {hint}")
    try:
        return METHODS[method](**options)
    except TypeError as error:
        accepted = _accepted(METHODS[method])
        unknown = sorted(set(options) - set(accepted))
        if not unknown:
            raise
        raise ValueError(f"method {method!r} has no option {unknown[0]!r}; it has {', '.join(accepted)}") from error


def _accepted(make: Callable[..., Method]) -> list[str]:
    """Options that a method's constructor, or one it passes them on to, names."""
    kind = make.func if isinstance(make, partial) else make
    names = {
        name: None
        for base in inspect.getmro(kind)  # pyright: ignore[reportArgumentType]
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name != "self"
    }
    return list(names)
