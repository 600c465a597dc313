"""`compare_compressors`: the frontier of quality and size of several methods on one model and one task."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table

from fullrank._saving import save
from fullrank.compress.compressing import OnProgress, compress, gather_statistics
from fullrank.compress.layers import Targets
from fullrank.compress.low_rank import LowRankMethod
from fullrank.compress.methods import METHODS, method_of
from fullrank.compress.rank_rules import RatioRank
from fullrank.compress.report import CompressionReport
from fullrank.tasks import Examples, Quality, load_as_is, load_examples, quality_of

SCHEMA = 1


@dataclass(frozen=True)
class Setting:
    """A method at one size.

    Attributes:
        method: its name.
        setting: what sets the size, such as "keep 0.5" or "4 bits".
        options: of the method.
    """

    method: str
    setting: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class ComparedCompressor:
    """What a method gave at one size.

    Attributes:
        method, setting: see `Setting`.
        parameters, bytes: of the compressed model.
        kept: share of the model's bytes.
        quality: the main measure.
        seconds: how long the compression took.
    """

    method: str
    setting: str
    parameters: int
    bytes: int
    kept: float
    quality: float
    seconds: float


@dataclass(frozen=True)
class CompressorComparison:
    """Methods side by side.

    Attributes:
        model, data: what was compressed, and at what it was measured.
        metric: the main measure of quality.
        lower_is_better: whether less of it is better.
        original: quality of the original model.
        original_bytes: of its parameters and buffers.
        methods: smallest first within a method.
        skipped: settings that could not be computed, and why.
        schema: version of the JSON layout.
    """

    model: str
    data: str
    metric: str
    lower_is_better: bool
    original: float
    original_bytes: int
    methods: tuple[ComparedCompressor, ...]
    skipped: dict[str, str]
    schema: int = SCHEMA

    @property
    def frontier(self) -> tuple[ComparedCompressor, ...]:
        """The settings that no other beats in both size and quality, smallest first."""
        sign = -1 if self.lower_is_better else 1
        best: list[ComparedCompressor] = []
        for row in sorted(self.methods, key=lambda row: (row.bytes, -sign * row.quality)):
            if not best or sign * row.quality > sign * best[-1].quality:
                best.append(row)
        return tuple(best)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        return asdict(self) | {"frontier": [f"{row.method} {row.setting}" for row in self.frontier]}

    @classmethod
    def load(cls, path: str | Path) -> CompressorComparison:
        """Read the JSON file of a comparison.

        Raises:
            ValueError: it was written by a newer version, or is none.
        """
        content: Any = json.loads(Path(path).read_text())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path} is no comparison of compressors of layout {SCHEMA}: compare again")
        fields: dict[str, Any] = {name: value for name, value in content.items() if name != "frontier"}
        fields["methods"] = tuple(ComparedCompressor(**row) for row in fields["methods"])
        return cls(**fields)

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row a setting."""
        frontier = self.frontier
        return [asdict(row) | {"on_frontier": row in frontier} for row in self.methods]

    def to_table(self) -> Table:
        """A table for the terminal; settings on the frontier are bold."""
        table = Table(
            title=escape(f"{Path(self.data).name}: {self.metric} {self.original:.4g} before compression"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            header_style="bold",
        )
        for name in ("method", "setting"):
            table.add_column(name)
        for name in ("parameters", "MiB", "kept", self.metric, "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        frontier = self.frontier
        for row in self.methods:
            cells = (
                row.method,
                row.setting,
                f"{row.parameters:,}",
                f"{row.bytes / 2**20:.1f}",
                f"{100 * row.kept:.0f} %",
                f"{row.quality:.4g}",
                f"{row.seconds:.1f}",
            )
            table.add_row(*cells, style="bold" if row in frontier else None)
        return table

    def figure(self) -> Figure:
        """Quality against size, a line a method, the frontier dotted, the original as a cross."""
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for number, (method, rows) in enumerate(itertools.groupby(self.methods, key=lambda row: row.method)):
            points = sorted((row.bytes / 2**20, row.quality) for row in rows)
            axes.plot(
                *zip(*points, strict=True), "o-", color=f"C{number % 10}", label=method, markersize=4, linewidth=1
            )
        best = [(row.bytes / 2**20, row.quality) for row in self.frontier]
        axes.plot(*zip(*best, strict=True), ":", color="0.3", linewidth=2.5, label="frontier", zorder=0)
        axes.plot(self.original_bytes / 2**20, self.original, "x", color="black", markersize=9, label="original")
        if self.lower_is_better:
            axes.invert_yaxis()
        axes.set_xlabel("MiB of the model's weights")
        axes.set_ylabel(f"{self.metric} on test examples")
        axes.set_title(f"{Path(self.data).name}, no training after compression", fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="lower right")
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the comparison atomically: .json, .csv, .parquet, or .svg for the plot.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


def compare_compressors(
    model: str | Path,
    data: str | Path | Examples,
    methods: Sequence[str] = ("svd", "asvd", "whiten", "fwsvd", "fwsvd-output", "fwsvd-both"),
    keeps: Sequence[float] = (0.8, 0.6, 0.5, 0.35),
    bits: Sequence[int] = (8, 6, 4, 3),
    *,
    num_samples: int = 256,
    batch_size: int = 16,
    target_modules: Targets = "all-linear",
    exclude_modules: Targets = (),
    max_length: int = 128,
    limit: int | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda done, total, text: None,
) -> CompressorComparison:
    """Compress one model by several methods at several sizes, and measure each, without training.

    Args:
        model: a Hugging Face folder.
        data: as in `compress_pretrained`.
        methods: names of `METHODS`.
        keeps: shares of every layer's parameters, for methods of ranks.
        bits: for methods of bits.
        num_samples: training examples that statistics are gathered from.
        batch_size: of statistics.
        target_modules, exclude_modules: see `select_layers`.
        max_length: tokens of an example.
        limit: at most so many training and test examples.
        seed: of the draw of examples.
        on_progress: called with (settings done, settings in all, text).

    Raises:
        ValueError: no method, one twice, or an unknown one; a share outside (0, 1]; data that do not fit the model.
    """
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods={list(methods)}: one or more different ones are needed")
    plan = [setting for method in methods for setting in _settings(method, keeps, bits)]
    examples = data if isinstance(data, Examples) else load_examples(data, limit=limit, seed=seed)
    original, tokenizer = load_as_is(model)
    quality = quality_of(original, tokenizer, examples, max_length)
    on_progress(0, len(plan), "measuring the model")
    before = quality.measure(original)[quality.metric]
    batches = list(itertools.islice(quality.batches(batch_size), max(1, num_samples // batch_size)))
    rows: list[ComparedCompressor] = []
    skipped: dict[str, str] = {}
    asked: dict[str, Any] = {
        "data": batches,
        "sample_losses": quality.sample_losses,
        "target_modules": target_modules,
        "exclude_modules": exclude_modules,
    }
    shared: dict[str, Any] = {}
    size = sum(t.numel() * t.element_size() for t in (*original.parameters(), *original.buffers()))
    for number, setting in enumerate(plan):
        name = f"{setting.method} {setting.setting}"
        on_progress(number, len(plan), name)
        try:
            if setting.method not in shared:  # of one method at a time: they may fill much of the memory
                shared = {setting.method: _shared(original, setting.method, asked)}
            small = compress(original, setting.method, **asked, **shared[setting.method], **setting.options)
        except (ValueError, RuntimeError) as error:
            skipped[name] = str(error)
            continue
        rows.append(_compared(setting, small.report, quality, small.model))
    if not rows:
        raise ValueError(f"no method could be computed: {'; '.join(f'{k}: {v}' for k, v in skipped.items())}")
    on_progress(len(plan), len(plan), "done")
    return CompressorComparison(
        str(model), examples.source, quality.metric, quality.lower_is_better, before, size, tuple(rows), skipped
    )


def _shared(model: Any, method: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options that all sizes of a method have in common: its statistics, gathered once."""
    if not isinstance(method_of(method, {}), LowRankMethod):
        return {}
    return {"statistics": gather_statistics(model, method, **asked)}


def _settings(method: str, keeps: Sequence[float], bits: Sequence[int]) -> list[Setting]:
    """A method's sizes."""
    made = method_of(method, {})
    if hasattr(made, "rank_rule"):
        return [Setting(method, f"keep {keep:g}", {"rank_rule": RatioRank(keep)}) for keep in keeps]
    if "bits" in made.options():
        return [Setting(method, f"{count} bits", {"bits": count}) for count in bits]
    raise ValueError(
        f"method {method!r} has no size that can be compared; "
        f"{', '.join(name for name in METHODS if name != method)} are known"
    )


def _compared(setting: Setting, report: CompressionReport, quality: Quality, model: Any) -> ComparedCompressor:
    return ComparedCompressor(
        method=setting.method,
        setting=setting.setting,
        parameters=report.parameters_after,
        bytes=report.bytes_after,
        kept=report.bytes_after / report.bytes_before,
        quality=quality.measure(model)[quality.metric],
        seconds=report.seconds,
    )
