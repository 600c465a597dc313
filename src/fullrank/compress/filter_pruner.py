"""`FilterPruner`: score the filters of a network, remove the least important, and say what was kept.

The slim network is an ordinary module with narrower layers. `fullrank.compress.save` writes its weights and the kept
indices; `load(folder, skeleton)` cuts a network of the original widths in the same way and loads them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fullrank._optional import require
from fullrank.compress.beta_rank import beta_rank
from fullrank.compress.filter_scores import (
    Batches,
    Scores,
    evaluating,
    filter_l1,
    hrank,
    listed,
    random_scores,
    scored_layers,
    without_labels,
)
from fullrank.compress.filter_selection import KeepRule, keep_highest
from fullrank.compress.kept_channels import KeptChannels, cut
from fullrank.compress.pruning_groups import ChannelGroup, Side, channel_groups, kept_after
from fullrank.compress.pruning_report import NetworkSize, PruningReport, pruning_report
from fullrank.compress.uncoupled_pruning import convolutions_in_order, kept_one_by_one
from fullrank.tasks.losses import call

Loss = Callable[[nn.Module, Any], Tensor]

#: Criteria that score every layer by itself, from data.
LAYER_CRITERIA: dict[str, Callable[[nn.Module, Batches, Sequence[str]], Scores]] = {
    "beta": beta_rank,
    "beta-equation": lambda model, batches, layers: beta_rank(model, batches, layers, ratio="in_over_out"),
    "beta-upstream": lambda model, batches, layers: beta_rank(model, batches, layers, variant="upstream"),
    "l1": filter_l1,
    "hrank": hrank,
}
#: Criteria of torch-pruning, which score a group of coupled layers.
GROUP_CRITERIA = ("l2", "bn", "fpgm", "taylor")
CRITERIA = (*LAYER_CRITERIA, "random", *GROUP_CRITERIA)


class FilterPruner:
    """Structured pruning of convolution filters.

    Layers whose outputs are added go together, by torch-pruning's dependency graph; the score of a shared channel is
    the mean of its layers' scores. Filters of equal score are kept by lower index, and kept filters keep their order.

    Args:
        model: it stays as it is, unless `copy_model=False`.
        example_inputs: what the model is called with: a tensor, a tuple, or a mapping.
        criterion: "beta" (Beta-Rank), "beta-equation" (its printed ratio), "beta-upstream" (its code), "l1", "hrank",
            "random"; of torch-pruning "l2" (group norm), "bn", "fpgm", "taylor"; or scores by layer name.
        pruning_ratio: share of the filters that go from every layer: int(K (1 - ratio)) of K stay.
        pruning_ratio_dict: other shares by layer name; a linear layer is pruned only when it is named here.
        global_pruning: rank the filters of all layers together.
        ignored_layers: names of layers that stay.
        round_to: layers keep a multiple of so many channels, rounded up.
        min_channels: layers that would keep fewer keep so many, with a warning; None raises where none is left.
        coupled: False prunes layers whose outputs are added one by one, as the official code does; the model must then
            add maps of different channels, and of different widths where their ratios differ.
        init_scale: "upstream" multiplies every kept filter by 1 + a score, as the official code does: by that of its
            place in the slim layer, not of the filter itself.
        reset_bn: batch normalisations start anew, as in the official code.
        seed: of criterion "random".
        copy_model: False cuts the model itself.

    Raises:
        ValueError: no convolution, a model on the meta device, no example inputs, an unknown criterion or layer, a
            ratio outside [0, 1), or options that do not go together.
        MissingExtra: torch-pruning is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        criterion: str | Mapping[str, Tensor] = "beta",
        *,
        pruning_ratio: float = 0.5,
        pruning_ratio_dict: Mapping[str, float] | None = None,
        global_pruning: bool = False,
        ignored_layers: Iterable[str] = (),
        round_to: int | None = None,
        min_channels: int | None = None,
        coupled: bool = True,
        init_scale: Literal["upstream"] | None = None,
        reset_bn: bool = False,
        seed: int = 0,
        copy_model: bool = True,
    ) -> None:
        require("torch_pruning", "compress")
        self.rule = KeepRule(pruning_ratio, dict(pruning_ratio_dict or {}), global_pruning, round_to, min_channels)
        self.ignored = tuple(ignored_layers)
        convolutions = scored_layers(model)
        self.layers = list(scored_layers(model, [*convolutions, *(set(self.rule.ratios) - set(convolutions))]))
        self.linear = self.layers[len(convolutions) :]
        scored_layers(model, self.ignored or None)
        _check(criterion, example_inputs, coupled, init_scale, global_pruning)
        self.model, self.example_inputs, self.criterion = model, example_inputs, criterion
        self.coupled, self.init_scale, self.reset_bn = coupled, init_scale, reset_bn
        self.seed, self.copy_model = seed, copy_model
        self.scores: Scores | None = None
        self._gradients: dict[str, Tensor] = {}
        self._report: PruningReport | None = None

    def score(self, batches: Batches = None, loss: Loss | None = None) -> Scores:
        """Score the filters; needs no data for "random", "l2", "bn", "fpgm" and given scores.

        Args:
            batches: see `forward_batches`.
            loss: for "taylor": the loss of a batch; default cross entropy of (inputs, labels).

        Returns:
            Scores by layer name; empty for criteria that score groups when they are pruned.

        Raises:
            ValueError: see the criterion.
        """
        if isinstance(self.criterion, Mapping):
            self.scores = dict(self.criterion)
        elif self.criterion in LAYER_CRITERIA:
            self.scores = LAYER_CRITERIA[self.criterion](self.model, batches, self.layers)
        elif self.criterion == "random":
            self.scores = random_scores(self.model, self.layers, self.seed)
        else:
            self.scores = {}
        if self.criterion == "taylor":
            self._gradients = _gradients(self.model, batches, loss or _cross_entropy)
        return self.scores

    def prune(self) -> nn.Module:
        """The slim network, in the mode and on the device of the original.

        Raises:
            ValueError: `score` was not called, scores of another width than their layer, a layer that would be left
                without filters, coupled layers with different ratios, or nothing that can be pruned.
        """
        if self.scores is None:
            raise ValueError("filters have no scores yet: call score(batches) before prune()")
        slim = copy.deepcopy(self.model) if self.copy_model else self.model
        before = NetworkSize.of(slim, self.example_inputs)
        groups = channel_groups(slim, self.example_inputs, self.linear, self.ignored, self.coupled)
        left = {maker: group.reason for group in groups if group.reason for maker in group.makers}
        pruned = {group.name: group for group in groups if not group.reason}
        scores = self._group_scores(slim, pruned, left) if self.coupled else {}
        if not pruned:
            raise ValueError(f"nothing can be pruned: {'; '.join(f'{name}: {why}' for name, why in left.items())}")
        if self.coupled:
            kept = _kept_together(slim, pruned, keep_highest(pruned, scores, self.rule))
        else:
            kept = kept_one_by_one(slim, self.example_inputs, pruned.values(), self.scores, self.rule)
        order = convolutions_in_order(slim, self.example_inputs) if self.init_scale else []
        for name, channels in kept.items():
            cut(slim.get_submodule(name), channels)
        _scale_as_upstream(slim, order, kept, self.scores)
        if self.reset_bn:
            _reset_normalisations(slim)
        after = _size_after(slim, self.example_inputs, self.coupled)
        named = self.criterion if isinstance(self.criterion, str) else "given scores"
        self._report = pruning_report(named, left, before, after, slim)
        return slim

    def report(self) -> PruningReport:
        """What became of every layer.

        Raises:
            ValueError: `prune` was not called.
        """
        if self._report is None:
            raise ValueError("nothing was pruned yet: call prune() before report()")
        return self._report

    def _group_scores(
        self, slim: nn.Module, groups: dict[str, ChannelGroup], left: dict[str, str]
    ) -> dict[str, Tensor]:
        """The scores of every group; groups that the criterion cannot score are moved to `left`."""
        from fullrank.compress.importances import RIVALS, LayerScoreImportance, by_module  # torch-pruning is optional

        assert self.scores is not None
        for name, gradient in self._gradients.items():
            slim.get_parameter(name).grad = gradient
        rival = RIVALS.get(self.criterion) if isinstance(self.criterion, str) else None
        importance: Any = rival() if rival else LayerScoreImportance(by_module(slim, self.scores))
        found = {}
        for name, group in list(groups.items()):
            try:
                scores, why = importance(group.traced), "it has nothing that the criterion scores"
            except RuntimeError as error:
                if rival is None:
                    raise
                # torch-pruning's FPGM does not know grouped convolutions
                scores, why = None, f"torch-pruning cannot score it ({error})"
            if scores is None:
                left.update(dict.fromkeys(groups.pop(name).makers, why))
            else:
                found[name] = scores.detach().cpu()
        for name in self._gradients:
            slim.get_parameter(name).grad = None
        return found


