"""Every rank and norm as a function of singular values, batched over leading axes and differentiable.

Zero spectra have no effective rank (0/0); the functions return NaN for them, and whoever asks a user-facing question
refuses them first with words.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Values = Float[Tensor, "*batch k"]
Scalar = Float[Tensor, "*batch"]


def spectral_entropy(values: Values, *, eps: float = 0.0, squared: bool = False) -> Scalar:
    """Shannon entropy in nats of the normalised spectrum, p_k = s_k / sum(s) + eps.

    Args:
        values: non-negative singular values, (..., k).
        eps: added to every p, outside the normalisation, as RankMe does (arXiv 2210.02885, equation 1).
        squared: normalise the squares instead (entropy over covariance eigenvalues).
    """
    weights = values.square() if squared else values
    p = weights / weights.sum(-1, keepdim=True) + eps
    return -torch.special.xlogy(p, torch.where(p > 0, p, torch.ones_like(p))).sum(-1)


def effective_rank(values: Values, *, eps: float = 0.0, squared: bool = False) -> Scalar:
    """exp of the spectral entropy: Roy and Vetterli (2007) for eps = 0, RankMe for eps = 1e-7. Range 1 to k.

    Args:
        values: non-negative singular values, (..., k).
        eps: see `spectral_entropy`.
        squared: see `spectral_entropy`.
    """
    return spectral_entropy(values, eps=eps, squared=squared).exp()


def nuclear_norm(values: Values) -> Scalar:
    """Sum of the singular values."""
    return values.sum(-1)


def frobenius_norm(values: Values) -> Scalar:
    """Root of the sum of squares."""
    return torch.linalg.vector_norm(values, dim=-1)


def stable_rank(values: Values) -> Scalar:
    """Sum of squares over the largest square. Range 1 to rank."""
    return (values / values.amax(-1, keepdim=True)).square().sum(-1)


def participation_ratio(values: Values) -> Scalar:
    """(sum s^2)^2 / sum s^4. Range 1 to rank."""
    power = (values / values.amax(-1, keepdim=True)).square()
    return power.sum(-1).square() / power.square().sum(-1)


def numerical_rank(values: Values, tolerance: float) -> Int[Tensor, "*batch"]:
    """How many values exceed `tolerance` times the largest; 0 for a zero spectrum."""
    return (values > tolerance * values.amax(-1, keepdim=True)).sum(-1)


def energy_rank(values: Values, energy: float) -> Int[Tensor, "*batch"]:
    """Smallest k whose leading values hold the share `energy` of the sum of squares.

    Raises:
        ValueError: `energy` outside (0, 1].
    """
    return rank_missing(missing_energy(values), energy)


def missing_energy(values: Values) -> Values:
    """The sum of squares that is missing after k values, for every k from 0, in float64."""
    # Tail sums, smallest first, have no cancellation.
    return values.to(torch.float64).square().flip(-1).cumsum(-1).flip(-1)


def rank_missing(missing: Values, energy: float) -> Int[Tensor, "*batch"]:
    """`energy_rank` from what `missing_energy` gives, for several energies of one spectrum.

    Raises:
        ValueError: `energy` outside (0, 1].
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy} is not a share: a number in (0, 1] is accepted, such as 0.95")
    share = 1 - energy
    if share > 0:  # 1 - 0.9 is less than 0.1: of a thousand equal values, 900 hold 0.9
        share += torch.finfo(torch.float64).eps
    return (missing > share * missing[..., :1]).sum(-1)


def error_rank(values: Values, error: float) -> Int[Tensor, "*batch"]:
    """Smallest rank whose best approximation has relative Frobenius error at most `error`.

    Raises:
        ValueError: `error` outside [0, 1).
    """
    return energy_rank(values, energy_within(error))


def energy_within(error: float) -> float:
    """The share of the sum of squares that an approximation within a relative Frobenius error holds.

    Raises:
        ValueError: `error` outside [0, 1).
    """
    if not 0 <= error < 1:
        raise ValueError(f"error={error} is not a relative error: a number in [0, 1) is accepted, such as 0.1")
    return 1 - error**2


def break_even_rank(rows: int, columns: int) -> int:
    """Largest rank at which two factors hold fewer parameters than the matrix: r (m + n) < m n."""
    return (rows * columns - 1) // (rows + columns)


def power_law_exponent(values: Values, first: int = 3, last: int = 100) -> Scalar:
    """alpha-ReQ (Agrawal et al. 2022): minus the least-squares slope of log eigenvalue against log index.

    Eigenvalues that are zero up to rounding (a rank-deficient matrix) have no logarithm worth fitting and are left out.

    Args:
        values: singular values, (..., k); the eigenvalues are their squares.
        first: first index of the fit, counted from 1.
        last: last index of the fit, inclusive; capped by k.

    Raises:
        ValueError: fewer than two indices.
    """
    last = min(last, values.shape[-1])
    if last <= first:
        raise ValueError(f"a slope needs two indices, but first={first} and last={last} of {values.shape[-1]} values")
    powers = values.to(torch.float64).square()
    floor = values.shape[-1] * torch.finfo(values.dtype).eps ** 2 * powers.amax(-1, keepdim=True)
    powers = powers[..., first - 1 : last]
    fitted = (powers > floor).to(torch.float64)
    x = torch.arange(first, last + 1, dtype=torch.float64, device=values.device).log().expand_as(powers)
    y = torch.where(fitted > 0, powers, 1.0).log()
    count = fitted.sum(-1, keepdim=True)
    x, y = (fitted * (axis - (fitted * axis).sum(-1, keepdim=True) / count) for axis in (x, y))
    return -(x * y).sum(-1) / x.square().sum(-1)
