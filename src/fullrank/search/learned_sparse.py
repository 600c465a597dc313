"""Learned sparse vectors over a vocabulary (SPLADE, Formal et al. 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def splade_pooling(
    logits: Float[Tensor, "batch tokens vocabulary"], mask: Tensor | None = None
) -> Float[Tensor, "batch vocabulary"]:
    """v_w = max_i log(1 + relu(logit_iw)) over the tokens that there are.

    Args:
        logits: of a masked language model.
        mask: which tokens there are, (batch, tokens).
    """
    weights = torch.log1p(torch.relu(logits))
    return weights.amax(1) if mask is None else (weights * mask.unsqueeze(-1)).amax(1)
