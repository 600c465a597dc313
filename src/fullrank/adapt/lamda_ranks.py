"""LaMDA++: how many directions every layer gets, read off the spectra of the pretrained weights before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Allocation = Literal["waterfill", "groups"]
Budget = Literal["rank", "parameters"]


def captured_energy(values: Float[Tensor, "k"]) -> Float[Tensor, "k+1"]:
    """E(0), ..., E(k): the share of the squared Frobenius norm in the leading singular values; 1 for a zero matrix.

    Args:
        values: singular values, descending.

    Returns:
        float64, ascending from 0 to 1.
    """
    squares = values.to(torch.float64).square()
    total = squares.sum()
    shares = squares.cumsum(0) / total if total > 0 else torch.ones_like(squares)
    return torch.cat([shares.new_zeros(1), shares])


def default_candidates(rank: int) -> list[int]:
    """The ranks that a layer may get for the mean rank `rank`: a quarter, a half, 1, 3/2 and 7/4 of it."""
    return sorted({max(1, round(rank * share)) for share in (0.25, 0.5, 1, 1.5, 1.75)})


def allocate_ranks(
    spectra: Mapping[str, Float[Tensor, "_"]],
    rank: int,
    candidates: Sequence[int] | None = None,
    allocation: Allocation = "waterfill",
    budget: Budget = "rank",
) -> dict[str, int]:
    """A rank for every layer: few directions where few hold the energy, many where the spectrum is flat.

    Args:
        spectra: layer name -> all singular values, descending.
        rank: the mean rank that is paid for.
        candidates: ranks that a layer may get; those above its smaller side are skipped. Default
            `default_candidates(rank)`.
        allocation: "waterfill" raises the layer with the least captured energy to its next candidate, again and again,
            until no step fits the budget. "groups" sorts the layers by E(rank), cuts them into one group per candidate
            and gives the flattest group the largest; it looks at no budget.
        budget: what a rank r costs: "rank" r, "parameters" r^2 (all that stays trained).

    Returns:
        Layer name -> rank, in the order of `spectra`.

    Raises:
        ValueError: no layers, an unknown option, a candidate that is no positive integer, a layer smaller than every
            candidate, or a budget below the smallest candidates.
    """
    if allocation not in get_args(Allocation):
        raise ValueError(f"allocation={allocation!r}: use one of {', '.join(map(repr, get_args(Allocation)))}")
    if budget not in get_args(Budget):
        raise ValueError(f"budget={budget!r}: use one of {', '.join(map(repr, get_args(Budget)))}")
    if not spectra:
        raise ValueError("spectra is empty: pass the singular values of at least one layer")
    check_rank("rank", rank)
    ranks = default_candidates(rank) if candidates is None else check_candidates(candidates)
    for name, values in spectra.items():
        if len(values) < ranks[0]:
            raise ValueError(
                f"candidates={ranks}: none fits {name!r}, whose smaller side is {len(values)}; add a smaller candidate"
            )
    energies = {name: captured_energy(values) for name, values in spectra.items()}
    if allocation == "groups":
        return _groups(energies, rank, ranks)
    return _waterfill(energies, rank, ranks, 1 if budget == "rank" else 2)


def check_candidates(candidates: Sequence[int], name: str = "candidates") -> list[int]:
    """The candidates ascending and without repetition.

    Raises:
        ValueError: none, or one that is no positive integer.
        TypeError: no list.
    """
    if not isinstance(candidates, Sequence) or isinstance(candidates, str):
        raise TypeError(f"{name}={candidates!r}: use a list of ranks, or None for the default")
    if not candidates:
        raise ValueError(f"{name} is empty: pass at least one rank, or None for the default")
    for index, rank in enumerate(candidates):
        check_rank(f"{name}[{index}]", rank)
    return sorted(set(candidates))


def check_rank(name: str, rank: object) -> None:
    """Raises ValueError unless `rank` is a positive integer."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{name}={rank!r}: use an integer of at least 1")


def _waterfill(energies: Mapping[str, Tensor], rank: int, candidates: list[int], power: int) -> dict[str, int]:
    chosen, left = dict.fromkeys(energies, candidates[0]), len(energies) * (rank**power - candidates[0] ** power)
    if left < 0:
        raise ValueError(
            f"candidates={candidates}: the smallest one costs more than the mean rank {rank}; add a smaller candidate"
        )
    above = dict(pairwise(candidates))
    open_layers = list(energies)
    while open_layers:
        name = min(open_layers, key=lambda layer: float(energies[layer][chosen[layer]]))
        wider = above.get(chosen[name])
        if wider is None or wider >= len(energies[name]) or (cost := wider**power - chosen[name] ** power) > left:
            open_layers.remove(name)
            continue
        chosen[name], left = wider, left - cost
    return chosen


def _groups(energies: Mapping[str, Tensor], rank: int, candidates: list[int]) -> dict[str, int]:
    flattest_first = sorted(energies, key=lambda layer: float(energies[layer][: rank + 1][-1]))
    bounds = [len(energies) * group // len(candidates) for group in range(len(candidates) + 1)]
    chosen = {}
    for wanted, (start, end) in zip(reversed(candidates), pairwise(bounds), strict=True):
        for name in flattest_first[start:end]:
            chosen[name] = max(fit for fit in candidates if fit <= min(wanted, len(energies[name]) - 1))
    return {name: chosen[name] for name in energies}
