"""What pruning left of every layer: filters, parameters, multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fullrank._saving import save
from fullrank.compress.filter_scores import forward_batches
from fullrank.compress.kept_channels import kept_channels
from fullrank.compress.layers import Convolution


def count_macs(model: nn.Module, example_inputs: Any) -> dict[str, int]:
    """Multiply-adds of every convolution and linear layer, each counted once, for one sample; biases are left out.

    Args:
        model: it is called once, in evaluation mode.
        example_inputs: a tensor, a tuple or a mapping, of one sample or more.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Convolution | nn.Linear)}
    macs = dict.fromkeys(layers, 0)

    def watch(name: str, module: Any, x: Tensor, y: Tensor) -> None:
        positions = y.numel() // (len(module.weight) * len(y))
        macs[name] += positions * module.weight.numel()

    forward_batches(model, [example_inputs], layers, watch)
    return macs


@dataclass(frozen=True)
class PrunedLayer:
    """One convolution or linear layer.

    Attributes:
        name: of the layer.
        filters_before, filters_after: its outputs.
        inputs_before, inputs_after: channels or features that it reads.
        parameters_before, parameters_after: weights and biases.
        macs_before, macs_after: multiply-adds for one sample.
        kept: indices of the filters that stayed; None where all did.
    """

    name: str
    filters_before: int
    filters_after: int
    inputs_before: int
    inputs_after: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PruningReport:
    """What pruning did.

    Attributes:
        criterion: that ranked the filters.
        layers: every convolution and linear layer, in the model's order.
        left: why convolutions kept all filters, by name.
        parameters_before, parameters_after: of the whole model.
        macs_before, macs_after: of the whole model, for one sample.
    """

    criterion: str
    layers: tuple[PrunedLayer, ...]
    left: dict[str, str]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-like."""
        return asdict(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """A flat row for every layer, without its indices."""
        return [{name: value for name, value in asdict(layer).items() if name != "kept"} for layer in self.layers]

    def save(self, path: str | Path) -> Path:
        """Write it: .json, .csv or .parquet.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of a network's layers at one time.

    Attributes:
        parameters: of the whole network.
        layers: (outputs, inputs, parameters, multiply-adds) of each convolution and linear layer.
    """

    parameters: int
    layers: Mapping[str, tuple[int, int, int, int]]

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any) -> NetworkSize:
        """The sizes of a network; it is called once."""
        sizes = {}
        for name, macs in count_macs(model, example_inputs).items():
            module: Any = model.get_submodule(name)
            outputs, inputs = len(module.weight), module.weight.shape[1] * getattr(module, "groups", 1)
            sizes[name] = (outputs, inputs, sum(p.numel() for p in module.parameters()), macs)
        return cls(sum(parameter.numel() for parameter in model.parameters()), sizes)


def pruning_report(
    criterion: str, left: Mapping[str, str], before: NetworkSize, after: NetworkSize, model: nn.Module
) -> PruningReport:
    """The report on a slim network, from its sizes before and after."""
    layers = []
    for name, was in before.layers.items():
        now = after.layers[name]
        mark = kept_channels(model.get_submodule(name))
        layers.append(
            PrunedLayer(
                name, was[0], now[0], was[1], now[1], was[2], now[2], was[3], now[3], mark.outputs if mark else None
            )
        )
    return PruningReport(
        criterion=criterion,
        layers=tuple(layers),
        left=dict(left),
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        macs_before=sum(layer.macs_before for layer in layers),
        macs_after=sum(layer.macs_after for layer in layers),
    )
