"""LR2VQ: vector quantisation of low-rank representations (arXiv 2211.11397).

Only the abstract of the paper and one summary could be read and there is no code: the design is the paper's (m sets the
size, d the quality; codebook and projection train on the task), the layout of subvectors and the stages are ours.

    model = lr2vq.prepare(model, LR2VQConfig(dim=4))   # S = Z P^T by SVD; train for a few epochs
    lr2vq.cluster(model)                               # Z becomes codes and a codebook; train on
    lr2vq.finalize(model)                              # hard codes, packed; save(model, folder)
    model.decode()                                     # ordinary layers of the same weights
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.compress.batch_norms import recalibrate_norms
from fullrank.compress.layers import Layer, replace_module
from fullrank.compress.vq_dimension import DimEstimate, DimTable, estimate_dim
from fullrank.compress.vq_layers import VQConv2d, VQLayer, VQLinear, VQSettings
from fullrank.compress.vq_plan import LR2VQConfig, ModelSize, model_size, plan_model

__all__ = [
    "DimChoice",
    "DimEstimate",
    "DimTable",
    "LR2VQConfig",
    "ModelSize",
    "VQConv2d",
    "VQLinear",
    "anneal",
    "choose_dim",
    "cluster",
    "commitment_loss",
    "decode",
    "estimate_dim",
    "finalize",
    "freeze_codes",
    "model_size",
    "parameter_groups",
    "prepare",
    "quantised_layer",
]

Train = Callable[[nn.Module], object]
Score = Callable[[nn.Module], float]

# Share of the codebook's weight in a straight-through step (van den Oord et al. 2017).
_COMMITMENT = 0.25


def prepare(
    model: nn.Module, config: LR2VQConfig | None = None, train: Train | None = None, score: Score | None = None
) -> nn.Module:
    """Stage 1: put layers of low rank in the place of convolutions and linear layers. Train the model afterwards.

    Args:
        model: a trained one; it is changed and returned. `lr2vq_left` on it says why layers stayed dense.
        config: how.
        train: the short training of a prepared model that `dim="auto"` is judged by; see `choose_dim`.
        score: what a model is worth.

    Raises:
        ValueError: no layer to quantise, an m that does not divide one, a d above m, or a weight that is not finite.
    """
    config = config or LR2VQConfig()
    if config.dim == "auto" and train is not None and score is not None:
        config = replace(config, dim=choose_dim(model, config, train, score).dim)
    plan = plan_model(model, config)
    made = {layer.name: quantised_layer(layer, settings) for layer, settings in plan.layers}
    for name, layer in made.items():
        replace_module(model, name, layer)
    facts: Any = model
    facts.lr2vq_left, facts.lr2vq_config = plan.left, config
    return model


def quantised_layer(layer: Layer, settings: VQSettings) -> VQLayer:
    """The layer of low rank with the truncated SVD of a dense one.

    Raises:
        ValueError: a weight that is not finite.
    """
    if isinstance(layer.module, nn.Conv2d):
        return VQConv2d.from_conv(layer.module, settings, layer.name)
    return VQLinear.from_linear(layer.as_linear(), settings, layer.name)


def cluster(model: nn.Module, steps: int = 50, starts: int = 1, seed: int | None = None) -> nn.Module:
    """Stages 3 and 4: make every projection orthonormal and cluster the representations. Train on afterwards.

    Args:
        model: after `prepare`, and after its training.
        steps: of Lloyd, at most.
        starts: k-means runs of a layer, of which the best is taken.
        seed: default that of the config.

    Raises:
        RuntimeError: `prepare` was not called, or the model is clustered already.
    """
    layers = _layers(model, "lowrank", "cluster() comes after prepare() and before finalize()")
    configured: int = getattr(getattr(model, "lr2vq_config", None), "seed", 0)
    generator = torch.Generator().manual_seed(configured if seed is None else seed)
    for layer in layers:
        layer.cluster(generator, steps, starts)
    return model


def anneal(model: nn.Module, progress: float) -> None:
    """Lower the temperature of soft codes from tau to tau_final, geometrically.

    Args:
        model: after `cluster`.
        progress: 0 at the start of training, 1 at its end.
    """
    final = getattr(getattr(model, "lr2vq_config", None), "tau_final", LR2VQConfig.tau_final)
    for layer in _layers(model, "soft", "anneal() comes after cluster() and before finalize()"):
        start = layer.settings.tau
        layer.tau = start * (min(final, start) / start) ** min(max(progress, 0.0), 1.0)


def freeze_codes(model: nn.Module) -> nn.Module:
    """Keep every code as it is now, so that an epoch or two can fit codebooks to them.

    Raises:
        RuntimeError: `cluster` was not called.
    """
    for layer in _layers(model, "soft", "freeze_codes() comes after cluster() and before finalize()"):
        layer.freeze_codes()
    return model


@torch.no_grad()
def finalize(model: nn.Module, batches: Iterable[Any] = ()) -> nn.Module:
    """Stage 6: hard codes, packed; codebooks and projections in the dtype that they are stored in.

    Args:
        model: after `cluster`, and after its training.
        batches: inputs to estimate batch normalisations anew with, a hundred or so: training saw softer weights.

    Returns:
        The model. Its `decode()` is `decode(model)`, unless its class has a method of that name.

    Raises:
        RuntimeError: `cluster` was not called.
    """
    for layer in _layers(model, "soft", "finalize() comes after prepare() and cluster()"):
        layer.harden()
    recalibrate_norms(model, batches, lambda m, batch: m(**batch) if isinstance(batch, dict) else m(batch))
    if not hasattr(type(model), "decode"):
        facts: Any = model
        facts.decode = partial(decode, model)
    return model


def decode(model: nn.Module) -> nn.Module:
    """A copy of a quantised model with ordinary layers of the same weights."""
    dense = copy.deepcopy(model)
    dense.__dict__.pop("decode", None)
    for name, module in list(dense.named_modules()):
        if isinstance(module, VQConv2d | VQLinear):
            replace_module(dense, name, module.decode())
    return dense


def commitment_loss(model: nn.Module) -> Tensor:
    """What straight-through training (assign="ste") adds to the task loss: 0.25 sum ||Z - C[codes]||^2, C held."""
    losses = [
        (layer.lrr - layer.codebook.detach()[layer.codes]).square().sum()
        for layer in _layers(model, "soft", "commitment_loss() comes after cluster() and before finalize()")
        if layer.settings.assign == "ste"
    ]
    return _COMMITMENT * torch.stack(losses).sum() if losses else torch.zeros(())


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser, in which projections have no weight decay: that would shrink a product twice."""
    projections = {id(m.projection) for m in model.modules() if isinstance(m, VQLayer) and m.projection is not None}
    free, decayed = [], []
    for parameter in model.parameters():
        (free if id(parameter) in projections else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


@dataclass(frozen=True)
class DimChoice:
    """A dimension, and what it was chosen by.

    Attributes:
        dim: for `LR2VQConfig.dim`.
        dense: score of the dense model.
        scores: of models of low rank after their training, by dim; only those that the search needed.
    """

    dim: int | float
    dense: float
    scores: dict[int | float, float]


def choose_dim(
    model: nn.Module,
    config: LR2VQConfig,
    train: Train,
    score: Score,
    tolerance: float = 1.5,
    candidates: Sequence[int | float] | None = None,
) -> DimChoice:
    """The smallest dimension whose model of low rank, trained shortly, is as good as the dense one.

    Nothing is clustered: the smallest such dimension has the smallest clustering error. Scores are taken to rise with
    the dimension, so that log2(m) training runs are enough. Weights that do not train cannot tell (`estimate_dim`).

    Args:
        model: the trained dense model; it stays as it is.
        config: all but its `dim` counts.
        train: trains a prepared model for two or three epochs.
        score: higher is better, such as accuracy in %.
        tolerance: how far below the dense score is good enough, in its unit.
        candidates: dims to choose from; default 1 to m, or shares of the largest m where layers differ.
    """
    dims = sorted(candidates) if candidates is not None else _candidates(model, config)
    dense = score(model)
    scores: dict[int | float, float] = {}
    low, high = 0, len(dims) - 1
    while low < high:
        middle = (low + high) // 2
        trained = prepare(copy.deepcopy(model), replace(config, dim=dims[middle]))
        train(trained)
        scores[dims[middle]] = score(trained)
        if scores[dims[middle]] >= dense - tolerance:
            high = middle
        else:
            low = middle + 1
    return DimChoice(dims[low], dense, scores)


def _candidates(model: nn.Module, config: LR2VQConfig) -> list[int | float]:
    sizes = {settings.m for _, settings in plan_model(model, replace(config, dim=1.0)).layers}
    largest = max(sizes)
    if len(sizes) == 1:
        return list(range(1, largest + 1))
    return [d / largest for d in range(1, largest + 1)]


def _layers(model: nn.Module, mode: str, order: str) -> list[VQLayer]:
    """The quantised layers, all of them in a mode."""
    layers = [module for module in model.modules() if isinstance(module, VQLayer)]
    other = {layer.mode for layer in layers if layer.mode != mode}
    if not layers or other:
        found = f"has layers in mode {', '.join(sorted(other))}" if other else "has no quantised layer"
        raise RuntimeError(f"{type(model).__name__} {found}: {order}")
    return layers
