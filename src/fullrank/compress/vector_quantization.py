"""k-means of many short vectors, hard (Lloyd) and soft (DKM, Cho et al. 2022, arXiv 2108.12659).

Distances of n vectors to k centres are taken a block of vectors at a time; no n x k x d array is ever built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fullrank.compress.quantization import wide
from fullrank.linalg import require_finite

Empty = Literal["reseed", "keep"]
Metric = Literal["euclidean", "sqeuclidean"]

# Distances in a block: 1 MiB in float32 stays in a core's cache.
_BLOCK = 1 << 18
# More distances than this are computed again in the backward pass instead of being kept.
_KEPT = 1 << 22


@dataclass(frozen=True)
class Clusters:
    """A clustering.

    Attributes:
        codebook: centres, (k, d).
        codes: nearest centre of every vector, (n,); the lowest index wins ties.
        error: sum of squared distances to them.
    """

    codebook: Float[Tensor, "k d"]
    codes: Int[Tensor, "n"]
    error: float


class Nearest(NamedTuple):
    """The nearest centre of every vector, and the squared distance to it."""

    codes: Int[Tensor, "n"]
    distances: Float[Tensor, "n"]


def nearest(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Nearest:
    """The nearest centre of every vector: argmin_j ||c_j||^2 - 2 z_i c_j, the lowest index of equals.

    Both are taken from the mean of the centres, so that what all have in common cancels no digits.
    """
    middle = codebook.mean(0)
    centres = codebook - middle
    squares = centres.square().sum(1)
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    lowest = vectors.new_empty(len(vectors))
    rows = max(1, _BLOCK // len(codebook))
    for start in range(0, len(vectors), rows):
        part = slice(start, start + rows)
        block = vectors[part] - middle
        distances = torch.addmm(squares, block, centres.mT, alpha=-2)
        torch.min(distances, 1, out=(lowest[part], codes[part]))
        lowest[part] += block.square().sum(1)
    return Nearest(codes, lowest.clamp_min(0))


@torch.no_grad()
def kmeans(
    vectors: Float[Tensor, "n d"],
    k: int,
    steps: int = 25,
    starts: int = 1,
    generator: torch.Generator | None = None,
    name: str = "vectors",
) -> Clusters:
    """The best of several k-means runs from k-means++ starts.

    Args:
        vectors: computed in float32, or in float64 if they are.
        k: centres, 2 to n.
        steps: of Lloyd, at most; it ends when no code changes.
        starts: runs.
        generator: of the starts; one seeded with 0 by default.
        name: how errors call the vectors.

    Raises:
        ValueError: NaN or infinite entries, or a k outside 2 to n.
    """
    check_k(k, len(vectors), name)
    require_finite(vectors, name)
    vectors = wide(vectors)
    generator = generator or torch.Generator().manual_seed(0)
    runs = (lloyd(vectors, spread_centres(vectors, k, generator), steps) for _ in range(starts))
    return min(runs, key=lambda run: run.error)


def check_k(k: int, count: int, name: str = "vectors") -> None:
    """Raise a ValueError unless so many vectors can have k centres."""
    if k < 2 or k > count:
        raise ValueError(f"{name}: k={k}: from 2 to {count} centres are accepted, one for every vector at most")


def spread_centres(vectors: Float[Tensor, "n d"], k: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """k-means++: vectors drawn one after the other, by their squared distance to the nearest one drawn before."""
    draws = torch.rand(k, generator=generator, dtype=torch.float64, device=generator.device).tolist()
    chosen = [min(int(draws[0] * len(vectors)), len(vectors) - 1)]
    distances = (vectors - vectors[chosen[0]]).square().sum(1)
    for draw in draws[1:]:
        total = distances.cumsum(0, dtype=torch.float64)
        place = int(torch.searchsorted(total, draw * total[-1], right=True).clamp_max(len(vectors) - 1))
        chosen.append(place)
        torch.minimum(distances, (vectors - vectors[place]).square().sum(1), out=distances)
    return vectors[chosen].clone()


@torch.no_grad()
def lloyd(
    vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], steps: int = 25, empty: Empty = "reseed"
) -> Clusters:
    """Lloyd's algorithm: every centre becomes the mean of its vectors, every vector goes to the nearest centre.

    Args:
        vectors: (n, d).
        codebook: centres to start from, (k, d).
        steps: at most; it ends when no code changes.
        empty: a centre without vectors goes to the vector with the largest error ("reseed"), or stays ("keep").
    """
    codes, distances = nearest(vectors, codebook)
    for _ in range(steps):
        codebook = _means(vectors, codes, codebook, distances, empty)
        moved, distances = nearest(vectors, codebook)
        if torch.equal(moved, codes):
            break
        codes = moved
    return Clusters(codebook, codes, float(distances.sum(dtype=torch.float64)))


def _means(vectors: Tensor, codes: Tensor, codebook: Tensor, distances: Tensor, empty: Empty) -> Tensor:
    counts = torch.bincount(codes, minlength=len(codebook))
    sums = torch.zeros_like(codebook).index_add_(0, codes, vectors)
    means = torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp_min(1).unsqueeze(1), codebook)
    lost = (counts == 0).nonzero().squeeze(1)
    if empty == "reseed" and len(lost):
        means[lost] = vectors[distances.topk(len(lost)).indices]
    return means


class SoftClusters(NamedTuple):
    """Soft clusters.

    Attributes:
        vectors: A C, every vector as a mixture of centres, (n, d).
        codebook: C, (k, d).
    """

    vectors: Float[Tensor, "n d"]
    codebook: Float[Tensor, "k d"]


def soft_codes(
    vectors: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k d"],
    tau: Float[Tensor, ""] | float,
    metric: Metric = "euclidean",
) -> Float[Tensor, "n k"]:
    """A = softmax_j(-D_ij / tau) with the distance or its square; the gradient at distance 0 is 0."""
    distances = torch.cdist(vectors, codebook, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.softmax(-(distances if metric == "euclidean" else distances.square()) / tau, dim=1)


def soft_kmeans(
    vectors: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k d"],
    tau: Float[Tensor, ""] | float,
    steps: int = 5,
    metric: Metric = "euclidean",
    tolerance: float = 0.0,
) -> SoftClusters:
    """Differentiable k-means: c_j <- sum_i A_ij z_i / sum_i A_ij, then A C; gradients flow through all steps.

    Args:
        vectors: z, (n, d).
        codebook: centres to start from, (k, d).
        tau: temperature, in the unit of the metric.
        steps: at most.
        metric: the paper's distance, or its square.
        tolerance: it ends when no coordinate of a centre moves by more.

    Raises:
        ValueError: a number that is no temperature above 0.
    """
    if not isinstance(tau, Tensor) and tau <= 0:
        raise ValueError(f"tau={tau}: a temperature above 0 is needed")
    for _ in range(steps):
        before = codebook
        codebook = _soft_means(vectors, codebook, tau, metric)
        if tolerance > 0 and bool(((codebook - before).abs() <= tolerance).all()):
            break
    parts = [_recomputed(_mixed, part, codebook, tau, metric) for part in _blocks(vectors, codebook)]
    return SoftClusters(torch.cat(parts), codebook)


def _soft_means(vectors: Tensor, codebook: Tensor, tau: Tensor | float, metric: Metric) -> Tensor:
    weighted, mass = torch.zeros_like(codebook), codebook.new_zeros(len(codebook))
    for part in _blocks(vectors, codebook):
        sums, counts = _recomputed(_soft_sums, part, codebook, tau, metric)
        weighted, mass = weighted + sums, mass + counts
    # A centre that no vector is near enough to reach stays where it is.
    reached = mass > torch.finfo(mass.dtype).tiny
    return torch.where(reached.unsqueeze(1), weighted / torch.where(reached, mass, 1.0).unsqueeze(1), codebook)


def _soft_sums(vectors: Tensor, codebook: Tensor, tau: Tensor | float, metric: Metric) -> tuple[Tensor, Tensor]:
    A = soft_codes(vectors, codebook, tau, metric)
    return A.mT @ vectors, A.sum(0)


def _mixed(vectors: Tensor, codebook: Tensor, tau: Tensor | float, metric: Metric) -> Tensor:
    return soft_codes(vectors, codebook, tau, metric) @ codebook


def _blocks(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, ...]:
    return vectors.split(max(1, _KEPT // len(codebook)))


def _recomputed(
    function: Callable[..., Any], vectors: Tensor, codebook: Tensor, tau: Tensor | float, metric: Metric
) -> Any:
    """A block's part, without keeping its distances for the backward pass where the block is a large one."""
    large = vectors.shape[0] * codebook.shape[0] > _KEPT // 2
    if large and torch.is_grad_enabled():
        return checkpoint(function, vectors, codebook, tau, metric, use_reentrant=False)
    return function(vectors, codebook, tau, metric)
