"""Sets of exemplars that are relevant and unlike each other: determinantal point processes, as CEIL uses them.

L_ij = r_i S_ij r_j with S_ij = (1 + cos(e_i, e_j)) / 2, r_i = exp((s_i - max s) / (2 scale)) and
s_i = (1 + cos(q, e_i)) / 2 (Ye et al. 2023, "Compositional Exemplars for In-context Learning").
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fullrank.search.dense import as_float
from fullrank.search.run import at_least_one

Array = TypeVar("Array", Tensor, np.ndarray)
_EPS = 1e-10


def dpp_relevance(query: Array, cands: Array, scale: float = 0.1, unit_length: bool = False) -> Array:
    """r, (*batch, M): relevance of every candidate for the query, 1 for the most relevant one; see `dpp_kernel`.

    Raises:
        ValueError: see `dpp_kernel`.
    """
    return _as_came(_relevance(*_unit(query, cands, unit_length), scale), cands)


def dpp_kernel(query: Array, cands: Array, scale: float = 0.1, unit_length: bool = False) -> Array:
    """L = r S r^T, (*batch, M, M).

    Args:
        query: (*batch, d), one vector for every set of candidates; numpy or torch.
        cands: (*batch, M, d), the candidates' vectors.
        scale: the smaller, the more relevance counts against variety.
        unit_length: the vectors have unit length already, as those of CEIL's encoder; they are taken as they are.

    Returns:
        An array or a tensor, as the candidates came; at least of single precision.

    Raises:
        ValueError: scale is not positive, or vectors that do not fit each other or are not finite.
    """
    q, C = _unit(query, cands, unit_length)
    r = _relevance(q, C, scale)
    return _as_came(r.unsqueeze(-1) * (1 + C @ C.mT) / 2 * r.unsqueeze(-2), cands)


def greedy_map(kernel: Float[Tensor, "M M"] | Float[np.ndarray, "M M"], n: int) -> list[int]:
    """The likeliest set, greedily: O(n M) a step by updates of a Cholesky factor (Chen, Zhang and Zhou 2018).

    Args:
        kernel: L, symmetric and positive semi-definite.
        n: how many items at most; fewer where the rest adds no volume.

    Returns:
        Items in the order of their choice.

    Raises:
        ValueError: n below 1, or a kernel that is not square or not finite.
    """
    L = _checked(kernel, n)
    rows = torch.zeros(min(n, len(L)), len(L), dtype=L.dtype)  # of the Cholesky factor, one a step
    gain = L.diagonal().clone()
    chosen: list[int] = []
    while len(chosen) < min(n, len(L)):
        item = int(gain.argmax())
        if gain[item] < _EPS:
            break
        step = len(chosen)
        row = (L[item] - rows[:step].mT @ rows[:step, item]) / gain[item].sqrt()
        rows[step] = row
        gain = gain - row.square()
        gain[item] = -torch.inf
        chosen.append(item)
    return chosen


def k_dpp_sample(
    kernel: Float[Tensor, "M M"] | Float[np.ndarray, "M M"], n: int, generator: torch.Generator | None = None
) -> list[int]:
    """A random set of n items, with probability proportional to the determinant of its kernel (Kulesza, Taskar 2011).

    Args:
        kernel: L, symmetric and positive semi-definite.
        n: size of the set.
        generator: of the random numbers, on the CPU.

    Raises:
        ValueError: n below 1 or above the kernel's rank, or a kernel that is not square or not finite.
    """
    values, vectors = torch.linalg.eigh(_checked(kernel, n))
    values = values.clamp(min=0)
    rank = int((values > _EPS * values[-1:]).sum())
    if n > rank:
        raise ValueError(f"n={n} is above the kernel's rank of {rank}: no set of that size has a volume")
    V = vectors[:, _elementary_choice(values, n, generator)]
    chosen: list[int] = []
    for _ in range(n):
        weight = V.square().sum(1).clamp(min=0)
        weight[chosen] = 0
        item = int(torch.multinomial(weight, 1, generator=generator))
        chosen.append(item)
        V = _without(V, item)
    return chosen


def log_volumes(kernel: Float[Tensor, "batch M M"], sets: Int[Tensor, "batch sets n"]) -> Float[Tensor, "batch sets"]:
    """log |det| of the sub-kernel of every set."""
    batch = torch.arange(len(kernel), device=kernel.device)[:, None, None, None]
    parts = kernel[batch, sets.unsqueeze(-1), sets.unsqueeze(-2)]
    return torch.linalg.slogdet(parts).logabsdet


def _elementary_choice(values: Tensor, n: int, generator: torch.Generator | None) -> list[int]:
    """Which eigenvectors span the sample: by logs of elementary symmetric polynomials E_l^m of the eigenvalues."""
    M = len(values)
    logs = values.log()  # products of many small eigenvalues are 0, their logs are not
    E = torch.full((n + 1, M + 1), -torch.inf, dtype=values.dtype)
    E[0] = 0
    for size in range(1, n + 1):
        E[size, 1:] = (logs + E[size - 1, :-1]).logcumsumexp(0)
    chosen: list[int] = []
    left = n
    for m in range(M, 0, -1):
        if left == 0:
            break
        share = 1.0 if m == left else math.exp(logs[m - 1] + E[left - 1, m - 1] - E[left, m])
        if float(torch.rand((), generator=generator)) < share:
            chosen.append(m - 1)
            left -= 1
    return chosen


def _without(V: Float[Tensor, "M n"], item: int) -> Tensor:
    """An orthonormal basis of the part of V's span that is orthogonal to an item."""
    pivot = int(V[item].abs().argmax())
    rest = [column for column in range(V.shape[1]) if column != pivot]
    reduced = V[:, rest] - V[:, pivot : pivot + 1] * (V[item, rest] / V[item, pivot])
    return torch.linalg.qr(reduced).Q


