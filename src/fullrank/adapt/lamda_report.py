"""What LaMDA takes of every layer, what it trains there, and how to hand that to an optimiser."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from fullrank.adapt.lamda import deltas_of, layers_of
from fullrank.adapt.lamda_ranks import captured_energy
from fullrank.linalg import singular_values


class LayerRank(NamedTuple):
    """What LaMDA takes of one layer.

    Attributes:
        rank: r.
        limit: the smaller side of W0.
        energy: E(r), the share of the squared Frobenius norm of W0 in its r leading directions.
    """

    rank: int
    limit: int
    energy: float


@torch.no_grad()
def lamda_rank_report(model: nn.Module, adapter_name: str = "default") -> dict[str, LayerRank]:
    """Rank and captured energy of every adapted layer.

    Args:
        model: a model with LaMDA layers.
        adapter_name: the adapter.

    Returns:
        Layer name -> `LayerRank`.

    Raises:
        ValueError: no layer carries the adapter.
    """
    report = {}
    for name, delta in deltas_of(model, adapter_name).items():
        energies = captured_energy(singular_values(delta.base.weight, name=f"the weight of {name!r}"))
        report[name] = LayerRank(delta.config.r, len(energies) - 1, float(energies[delta.config.r]))
    return report


class LayerParameters(NamedTuple):
    """How many numbers LaMDA trains in one layer.

    Attributes:
        in_features, out_features: sides of W0.
        rank: r.
        trained_at_start: r^2 + r out_features while B trains.
        trained_at_end: r^2.
        lora: r (in_features + out_features), LoRA of the same rank.
    """

    in_features: int
    out_features: int
    rank: int
    trained_at_start: int
    trained_at_end: int
    lora: int


def lamda_parameter_table(model: nn.Module, adapter_name: str = "default") -> dict[str, LayerParameters]:
    """Trained parameters of every adapted layer at the start and at the end, beside LoRA's.

    Args:
        model: a model with LaMDA layers; its weights may be on the meta device.
        adapter_name: the adapter.

    Returns:
        Layer name -> `LayerParameters`.

    Raises:
        ValueError: no layer carries the adapter.
    """
    table = {}
    for name, delta in deltas_of(model, adapter_name).items():
        rows, columns, r = delta.base.out_features, delta.base.in_features, delta.config.r
        table[name] = LayerParameters(columns, rows, r, *delta.trained, r * (rows + columns))
    return table


def lamda_parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters of a model in two groups for an optimiser: LaMDA's without weight decay, and the rest.

    With "svd_residual" S carries a part of W0, which decay would shrink.

    Args:
        model: a model with LaMDA layers.
        weight_decay: that of the rest.

    Returns:
        Groups as every `torch.optim.Optimizer` takes them.
    """
    ours = {parameter for layer in layers_of(model) for parameter in layer.deltas.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter in ours], "weight_decay": 0.0},
        {"params": [parameter for parameter in trained if parameter not in ours], "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]
