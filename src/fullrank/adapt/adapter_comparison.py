"""`compare_adapters`: several methods on one task with the same number of trainable parameters."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table

from fullrank._saving import save
from fullrank.adapt.fine_tuning import AdaptReport, fine_tune
from fullrank.adapt.methods import adapter_method
from fullrank.adapt.training import OnProgress, TrainingSettings
from fullrank.tasks.evaluation import lower_is_better
from fullrank.tasks.examples import Examples, Task, load_examples

SCHEMA = 1


@dataclass(frozen=True)
class ComparedMethod:
    """One method, over all seeds.

    Attributes:
        method: its name.
        size: rank, or number of frequencies.
        metric: what quality means.
        parameters: trained in the adapter at the first step.
        quality: the main metric of every seed.
        seconds_per_step: the median step, over seeds.
        memory: bytes that a training step keeps beside the weights; see `TrainingMemory`.
    """

    method: str
    size: int
    metric: str
    parameters: int
    quality: tuple[float, ...]
    seconds_per_step: float
    memory: int

    @property
    def mean(self) -> float:
        """Mean quality."""
        return statistics.fmean(self.quality)

    @property
    def spread(self) -> float:
        """Standard deviation of the quality over seeds; 0 with one seed."""
        return statistics.stdev(self.quality) if len(self.quality) > 1 else 0.0


@dataclass(frozen=True)
class AdapterComparison:
    """Methods side by side.

    Attributes:
        model, data, task: what was adapted to what.
        metric: what quality means: "accuracy", "spearman" or "perplexity".
        budget: trainable parameters that every method came nearest to.
        seeds: of every method.
        methods: best first.
        schema: version of the JSON layout.
    """

    model: str
    data: str
    task: Task
    metric: str
    budget: int
    seeds: tuple[int, ...]
    methods: tuple[ComparedMethod, ...]
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | Path) -> AdapterComparison:
        """Read the JSON file of a comparison.

        Raises:
            ValueError: it was written by a newer version, or is none.
        """
        content = json.loads(Path(path).read_text())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(
                f"{path} is no comparison of adapters of layout {SCHEMA}: compare again, or update fullrank"
            )
        methods = tuple(ComparedMethod(**row | {"quality": tuple(row["quality"])}) for row in content["methods"])
        return cls(**content | {"seeds": tuple(content["seeds"]), "methods": methods})

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row a method, for CSV, Parquet and data frames."""
        return [
            {
                "method": row.method,
                "size": row.size,
                "parameters": row.parameters,
                self.metric: row.mean,
                "spread": row.spread,
                "seconds_per_step": row.seconds_per_step,
                "memory": row.memory,
            }
            for row in self.methods
        ]

    def to_table(self) -> Table:
        """A table for the terminal."""
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "one seed"
        table = Table(
            title=escape(f"{Path(self.data).name}, {self.budget:,} trainable parameters, {seeds}"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            header_style="bold",
        )
        table.add_column("method")
        for name in ("size", "parameters", self.metric, "memory", "a step"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.methods:
            table.add_row(
                row.method,
                str(row.size),
                f"{row.parameters:,}",
                f"{row.mean:.4g} ± {row.spread:.2g}",
                f"{row.memory / 2**20:.0f} MiB",
                f"{1000 * row.seconds_per_step:.0f} ms",
            )
        return table

    def figure(self) -> Figure:
        """Quality with its spread against the time of a step; the area of a point is the memory."""
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        largest = max(row.memory for row in self.methods)
        for number, row in enumerate(self.methods):
            x, colour = 1000 * row.seconds_per_step, f"C{number}"
            axes.errorbar(x, row.mean, row.spread, color=colour, capsize=3, linewidth=1)
            axes.scatter(x, row.mean, 220 * row.memory / largest, color=colour, alpha=0.6, label=row.method)
            axes.annotate(row.method, (x, row.mean), textcoords="offset points", xytext=(9, 5))
        if lower_is_better(self.metric):
            axes.invert_yaxis()
        axes.set_xlabel("milliseconds a training step")
        axes.set_ylabel(f"{self.metric} on test records, mean and standard deviation")
        axes.set_title(
            f"{Path(self.data).name}, {self.budget:,} trainable parameters; area: memory", fontsize=10, loc="left"
        )
        axes.grid(alpha=0.25)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the comparison atomically: .json, .csv, .parquet, or .svg for the plot.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


def compare_adapters(
    model: str | Path,
    data: str | Path | Examples,
    methods: Sequence[str],
    budget: int = 25_000,
    *,
    task: Task | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    settings: TrainingSettings | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> AdapterComparison:
    """Train every method with every seed on the same data, for the same number of steps, at the same size.

    Each method has its own learning rate (see `METHODS`) and the layers that `options` names, or its own default
    layers; its rank or number of frequencies is the one whose trainable parameters are nearest to the budget.

    Args:
        model: as in `fine_tune`.
        data: as in `fine_tune`.
        methods: names of `METHODS`.
        budget: trainable parameters, without the head.
        task: as in `fine_tune`.
        seeds: of the head, the adapter, the order of examples.
        settings: how to train; its learning rate and seed are replaced.
        max_length: as in `fine_tune`.
        limit: at most so many training and test examples.
        options: fields of every configuration, such as `target_modules`.
        on_progress: called with (done, total, text), in steps over all runs.

    Raises:
        LookupError, ValueError: as `fine_tune`; no method, or one twice; no seed.
    """
    chosen = [adapter_method(name) for name in methods]
    if not chosen or len(set(methods)) < len(chosen):
        raise ValueError(f"methods={list(methods)}: one or more different ones are needed")
    if not seeds:
        raise ValueError("seeds=(): at least one is needed")
    settings = settings or TrainingSettings()
    examples = data if isinstance(data, Examples) else load_examples(data, task, limit=limit)
    total = len(chosen) * len(seeds)
    compared = []
    for place, method in enumerate(chosen):
        reports = []
        for number, seed in enumerate(seeds):
            move = _part(on_progress, place * len(seeds) + number, total, f"{method.name}, seed {seed}")
            how = replace(settings, learning_rate=method.learning_rate, seed=seed)
            tuned = fine_tune(
                model, examples, method.name,
                budget=budget, settings=how, max_length=max_length, options=options, on_progress=move,
            )  # fmt: skip
            reports.append(tuned.report)
        compared.append(_compared(method.size, reports))
    metric = compared[0].metric
    best_first = sorted(compared, key=lambda row: row.mean, reverse=not lower_is_better(metric))
    return AdapterComparison(
        str(model), examples.source, examples.task, metric, budget, tuple(seeds), tuple(best_first)
    )


def _part(on_progress: OnProgress, run: int, runs: int, name: str) -> OnProgress:
    """The progress of one run, told in hundredths of a run among all of them."""
    at = 0

    def move(done: int, total: int, text: str) -> None:
        nonlocal at
        at = 100 * done // total if total else at
        on_progress(100 * run + at, 100 * runs, f"{name}: {text}")

    return move


def _compared(size: str, reports: Sequence[AdaptReport]) -> ComparedMethod:
    first = reports[0]
    return ComparedMethod(
        first.method,
        int(first.configuration[size]),
        first.metric,
        first.adapter_parameters,
        tuple(report.after[first.metric] for report in reports),
        statistics.median(report.seconds_per_step for report in reports),
        first.memory["total"],
    )
