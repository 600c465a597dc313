"""What changed between two models: the rank of every matrix before and after, and the rank of the difference itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from fullrank._saving import save

SCHEMA = 1


@dataclass(frozen=True)
class Difference:
    """The matrix after - before: what training added.

    Attributes:
        relative_norm: its Frobenius norm over that of the matrix before; infinite where that was zero.
        effective_rank, stable_rank: see `Spectrum`; 0 where nothing changed.
        energy_ranks: rank by share of energy.
    """

    relative_norm: float
    effective_rank: float
    stable_rank: float
    energy_ranks: dict[str, int]


@dataclass(frozen=True)
class MatrixChange:
    """One matrix that both models hold.

    Attributes:
        name: name of the weight.
        shapes: before and after.
        effective_rank, stable_rank, nuclear_norm, frobenius_norm, spectral_norm: before and after.
        effective_rank_change: relative; 0 where the rank was 0 before.
        difference: the difference of the two matrices, where it was measured.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    effective_rank: tuple[float, float]
    stable_rank: tuple[float, float]
    nuclear_norm: tuple[float, float]
    frobenius_norm: tuple[float, float]
    spectral_norm: tuple[float, float]
    effective_rank_change: float
    difference: Difference | None = None


@dataclass(frozen=True)
class Comparison:
    """What changed between two models.

    Attributes:
        before, after: names of the models.
        changes: matrices of both, largest relative change of effective rank first.
        only_before, only_after: names that one of them lacks.
        parameters: of both models.
        schema: version of the JSON layout.
    """

    before: str
    after: str
    changes: tuple[MatrixChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    parameters: tuple[int, int]
    schema: int = SCHEMA

    @property
    def reshaped(self) -> tuple[MatrixChange, ...]:
        """Matrices whose shape changed."""
        return tuple(change for change in self.changes if change.shapes[0] != change.shapes[1])

    @property
    def measured_differences(self) -> bool:
        """Whether any difference was measured."""
        return any(change.difference is not None for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        return asdict(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row per matrix, for CSV, Parquet and data frames."""
        return [_row(change) for change in self.changes]

    def to_table(self) -> Table:
        """A table for the terminal, at most 100 columns wide."""
        caption = [f"only before: {', '.join(self.only_before)}"] if self.only_before else []
        caption += [f"only after: {', '.join(self.only_after)}"] if self.only_after else []
        table = Table(
            title=escape(f"From {self.before} to {self.after}"),
            title_justify="left",
            caption=escape("\n".join(caption)) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1),
            header_style="bold",
        )
        table.add_column("matrix", overflow="fold", max_width=40)
        for name in ("effective rank", "change", "norm"):
            table.add_column(name, justify="right", no_wrap=True)
        if self.measured_differences:
            for name in ("moved", "in rank"):
                table.add_column(name, justify="right", no_wrap=True)
        for change in self.changes:
            cells = [
                escape(change.name.removesuffix(".weight")),
                "{:.1f} → {:.1f}".format(*change.effective_rank),
                f"{change.effective_rank_change:+.1%}",
                f"{change.frobenius_norm[1] / change.frobenius_norm[0] - 1:+.1%}" if change.frobenius_norm[0] else "-",
            ]
            if self.measured_differences:
                moved = change.difference
                cells += [f"{moved.relative_norm:.1%}", f"{moved.effective_rank:.1f}"] if moved else ["-", "-"]
            table.add_row(*cells)
        return table

    def to_html(self, fragment: bool = False) -> str:
        """One self-contained page: no network, no script.

        Args:
            fragment: only the body's content and its style, to embed in another page.
        """
        from fullrank.spectra.comparison_html import render_comparison  # loads Jinja

        return render_comparison(self, fragment)

    def save(self, path: str | Path) -> Path:
        """Write the comparison, atomically, in the format that the suffix names: .json, .csv, .parquet or .html.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


def _row(change: MatrixChange) -> dict[str, Any]:
    row: dict[str, Any] = {"name": change.name, "effective_rank_change": change.effective_rank_change}
    for place, side in enumerate(("before", "after")):
        row[f"shape_{side}"] = "x".join(map(str, change.shapes[place]))
        for field in ("effective_rank", "stable_rank", "nuclear_norm", "frobenius_norm", "spectral_norm"):
            row[f"{field}_{side}"] = getattr(change, field)[place]
    moved = change.difference
    row["difference_relative_norm"] = moved.relative_norm if moved else None
    row["difference_effective_rank"] = moved.effective_rank if moved else None
    row["difference_stable_rank"] = moved.stable_rank if moved else None
    return row
