"""Examination and relevance learned from each other, where every pair of query and document has a score of its own."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from fullrank.order.ultr_objectives import DLA

_STEPS = 500
_LR = 0.1  # at the first step; it falls to 0 in a straight line
_LISTS = 1024  # of a step, or what is needed for `_PASSES` over a larger log
_PASSES = 5


def learned_examination(
    clicks: Bool[np.ndarray, "sessions ranks"],
    pairs: Int[np.ndarray, "sessions ranks"],
    random_state: int = 0,
) -> Float[np.ndarray, " ranks"]:
    """Examination over that of the first rank: what `DLA` learns beside a table of scores, by Adam.

    Its weights depend on the list alone, and its loss is linear in the clicks: those of equal lists are added first.

    Args:
        clicks: of the sessions.
        pairs: numbers of what they show, from 0; -1 where there is no document.
        random_state: seed of the order of the lists, in a log of more than 1,024 that differ.
    """
    distinct, which = np.unique(pairs, axis=0, return_inverse=True)
    shown = torch.from_numpy(distinct)
    counts = torch.zeros(shown.shape, dtype=torch.float64)
    counts.index_add_(0, torch.from_numpy(which.ravel()), torch.from_numpy(clicks).double())
    told = counts.any(1)
    shown, counts = shown[told], counts[told]

    objective = DLA(shown.shape[1]).double()
    scores = torch.zeros(int(pairs.max()) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores, *objective.parameters()], lr=_LR)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    generator = torch.Generator().manual_seed(random_state)
    size = max(_LISTS, -(-len(shown) * _PASSES // _STEPS))
    places = torch.arange(shown.shape[1]).expand(shown.shape)
    rows: list[torch.Tensor] = []
    for _ in range(_STEPS):
        rows = rows or list(torch.randperm(len(shown), generator=generator).split(size))
        batch = rows.pop()
        present = shown[batch] >= 0
        loss = objective.loss(scores[shown[batch].clamp(min=0)], counts[batch], present, places[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return objective.propensities().numpy()
