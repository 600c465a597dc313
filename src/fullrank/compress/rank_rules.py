"""How large a rank every layer gets. Any compressor of ranks takes any rule."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fullrank.compress.plain_numbers import Number, Whole, is_whole, make_plain
from fullrank.spectra import Spectrum
from fullrank.spectra.ranks import break_even_rank, missing_energy


@dataclass(frozen=True)
class LayerSpectrum:
    """A layer as a rule sees it.

    Attributes:
        name: of the layer.
        rows: outputs of its matrix.
        columns: inputs of its matrix, times the kernel of a convolution.
        values: singular values in the compressor's measure of loss, descending; None where the rule needs none.
    """

    name: str
    rows: int
    columns: int
    values: Float[Tensor, "k"] | None = None

    @property
    def break_even(self) -> int:
        """Largest rank at which two factors are smaller than the matrix."""
        return break_even_rank(self.rows, self.columns)

    @property
    def spectrum(self) -> Spectrum:
        """The values with their shape."""
        if self.values is None:
            raise ValueError(f"the spectrum of {self.name} was not measured")
        return Spectrum(self.values, (self.rows, self.columns))


class RankRule(ABC):
    """Gives every layer a rank between 1 and min(rows, columns).

    Attributes:
        needs_spectra: whether `LayerSpectrum.values` must be there.
    """

    needs_spectra: bool = False

    def ranks(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Rank by layer name."""
        return {layer.name: min(max(self.rank(layer), 1), layer.rows, layer.columns) for layer in layers}

    @abstractmethod
    def rank(self, layer: LayerSpectrum) -> int:
        """The rank that this layer alone would get."""


@dataclass(frozen=True)
class FixedRank(RankRule):
    """The same rank everywhere.

    Args:
        value: the rank.

    Raises:
        ValueError: below 1.
    """

    value: Whole

    def __post_init__(self) -> None:
        make_plain(self)
        if not is_whole(self.value, 1):
            raise ValueError(f"rank={self.value!r}: a rank of at least 1 is needed, a whole number")

    def rank(self, layer: LayerSpectrum) -> int:
        """`value`."""
        return int(self.value)


@dataclass(frozen=True)
class RatioRank(RankRule):
    """The largest rank that keeps this share of every layer's parameters: floor(keep * m n / (m + n)).

    Args:
        keep: share in (0, 1].
        multiple_of: round down to a multiple, for accelerators whose tiles like that.

    Raises:
        ValueError: `keep` outside (0, 1], or `multiple_of` below 1.
    """

    keep: Number
    multiple_of: Whole = 1

    def __post_init__(self) -> None:
        make_plain(self)
        _check_share("keep", self.keep)
        _check_multiple(self.multiple_of)

    def rank(self, layer: LayerSpectrum) -> int:
        """The rank of that share."""
        rank = math.floor(self.keep * layer.rows * layer.columns / (layer.rows + layer.columns))
        multiple = int(self.multiple_of)
        return max(rank - rank % multiple, min(rank, multiple))


@dataclass(frozen=True)
class EnergyRank(RankRule):
    """The smallest rank that holds this share of the squared singular values.

    Args:
        energy: share in (0, 1].

    Raises:
        ValueError: outside (0, 1].
    """

    energy: Number
    needs_spectra = True

    def __post_init__(self) -> None:
        make_plain(self)
        _check_share("energy", self.energy)

    def rank(self, layer: LayerSpectrum) -> int:
        """The rank of that share."""
        return int(layer.spectrum.energy_rank(float(self.energy)))


@dataclass(frozen=True)
class EffectiveRank(RankRule):
    """The effective rank (Roy and Vetterli 2007), rounded up, times a factor.

    Args:
        times: the factor.

    Raises:
        ValueError: not positive.
    """

    times: Number = 1.0
    needs_spectra = True

    def __post_init__(self) -> None:
        make_plain(self)
        if not 0 < self.times < math.inf:
            raise ValueError(f"times={self.times}: a positive factor is needed")

    def rank(self, layer: LayerSpectrum) -> int:
        """The effective rank times the factor."""
        return math.ceil(self.times * float(layer.spectrum.effective_rank))


