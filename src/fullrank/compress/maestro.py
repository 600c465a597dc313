"""Maestro: ranks that training finds (Horvath et al. 2024, arXiv 2308.14929).

model = decompose(model)
lod = LoD(model, lam=1e-4)
for epoch ...:
    for batch ...:
        lod.loss(forward, loss, batch).backward(); optimizer.step()
    lod.step_epoch(optimizer)
smaller = truncate(copy.deepcopy(model), allocate_budget(model, fraction=0.3))
save(export(smaller), "folder")
"""

from __future__ import annotations

import bisect
import itertools
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullrank.compress.batch_norms import recalibrate_norms
from fullrank.compress.layers import (
    IN_ATTENTION,
    LINEAR,
    TIED,
    Targets,
    in_attention,
    matches,
    reparametrised,
    replace_module,
    shared_weights,
)
from fullrank.compress.maestro_layers import MaestroConv2d, MaestroLayer, MaestroLinear

Sampler = Literal["single_layer", "independent", "fixed"]
_HEADS = ("lm_head", "classifier")
_log = logging.getLogger(__name__)


def decompose(
    model: nn.Module,
    include: Targets | None = None,
    exclude: Targets = _HEADS,
    min_size: int = 0,
    skip_first: int = 0,
    skip_last: bool = False,
    compile_friendly: bool = False,
) -> nn.Module:
    """Put ordered components in the place of linear layers and convolutions; the model computes the same.

    Args:
        model: changed in place; of a single layer the decomposed one is returned.
        include: names of layers, see `select_layers`; default all.
        exclude: names of layers that stay dense.
        min_size: smallest number of weights of a layer.
        skip_first: how many of the first layers stay dense.
        skip_last: whether the last one does.
        compile_friendly: see `MaestroLayer`.

    Returns:
        The model. Layers that cannot be decomposed stay dense: those with shared weights or inside
        `nn.MultiheadAttention` with a warning, others (groups, padding that is no zeros) as the log says.

    Raises:
        ValueError: no layer is left, with the types that were seen.
        NotImplementedError: a layer with groups that `include` names.
        TypeError: a parametrised layer, such as a weight-normed one.
    """
    if type(model) in (*LINEAR, nn.Conv2d) and not reparametrised(model):
        return _decomposed(model, compile_friendly)
    tied = shared_weights(model)
    found: list[tuple[str, nn.Module]] = []
    left: dict[str, list[str]] = {IN_ATTENTION: [], TIED: []}
    for name, layer in model.named_modules():
        if not isinstance(layer, (*LINEAR, nn.Conv2d)) or matches(name, exclude):
            continue
        if include is not None and not matches(name, include):
            continue
        if reparametrised(layer):
            raise TypeError(f"{name} is parametrised: remove the parametrisation first")
        if type(layer) not in (*LINEAR, nn.Conv2d):
            if in_attention(model, name):
                left[IN_ATTENTION].append(name)
            continue
        found.append((name, layer))
    found = found[skip_first : len(found) - 1 if skip_last else None]
    done = 0
    for name, layer in found:
        reason = _reason(model, name, layer, tied, min_size)
        if reason is None:
            replace_module(model, name, _decomposed(layer, compile_friendly))
            done += 1
            continue
        if include is not None and "groups" in reason:
            raise NotImplementedError(f"{name}: {reason}; leave it out of include")
        if reason in left:
            left[reason].append(name)
        else:
            _log.info("%s stays dense: %s", name, reason)
    for reason, names in left.items():
        if names:
            warnings.warn(f"{', '.join(names)} stay dense: {reason}", stacklevel=2)
    if not done:
        seen = Counter(type(module).__name__ for module in model.modules())
        raise ValueError(
            f"there is no layer to decompose in this {type(model).__name__}: linear layers and convolutions without "
            f"groups can be; it has {', '.join(f'{count} {kind}' for kind, count in seen.most_common(6))}"
        )
    return model


def recompose(model: nn.Module, only_if_smaller: bool = True) -> nn.Module:
    """Multiply components back to dense layers, in place.

    Args:
        model: changed in place.
        only_if_smaller: only where the product has fewer entries.
    """
    for name, layer in maestro_layers(model).items():
        if layer.smaller_dense() or not only_if_smaller:
            replace_module(model, name, layer.to_dense())
    return model


