"""Methods that a study trains side by side, each once per seed, and what their runs come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fullrank.papers._trial import Trial


def mean_and_spread(values: Mapping[str, Iterable[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of every list, as `Trial.measure` takes them."""
    import numpy as np

    lists = {name: list(numbers) for name, numbers in values.items()}
    return (
        {name: float(np.mean(numbers)) for name, numbers in lists.items()},
        {name: float(np.std(numbers)) for name, numbers in lists.items()},
    )


@dataclass(frozen=True)
class Repeats:
    """Runs of several methods, in the order of the seeds.

    Attributes:
        runs: method -> what each of its runs gave.
    """

    runs: Mapping[str, list[dict[str, Any]]]

    def values(self, method: str, score: str = "accuracy") -> list[float]:
        """One number of every run."""
        return [float(run[score]) for run in self.runs[method]]

    def summary(
        self, names: Mapping[str, str] | Iterable[str], score: str = "accuracy"
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Mean and standard deviation over seeds, as `Trial.measure` takes them.

        Args:
            names: the methods, or name in the measurement -> method.
            score: which number of a run.
        """
        methods = names if isinstance(names, Mapping) else {name: name for name in names}
        return mean_and_spread({name: self.values(method, score) for name, method in methods.items()})

    def rows(self, score: str = "accuracy", unit: str = "%", **more: str) -> list[dict[str, Any]]:
        """A table: mean, spread and the single runs of a score, and further columns that are the same in every run.

        Args:
            score: which number of a run.
            unit: its unit.
            more: column -> which entry of a run it shows.
        """
        means, spreads = self.summary(list(self.runs), score)
        return [
            {
                "method": method,
                **{column: runs[0][entry] for column, entry in more.items()},
                f"{score} {unit}": means[method],
                "spread": spreads[method],
                "by seed": ", ".join(f"{value:.1f}" for value in self.values(method, score)),
            }
            for method, runs in self.runs.items()
        ]


def repeat(
    trial: Trial,
    methods: Iterable[str],
    run: Callable[[str, int], dict[str, Any]],
    about: str,
    seeds: Iterable[int] | None = None,
) -> Repeats:
    """Run every method with every seed; each run is a step of the trial, so that a killed study resumes behind it.

    Args:
        trial: the study's trial.
        methods: by name.
        run: what a method gives with a seed, JSON-like; see `Trial.steps` for what it may refer to.
        about: what else the runs depend on; shown as progress.
        seeds: default those of the trial.
    """
    methods, seeds = list(methods), list(trial.seeds if seeds is None else seeds)
    plan = [(method, seed) for seed in seeds for method in methods]
    found = trial.steps({f"{about} {method} seed={seed}": partial(run, method, seed) for method, seed in plan}, about)
    return Repeats({method: found[number :: len(methods)] for number, method in enumerate(methods)})
