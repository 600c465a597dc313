"""How low in rank the backgrounds of an unfolded robust PCA are, and how sparse its objects, stage by stage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.nn.rpcanet import UnfoldedRPCA
from fullrank.spectra import Spectrum

Images = Float[Tensor, "batch channels height width"]


class LowRankness(NamedTuple):
    """Singular values of images, each channel a matrix, averaged over images and channels.

    Attributes:
        curve: mean singular values, descending, min(height, width).
        effective_rank: mean of exp(spectral entropy), 0 for an image of zeros.
        energy: mean share of the squared Frobenius norm in the first k values.
    """

    curve: Float[Tensor, "values"]
    effective_rank: float
    energy: float

    @classmethod
    def of(cls, images: Images, k: int) -> LowRankness:
        """Measure images as they are.

        Raises:
            ValueError: k outside 1..min(height, width).
        """
        smaller = min(images.shape[-2:])
        if not 1 <= k <= smaller:
            raise ValueError(f"k={k}: 1 to {smaller} is accepted for images of {tuple(images.shape[-2:])}")
        spectrum = Spectrum.of(images.flatten(0, 1))
        values = spectrum.values
        energy = values[:, :k].square().sum(1) / values.square().sum(1).clamp_min(torch.finfo(values.dtype).tiny)
        ranks = spectrum.effective_rank.nan_to_num(0.0)  # an image of zeros has no spectrum to take the entropy of
        return cls(values.mean(0), float(ranks.mean()), float(energy.mean()))


class StageLowRankness(NamedTuple):
    """The input beside the background of every stage."""

    input: LowRankness
    stages: tuple[LowRankness, ...]


def stage_low_rankness(model: UnfoldedRPCA, x: Images, k: int) -> StageLowRankness:
    """Singular values of max(B, 0) of every stage, beside those of the input.

    Args:
        model: measured in eval mode.
        x: images.
        k: how many leading values the energy counts.

    Raises:
        ValueError: k outside 1..min(height, width), or images that the model refuses.
    """
    stages = model.decompose(x)
    return StageLowRankness(
        LowRankness.of(x, k), tuple(LowRankness.of(stage.background.clamp_min(0), k) for stage in stages)
    )


def stage_sparsity(model: UnfoldedRPCA, x: Images, tol: float = 0.0) -> tuple[float, ...]:
    """Share of the entries of max(T, 0) above `tol`, stage by stage: the lower, the sparser.

    Args:
        model: measured in eval mode.
        x: images.
        tol: what counts as zero.

    Raises:
        ValueError: a negative `tol`, or images that the model refuses.
    """
    if tol < 0:
        raise ValueError(f"tol={tol}: use 0 or more")
    return tuple(float((stage.object > tol).float().mean()) for stage in model.decompose(x))