def export(model: nn.Module) -> nn.Module:
    """Dense layers where they are smaller, `LowRankLinear` and `LowRankConv2d` elsewhere: what `save` can store."""
    recompose(model)
    for name, layer in maestro_layers(model).items():
        replace_module(model, name, layer.to_low_rank())
    return model


def maestro_layers(model: nn.Module) -> dict[str, MaestroLayer]:
    """The layers of ordered components, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, MaestroLayer)}


class LoD:
    """Low-rank ordered dropout: what a training loop needs to order and drop components.

    Args:
        model: after `decompose`.
        sampler: "single_layer" (the paper: one layer at a random width, all others full), "independent" (every layer
            at a width of its own) or "fixed" (every layer at a quarter of its rank).
        lam: factor of the group lasso; "auto" makes it three quarters of the first loss.
        hierarchical: groups are suffixes of components; otherwise single ones.
        threshold: importance below which components are dropped after an epoch.
        relative: the threshold is times the first component's importance.
        full_pass: also train the full network in every step.
        distill: teach the sampled network the full one's outputs instead of the labels; needs `full_pass`.
        prune: drop the values too after an epoch, so that later steps are cheaper.
        seed: of the sampler; processes with the same seed sample the same.

    Raises:
        ValueError: nothing is decomposed, an unknown sampler, a negative number, or `distill` without `full_pass`.
    """

    def __init__(
        self,
        model: nn.Module,
        sampler: Sampler = "single_layer",
        lam: int | float | Literal["auto"] = 0.0,
        hierarchical: bool = True,
        threshold: int | float = 1e-5,
        relative: bool = False,
        full_pass: bool = True,
        distill: bool | None = None,
        prune: bool = True,
        seed: int = 0,
    ) -> None:
        if sampler not in get_args(Sampler):
            raise ValueError(f"sampler={sampler!r}: use one of {', '.join(map(repr, get_args(Sampler)))}")
        if lam != "auto" and (isinstance(lam, str) or not lam >= 0):
            raise ValueError(f"lam={lam!r}: 'auto', or a number of at least 0, is needed")
        if not threshold >= 0:
            raise ValueError(f"threshold={threshold}: at least 0 is needed")
        if distill and not full_pass:
            raise ValueError("distill=True needs the full network's outputs: set full_pass=True")
        self.model, self.sampler = model, sampler
        self.lam: float | str = lam
        self.hierarchical, self.threshold, self.relative = hierarchical, threshold, relative
        self.full_pass, self.prune, self.seed = full_pass, prune, seed
        self.distill = full_pass if distill is None else distill
        self.step = 0
        self.layers = maestro_layers(model)
        if not self.layers:
            raise ValueError(f"{type(model).__name__} has no ordered components: call decompose(model) first")
        self._order: tuple[int, list[int]] = (-1, [])

    def widths(self, step: int) -> dict[str, int]:
        """Widths of the layers in a step; layers that are not named are full.

        Every pair of layer and width comes once in as many steps as there are pairs, in an order that the seed sets.
        Layers without components have no width to sample.
        """
        ranks = {name: layer.rank for name, layer in self.layers.items() if layer.rank}
        if not ranks:
            return {}
        if self.sampler == "fixed":
            return {name: max(1, round(rank / 4)) for name, rank in ranks.items()}
        if self.sampler == "independent":
            generator = torch.Generator().manual_seed(hash((self.seed, step)) % 2**63)
            draws = torch.rand(len(ranks), generator=generator).tolist()
            return {name: 1 + int(draw * rank) for (name, rank), draw in zip(ranks.items(), draws, strict=True)}
        ends = list(itertools.accumulate(ranks.values()))
        cycle, place = divmod(step, ends[-1])
        if self._order[0] != cycle or len(self._order[1]) != ends[-1]:
            generator = torch.Generator().manual_seed(hash((self.seed, cycle)) % 2**63)
            self._order = (cycle, torch.randperm(ends[-1], generator=generator).tolist())
        entry = self._order[1][place]
        number = bisect.bisect_right(ends, entry)
        name = list(ranks)[number]
        return {name: entry - (ends[number] - ranks[name]) + 1}

    def loss(
        self,
        forward: Callable[[nn.Module, Any], Tensor],
        loss: Callable[[Tensor, Any], Tensor],
        batch: Any,
    ) -> Tensor:
        """The loss of one step: full network, sampled network, and the group lasso.

        Args:
            forward: gives the outputs of the model for a batch; where the sampled network is taught them, logits with
                the classes on the last axis.
            loss: gives the loss of outputs and batch.
            batch: passed to both.
        """
        chosen = self.widths(self.step)
        self.step += 1
        total: Tensor | None = None
        taught: Tensor | None = None
        if self.full_pass:
            outputs = forward(self.model, batch)
            total = loss(outputs, batch)
            taught = outputs.detach().softmax(-1) if self.distill else None
        for name, width in chosen.items():
            self.layers[name].width = width
        try:
            sampled = forward(self.model, batch)
        finally:
            for name in chosen:
                self.layers[name].width = None
        part = loss(sampled, batch) if taught is None else _taught_loss(sampled, taught)
        total = part if total is None else total + part
        penalty = sum((layer.group_lasso(self.hierarchical) for layer in self.layers.values()), torch.zeros(()))
        if isinstance(self.lam, str):  # "auto"
            self.lam = 0.75 * float(total.detach()) / max(float(penalty.detach()), 1e-12)
        return total + self.lam * penalty if self.lam else total

    def step_epoch(self, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
        """Drop components below the threshold, and with `prune` their values and their part of the optimiser's state.

        Args:
            optimizer: of the model; without it values are only dropped if nothing but the model holds them.

        Returns:
            Rank by layer.

        Raises:
            RuntimeError: weights that are not finite, by the layer's name.
        """
        for name, layer in self.layers.items():
            try:
                layer.shrink(self.threshold, self.relative, self.hierarchical)
            except RuntimeError as error:
                raise RuntimeError(f"{name}: {error}") from error
            if self.prune and optimizer is not None and layer.rank < layer.max_rank:
                _prune_with_state(layer, optimizer)
        self._order = (-1, [])
        return {name: layer.rank for name, layer in self.layers.items()}

    @torch.no_grad()
    def recalibrate_norms(self, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> None:
        """Take the running statistics of batch norms anew, from the full network over these batches."""
        recalibrate_norms(self.model, batches, forward)

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands."""
        return {"step": self.step, "seed": self.seed, "lam": self.lam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood."""
        self.step, self.seed, self.lam = state["step"], state["seed"], state["lam"]
        self._order = (-1, [])


def allocate_budget(
    model: nn.Module,
    *,
    max_params: int | None = None,
    max_macs: int | None = None,
    fraction: float | None = None,
    val_fn: Callable[[nn.Module], float] | None = None,
) -> dict[str, int]:
    """Ranks that fit a budget, by dropping last components one after another: the least important one, or the one that
    quality misses least.

    A layer costs what it costs when deployed: its product where that has fewer entries than its factors.

    Args:
        model: with ordered components.
        max_params: parameters of these layers, without biases.
        max_macs: multiply-adds of these layers for one sample; a forward pass must have run.
        fraction: share of the dense layers' parameters.
        val_fn: the quality of a model, more is better; it is asked for every layer before each component is dropped.

    Raises:
        ValueError: not exactly one budget, one that rank 1 everywhere exceeds, no forward pass for `max_macs`, or no
            ordered components.
    """
    given = {"max_params": max_params, "max_macs": max_macs, "fraction": fraction}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError("give one of max_params, max_macs and fraction")
    layers = maestro_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no ordered components: call decompose(model) first")
    if max_macs is not None and any(layer.positions == 0 for layer in layers.values()):
        raise ValueError("max_macs needs to know how many positions each layer sees: run the model once first")
    uses = {name: layer.positions if max_macs is not None else 1 for name, layer in layers.items()}
    budget = max_params if max_params is not None else max_macs
    if budget is None:
        budget = math.floor((fraction or 0) * sum(layer.inputs * layer.outputs for layer in layers.values()))
    ranks = {name: layer.rank for name, layer in layers.items()}
    importance = {name: layer.importance(hierarchical=True).tolist() for name, layer in layers.items()}
    spent = sum(uses[name] * _cost(layer, ranks[name]) for name, layer in layers.items())
    while spent > budget:
        candidates = [name for name in ranks if ranks[name] > 1]
        if not candidates:
            raise ValueError(f"a budget of {budget:,} is too small: rank 1 everywhere takes {spent:,}")
        if val_fn is None:
            name = min(candidates, key=lambda name: importance[name][ranks[name] - 1])
        else:
            name = max(candidates, key=lambda name: _quality_at(model, ranks | {name: ranks[name] - 1}, val_fn))
        spent -= uses[name] * (_cost(layers[name], ranks[name]) - _cost(layers[name], ranks[name] - 1))
        ranks[name] -= 1
    return ranks


def truncate(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Keep the first components of each layer, in place; values of the others are dropped.

    Args:
        model: with ordered components.
        ranks: by layer name; layers that are not named stay.

    Raises:
        ValueError: a name without ordered components, or a rank outside 1..rank in use.
    """
    layers = maestro_layers(model)
    for name, rank in ranks.items():
        if name not in layers:
            raise ValueError(f"ranks names {name!r}, which has no ordered components; {', '.join(layers)} have")
        try:
            layers[name].truncate(rank)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        layers[name].prune()
    return model


def sweep(
    model: nn.Module, fractions: Sequence[float], evaluate: Callable[[nn.Module], float]
) -> list[dict[str, float]]:
    """Quality of one trained model at several budgets, without training.

    Args:
        model: with ordered components; it stays as it is.
        fractions: of the dense layers' parameters.
        evaluate: gives the quality of a model.
    """
    import copy

    rows = []
    for fraction in fractions:
        small = truncate(copy.deepcopy(model), allocate_budget(model, fraction=fraction))
        rows.append({"fraction": fraction, "quality": float(evaluate(export(small)))})
    return rows


def _taught_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """The mean cross entropy of logits against probabilities, classes on the last axis."""
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), taught.reshape(-1, taught.shape[-1]))


