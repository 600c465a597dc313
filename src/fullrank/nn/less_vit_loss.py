"""The loss of Hyper-MAE, over hidden patches and hidden channels (Si et al. 2025, arXiv 2503.12843)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class HyperMAELoss(nn.Module):
    """Squared error at hidden patches plus squared error in hidden channels, each averaged over the modalities.

    With e[b, c, n] the mean squared error of a patch in a channel, and for every modality g with something hidden,

        pos_g = Σ_b,n m_pos mean_{c in g} e / Σ m_pos    and    chan_g = Σ_b,{c in g} m_ch mean_n e / Σ m_ch,

    the loss is mean_g pos_g + mean_g chan_g. The first averages over visible channels too, the second over visible
    patches.

    Args:
        norm_pix: standardise every patch of the target, with the unbiased variance plus 1e-6. Default False.
    """

    def __init__(self, norm_pix: bool = False) -> None:
        super().__init__()
        self.norm_pix = norm_pix

    def target(
        self, patches: Float[Tensor, "batch channels patches pixels"]
    ) -> Float[Tensor, "batch channels patches pixels"]:
        """What is to be predicted."""
        if not self.norm_pix:
            return patches
        variance = patches.var(dim=-1, keepdim=True, unbiased=patches.shape[-1] > 1)
        return (patches - patches.mean(dim=-1, keepdim=True)) / (variance + 1e-6).sqrt()

    def forward(
        self,
        prediction: Float[Tensor, "batch channels patches pixels"],
        target: Float[Tensor, "batch channels patches pixels"],
        patch_mask: Bool[Tensor, "batch patches"],
        channel_mask: Bool[Tensor, "batch channels"],
        modality_sizes: Sequence[int],
        valid: Bool[Tensor, "batch channels patches pixels"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            prediction: of every pixel.
            target: of `HyperMAELoss.target`.
            patch_mask: True at hidden patches.
            channel_mask: True at hidden channels.
            modality_sizes: channels of every modality; a modality without channels is passed over.
            valid: False at pixels without data, which count for nothing. Default: all count.
        """
        squares = (prediction.float() - target.float()).square()
        if valid is None:
            e, weight = squares.mean(dim=-1), torch.ones_like(squares[..., 0])
        else:
            count = valid.sum(dim=-1)
            e = (squares * valid).sum(dim=-1) / count.clamp(min=1)
            weight = (count > 0).to(e.dtype)
        sizes = list(modality_sizes)
        groups = [
            (e_g, weight_g, mask_g.to(e.dtype))
            for e_g, weight_g, mask_g in zip(
                e.split(sizes, 1), weight.split(sizes, 1), channel_mask.split(sizes, 1), strict=True
            )
            if e_g.shape[1]
        ]
        hidden_patches = patch_mask.to(e.dtype)
        pos = [_masked_mean(_mean(e_g, w, 1), hidden_patches * w.any(1)) for e_g, w, _ in groups]
        chan = [_masked_mean(_mean(e_g, w, 2), hidden * w.any(2)) for e_g, w, hidden in groups]
        return _mean_of_groups(pos) + _mean_of_groups(chan)


def _mean(e: Tensor, weight: Tensor, axis: int) -> Tensor:
    return (e * weight).sum(axis) / weight.sum(axis).clamp(min=1)


def _masked_mean(e: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over what is masked, and whether anything is."""
    total = mask.sum()
    return (e * mask).sum() / total.clamp(min=1), total > 0


def _mean_of_groups(groups: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    means, present = (torch.stack(part) for part in zip(*groups, strict=True))
    return (means * present).sum() / present.sum().clamp(min=1)
