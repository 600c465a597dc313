"""Factorisation with weighted errors: plain SVD, FWSVD, ASVD and activation whitening differ only in the weights.

Every one of them is the SVD of L W R with the scales undone on both sides (`linalg.weighted_svd`), so a method is a
choice of L and R, and every rank rule applies to the singular values of L W R.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.compress.layers import CONVOLUTIONS, LINEAR, Layer
from fullrank.compress.method import Job, Method, Replaced, Step
from fullrank.compress.rank_rules import LayerSpectrum, RankRule, rule_of
from fullrank.compress.statistics import LayerStatistics, Wanted, collect_statistics
from fullrank.linalg import SVD, weighted_svd
from fullrank.nn import LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankLinear
from fullrank.nn.low_rank import Split

_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: LowRankConv1d,
    nn.Conv2d: LowRankConv2d,
    nn.Conv3d: LowRankConv3d,
}

#: Told a layer, all factors of its weight, and how many of them are kept.
OnFactors = Callable[[Layer, SVD, int], None]


@dataclass(frozen=True)
class Weighting:
    """Weights of a layer's errors: min ||L (W - X) R||_F.

    Attributes:
        left: L by output, (out,) or (out, out), or None.
        right: R by input, (in,) or (in, in), or None.
    """

    left: Tensor | None = None
    right: Tensor | None = None


class LowRankMethod(Method):
    """A method that factorises every layer by itself.

    Args:
        rank_rule: how large a rank each layer gets; default half of its parameters.
        split: which factor takes the singular values; see `LowRankLinear.from_linear`.
        num_samples: samples of data to gather statistics from; default all.
        statistics: those of `gather_statistics`, by layer name, in place of data.

    Attributes:
        on_factors: called for each layer that is factorised, if there is one.
    """

    kinds = LINEAR + CONVOLUTIONS
    needs: tuple[Wanted, ...] = ()
    on_factors: OnFactors | None = None

    def __init__(
        self,
        rank_rule: RankRule | None = None,
        split: Split = "left",
        num_samples: int | None = None,
        statistics: Mapping[str, LayerStatistics] | None = None,
    ) -> None:
        self.rank_rule = rule_of(rank_rule)
        self.split: Split = split
        self.num_samples, self.statistics = num_samples, statistics

    @abstractmethod
    def weighting(self, layer: Layer, statistics: LayerStatistics) -> Weighting:
        """The weights of the errors of a layer.

        Raises:
            ValueError: the statistics cannot be used.
        """

    def steps(self, job: Job) -> Iterator[Step]:
        """Gather statistics, decompose where the rule needs spectra, and factorise layer by layer."""
        statistics = self.gather(job)
        used = [layer for layer in job.layers if layer.name in statistics]
        weightings = {layer.name: self.weighting(layer, statistics[layer.name]) for layer in used}
        spectra = []
        for number, layer in enumerate(used):
            values = self._decompose(layer, weightings[layer.name]).S if self.rank_rule.needs_spectra else None
            spectra.append(LayerSpectrum(layer.name, *layer.shape, values))
            if values is not None:
                job.progress(number, len(used), f"spectrum of {layer.name}")
        ranks = self.rank_rule.ranks(spectra)
        break_even = {spectrum.name: spectrum.break_even for spectrum in spectra}
        for layer in job.layers:
            name = layer.name
            if name in ranks:
                yield layer, partial(self._replace, layer, weightings[name], ranks[name], break_even[name])
            else:
                yield layer, partial(Replaced, layer.module, reason="the task does not use it")

    def options(self) -> dict[str, Any]:
        """Rule, split and samples."""
        return {
            "rank_rule": repr(self.rank_rule),
            "split": self.split,
            **({} if self.num_samples is None else {"num_samples": self.num_samples}),
        }

    def gather(self, job: Job) -> dict[str, LayerStatistics]:
        """What the method looks at, by layer name; without layers that the task does not use.

        Raises:
            ValueError: no data, or given statistics that are those of another model or method.
        """
        if not self.needs:
            return {layer.name: LayerStatistics() for layer in job.layers}
        if self.statistics is not None:
            return self._known(job.layers, self.statistics)
        batches = job.need_batches(self.name, "give data=[batch, ...] as the model is called with, with labels")
        return collect_statistics(
            job.model,
            batches,
            job.layers,
            self.needs,
            sample_losses=job.sample_losses,
            num_samples=self.num_samples,
            skip_unreached=True,
            on_progress=lambda samples: job.progress(0, len(job.layers), f"statistics of {samples} samples"),
        )

    def _known(self, layers: Sequence[Layer], statistics: Mapping[str, LayerStatistics]) -> dict[str, LayerStatistics]:
        known = {layer.name: statistics[layer.name] for layer in layers if layer.name in statistics}
        if not known:
            raise ValueError(f"statistics holds none of the {len(layers)} layers: gather them at this model")
        for name, found in known.items():
            if lacking := [needed for needed in self.needs if getattr(found, needed) is None]:
                raise ValueError(
                    f"statistics of {name} lack {', '.join(lacking)}: gather them with gather_statistics(model, "
                    f"{self.name!r}, data=...)"
                )
        return known

    def _decompose(self, layer: Layer, weighting: Weighting, rank: int | None = None) -> SVD:
        try:
            return weighted_svd(layer.matrix, rank, left=weighting.left, right=weighting.right)
        except ValueError as error:
            raise ValueError(f"{layer.name}: {error}") from error

    def _replace(self, layer: Layer, weighting: Weighting, rank: int, break_even: int) -> Replaced:
        if rank > break_even:
            return Replaced(layer.module, reason=f"rank {rank} saves nothing, the break-even rank is {break_even}")
        factors = self._decompose(layer, weighting)
        if self.on_factors is not None:
            self.on_factors(layer, factors, rank)
        kept = SVD(factors.U[:, :rank], factors.S[:rank], factors.Vh[:rank])
        module = low_rank_layer(layer, kept, self.split)
        squares = factors.S.double().square()
        lost, total = float(squares[rank:].sum()), float(squares.sum())
        return Replaced(module, rank, lost, weighted_error=(lost / total) ** 0.5 if total > 0 else 0.0)


class SVDMethod(LowRankMethod):
    """Plain truncated SVD: every entry's error weighs the same."""

    name = "svd"

    def weighting(self, layer: Layer, statistics: LayerStatistics) -> Weighting:
        """No weights."""
        return Weighting()


