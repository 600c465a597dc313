"""Whether one ranking is better than another by more than chance: tests over the values of single queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy import stats

from fullrank.order.evaluation import Evaluation

Test = Literal["t", "randomization"]
PerQuery = Mapping[str, float]


class Difference(NamedTuple):
    """Two systems on the same queries.

    Attributes:
        mean: of the first less the second.
        p: two-sided probability of so large a difference by chance; 1 where all differences are 0.
        wins, losses: queries on which the first is better, and worse.
    """

    mean: float
    p: float
    wins: int
    losses: int


def paired_test(first: PerQuery, second: PerQuery, test: Test = "t", rounds: int = 10_000, seed: int = 0) -> Difference:
    """Compare two systems query by query.

    Args:
        first: value of every query, such as `evaluation.per_query["nDCG@10"]`.
        second: of the other system, on the same queries.
        test: Student's paired "t" test, or "randomization" of the signs.
        rounds: of the randomisation.
        seed: of the randomisation.

    Raises:
        ValueError: other queries, fewer than two, or an unknown test.
    """
    if first.keys() != second.keys():
        odd = sorted(set(first) ^ set(second))[:3]
        raise ValueError(f"the systems have other queries: {', '.join(map(repr, odd))}, ...; measure both on the same")
    if len(first) < 2:
        raise ValueError(f"{len(first)} queries are too few for a test; at least 2 are needed")
    if test not in get_args(Test):
        raise ValueError(f"test={test!r} is not known; accepted: {', '.join(get_args(Test))}")
    differences = np.array([first[query] - second[query] for query in sorted(first)])
    p = _p_value(differences, test, rounds, seed)
    return Difference(float(differences.mean()), p, int((differences > 0).sum()), int((differences < 0).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Probabilities corrected for how many tests were made (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected.tolist()


def compare(
    systems: Mapping[str, Evaluation], baseline: str, measure: str, test: Test = "t"
) -> list[dict[str, float | int | str]]:
    """Every system against a baseline: mean, difference, and the probability of it by chance, Holm-corrected.

    Args:
        systems: evaluations by name, on the same queries.
        baseline: one of the names.
        measure: one of theirs.
        test: see `paired_test`.

    Raises:
        LookupError: no such baseline, or a system without the measure.
    """
    if baseline not in systems:
        raise LookupError(f"baseline={baseline!r} is not among the systems {', '.join(systems)}")
    lacking = next((name for name, found in systems.items() if measure not in found), None)
    if lacking is not None:
        raise LookupError(f"{lacking} was not measured by {measure!r}; it has {', '.join(systems[lacking])}")
    others = [name for name in systems if name != baseline]
    reference = systems[baseline].per_query[measure]
    found = [paired_test(systems[name].per_query[measure], reference, test) for name in others]
    corrected = holm([difference.p for difference in found])
    return [
        {
            "system": name,
            measure: systems[name][measure],
            "difference": d.mean,
            "p": p,
            "wins": d.wins,
            "losses": d.losses,
        }
        for name, d, p in zip(others, found, corrected, strict=True)
    ]


def _p_value(differences: np.ndarray, test: Test, rounds: int, seed: int) -> float:
    if not differences.any():
        return 1.0
    if test == "t":
        # Differences that are all the same have no spread: the smallest probability.
        found: Any = stats.ttest_1samp(differences, 0.0)
        return float(found[1]) if np.ptp(differences) > 0 else 0.0
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (rounds, len(differences)))
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    return float((as_large.sum() + 1) / (rounds + 1))
