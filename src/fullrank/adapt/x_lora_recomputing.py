"""X-LoRA under gradient checkpointing: blocks that run again in the backward pass meet the scalings of their forward.

Re-entrant checkpointing detaches what enters a block, and the scalings enter every block by the side. They are cut off
in a leaf, which gathers the gradient of all blocks; the input embeddings, the last to be reached in the backward pass,
carry it on to the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fullrank.adapt.x_lora_layer import CurrentPass, Scalings

_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


def recomputing(model: nn.Module) -> list[nn.Module]:
    """The modules that have gradient checkpointing switched on."""
    return [module for module in model.modules() if getattr(module, _SWITCH, False) and hasattr(module, _FUNCTION)]


@contextmanager
def without_recomputing(model: nn.Module) -> Iterator[None]:
    """Switch gradient checkpointing off inside the context: without gradient there is nothing to recompute."""
    modules = recomputing(model) if model.training else []
    for module in modules:
        setattr(module, _SWITCH, False)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, _SWITCH, True)


@contextmanager
def keep_scalings(modules: Sequence[nn.Module], current: CurrentPass) -> Iterator[Tensor | None]:
    """Bind the current scalings to the blocks that are checkpointed inside the context.

    Yields:
        The leaf that gathers the scalings' gradient where checkpointing is re-entrant, otherwise None.
    """
    scalings = current.scalings
    assert scalings is not None
    functions = [getattr(module, _FUNCTION) for module in modules]
    leaf = None
    if scalings.values.requires_grad and any(map(_is_reentrant, functions)):
        leaf = scalings.values.detach().requires_grad_()
    for module, function in zip(modules, functions, strict=True):
        setattr(module, _FUNCTION, partial(_checkpoint, function, scalings.afresh(leaf), current))
    try:
        yield leaf
    finally:
        for module, function in zip(modules, functions, strict=True):
            setattr(module, _FUNCTION, function)


@contextmanager
def embeddings_carry(
    model: PreTrainedModel, given: Mapping[str, Any], scalings: Tensor, leaf: Tensor
) -> Iterator[dict[str, Any]]:
    """Let the input embeddings hand the leaf's gradient on to the scalings.

    Yields:
        The model's arguments.
    """

    def carry(embeddings: Tensor) -> Tensor:
        return _Carry.apply(embeddings, scalings, [leaf])

    def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
        return carry(output)

    embeddings: Tensor | None = given.get("inputs_embeds")
    if embeddings is not None:
        yield dict(given) | {"inputs_embeds": carry(embeddings)}
        return
    handle = model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield dict(given)
    finally:
        handle.remove()


class _Carry(torch.autograd.Function):
    """The identity; backward, it adds the gradient that another tensor has gathered meanwhile."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalings: Tensor, leaf: list[Tensor]) -> Tensor:
        ctx.leaf = leaf[0]
        return x.view_as(x)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        gathered, ctx.leaf.grad = ctx.leaf.grad, None
        return gradient, gathered, None


def _checkpoint(
    function: Callable[..., Any],
    scalings: Scalings,
    current: CurrentPass,
    block: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    def mixed(*args: Any, **kwargs: Any) -> Any:
        with current.use(scalings.afresh()):
            return block(*args, **kwargs)

    return function(mixed, *args, **kwargs)


def _is_reentrant(function: Callable[..., Any]) -> bool:
    return getattr(function, "keywords", {}).get("use_reentrant", True)
