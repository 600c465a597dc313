"""Statistics of batch normalisations, taken anew after the weights before them changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def recalibrate_norms(model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> None:
    """Take the running statistics of a model's batch norms anew, as plain means over batches.

    Only the norms are put in training mode meanwhile: dropout would change what they see. Without batches the
    statistics stay.

    Args:
        model: changed in place.
        batches: each is passed to `forward`.
        forward: runs the model on a batch.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [module for module in model.modules() if isinstance(module, kinds) and module.track_running_stats]
    kept = [(norm.momentum, norm.training) for norm in norms]
    began = False
    for batch in batches if norms else ():
        if not began:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average
                norm.train()
            began = True
        forward(model, batch)
    for norm, (momentum, training) in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.train(training)