@dataclass(frozen=True)
class BudgetRank(RankRule):
    """One budget of parameters for all layers, spent where a parameter saves the most loss.

    Every layer starts at rank 1; then the step with the largest saving a parameter is taken, until the budget is spent:
    one rank more saves s_{r+1}^2 for m + n parameters, and becoming dense again, from any rank and if that is
    affordable, all that is left for m n - r (m + n). Layers of nearly flat spectra are better dense or small than half
    way. The singular values of different layers must be in the same measure of loss, as those of FWSVD, ASVD or
    whitening are.

    Args:
        keep: share of the parameters of all these layers, in (0, 1]; or
        parameters: their number.

    Raises:
        ValueError: neither or both, a share outside (0, 1], or a budget that rank 1 everywhere exceeds.
    """

    keep: Number | None = None
    parameters: Whole | None = None
    needs_spectra = True

    def __post_init__(self) -> None:
        make_plain(self)
        if (self.keep is None) == (self.parameters is None):
            raise ValueError("BudgetRank takes either keep= (a share) or parameters= (a number)")
        if self.keep is not None:
            _check_share("keep", self.keep)
        if self.parameters is not None and not isinstance(self.parameters, int):
            raise ValueError(f"parameters={self.parameters!r}: a whole number is accepted; keep= takes a share")

    def ranks(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Rank by layer name; min(rows, columns) where the layer stays dense."""
        budget = self._budget(layers)
        by_name = {layer.name: layer for layer in layers}
        missing = {layer.name: [*missing_energy(layer.spectrum.values).tolist(), 0.0] for layer in layers}
        ranks = dict.fromkeys(by_name, 1)
        left = budget - sum(layer.rows + layer.columns for layer in layers)
        if left < 0:
            raise ValueError(
                f"a budget of {budget:,} parameters is too small: rank 1 everywhere takes {budget - left:,}; raise it"
            )
        queue = [_next_step(layer, 1, missing[layer.name], left) for layer in layers]
        queue = [step for step in queue if step is not None]
        heapq.heapify(queue)
        while queue:
            _, name, rank, cost = heapq.heappop(queue)
            if cost <= left:  # otherwise a smaller step may still fit
                left -= cost
                ranks[name] = rank
            step = _next_step(by_name[name], ranks[name], missing[name], left)
            if step is not None:
                heapq.heappush(queue, step)
        return ranks

    def rank(self, layer: LayerSpectrum) -> int:
        """What the budget gives a single layer."""
        return self.ranks([layer])[layer.name]

    def _budget(self, layers: Sequence[LayerSpectrum]) -> int:
        if self.parameters is not None:
            return int(self.parameters)
        return math.floor((self.keep or 0) * sum(layer.rows * layer.columns for layer in layers))


def _next_step(
    layer: LayerSpectrum, rank: int, missing: Sequence[float], left: int
) -> tuple[float, str, int, int] | None:
    """(minus the loss saved by a parameter, name, next rank, its cost) of the affordable step that saves most, or None
    at the end of the layer or the budget.

    Args:
        layer: that is to grow.
        rank: of it now.
        missing: squared values that are lost at every rank.
        left: of the budget.
    """
    full, one = min(layer.rows, layer.columns), layer.rows + layer.columns
    costs = {rank + 1: one} if rank < layer.break_even else {}
    if rank < full:
        costs[full] = max(1, layer.rows * layer.columns - rank * one)
    steps = [
        (-(missing[rank] - missing[to]) / cost, layer.name, to, cost) for to, cost in costs.items() if cost <= left
    ]
    return min(steps, default=None)


def rule_of(rule: RankRule | None) -> RankRule:
    """The rule, by default half of every layer's parameters.

    Raises:
        TypeError: it is none.
    """
    if rule is None:
        return RatioRank(0.5)
    if not isinstance(rule, RankRule):
        raise TypeError(
            f"rank_rule={rule!r} is no rule of ranks: FixedRank(16), RatioRank(0.5) and others are accepted"
        )
    return rule


def _check_share(name: str, share: Number) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name}={share}: a share in (0, 1] is accepted, such as 0.5")


def _check_multiple(multiple: Whole) -> None:
    if multiple < 1:
        raise ValueError(f"multiple_of={multiple}: 1 or more is accepted")
