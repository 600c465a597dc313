"""Keeping the directions of one task out of those of another: bases, projections, and how well they hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.spectra import energy_rank

RankRule = Literal["smallest", "official"]

_DEPENDENT = 1e-6  # a unit vector that is left with less than this outside of a span belongs to the span


class Directions(NamedTuple):
    """Input and output directions of one layer.

    Attributes:
        down: rows, (p, in).
        up: columns, (out, q).
    """

    down: Float[Tensor, "p in"]
    up: Float[Tensor, "out q"]

    @classmethod
    def none(cls, out_features: int, in_features: int, device: torch.device | str = "cpu") -> Directions:
        """No direction of a layer of this shape."""
        return cls(torch.zeros(0, in_features, device=device), torch.zeros(out_features, 0, device=device))

    @classmethod
    def joined(cls, parts: Iterable[Directions]) -> Directions:
        """All directions of several, one after another, in float32 or better."""
        downs, ups = zip(*parts, strict=True)
        return cls(torch.cat([_wide(down) for down in downs]), torch.cat([_wide(up) for up in ups], 1))

    def to(self, device: torch.device) -> Directions:
        """The same on another device."""
        return Directions(self.down.to(device), self.up.to(device))

    def orthonormal_with(self, more: Directions) -> Directions:
        """These, which are orthonormal, and an orthonormal basis of what `more` spans beyond them."""
        return Directions(_extended(self.down, more.down), _extended(self.up.mT, more.up.mT).mT)


def principal_rank(values: Float[Tensor, "n"], energy: float, rule: RankRule = "smallest") -> int:
    """How many singular values make up the principal part of a weight.

    Args:
        values: singular values, descending.
        energy: share of the sum of their squares, in (0, 1].
        rule: "smallest" (default): the fewest that hold this share. "official": the released loop, which asks for more
            than this share and never takes all n, so that a flat spectrum loses its last value.

    Returns:
        k; 0 for a zero weight under "smallest".

    Raises:
        ValueError: `energy` outside (0, 1].
    """
    smallest = int(energy_rank(values, energy))
    if rule == "smallest":
        return smallest
    squares = values.to(torch.float64).square()
    exceeding = squares.cumsum(0) > energy * squares.sum()
    first = int(exceeding.int().argmax()) + 1 if bool(exceeding.any()) else len(values)
    return max(1, min(first, len(values) - 1))


def without(X: Float[Tensor, "m n"], Q: Float[Tensor, "p n"]) -> Float[Tensor, "m n"]:
    """X - X Q^T Q: the rows of X without what lies in the orthonormal rows of Q."""
    wide = _wide(X)
    rows = Q.to(wide.device, wide.dtype)
    return (wide - (wide @ rows.mT) @ rows).to(X.dtype)


def orthonormality_penalty(D: Float[Tensor, "r in"], U: Float[Tensor, "out r"]) -> Float[Tensor, ""]:
    """(||D D^T - I||_F^2 + ||U^T U - I||_F^2) / r^2, the penalty inside one task."""
    down, up = _wide(D), _wide(U)
    eye = torch.eye(len(down), dtype=down.dtype, device=down.device)
    return ((down @ down.mT - eye).square().sum() + (up.mT @ up - eye).square().sum()) / len(down) ** 2


def max_cosine(A: Float[Tensor, "m n"], B: Float[Tensor, "p n"]) -> float:
    """The largest |cos| between a row of A and a row of B; 0 where one of them has none, or only zeros."""
    if not len(A) or not len(B):
        return 0.0
    return float((_unit(A) @ _unit(B).mT).detach().abs().max())


def _extended(basis: Tensor, rows: Tensor) -> Tensor:
    """Orthonormal rows that span `basis`, which is orthonormal, and `rows`: the basis itself comes first."""
    known, rest = basis.double(), _unit(rows)
    for _ in range(2):  # once more for what rounding left
        rest = without(rest, known)
    if not len(rest):
        return basis
    _, S, Vh = torch.linalg.svd(rest, full_matrices=False)
    return torch.cat([basis, Vh[S > _DEPENDENT].to(basis.dtype)])


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=-1, eps=torch.finfo(torch.float64).tiny)


def _wide(matrix: Tensor) -> Tensor:
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))
