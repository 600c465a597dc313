"""The gradient of a linear map, kept as its two factors: G = D^T X.

For y = x W^T with inputs X (T x n) and output gradients D (T x m), the weight's gradient has rank at most T. Its
singular values, norms and inner products follow from T x T matrices; the m x n matrix is formed only where it is the
smaller thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.linalg import singular_values

CoreMethod = Literal["auto", "core", "dense"]
# The core costs three factorisations of T columns: from this share of the smaller side on, the dense way is cheaper.
_CORE_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class GradientFactors:
    """A gradient matrix G = D^T X of shape (m, n).

    Args:
        D: gradient at the layer's output, one row per token, (tokens, m).
        X: the layer's input, one row per token, (tokens, n).
    """

    D: Float[Tensor, "tokens m"]
    X: Float[Tensor, "tokens n"]

    @classmethod
    def of_sample(cls, D: Float[Tensor, "positions m"], X: Float[Tensor, "positions n"]) -> GradientFactors:
        """Factors in float32 (or float64), without the positions that no gradient reaches."""
        rows = D.detach().any(-1)
        wide = torch.float64 if D.dtype == torch.float64 else torch.float32
        return cls(D.detach()[rows].to(wide), X.detach()[rows].to(wide))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), as the layer's weight is stored in `nn.Linear`."""
        return self.D.shape[-1], self.X.shape[-1]

    def dense(self) -> Float[Tensor, "m n"]:
        """The matrix itself."""
        return self.D.mT @ self.X

    def values(self, method: CoreMethod = "auto") -> Float[Tensor, "k"]:
        """Singular values, descending, min(m, n) of them.

        With thin QR factorisations D^T = Q_D R_D and X^T = Q_X R_X they are those of the T x T core R_D R_X^T.

        Args:
            method: "core", "dense" (of the formed matrix), or "auto": the core while T < 0.6 min(m, n).
        """
        count = min(self.shape)
        if len(self.D) == 0:
            return self.D.new_zeros(count)
        if method == "dense" or (method == "auto" and len(self.D) >= _CORE_SHARE * count):
            return singular_values(self.dense(), method="exact")
        R_D = torch.linalg.qr(self.D.mT, mode="r").R
        R_X = torch.linalg.qr(self.X.mT, mode="r").R
        core = singular_values(R_D @ R_X.mT, method="exact")[:count]
        return torch.nn.functional.pad(core, (0, count - len(core)))

    def inner(self, other: GradientFactors) -> Float[Tensor, ""]:
        """<G1, G2> = sum((D1 D2^T) * (X1 X2^T)), for gradients of one shape and one sample each."""
        return ((self.D @ other.D.mT) * (self.X @ other.X.mT)).sum()

    def inner_transposed(self, other: GradientFactors) -> Float[Tensor, ""]:
        """<G1, G2^T> = sum((D1 X2^T) * (X1 D2^T)), for an (m, n) and an (n, m) gradient."""
        return ((self.D @ other.X.mT) * (self.X @ other.D.mT)).sum()

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm."""
        return self.inner(self).clamp_min(0).sqrt()

    def mean(self) -> Float[Tensor, ""]:
        """Mean entry."""
        m, n = self.shape
        return (self.D.sum(-1) * self.X.sum(-1)).sum() / (m * n)


def cosine(
    first: GradientFactors, second: GradientFactors, align: Literal["raw", "transpose"] = "raw"
) -> Float[Tensor, ""]:
    """Cosine of two gradients as vectors.

    Args:
        first, second: gradients with equally many entries.
        align: "raw" pairs the entries in storage order, as the authors' script does, even where one matrix is
            (heads x head_dim, dim) and the other the other way round; "transpose" pairs G1 with G2^T.

    Raises:
        ValueError: the shapes do not fit.
    """
    scale = (first.norm() * second.norm()).clamp_min(torch.finfo(torch.float32).tiny)
    if align == "transpose":
        if first.shape != second.shape[::-1]:
            raise ValueError(
                f'align="transpose" needs shapes (m, n) and (n, m); these are {first.shape}, {second.shape}'
            )
        return first.inner_transposed(second) / scale
    if first.shape == second.shape:
        return first.inner(second) / scale
    if first.shape[0] * first.shape[1] != second.shape[0] * second.shape[1]:
        raise ValueError(f"gradients of shapes {first.shape} and {second.shape} have no cosine: their sizes differ")
    return (first.dense().flatten() @ second.dense().flatten()) / scale
