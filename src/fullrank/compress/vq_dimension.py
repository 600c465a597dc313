"""The dimension of the low-rank representations, as far as a weight alone can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fullrank.compress.quantization import wide
from fullrank.compress.subvectors import Axis, SubvectorLayout
from fullrank.compress.vector_quantization import check_k, kmeans
from fullrank.linalg import require_finite, svd

Estimate = Literal["empirical", "rate"]


@dataclass(frozen=True)
class DimEstimate:
    """Errors of one dimension, as shares of ||S||_F^2.

    Attributes:
        d: the dimension.
        lowrank: sum of sigma_j^2 over j > d: what the representations cannot say.
        cluster: what clustering them loses, by k-means; None where it was not run.
        cluster_rate: the same for Gaussian representations at a high rate, d (prod lambda_j)^(1/d) k^(-2/d).
        total: lowrank plus the one of the other two that was asked for.
    """

    d: int
    lowrank: float
    cluster: float | None
    cluster_rate: float
    total: float


@dataclass(frozen=True)
class DimTable:
    """Every dimension of a weight.

    Attributes:
        rows: d = 1 to m.
        d: the dimension of the least total. For a weight that does not train any more this is m, or next to it: every
            codebook {P c_j} is a codebook of m dimensions too. Use `lr2vq.choose_dim` where the model trains.
    """

    rows: tuple[DimEstimate, ...]
    d: int

    def to_rows(self) -> list[dict[str, Any]]:
        """A flat row for every dimension."""
        return [asdict(row) for row in self.rows]


def estimate_dim(
    weight: Float[Tensor, "out *rest"],
    m: int,
    k: int,
    method: Estimate = "empirical",
    axis: Axis = "in",
    groups: int = 1,
    pad: bool = False,
    starts: int = 4,
    seed: int = 0,
) -> DimTable:
    """Low-rank and clustering errors of a weight by dimension.

    Args:
        weight: (out, in / groups, *kernel).
        m: entries of a subvector.
        k: codewords.
        method: "empirical" runs k-means for every d; "rate" does without.
        axis, groups, pad: see `SubvectorLayout`.
        starts: k-means runs, of which the best counts.
        seed: of their starts.

    Raises:
        ValueError: an m that does not divide, a k outside 2 to n, a weight that is not finite, or an unknown method.
    """
    if method not in get_args(Estimate):
        raise ValueError(f"method={method!r} is not known; accepted: 'empirical', 'rate'")
    require_finite(weight, "weight")
    S = SubvectorLayout(tuple(weight.shape), m, axis, groups, pad).cut(wide(weight.detach()))
    check_k(k, len(S), "weight")
    factors = svd(S)
    energy = functional.pad(factors.S.to(torch.float64).square(), (0, m - len(factors.S)))  # n may be less than m
    total = float(energy.sum().clamp_min(torch.finfo(torch.float64).tiny))
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for d in range(1, len(energy) + 1):
        lowrank = float(energy[d:].sum()) / total
        cluster = None
        if method == "empirical":
            cluster = kmeans(S @ factors.Vh[:d].mT, k, starts=starts, generator=generator).error / total
        # n times the mean of lambda_j = sigma_j^2 / n on both sides of the quotient.
        rate = d * float(energy[:d].clamp_min(1e-300).log().mean().exp()) * k ** (-2 / d) / total
        rows.append(DimEstimate(d, lowrank, cluster, rate, lowrank + (rate if cluster is None else cluster)))
    return DimTable(tuple(rows), min(rows, key=lambda row: row.total).d)
