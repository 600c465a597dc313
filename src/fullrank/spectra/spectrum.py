"""`Spectrum`: singular values with the shape they came from. Anything that speaks of rank goes through it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fullrank.linalg import singular_values
from fullrank.spectra import ranks

Scalar = Float[Tensor, "*batch"]
Count = Int[Tensor, "*batch"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one matrix, or of a batch of equally shaped ones, and every rank they define.

    Args:
        values: descending, non-negative, (..., k) with k = min(shape).
        shape: (rows, columns) of the matrix.
        dtype: dtype that the matrix was stored in; sets the tolerance of `numerical_rank`.

    Raises:
        ValueError: `values` do not fit `shape`, are negative, not finite, or not descending.
    """

    values: Float[Tensor, "*batch k"]
    shape: tuple[int, int]
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.values.shape[-1] != min(self.shape):
            raise ValueError(
                f"{self.values.shape[-1]} values do not belong to a matrix of shape {self.shape}: "
                f"{min(self.shape)} are needed"
            )
        values = self.values.detach()
        if not bool(((values >= 0) & values.isfinite()).all()) or bool((values.diff(dim=-1) > 0).any()):
            raise ValueError("values are not a spectrum: finite, non-negative, descending numbers are accepted")

    @classmethod
    def of(
        cls,
        matrix: Float[Tensor, "*batch m n"],
        *,
        center: bool = False,
        method: Literal["auto", "exact", "gram"] = "auto",
    ) -> Spectrum:
        """The spectrum of a matrix.

        Args:
            matrix: any leading batch shape, any floating dtype.
            center: subtract the mean of every column first.
            method: see `linalg.singular_values`.

        Raises:
            ValueError: NaN or infinite entries (with the position of the first), fewer than two axes, or integers.
        """
        if matrix.ndim < 2:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}: at least two axes (rows, columns) are needed")
        rows, columns = matrix.shape[-2:]
        if center and matrix.is_floating_point():
            wide = matrix if matrix.dtype == torch.float64 else matrix.float()
            source = wide - wide.mean(dim=-2, keepdim=True)
        else:
            source = matrix
        return cls(singular_values(source, method=method), (rows, columns), matrix.dtype)

    @property
    def entropy(self) -> Scalar:
        """Spectral entropy in nats."""
        return ranks.spectral_entropy(self.values)

    @property
    def effective_rank(self) -> Scalar:
        """exp of the spectral entropy (Roy and Vetterli 2007)."""
        return ranks.effective_rank(self.values)

    def rankme(self, eps: float = 1e-7) -> Scalar:
        """RankMe (arXiv 2210.02885): the effective rank with `eps` added to every share."""
        return ranks.effective_rank(self.values, eps=eps)

    @property
    def stable_rank(self) -> Scalar:
        """Squared Frobenius norm over squared spectral norm."""
        return ranks.stable_rank(self.values)

    @property
    def participation_ratio(self) -> Scalar:
        """(sum s^2)^2 / sum s^4."""
        return ranks.participation_ratio(self.values)

    @property
    def numerical_rank(self) -> Count:
        """Values above `max(shape) * eps(dtype)` times the largest, as NumPy and MATLAB count; eps at least float32's
        unless the matrix is float64."""
        dtype = self.dtype if self.dtype == torch.float64 else torch.float32
        return ranks.numerical_rank(self.values, max(self.shape) * torch.finfo(dtype).eps)

    def energy_rank(self, energy: float) -> Count:
        """Smallest k whose leading values hold the share `energy` of the squared Frobenius norm."""
        return ranks.rank_missing(self._missing, energy)

    def error_rank(self, error: float) -> Count:
        """Smallest rank that approximates the matrix within the relative Frobenius error `error`."""
        return ranks.rank_missing(self._missing, ranks.energy_within(error))

    @cached_property
    def _missing(self) -> Float[Tensor, "*batch k"]:
        return ranks.missing_energy(self.values)

    @property
    def nuclear_norm(self) -> Scalar:
        """Sum of the values."""
        return ranks.nuclear_norm(self.values)

    @property
    def frobenius_norm(self) -> Scalar:
        """Root of the sum of squares."""
        return ranks.frobenius_norm(self.values)

    @property
    def spectral_norm(self) -> Scalar:
        """The largest value."""
        return self.values[..., 0]

    @property
    def condition_number(self) -> Scalar:
        """Largest over smallest value; infinite for a singular matrix."""
        return self.values[..., 0] / self.values[..., -1]

    @property
    def break_even_rank(self) -> int:
        """Largest rank at which two factors hold fewer parameters than the matrix: r (m + n) < m n."""
        return ranks.break_even_rank(*self.shape)
