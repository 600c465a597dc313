"""Pairwise differentiable gradient descent: learn to rank while lists are shown (Oosterhuis and de Rijke 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

_LARGEST_LOG = 20.0
_NOWHERE = -1e30  # score of a document that is not there; finite, so that differences are


def plackett_luce(
    scores: Float[Tensor, "lists documents"],
    ranks: int,
    mask: Bool[Tensor, "lists documents"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "lists ranks"]:
    """Lists drawn in proportion to exp(score), one document after another: the highest scores plus Gumbel noise.

    Args:
        scores: of the documents.
        ranks: documents of a list, at most as many as there are.
        mask: where there is a document; default everywhere. Others come last.
        generator: of the draws.

    Raises:
        ValueError: more ranks than documents, or fewer than 1.
    """
    if not 1 <= ranks <= scores.shape[1]:
        raise ValueError(f"ranks={ranks} is not accepted; 1 to {scores.shape[1]}, as many as there are documents, are")
    uniforms = torch.rand(scores.shape, generator=generator, dtype=torch.float64).to(scores.device)
    noisy = scores.detach() - torch.log(-torch.log(uniforms.clamp(min=1e-300)))
    if mask is not None:
        noisy = noisy.masked_fill(~mask, -torch.inf)
    return noisy.topk(ranks, dim=1).indices


class PDGD(nn.Module):
    """The objective of pairs of a clicked and another document of a list that was drawn.

    Its gradient ascends rho d/ds [exp(s_i) / (exp(s_i) + exp(s_j))] for i clicked and j not, j at most one rank below
    the last click, with rho = P(R') / (P(R) + P(R')) and R' the list with i and j exchanged.
    """

    def forward(
        self,
        scores: Float[Tensor, "lists documents"],
        shown: Int[Tensor, "lists ranks"],
        clicks: Tensor,
        mask: Bool[Tensor, "lists documents"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, a mean over lists.

        Args:
            scores: of all documents that could have been shown.
            shown: numbers of those that were, in their order, as `plackett_luce` draws them.
            clicks: (lists, ranks), 0 or 1.
            mask: where there is a document; default everywhere.

        Raises:
            ValueError: clicks of another shape or other than 0 and 1.
        """
        if clicks.shape != shown.shape:
            raise ValueError(f"clicks have shape {tuple(clicks.shape)}; {tuple(shown.shape)}, as the lists, is needed")
        if not bool(((clicks == 0) | (clicks == 1)).all()):
            raise ValueError("clicks hold other numbers than 0 and 1")
        there = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        present, clicked = there.gather(1, shown), clicks > 0
        s = scores.gather(1, shown)
        pairs = _pairs(clicked, present)
        rho = exchange_weights(scores.detach(), shown, there)
        won = torch.sigmoid(s.unsqueeze(2) - s.unsqueeze(1))  # of i over j
        return -torch.where(pairs, rho * won, 0).sum() / max(len(scores), 1)


def exchange_weights(
    scores: Float[Tensor, "lists documents"], shown: Int[Tensor, "lists ranks"], mask: Bool[Tensor, "lists documents"]
) -> Float[Tensor, "lists ranks ranks"]:
    """rho_ij = P(R') / (P(R) + P(R')) = 1 / (1 + exp(D' - D)), D the sum of the logs of what was left at every rank.

    Args:
        scores: of all documents.
        shown: numbers of those in the lists.
        mask: where there is a document.
    """
    s = scores.double().masked_fill(~mask, _NOWHERE)
    others = s.scatter(1, shown, _NOWHERE).logsumexp(1)  # never taken
    taken = s.gather(1, shown)
    # In logs: against a first document far above all others, theirs would be lost in its sum.
    left = torch.logaddexp(taken.flip(1).logcumsumexp(1).flip(1), others[:, None])  # at every rank
    ranks = torch.arange(shown.shape[1], device=shown.device)
    low, high = torch.minimum(ranks[:, None], ranks), torch.maximum(ranks[:, None], ranks)
    # after the exchange, the ranks behind the upper one down to the lower one have its document left, not the other
    between = (ranks > low[..., None]) & (ranks <= high[..., None])
    other = torch.logaddexp(_left_but_one(taken, left, others)[:, high], taken[:, low][..., None])
    change = torch.where(between, other - left[:, None, None], 0).sum(-1)
    return (1 / (1 + change.clamp(max=_LARGEST_LOG).exp())).to(scores.dtype)


def _left_but_one(
    taken: Float[Tensor, "lists ranks"], left: Float[Tensor, "lists ranks"], others: Float[Tensor, " lists"]
) -> Float[Tensor, "lists ranks ranks"]:
    """[:, h, r]: log of what is left at rank r but for the document that is taken at rank h, h >= r."""
    ranks = torch.arange(taken.shape[1], device=taken.device)
    above = taken[:, None].masked_fill(ranks < ranks[:, None], _NOWHERE).logcumsumexp(2)  # [:, r, h]: from r to h
    above = functional.pad(above[..., :-1], (1, 0), value=_NOWHERE)  # h itself left out
    below = torch.cat([left[:, 1:], others[:, None]], 1)  # [:, h]: behind h
    return torch.logaddexp(above, below[:, None]).mT


def _pairs(clicked: Bool[Tensor, "lists ranks"], present: Bool[Tensor, "lists ranks"]) -> Tensor:
    """Clicked i and unclicked j, down to one rank below the last click."""
    ranks = torch.arange(clicked.shape[1], device=clicked.device)
    last = torch.where(clicked, ranks, -1).amax(1, keepdim=True)
    considered = (ranks <= last + 1) & present
    return (clicked & present).unsqueeze(2) & (considered & ~clicked).unsqueeze(1)
