"""FWSVD of a whole model: measure the Fisher information, factorise, read the report.

fisher = estimate_fisher(model, dataloader)
model = compress_low_rank(model, FWSVDConfig(param_ratio=0.5), weights=fisher)
for layer in model.low_rank_report().layers: ...
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fullrank.compress.compressing import compress
from fullrank.compress.fwsvd import NEEDS, EpsMode, FWSVDMethod, Side, fisher_scale
from fullrank.compress.layers import (
    CONVOLUTIONS,
    LINEAR,
    Targets,
    matches,
    patterned,
    quantised,
    select_layers,
    shared_weights,
)
from fullrank.compress.low_rank import ASVDMethod, LowRankMethod, OnFactors, SVDMethod, WhiteningMethod
from fullrank.compress.plain_numbers import Number, Whole, is_whole, make_plain
from fullrank.compress.rank_rules import LayerSpectrum, RankRule, RatioRank
from fullrank.compress.report import CompressionReport
from fullrank.compress.statistics import FisherKind, SampleLosses, collect_statistics
from fullrank.nn.low_rank import Split

LowRankName = Literal["fwsvd", "fwsvd-output", "fwsvd-both", "svd", "asvd", "whiten"]
#: Fisher sums of one side, or of inputs and outputs.
Sums = Tensor | tuple[Tensor, Tensor]

_RIVALS: dict[str, type[LowRankMethod]] = {"svd": SVDMethod, "asvd": ASVDMethod, "whiten": WhiteningMethod}
_SIDES: dict[str, Side] = {"fwsvd-output": "output", "fwsvd-both": "both"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FWSVDConfig:
    """How `compress_low_rank` factorises a model.

    Args:
        target_modules: see `select_layers`.
        exclude_modules: layers that stay dense, as `select_layers` names them, with everything inside.
        param_ratio: share of a layer's weights that its factors have, in (0, 1].
        rank: the same rank for every layer instead.
        rank_pattern: another rank for layers whose name ends with, or matches as a regular expression, a key.
        weight_side: see `FWSVDMethod`.
        eps: see `FWSVDMethod`.
        split: see `LowRankLinear.from_linear`.
        min_saving: True leaves layers dense whose factors would save nothing, with one warning; "raise" refuses them.
        eps_mode: see `FWSVDMethod`.
        rank_multiple_of: ranks from `param_ratio` are rounded down to a multiple.
        allow_untie: True factorises layers whose weight another layer shares, which then keeps it for itself.

    Raises:
        ValueError: a ratio outside (0, 1], or another value that is not accepted.
    """

    target_modules: Targets = "all-linear"
    exclude_modules: Targets = ("classifier", "pooler")
    param_ratio: Number = 0.5
    rank: Whole | None = None
    rank_pattern: Mapping[str, Whole] = field(default_factory=dict)
    weight_side: Side = "input"
    eps: Number = 1e-6
    split: Split = "left"
    min_saving: bool | Literal["raise"] = True
    eps_mode: EpsMode = "mean"
    rank_multiple_of: Whole = 1
    allow_untie: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        if not 0 < self.param_ratio <= 1:
            raise ValueError(f"param_ratio={self.param_ratio}: a share in (0, 1] is accepted, such as 0.5")
        accepted = {"weight_side": get_args(Side), "split": get_args(Split), "min_saving": (True, "raise")}
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known; accepted: {', '.join(map(repr, values))}"
                )
        RatioRank(self.param_ratio, self.rank_multiple_of)  # refuses a bad multiple
        fisher_scale(torch.ones(1), self.eps, self.eps_mode)  # and a bad damping


def estimate_fisher(
    model: nn.Module,
    dataloader: Iterable[Any],
    loss_fn: SampleLosses | None = None,
    modules: Targets = "all-linear",
    side: Side = "input",
    kind: FisherKind = "per_sample",
    num_samples: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Sums of every layer's Fisher information, for `compress_low_rank`.

    Args:
        model: see `collect_statistics`.
        dataloader: batches, see `collect_statistics`.
        loss_fn: `loss_fn(model, batch)` gives the loss of every sample, (batch,); default that of the batch's labels.
        modules: see `select_layers`.
        side: "input" sums over outputs, (in,); "output" over inputs, (out,); "both" gives the pair of the two.
        kind: see `collect_statistics`.
        num_samples: stop after so many; default all.
        device: where model and batches are moved first; default where the model is.

    Returns:
        Sums by layer name, float64, on the CPU.

    Raises:
        ValueError: an unknown side, and see `select_layers` and `collect_statistics`.
        RuntimeError: no gradient reached a layer, by name.
        TypeError: a layer is quantised, with its class.
    """
    if side not in get_args(Side):
        raise ValueError(f"side={side!r} is not known; accepted: {', '.join(map(repr, get_args(Side)))}")
    _refuse_quantised(model)
    layers = select_layers(model, modules, kinds=LINEAR + CONVOLUTIONS).layers
    if device is not None:
        model.to(device)
    place = layers[0].module.weight.device
    found = collect_statistics(
        model,
        (_moved(batch, place) for batch in dataloader),
        layers,
        NEEDS[side],
        sample_losses=loss_fn,
        kind=kind,
        num_samples=num_samples,
    )
    pairs = {name: (statistics.fisher_in, statistics.fisher_out) for name, statistics in found.items()}
    return {name: pair if side == "both" else pair[side == "output"] for name, pair in pairs.items()}