def _check(criterion: Any, example_inputs: Any, coupled: bool, init_scale: str | None, global_pruning: bool) -> None:
    if example_inputs is None:
        raise ValueError(
            "example_inputs is missing: give what the model is called with, such as torch.randn(1, 3, 32, 32)"
        )
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(
            f"criterion={criterion!r} is not known; accepted: {', '.join(CRITERIA)}, or scores by layer name"
        )
    if init_scale not in (None, "upstream"):
        raise ValueError(f"init_scale={init_scale!r} is not known; accepted: None, 'upstream'")
    if criterion in GROUP_CRITERIA and (init_scale or not coupled):
        raise ValueError(
            f"criterion={criterion!r} scores groups: coupled=False and init_scale need scores of single layers"
        )
    if global_pruning and not coupled:
        raise ValueError("global_pruning=True ranks groups of coupled layers: it does not go with coupled=False")


def _kept_together(
    slim: nn.Module, groups: Mapping[str, ChannelGroup], kept: Mapping[str, Tensor]
) -> dict[str, KeptChannels]:
    """What every layer keeps, from what every group keeps; layers that keep everything are left out."""
    removed: dict[tuple[str, Side], set[int]] = {}
    for name, group in groups.items():
        gone = set(range(group.size)) - set(kept[name].tolist())
        for member in group.members:
            lost = {channel for channel, root in zip(member.channels, member.roots, strict=True) if root in gone}
            removed.setdefault((member.name, member.side), set()).update(lost)
    return kept_after(slim, removed)


