"""From an encoder's vector to logits of concepts: a dense map, or one of bounded rank that can grow."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

HeadKind = Literal["dense", "factorized"]


class ConceptHead(nn.Module):
    """z = W h + b, with W dense or W = U P.

    Args:
        width: H.
        concepts: K.
        kind: "dense" or "factorized".
        rank: columns of U.

    Attributes:
        weight: W, or U of shape (K, rank).
        projection: P of shape (rank, H), or None.
        bias: b.
    """

    def __init__(self, width: int, concepts: int, kind: HeadKind, rank: int) -> None:
        super().__init__()
        inner = width if kind == "dense" else rank
        self.weight = nn.Parameter(torch.empty(concepts, inner))
        self.projection = None if kind == "dense" else nn.Parameter(torch.empty(rank, width))
        self.bias = nn.Parameter(torch.zeros(concepts))
        nn.init.xavier_uniform_(self.weight)
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection)

    def forward(self, h: Float[Tensor, "batch H"]) -> Float[Tensor, "batch K"]:
        """z."""
        return nn.functional.linear(self._inner(h), self.weight, self.bias)

    def at(self, h: Float[Tensor, "batch H"], concepts: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """z of some concepts only: O(batch n), whatever K is."""
        return (self.weight[concepts] @ self._inner(h).unsqueeze(-1)).squeeze(-1) + self.bias[concepts]

    def grow(self, count: int) -> None:
        """More concepts, behind the others.

        Raises:
            ValueError: a dense head.
        """
        if self.projection is None:
            raise ValueError('a dense head cannot grow: build the model with head="factorized"')
        fresh = torch.empty(count, self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        nn.init.normal_(fresh, std=float(self.weight.detach().square().mean().sqrt()))
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh]))
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), self.bias.new_zeros(count)]))

    def _inner(self, h: Tensor) -> Tensor:
        return h if self.projection is None else nn.functional.linear(h, self.projection)
