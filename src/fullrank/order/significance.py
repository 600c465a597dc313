"""Whether one ranking is better than another by more than chance: tests over the values of single queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import stats

from fullrank.order.evaluation import Evaluation

Test = Literal["t", "randomization"]
PerQuery = Mapping[str, float]
_SIGNS_AT_ONCE = 2**22  # drawn at a time, whatever the number of queries


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
        ValueError: other queries, fewer than two, an unknown test, or fewer rounds than one.
    """
    if first.keys() != second.keys():
        odd = sorted(set(first) ^ set(second))[:3]
        raise ValueError(f"the systems have other queries: {', '.join(map(repr, odd))}, ...; measure both on the same")
    if len(first) < 2:
        raise ValueError(f"{len(first)} queries are too few for a test; at least 2 are needed")
    if test not in get_args(Test):
        raise ValueError(f"test={test!r} is not known; accepted: {', '.join(get_args(Test))}")
    if rounds < 1:
        raise ValueError(f"rounds={rounds} is not accepted; at least 1 is needed, better 10,000")
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
    systems: Mapping[str, Evaluation], baseline: str, measure: str, test: Test = "t", seed: int = 0
) -> list[dict[str, float | int | str]]:
    """Every system against a baseline: mean, difference, and the probability of it by chance, Holm-corrected.

    Args:
        systems: evaluations by name, on the same queries.
        baseline: one of the names.
        measure: one of theirs.
        test: see `paired_test`.
        seed: see `paired_test`.

    Raises:
        ValueError: see `paired_test`.
        LookupError: no such baseline, or a system without the measure.
    """
    if baseline not in systems:
        raise LookupError(f"baseline={baseline!r} is not among the systems {', '.join(systems)}")
    lacking = next((name for name, found in systems.items() if measure not in found), None)
    if lacking is not None:
        raise LookupError(f"{lacking} was not measured by {measure!r}; it has {', '.join(systems[lacking])}")
    others = [name for name in systems if name != baseline]
    reference = systems[baseline].per_query[measure]
    found = [paired_test(systems[name].per_query[measure], reference, test, seed=seed) for name in others]
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
    return _student(differences) if test == "t" else _randomized(differences, rounds, seed)


def _student(differences: np.ndarray) -> float:
    """Of t = mean / (spread / sqrt(n)), with n - 1 degrees of freedom; 0 where all differences are the same."""
    n = len(differences)
    error = differences.std(ddof=1) / np.sqrt(n)
    return float(2 * stats.t.sf(abs(differences.mean()) / error, n - 1)) if error > 0 else 0.0


def _randomized(differences: np.ndarray, rounds: int, seed: int) -> float:
    """Share of random signs whose sum is at least as far from 0, the observed ones among them."""
    moved = differences[differences != 0]
    enough = abs(moved.sum()) * (1 - 1e-12)
    generator = np.random.default_rng(seed)
    at_once = max(1, _SIGNS_AT_ONCE // len(moved))
    as_large = 1
    for begin in range(0, rounds, at_once):
        signs = 2.0 * generator.integers(0, 2, (min(at_once, rounds - begin), len(moved)), dtype=np.int8) - 1
        as_large += int((np.abs(signs @ moved) >= enough).sum())
    return as_large / (rounds + 1)