def _scale_as_upstream(
    slim: nn.Module, order: Sequence[str], kept: Mapping[str, KeptChannels], scores: Mapping[str, Tensor]
) -> None:
    """What the official loader does to the kept filters, in the order of the forward pass.

    A pruned layer's filters grow by 1 + score[place in the slim layer]; a whole layer behind a pruned one takes the
    scores of that one.
    """
    last: Tensor | None = None
    for name in order:
        weight = slim.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        pruned = name in kept and kept[name].outputs is not None
        if pruned and name not in scores:
            raise ValueError(f"{name} has no scores to scale it by: score every layer that is pruned")
        factors = scores[name] if pruned else last
        last = factors if pruned else None
        if factors is None:
            continue
        with torch.no_grad():
            reached = weight[: len(factors)]
            reached *= 1 + factors[: len(reached)].to(weight).view(-1, *[1] * (weight.ndim - 1))


def _reset_normalisations(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_parameters()


def _size_after(slim: nn.Module, example_inputs: Any, coupled: bool) -> NetworkSize:
    try:
        return NetworkSize.of(slim, example_inputs)
    except RuntimeError as error:
        why = (
            "ignore the layers around it" if coupled else "use coupled=True, or equal ratios for layers that are added"
        )
        raise ValueError(f"the slim network does not run ({error}): {why}") from error


def _gradients(model: nn.Module, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """Gradients of the summed losses of all batches, by parameter."""
    trained = copy.deepcopy(model).requires_grad_(True)
    with evaluating(trained), torch.enable_grad():
        for batch in listed(model, batches):
            loss(trained, batch).backward()
    return {name: parameter.grad for name, parameter in trained.named_parameters() if parameter.grad is not None}


def _cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError("criterion='taylor' needs batches of (inputs, labels), or loss=lambda model, batch: ...")
    return functional.cross_entropy(call(model, without_labels(model, batch)), batch[1])
