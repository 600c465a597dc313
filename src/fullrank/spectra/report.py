"""`Report`: the rank of every matrix of a model, and where compression is cheapest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from fullrank._optional import require
from fullrank._saving import save
from fullrank.spectra.comparison import Comparison, MatrixChange
from fullrank.spectra.spectrum import Spectrum

SCHEMA = 1
ENERGIES = (0.90, 0.95, 0.99)
ERRORS = (0.01, 0.05, 0.1, 0.2)
_PLOTTED = 256  # singular values kept of a matrix for plots


@dataclass(frozen=True)
class Truncation:
    """What keeping the best approximation within a relative Frobenius error would save.

    Attributes:
        error: largest relative error.
        rank: smallest rank that reaches it.
        saved: parameters saved by two factors of that rank, 0 where they would not be smaller.
        share: `saved` as a share of the matrix.
    """

    error: float
    rank: int
    saved: int
    share: float


@dataclass(frozen=True)
class MatrixReport:
    """One matrix of a model.

    Attributes:
        name: name of the weight.
        kind: "linear", "conv1d" (transformers' transposed linear), "conv" (out x in * kernel) or "embedding".
        shape: as stored; dtype: as stored.
        rows, columns: of the matrix that was measured.
        parameters: entries.
        effective_rank, stable_rank: see `Spectrum`.
        rank_share: effective rank over min(rows, columns).
        energy_ranks: rank by share of energy, for `ENERGIES`.
        numerical_rank, nuclear_norm, frobenius_norm, spectral_norm: see `Spectrum`.
        break_even_rank: largest rank at which two factors are smaller than the matrix.
        truncations: for every error of `ERRORS`.
        spectrum: singular values relative to the largest, thinned to at most 256.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    rows: int
    columns: int
    parameters: int
    effective_rank: float
    stable_rank: float
    rank_share: float
    energy_ranks: dict[str, int]
    numerical_rank: int
    nuclear_norm: float
    frobenius_norm: float
    spectral_norm: float
    break_even_rank: int
    truncations: tuple[Truncation, ...]
    spectrum: tuple[float, ...]

    @classmethod
    def of(cls, name: str, kind: str, shape: Sequence[int], spectrum: Spectrum) -> MatrixReport:
        """Everything the spectrum says; a zero matrix has rank 0 throughout."""
        rows, columns = spectrum.shape
        largest = float(spectrum.spectral_norm)
        zero = largest == 0
        effective_rank = 0.0 if zero else float(spectrum.effective_rank)
        kept = spectrum.values[:: -(-len(spectrum.values) // _PLOTTED)].tolist()
        return cls(
            name=name,
            kind=kind,
            shape=tuple(shape),
            dtype=str(spectrum.dtype).removeprefix("torch."),
            rows=rows,
            columns=columns,
            parameters=rows * columns,
            effective_rank=effective_rank,
            stable_rank=0.0 if zero else float(spectrum.stable_rank),
            rank_share=effective_rank / min(rows, columns),
            energy_ranks={f"{energy:.2f}": int(spectrum.energy_rank(energy)) for energy in ENERGIES},
            numerical_rank=int(spectrum.numerical_rank),
            nuclear_norm=float(spectrum.nuclear_norm),
            frobenius_norm=float(spectrum.frobenius_norm),
            spectral_norm=largest,
            break_even_rank=spectrum.break_even_rank,
            truncations=tuple(_truncation(spectrum, error) for error in ERRORS),
            spectrum=tuple(round(value / (largest or 1.0), 6) for value in kept),
        )

    def truncation(self, error: float) -> Truncation:
        """The truncation at one of the report's error levels.

        Raises:
            ValueError: the report has no such level.
        """
        for truncation in self.truncations:
            if truncation.error == error:
                return truncation
        raise ValueError(f"error={error} was not measured; the report has {[t.error for t in self.truncations]}")


@dataclass(frozen=True)
class HeadReport:
    """One attention head's product of two projections, a matrix of rank at most `head_dim`.

    Attributes:
        layer: number of the layer, counted over the whole model.
        head: number of the (query) head.
        product: "QK" (which tokens attend) or "OV" (what they pass on).
        module: name of the layer's module.
        head_dim: largest possible rank.
        effective_rank, stable_rank: see `Spectrum`.
        energy_ranks: rank by share of energy, for `ENERGIES`.
    """

    layer: int
    head: int
    product: str
    module: str
    head_dim: int
    effective_rank: float
    stable_rank: float
    energy_ranks: dict[str, int]

    @classmethod
    def of(cls, layer: int, head: int, product: str, module: str, spectrum: Spectrum) -> HeadReport:
        """Everything the spectrum says; a zero product has rank 0 throughout."""
        zero = float(spectrum.spectral_norm) == 0
        return cls(
            layer=layer,
            head=head,
            product=product,
            module=module,
            head_dim=spectrum.shape[0],
            effective_rank=0.0 if zero else float(spectrum.effective_rank),
            stable_rank=0.0 if zero else float(spectrum.stable_rank),
            energy_ranks={f"{energy:.2f}": int(spectrum.energy_rank(energy)) for energy in ENERGIES},
        )


@dataclass(frozen=True)
class Skipped:
    """A tensor that is not in the report, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The rank of a whole model.

    Attributes:
        model: what was analyzed, as given.
        architecture: the model type that its config names, or "".
        matrices: every matrix, in the model's order.
        heads: every attention head's products; empty where the architecture's heads are not known.
        skipped: tensors that were not measured, with the reason.
        parameters: all parameters, matrices or not.
        remarks: what a reader should know about this report.
        seconds: how long the analysis took.
        schema: version of the JSON layout.
    """

    model: str
    architecture: str
    matrices: tuple[MatrixReport, ...]
    heads: tuple[HeadReport, ...]
    skipped: tuple[Skipped, ...]
    parameters: int
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    schema: int = SCHEMA

    @cached_property
    def totals(self) -> dict[str, Any]:
        """Sums over the model: matrices, parameters (all, in matrices, elsewhere), the mean rank share weighted by
        size, and under "saved" the parameters that truncation saves at every error level.
        """
        measured = sum(matrix.parameters for matrix in self.matrices)
        weighted = sum(matrix.rank_share * matrix.parameters for matrix in self.matrices)
        saved = {str(error): sum(matrix.truncation(error).saved for matrix in self.matrices) for error in ERRORS}
        return {
            "matrices": len(self.matrices),
            "parameters": self.parameters,
            "parameters_in_matrices": measured,
            "parameters_elsewhere": self.parameters - measured,
            "mean_rank_share": weighted / measured if measured else 0.0,
            "saved": saved,
        }

    def cheapest(self, error: float = 0.1, count: int | None = 10) -> list[MatrixReport]:
        """Where compression is cheapest: the matrices that save most parameters at one and the same relative error.

        Every matrix then costs the same share of its own squared norm, so the order by parameters saved is the order
        by parameters saved per unit of relative squared error. The error is relative because networks normalise what
        a layer passes on: the size of a weight says little about how much it matters.

        Args:
            error: one of the report's error levels, 0.01, 0.05, 0.1 or 0.2.
            count: how many at most; None for all.

        Raises:
            ValueError: the report has no such level.
        """
        if error not in ERRORS:
            raise ValueError(f"error={error} was not measured; the levels are {', '.join(map(str, ERRORS))}")
        saving = [matrix for matrix in self.matrices if matrix.truncation(error).saved > 0]
        return sorted(saving, key=lambda matrix: matrix.truncation(error).saved, reverse=True)[:count]

    def against(self, other: Report) -> Comparison:
        """What changed from another report to this one; `compare` also measures the difference of the weights.

        Args:
            other: the report to compare with.
        """
        old = {matrix.name: matrix for matrix in other.matrices}
        new = {matrix.name: matrix for matrix in self.matrices}
        changes = [_change(old[name], new[name]) for name in old if name in new]
        return Comparison(
            before=other.model,
            after=self.model,
            changes=tuple(sorted(changes, key=lambda change: -abs(change.effective_rank_change))),
            only_before=tuple(name for name in old if name not in new),
            only_after=tuple(name for name in new if name not in old),
            parameters=(other.parameters, self.parameters),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        return {**asdict(self), "totals": self.totals}

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row per matrix, for CSV, Parquet and data frames."""
        return [_row(matrix) for matrix in self.matrices]

    def to_dataframe(self) -> Any:
        """`to_rows` as a pandas DataFrame.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return require("pandas", "dev").DataFrame(self.to_rows())

    def to_table(self) -> Table:
        """A table for the terminal, at most 100 columns wide."""
        table = Table(
            title=escape(f"Rank of {self.model}"),
            title_justify="left",
            caption="95 %: rank that holds 95 % of the energy; saves: by two factors at 10 % relative error",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1),
            header_style="bold",
        )
        table.add_column("matrix", overflow="fold", max_width=46)
        for name in ("shape", "effective", "share", "stable", "95 %", "saves"):
            table.add_column(name, justify="right", no_wrap=True)
        for matrix in self.matrices:
            cut = matrix.truncation(0.1)
            table.add_row(
                escape(matrix.name.removesuffix(".weight")),
                "x".join(map(str, matrix.shape)),
                f"{matrix.effective_rank:.1f}",
                f"{matrix.rank_share:.0%}",
                f"{matrix.stable_rank:.1f}",
                str(matrix.energy_ranks["0.95"]),
                f"{cut.share:.0%}" if cut.saved else "-",
            )
        return table

    def to_html(self, fragment: bool = False) -> str:
        """One self-contained page: no network, no script.

        Args:
            fragment: only the body's content and its style, to embed in another page.
        """
        from fullrank.spectra.report_html import render_report  # loads Jinja

        return render_report(self, fragment)

    def save(self, path: str | Path) -> Path:
        """Write the report, atomically, in the format that the suffix names: .json, .csv, .parquet or .html.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report from its JSON file.

        Raises:
            ValueError: not a report, or one of a newer Fullrank.
        """
        content = Path(path).read_bytes()
        try:
            data = json.loads(content)
            if data["schema"] <= SCHEMA:
                return _report(data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a rank report of Fullrank ({error!r})") from error
        raise ValueError(f"{path} was made by a newer Fullrank: pip install --upgrade fullrank")


def _report(data: dict[str, Any]) -> Report:
    known = {item.name: data[item.name] for item in fields(Report)}
    parts = {
        "matrices": tuple(_matrix(matrix) for matrix in data["matrices"]),
        "heads": tuple(HeadReport(**head) for head in data["heads"]),
        "skipped": tuple(Skipped(**item) for item in data["skipped"]),
        "remarks": tuple(data["remarks"]),
    }
    return Report(**known | parts)


def _matrix(data: dict[str, Any]) -> MatrixReport:
    parts = {
        "shape": tuple(data["shape"]),
        "spectrum": tuple(data["spectrum"]),
        "truncations": tuple(Truncation(**cut) for cut in data["truncations"]),
    }
    return MatrixReport(**data | parts)


def _change(before: MatrixReport, after: MatrixReport) -> MatrixChange:
    return MatrixChange(
        name=before.name,
        shapes=(before.shape, after.shape),
        effective_rank=(before.effective_rank, after.effective_rank),
        stable_rank=(before.stable_rank, after.stable_rank),
        nuclear_norm=(before.nuclear_norm, after.nuclear_norm),
        frobenius_norm=(before.frobenius_norm, after.frobenius_norm),
        spectral_norm=(before.spectral_norm, after.spectral_norm),
        effective_rank_change=after.effective_rank / before.effective_rank - 1 if before.effective_rank else 0.0,
    )


def _truncation(spectrum: Spectrum, error: float) -> Truncation:
    rows, columns = spectrum.shape
    rank = int(spectrum.error_rank(error))
    saved = max(0, rows * columns - rank * (rows + columns))
    return Truncation(error, rank, saved, saved / (rows * columns))


def _row(matrix: MatrixReport) -> dict[str, Any]:
    row: dict[str, Any] = asdict(matrix)
    del row["spectrum"], row["truncations"], row["energy_ranks"]
    row["shape"] = "x".join(map(str, matrix.shape))
    row |= {f"energy_rank_{energy}": rank for energy, rank in matrix.energy_ranks.items()}
    for cut in matrix.truncations:
        row |= {f"rank_at_error_{cut.error}": cut.rank, f"saved_at_error_{cut.error}": cut.saved}
    return row
