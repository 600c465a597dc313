"""What OWLoRA does around every step of an optimiser: project gradients before it, parameters after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


@runtime_checkable
class Branch(Protocol):
    """The branch of the task that is trained, on one layer."""

    def parameters(self) -> Any:
        """What is trained."""

    def penalty(self) -> Tensor:
        """Weighted penalty of orthonormality."""
        ...

    def project_gradients(self) -> None:
        """Take what is protected out of the gradients."""

    def project_parameters(self) -> None:
        """Take what is protected out of the parameters, where the projection is exact."""


def before_step(branches: Sequence[Branch], optimizer: Any) -> None:
    """Project the gradients of the branches that are trained; call it between `backward()` and `step()`.

    Raises:
        RuntimeError: the optimiser does not hold them.
    """
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    missing = sum(parameter not in held for branch in branches for parameter in branch.parameters())
    if missing:
        raise RuntimeError(
            f"the optimiser lacks {missing} parameters of the task that is trained: it was created before add_task or "
            "resume_task; create a new one over the parameters that require a gradient"
        )
    for branch in branches:
        branch.project_gradients()


def after_step(branches: Sequence[Branch]) -> None:
    """Project the parameters of the branches that are trained; call it after `step()`."""
    for branch in branches:
        branch.project_parameters()


def register_hooks(
    optimizer: torch.optim.Optimizer, branches: Callable[[], Sequence[Branch]]
) -> tuple[RemovableHandle, RemovableHandle]:
    """Let an optimiser project by itself at every step; the handles remove the two hooks."""

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        before_step(branches(), optimizer)

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        after_step(branches())

    return optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)


def add_penalty_gradients(branches: Sequence[Branch]) -> None:
    """Add the gradient of the penalty to the gradients that `backward()` left.

    The penalty depends on parameters alone, so that every rank adds the same without a word to the others.
    """
    for branch in branches:
        penalty = branch.penalty()
        trained = [parameter for parameter in branch.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(penalty, trained, allow_unused=True)  # w has no part in it
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
