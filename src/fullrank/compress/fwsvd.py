"""FWSVD: truncated SVD whose errors weigh as the Fisher information of the task (Hsu et al. 2022, arXiv 2207.00112).

    min over A, B of  sum_ij f_j (W - B A)_ij^2,   f_j = sum_i F_ij,   F = mean over samples of (dL/dW)^2

"The rows of the matrix" of the paper are input features, for it writes a layer as z = x M with M = W^T.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.compress.layers import Layer
from fullrank.compress.low_rank import LowRankMethod, Weighting
from fullrank.compress.method import Job
from fullrank.compress.plain_numbers import Number
from fullrank.compress.rank_rules import RankRule
from fullrank.compress.statistics import LayerStatistics, Wanted

Side = Literal["input", "output", "both"]
#: The statistics that each side is weighed by.
NEEDS: dict[Side, tuple[Wanted, ...]] = {
    "input": ("fisher_in",),
    "output": ("fisher_out",),
    "both": ("fisher_in", "fisher_out"),
}
EpsMode = Literal["mean", "max"]


class FWSVDMethod(LowRankMethod):
    """Fisher-weighted SVD.

    Args:
        rank_rule: see `LowRankMethod`.
        weight_side: "input" (the paper), "output", or "both" (the best rank-one model of the Fisher matrix).
        eps: added to the Fisher sums under the root, relative to their mean or maximum.
        eps_mode: "mean", or "max" as in public code (with eps=1e-5).
        fisher: sums by layer name that were gathered elsewhere, for both sides pairs of those by input and by output;
            default from the data.
        options: see `LowRankMethod`.

    Raises:
        ValueError: an unknown `weight_side` or `eps_mode`, or a negative `eps`.
    """

    name = "fwsvd"

    def __init__(
        self,
        rank_rule: RankRule | None = None,
        weight_side: Side = "input",
        eps: Number = 1e-6,
        eps_mode: EpsMode = "mean",
        fisher: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(rank_rule, **options)
        if weight_side not in get_args(Side):
            raise ValueError(f"weight_side={weight_side!r} is not known; accepted: 'input', 'output', 'both'")
        fisher_scale(torch.ones(1), eps, eps_mode)  # refuses a bad damping before any data is read
        self.weight_side: Side = weight_side
        self.eps_mode: EpsMode = eps_mode
        self.eps, self.fisher = float(eps), fisher
        self.needs: tuple[Wanted, ...] = NEEDS[weight_side]

    def weighting(self, layer: Layer, statistics: LayerStatistics) -> Weighting:
        """sqrt(f) by input, by output, or both."""
        left, right = (
            None if sums is None else fisher_scale(sums, self.eps, self.eps_mode, layer.name)
            for sums in (statistics.fisher_out, statistics.fisher_in)
        )
        return Weighting(left, right)

    def gather(self, job: Job) -> dict[str, LayerStatistics]:
        """See `LowRankMethod.gather`; given Fisher sums go before the data.

        Raises:
            KeyError: layers without Fisher sums.
            ValueError: sums that do not fit a layer.
        """
        if self.fisher is None:
            return super().gather(job)
        if missing := [layer.name for layer in job.layers if layer.name not in self.fisher]:
            raise KeyError(f"fisher has no sums for {', '.join(missing[:3])} ({len(missing)} layers are missing)")
        return {layer.name: self._given(layer, self.fisher[layer.name]) for layer in job.layers}

    def _given(self, layer: Layer, sums: Tensor | tuple[Tensor, Tensor]) -> LayerStatistics:
        outputs, inputs = layer.shape
        if self.weight_side == "both":
            if not isinstance(sums, tuple | list) or len(sums) != 2:
                raise ValueError(
                    f"fisher[{layer.name!r}] holds sums of one side, weight_side='both' needs (by input, by output)"
                )
            by_input, by_output = sums
            return LayerStatistics(
                fisher_in=self._fitting(layer, by_input, inputs, outputs),
                fisher_out=self._fitting(layer, by_output, outputs, inputs),
            )
        if self.weight_side == "input":
            return LayerStatistics(fisher_in=self._fitting(layer, sums, inputs, outputs))
        return LayerStatistics(fisher_out=self._fitting(layer, sums, outputs, inputs))

    def _fitting(self, layer: Layer, sums: Any, wanted: int, other: int) -> Tensor:
        shape = tuple(sums.shape) if isinstance(sums, Tensor) else type(sums).__name__
        if shape != (wanted,):
            hint = f"; {other} values belong to the other side, see weight_side" if shape == (other,) else ""
            raise ValueError(
                f"fisher[{layer.name!r}] has shape {shape}, weight_side={self.weight_side!r} needs ({wanted},){hint}"
            )
        return sums

    def options(self) -> dict[str, Any]:
        """Those of every factorisation, and what makes the weights."""
        return super().options() | {"weight_side": self.weight_side, "eps": self.eps, "eps_mode": self.eps_mode}


def fisher_scale(
    fisher: Float[Tensor, "n"], eps: Number = 1e-6, eps_mode: EpsMode = "mean", name: str = "fisher"
) -> Float[Tensor, "n"]:
    """sqrt(f + eps * mean(f)) of Fisher sums; ones where all are zero, with a warning.

    The sums keep their unit, the loss's curvature, so that weighted errors of different layers can be compared.

    Args:
        fisher: non-negative sums.
        eps: damping; at 0 a feature of no importance weighs nothing.
        eps_mode: "mean" or "max": what the damping is relative to.
        name: of the layer, in errors.

    Raises:
        ValueError: negative, NaN or infinite sums, an unknown `eps_mode`, or a negative `eps`.
    """
    if eps < 0:
        raise ValueError(f"eps={eps}: a damping of at least 0 is needed")
    if eps_mode not in get_args(EpsMode):
        raise ValueError(f"eps_mode={eps_mode!r} is not known; accepted: 'mean', 'max'")
    sums = fisher.to(torch.float64)
    if not bool((sums.isfinite() & (sums >= 0)).all()):
        raise ValueError(f"the Fisher information of {name} is negative or not finite: squared gradients are needed")
    reference = sums.mean() if eps_mode == "mean" else sums.max()
    if reference == 0:
        warnings.warn(f"no gradient reached {name}: it is factorised by plain SVD", stacklevel=2)
        return torch.ones_like(sums)
    return (sums + float(eps) * reference).sqrt()