@torch.no_grad()
def _quality_at(model: nn.Module, widths: Mapping[str, int], val_fn: Callable[[nn.Module], float]) -> float:
    """The quality of a model whose layers have these widths."""
    layers = maestro_layers(model)
    for name, width in widths.items():
        layers[name].width = width or None
    try:
        return float(val_fn(model))
    finally:
        for layer in layers.values():
            layer.width = None


def _cost(layer: MaestroLayer, rank: int) -> int:
    return min(rank * (layer.inputs + layer.outputs), layer.inputs * layer.outputs)


def _reason(model: nn.Module, name: str, layer: Any, tied: set[int], min_size: int) -> str | None:
    """Why a layer stays dense."""
    if in_attention(model, name):
        return IN_ATTENTION
    if id(layer.weight) in tied:
        return TIED
    if layer.weight.numel() < min_size:
        return f"it has {layer.weight.numel()} weights, fewer than min_size={min_size}"
    if getattr(layer, "groups", 1) > 1:
        return f"it has groups={layer.groups}"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"it has padding_mode={layer.padding_mode!r}"
    return None


def _decomposed(layer: nn.Module, compile_friendly: bool) -> MaestroLayer:
    kind: Any = MaestroConv2d if isinstance(layer, nn.Conv2d) else MaestroLinear
    return kind.from_dense(layer, compile_friendly)


def _prune_with_state(layer: MaestroLayer, optimizer: torch.optim.Optimizer) -> None:
    """Prune a layer, and put its new parameters and their part of the state into the optimiser."""
    before, rank = (layer.U, layer.Vt), layer.rank
    after = layer.prune()
    for old, new, cut in zip(before, after, ((slice(None), slice(rank)), (slice(rank),)), strict=True):
        for group in optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        state = optimizer.state.pop(old, None)
        if state is not None:
            optimizer.state[new] = {
                key: value[cut].clone() if isinstance(value, Tensor) and _along(value, old) else value
                for key, value in state.items()
            }


def _along(value: Tensor, parameter: Tensor) -> bool:
    """Whether a part of the optimiser's state has a parameter's axes, all or but for one that it averages over."""
    return value.ndim == parameter.ndim and all(
        size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True)
    )
