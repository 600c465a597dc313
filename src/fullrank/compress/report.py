"""`CompressionReport`: what became of every layer, and of the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from fullrank._saving import save

SCHEMA = 1


@dataclass(frozen=True)
class LayerReport:
    """One compressed layer.

    Attributes:
        name: of the layer.
        kind: of what stands there now, such as "low-rank-linear".
        shape: (out, in) of the dense matrix.
        rank: of its replacement, or None where rank is not what changed.
        parameters_before, parameters_after: weights and biases.
        bytes_before, bytes_after: of parameters and buffers.
        error: relative Frobenius error of the weight, or None where the layer has no weight to compare.
        loss: error in the method's measure of loss (squared, summed), or None.
        weighted_error: relative error in that measure, not squared, or None.
        dead_inputs: directions of the inputs that the data never take, and that weigh nothing.
        factor_growth: max |A| / max |W| of the factor that acts first, or None where the layer is not factorised. Far
            above 1, half precision loses what is small beside it: raise the damping, or balance the split.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    rank: int | None
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    error: float | None = None
    loss: float | None = None
    weighted_error: float | None = None
    dead_inputs: int = 0
    factor_growth: float | None = None


@dataclass(frozen=True)
class CompressionReport:
    """What a compression did.

    Attributes:
        method: its name.
        options: what it was called with.
        layers: every layer that changed, in the model's order.
        left: why other layers that were asked for stayed as they are.
        parameters_before, parameters_after: of the whole model, shared ones once.
        bytes_before, bytes_after: of the whole model's parameters and buffers.
        seconds: how long it took.
        remarks: what a reader should know.
        schema: version of the JSON layout.
    """

    method: str
    options: dict[str, Any]
    layers: tuple[LayerReport, ...]
    left: dict[str, str]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    seconds: float = 0.0
    remarks: tuple[str, ...] = field(default=())
    schema: int = SCHEMA

    @property
    def kept(self) -> float:
        """Share of the model's parameters that is left."""
        return self.parameters_after / self.parameters_before

    @property
    def kept_in_layers(self) -> float:
        """Share of the compressed layers' parameters that is left."""
        before = sum(layer.parameters_before for layer in self.layers)
        return sum(layer.parameters_after for layer in self.layers) / before if before else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-like."""
        return asdict(self) | {"kept": self.kept, "kept_in_layers": self.kept_in_layers}

    def to_rows(self) -> list[dict[str, Any]]:
        """A flat row for every layer, with its share of the loss."""
        total = sum(layer.loss or 0.0 for layer in self.layers)
        rows = []
        for layer in self.layers:
            row = asdict(layer) | {"shape": "x".join(map(str, layer.shape))}
            rows.append(row | {"share_of_loss": layer.loss / total if layer.loss is not None and total else None})
        return rows

    def to_table(self) -> Table:
        """The layers as a table for the terminal."""
        left = "\n".join(f"{name} is left: {reason}" for name, reason in self.left.items())
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{self.method}: {_totals(self)}",
            title_justify="left",
            caption=escape(left) or None,
            caption_justify="left",
        )
        table.add_column("layer", overflow="fold", min_width=20)
        for name in ("shape", "rank", "parameters", "left", "error", "loss"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.to_rows():
            table.add_row(
                escape(row["name"]),
                row["shape"],
                str(row["rank"] or ""),
                f"{row['parameters_after']:,}",
                f"{100 * row['bytes_after'] / row['bytes_before']:.0f} %",
                "" if row["error"] is None else f"{row['error']:.3f}",
                "" if row["share_of_loss"] is None else f"{100 * row['share_of_loss']:.1f} %",
            )
        return table

    def save(self, path: str | Path) -> Path:
        """Write it: .json, .csv or .parquet.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


def _totals(report: CompressionReport) -> str:
    return (
        f"{report.parameters_before:,} parameters became {report.parameters_after:,} ({100 * report.kept:.1f} %), "
        f"{report.bytes_before / 2**20:.1f} MiB became {report.bytes_after / 2**20:.1f}"
    )
