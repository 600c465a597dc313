"""Beta-Rank and HRank as importances of torch-pruning, and torch-pruning's own beside them.

importance = BetaRankImportance(model, batches)
torch_pruning.pruner.BasePruner(model, example_inputs, importance=importance, pruning_ratio=0.5).step()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.compress.beta_rank import beta_rank
from fullrank.compress.filter_scores import Batches, hrank

tp: Any = require("torch_pruning", "compress")


class LayerScoreImportance(tp.importance.Importance):
    """The importance of a group of channels: the mean of the scores that its layers give them.

    Args:
        scores: (filters,) of every scored layer.
    """

    def __init__(self, scores: Mapping[nn.Module, Tensor]) -> None:
        self.scores = dict(scores)

    def __call__(self, group: Any) -> Tensor | None:
        """(channels,) of the group, float64; None where none of its layers has scores.

        Raises:
            ValueError: scores of another number of filters than the layer has.
        """
        places = {root: place for place, root in enumerate(group[0].root_idxs)}
        total, members = torch.zeros(len(places), dtype=torch.float64), 0
        for item in group.items:
            scores = self.scores.get(item.dep.layer)
            if scores is None or not group._DG.is_out_channel_pruning_fn(item.dep.handler):
                continue
            check_width(group._DG._module2name[item.dep.layer], item.dep.layer, scores)
            total[[places[root] for root in item.root_idxs]] += scores.double()[item.idxs]
            members += 1
        return total / members if members else None


class BetaRankImportance(LayerScoreImportance):
    """Beta-Rank (arXiv 2304.07461), scored once from the data.

    Args:
        model: the network that is pruned.
        batches: see `beta_rank`.
        layers: see `beta_rank`.
        options: of `beta_rank`.
    """

    def __init__(self, model: nn.Module, batches: Batches, layers: Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(by_module(model, beta_rank(model, batches, layers, **options)))


class HRankImportance(LayerScoreImportance):
    """HRank (arXiv 2002.10179): mean ranks of feature maps, scored once from the data; arguments as of `hrank`."""

    def __init__(self, model: nn.Module, batches: Batches, layers: Sequence[str] | None = None) -> None:
        super().__init__(by_module(model, hrank(model, batches, layers)))


#: torch-pruning's own importances that score a group from its parameters, by the names that `FilterPruner` takes.
RIVALS: dict[str, Callable[[], Any]] = {
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "bn": tp.importance.BNScaleImportance,
    "fpgm": tp.importance.FPGMImportance,
    "taylor": tp.importance.GroupTaylorImportance,
}


def by_module(model: nn.Module, scores: Mapping[str, Tensor]) -> dict[nn.Module, Tensor]:
    """Scores by layer, from scores by name."""
    return {model.get_submodule(name): values for name, values in scores.items()}


def check_width(name: str, layer: Any, scores: Tensor) -> None:
    """Scores belong to a layer of that many filters.

    Raises:
        ValueError: they do not.
    """
    filters = len(layer.weight)
    if scores.shape != (filters,):
        raise ValueError(f"{name} has {filters} filters, its scores have shape {tuple(scores.shape)}: score it again")