def compress_low_rank(
    model: nn.Module,
    config: FWSVDConfig | None = None,
    weights: Mapping[str, Sums] | None = None,
    *,
    method: LowRankName = "fwsvd",
    data: Iterable[Any] | None = None,
    loss_fn: SampleLosses | None = None,
    copy: bool = False,
    on_factors: OnFactors | None = None,
) -> nn.Module:
    """Factorise the layers of a trained model.

    Args:
        model: changed in place unless `copy`.
        config: how; default half of every layer's parameters.
        weights: Fisher sums by layer name, of `estimate_fisher` with the same side; entries of other layers are left
            aside.
        method: "fwsvd" weighs the side that the configuration names, "fwsvd-output" and "fwsvd-both" another one; its
            rivals are "svd", "asvd" and "whiten" (see `compress`), which take no weights.
        data: batches to gather statistics from, where `weights` are not given; "svd" needs none.
        loss_fn: see `estimate_fisher`.
        copy: leave the model as it is, and return a copy.
        on_factors: called for each layer that is factorised, with all its factors and the rank that is kept.

    Returns:
        The model. Its `low_rank_report()` gives the `CompressionReport`: of every layer the shape, the rank, the
        parameters before and after, and the relative error, plain and weighted.

    Raises:
        ValueError: an unknown method, a rank outside 1 to min(in, out) with the layer's name, one that saves nothing
            with `min_saving="raise"`, weights that do not fit, or no data.
        KeyError: layers without weights.
        TypeError: a layer is quantised, with its class.
    """
    config = config or FWSVDConfig()
    _refuse_quantised(model)
    rule = _ConfiguredRank(config)
    if method in _RIVALS:
        made = _RIVALS[method](rule, split=config.split)
    elif method in get_args(LowRankName):
        side = _SIDES.get(method, config.weight_side)
        made = FWSVDMethod(rule, side, config.eps, config.eps_mode, weights, split=config.split)
    else:
        raise ValueError(f"method={method!r} is not known; accepted: {', '.join(get_args(LowRankName))}")
    made.on_factors = on_factors
    if config.allow_untie:
        model, copy = _untied(model, config.target_modules, copy), False
    compressed = compress(
        model,
        made,
        data=data,
        sample_losses=loss_fn,
        target_modules=config.target_modules,
        exclude_modules=_with_insides(model, config.exclude_modules),
        copy_model=copy,
    )
    small: Any = compressed.model
    small.low_rank_report = partial(_report, compressed.report)
    if rule.idle:
        warnings.warn(
            f"{len(rule.idle)} layers stay dense, for their factors would save nothing: {_listed(rule.idle)}",
            stacklevel=2,
        )
    if weights is not None and (extra := set(weights) - {layer.name for layer in compressed.report.layers}):
        _log.debug("weights of %s are not used", ", ".join(sorted(extra)))
    return small


@dataclass
class _ConfiguredRank(RankRule):
    """The ranks of a configuration.

    Attributes:
        idle: rank and break-even rank of the layers that would save nothing.
    """

    config: FWSVDConfig
    idle: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    def ranks(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Rank by layer name."""
        ranks = {layer.name: self.rank(layer) for layer in layers}
        idle = {layer.name: (ranks[layer.name], layer.break_even) for layer in layers}
        self.idle = {name: (rank, even) for name, (rank, even) in idle.items() if rank > even}
        if self.idle and self.config.min_saving == "raise":
            raise ValueError(f"factors of {len(self.idle)} layers would save nothing: {_listed(self.idle)}")
        return ranks

    def rank(self, layer: LayerSpectrum) -> int:
        """The rank that is given for the layer, or that of the ratio."""
        config, full = self.config, min(layer.rows, layer.columns)
        rank = patterned(config.rank_pattern, layer.name, config.rank)
        if rank is None:
            return max(RatioRank(config.param_ratio, config.rank_multiple_of).rank(layer), 1)
        if not is_whole(rank, 1) or rank > full:
            raise ValueError(
                f"{layer.name}: rank={rank!r} does not fit its shape {(layer.rows, layer.columns)}: 1 to {full} is "
                "accepted"
            )
        return int(rank)


def _report(report: CompressionReport) -> CompressionReport:
    return report


def _listed(idle: Mapping[str, tuple[int, int]]) -> str:
    first = (f"{name} (rank {rank}, break-even {even})" for name, (rank, even) in itertools.islice(idle.items(), 3))
    return ", ".join(first) + (", ..." if len(idle) > 3 else "")


def _refuse_quantised(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if quantised(module):
            raise TypeError(
                f"{name or 'the model'} is quantised already, a {type(module).__name__}: load the model in floating "
                "point and factorise it before quantising"
            )


def _with_insides(model: nn.Module, patterns: Targets) -> list[str]:
    """Names of what is meant, and of everything inside."""
    names = [name for name, _ in model.named_modules() if name and matches(name, patterns)]
    return [name for name, _ in model.named_modules() if any(f"{name}.".startswith(f"{root}.") for root in names)]


def _untied(model: nn.Module, targets: Targets, copied: bool) -> nn.Module:
    """The model, or a copy, whose target layers share no weight."""
    from copy import deepcopy

    model = deepcopy(model) if copied else model
    tied = shared_weights(model)
    config: Any = getattr(model, "config", None)
    linear: list[tuple[str, Any]] = [pair for pair in model.named_modules() if isinstance(pair[1], LINEAR)]
    for name, layer in linear:
        asked = targets in ("all-linear", "all") or matches(name, targets)
        if asked and id(layer.weight) in tied:
            layer.weight = nn.Parameter(layer.weight.detach().clone(), layer.weight.requires_grad)
            if getattr(config, "tie_word_embeddings", False):
                config.tie_word_embeddings = False
    return model


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_moved(value, device) for value in batch)
    return batch
