"""How many filters of each group are kept, and which."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fullrank.compress.pruning_groups import ChannelGroup


@dataclass(frozen=True)
class KeepRule:
    """How many filters are kept; see `FilterPruner` for the fields.

    Raises:
        ValueError: a ratio outside [0, 1), naming the layer, or a count below one.
    """

    ratio: float = 0.5
    ratios: Mapping[str, float] = field(default_factory=dict)
    over_all: bool = False
    round_to: int | None = None
    min_channels: int | None = None

    def __post_init__(self) -> None:
        for name, ratio in {"pruning_ratio": self.ratio, **self.ratios}.items():
            if not 0 <= ratio < 1:
                raise ValueError(f"{name}={ratio}: the share of filters that go is in [0, 1)")
        for name, count in (("round_to", self.round_to), ("min_channels", self.min_channels)):
            if count is not None and count < 1:
                raise ValueError(f"{name}={count}: 1 or more is accepted")

    def ratio_of(self, layers: Iterable[str]) -> float:
        """The ratio of layers that are pruned together.

        Raises:
            ValueError: they were given different ones.
        """
        named = {layer: self.ratios[layer] for layer in layers if layer in self.ratios}
        if len(set(named.values())) > 1:
            given = ", ".join(f"{layer}: {ratio}" for layer, ratio in named.items())
            raise ValueError(f"pruning_ratio_dict gives different ratios to layers that share their channels ({given})")
        return next(iter(named.values()), self.ratio)

    def count(self, name: str, channels: int, ratio: float, divisions: int = 1) -> int:
        """How many of a layer's channels stay: int(K (1 - ratio)), or as the limits ask."""
        return self.limited(name, int(channels // divisions * (1 - ratio)), channels, divisions)

    def limited(self, name: str, per_division: int, channels: int, divisions: int = 1) -> int:
        """A count for each division, at least `min_channels` in all, rounded up to `round_to`.

        Raises:
            ValueError: none would be left.
        """
        if not per_division and self.min_channels is None:
            raise ValueError(
                f"{name} would be left with none of its {channels} filters: lower its ratio, or set min_channels=1"
            )
        if self.min_channels is not None and per_division * divisions < min(self.min_channels, channels):
            warnings.warn(f"{name} keeps {self.min_channels} filters, not {per_division * divisions}", stacklevel=2)
            per_division = -(-self.min_channels // divisions)
        while self.round_to and per_division * divisions % self.round_to and per_division * divisions < channels:
            per_division += 1
        return min(per_division * divisions, channels)


def highest(scores: Float[Tensor, "channels"], count: int) -> Int[Tensor, "kept"]:
    """Indices of the highest scores, ascending; of equal ones the lower index."""
    return scores.argsort(stable=True, descending=True)[:count].sort().values


def keep_highest(
    groups: Mapping[str, ChannelGroup], scores: Mapping[str, Float[Tensor, "channels"]], rule: KeepRule
) -> dict[str, Int[Tensor, "kept"]]:
    """The channels that every group keeps, by name, ascending.

    Raises:
        ValueError: scores that are not finite, or see `KeepRule`.
    """
    places = {}  # the score of a place is the mean over the parts that must keep the same places
    for name, group in groups.items():
        if not bool(scores[name].isfinite().all()):
            raise ValueError(f"{name}: its scores are not finite")
        places[name] = scores[name].double().view(group.divisions, -1).mean(0)
    counts = _counts(groups, places, rule)
    kept = {}
    for name, group in groups.items():
        chosen = highest(places[name], counts[name] // group.divisions)
        starts = torch.arange(group.divisions) * len(places[name])
        kept[name] = (starts[:, None] + chosen).flatten()
    return kept


def _counts(groups: Mapping[str, ChannelGroup], places: Mapping[str, Tensor], rule: KeepRule) -> dict[str, int]:
    counts, together = {}, []
    for name, group in groups.items():
        if rule.over_all and not set(group.makers) & set(rule.ratios):
            together.append(name)
        else:
            counts[name] = rule.count(name, group.size, rule.ratio_of(group.makers), group.divisions)
    if together:
        owners = torch.cat([torch.full((len(places[name]),), number) for number, name in enumerate(together)])
        chosen = owners[highest(torch.cat([places[name] for name in together]), int(len(owners) * (1 - rule.ratio)))]
        for number, name in enumerate(together):
            group = groups[name]
            counts[name] = rule.limited(name, int((chosen == number).sum()), group.size, group.divisions)
    return counts