class ASVDMethod(LowRankMethod):
    """ASVD (arXiv 2312.05821): errors weigh as the mean |x| of their input to a power.

    Args:
        alpha: the power.
        options: see `LowRankMethod`.
    """

    name = "asvd"
    needs = ("mean_abs",)

    def __init__(self, rank_rule: RankRule | None = None, alpha: float = 0.5, **options: Any) -> None:
        super().__init__(rank_rule, **options)
        self.alpha = alpha

    def weighting(self, layer: Layer, statistics: LayerStatistics) -> Weighting:
        """(mean |x|)^alpha + 1e-6 by input."""
        assert statistics.mean_abs is not None
        return Weighting(right=statistics.mean_abs**self.alpha + 1e-6)

    def options(self) -> dict[str, Any]:
        """Those of every factorisation, and alpha."""
        return super().options() | {"alpha": self.alpha}


class WhiteningMethod(LowRankMethod):
    """Activation whitening (SVD-LLM, arXiv 2403.07378): the expected error of the layer's output, ||(W - X) x||^2."""

    name = "whiten"
    needs = ("moments",)

    def weighting(self, layer: Layer, statistics: LayerStatistics) -> Weighting:
        """The lower Cholesky factor of the mean x x^T."""
        assert statistics.moments is not None
        return Weighting(right=cholesky(statistics.moments))


def low_rank_layer(layer: Layer, factors: SVD, split: Split = "left") -> nn.Module:
    """The factorised layer with these factors of a dense layer's matrix."""
    kind = _CONVOLUTIONS.get(type(layer.module))
    if kind is not None:
        return kind.from_factors(layer.module, factors, split)
    return LowRankLinear.from_factors(layer.as_linear(), factors, split)


def cholesky(moments: Tensor) -> Tensor:
    """The lower Cholesky factor of a mean x x^T; inputs that are linear in others get a little noise of their own."""
    moments = moments.to(torch.float64)
    factor, failed = torch.linalg.cholesky_ex(moments)
    if not bool(failed):
        return factor
    smallest = float(torch.linalg.eigvalsh(moments)[0])
    jitter = max(-smallest, 0.0) + 1e-6 * float(moments.diagonal().mean()) + torch.finfo(torch.float64).tiny
    return torch.linalg.cholesky(moments + jitter * torch.eye(len(moments), dtype=torch.float64))
