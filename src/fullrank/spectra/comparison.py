"""Two models or checkpoints side by side: what changed in the rank of their matrices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fullrank._files import to_json, write_text
from fullrank.spectra.report import MatrixReport, Report


@dataclass(frozen=True)
class MatrixChange:
    """One matrix that both reports hold.

    Attributes:
        name: name of the weight.
        shapes: before and after.
        effective_rank, stable_rank, nuclear_norm, frobenius_norm: before and after.
        effective_rank_change: relative.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    effective_rank: tuple[float, float]
    stable_rank: tuple[float, float]
    nuclear_norm: tuple[float, float]
    frobenius_norm: tuple[float, float]
    effective_rank_change: float

    @classmethod
    def of(cls, before: MatrixReport, after: MatrixReport) -> MatrixChange:
        """The change between two reports of one name."""
        return cls(
            name=before.name,
            shapes=(before.shape, after.shape),
            effective_rank=(before.effective_rank, after.effective_rank),
            stable_rank=(before.stable_rank, after.stable_rank),
            nuclear_norm=(before.nuclear_norm, after.nuclear_norm),
            frobenius_norm=(before.frobenius_norm, after.frobenius_norm),
            effective_rank_change=after.effective_rank / before.effective_rank - 1 if before.effective_rank else 0.0,
        )


@dataclass(frozen=True)
class Comparison:
    """What changed between two models.

    Attributes:
        before, after: names of the models.
        changes: matrices of both, largest relative change of effective rank first.
        only_before, only_after: names that one of them lacks.
        parameters: of both models.
    """

    before: str
    after: str
    changes: tuple[MatrixChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    parameters: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def to_table(self) -> Table:
        """A table for the terminal."""
        table = Table(title=f"{self.before} against {self.after}", title_justify="left", header_style="bold")
        table.add_column("matrix", overflow="fold", max_width=48)
        for name in ("effective rank", "change", "stable rank", "Frobenius norm"):
            table.add_column(name, justify="right", no_wrap=True)
        for change in self.changes:
            table.add_row(
                change.name,
                "{:.1f} -> {:.1f}".format(*change.effective_rank),
                f"{change.effective_rank_change:+.1%}",
                "{:.1f} -> {:.1f}".format(*change.stable_rank),
                "{:.2f} -> {:.2f}".format(*change.frobenius_norm),
            )
        return table

    def save(self, path: str | Path) -> Path:
        """Write the comparison as JSON, atomically.

        Raises:
            ValueError: the name does not end in .json.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise ValueError(f"{path.name} names no format: a comparison is written as .json")
        return write_text(path, to_json(self.to_dict()) + "\n")


def compare(before: Report, after: Report) -> Comparison:
    """Match the matrices of two reports by name.

    Args:
        before: the report to compare with.
        after: the report to compare.
    """
    old = {matrix.name: matrix for matrix in before.matrices}
    new = {matrix.name: matrix for matrix in after.matrices}
    changes = [MatrixChange.of(old[name], new[name]) for name in old if name in new]
    return Comparison(
        before=before.model,
        after=after.model,
        changes=tuple(sorted(changes, key=lambda change: -abs(change.effective_rank_change))),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
        parameters=(before.parameters, after.parameters),
    )