def _checked(kernel: Any, n: int) -> Tensor:
    """A kernel in double precision, on the CPU: what follows are small steps, one after another."""
    if len(np.shape(kernel)) != 2 or len(kernel) != kernel.shape[1]:
        raise ValueError(f"kernel has shape {tuple(np.shape(kernel))}; a square matrix is needed")
    L = as_float(kernel).detach().double().cpu()
    bad = (~L.isfinite()).any(1).nonzero()
    if len(bad):
        raise ValueError(f"row {int(bad[0])} of the kernel is not finite; leave that item out")
    at_least_one(n, "n")
    return L


def _unit(query: Any, cands: Any, unit_length: bool) -> tuple[Tensor, Tensor]:
    """Vectors at unit length."""
    q, C = as_float(query), as_float(cands)
    if C.ndim < 2 or q.shape[-1:] != C.shape[-1:]:
        raise ValueError(
            f"query of shape {tuple(q.shape)} and cands of shape {tuple(C.shape)} do not fit: (*batch, d) and "
            f"(*batch, M, d) are needed"
        )
    if unit_length:
        return q, C
    for name, rows in (("query", q), ("cands", C)):
        bad = (~rows.isfinite()).any(-1).nonzero()
        if len(bad):
            raise ValueError(f"{name}{bad[0].tolist() or ''} is not finite; leave it out")
    return normalize(q, dim=-1), normalize(C, dim=-1)


def _relevance(
    query: Float[Tensor, "*batch d"], cands: Float[Tensor, "*batch M d"], scale: float
) -> Float[Tensor, "*batch M"]:
    """See `dpp_relevance`; vectors of unit length."""
    if not scale > 0:
        raise ValueError(f"scale={scale} is not accepted; it is positive, by custom 0.1")
    similarity = (1 + (cands * query.unsqueeze(-2)).sum(-1)) / 2
    return torch.exp((similarity - similarity.amax(-1, keepdim=True)) / (2 * scale))


def _as_came(result: Tensor, given: Any) -> Any:
    return result if isinstance(given, Tensor) else result.detach().cpu().numpy()
