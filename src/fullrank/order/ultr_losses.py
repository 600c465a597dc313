"""Losses over ranked lists with clicks: scores s, clicks c, weights w, mask m, each (lists, ranks).

All are computed in float32 at least. A batch without clicks tells the losses of lists and of pairs nothing: they are 0
with a gradient of 0. To the losses of single documents, every document without a click is a negative one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_LABEL_FLOOR = 1e-7


def softmax_loss(
    scores: Float[Tensor, "lists ranks"],
    labels: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    eps: float | int = _LABEL_FLOOR,
) -> Float[Tensor, ""]:
    """L = sum over lists of [-sum_k a_k log softmax(s)_k] / sum a, with a = (c + eps) w.

    Lists weigh in proportion to their weighted clicks.

    Args:
        scores: s.
        labels: c; any number of at least 0.
        weights: w; default 1.
        mask: where there is a document; default everywhere.
        eps: added to every label; where all labels are 0 the loss is 0 in spite of it.

    Raises:
        ValueError: shapes that differ, labels that are negative or clicked where there is no document.
    """
    s, c, m = checked(scores, labels, mask)
    a = torch.where(m, (c + eps) * (1.0 if weights is None else weights.detach().to(s.dtype)), 0)
    logs = torch.where(m, s.masked_fill(~m, -torch.inf).log_softmax(-1), 0)
    a = torch.where((c > 0).any(), a, 0)
    total = a.sum()
    return -(a * logs).sum() / torch.where(total > 0, total, 1)


def sigmoid_loss(
    scores: Float[Tensor, "lists ranks"], labels: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean over lists of sum_k w_k BCE(s_k, c_k); see `softmax_loss`."""
    s, c, m = checked(scores, labels, mask)
    losses = functional.binary_cross_entropy_with_logits(s, c, reduction="none")
    w = 1.0 if weights is None else weights.detach().to(s.dtype)
    return torch.where(m, w * losses, 0).sum() / max(len(s), 1)


def ips_pointwise(
    scores: Float[Tensor, "lists ranks"], clicks: Tensor, weights: Tensor, mask: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean over lists of sum_k [-(c/e) log sigma(s) - (1 - c/e) log(1 - sigma(s))], unbiased for the relevance.

    Args:
        scores: s.
        clicks: c.
        weights: 1 / e_k.
        mask: where there is a document.
    """
    s, c, m = checked(scores, clicks, mask)
    wanted = c * weights.detach().to(s.dtype)
    losses = -wanted * functional.logsigmoid(s) - (1 - wanted) * functional.logsigmoid(-s)
    return torch.where(m, losses, 0).sum() / max(len(s), 1)


def pairwise_softplus(
    scores: Float[Tensor, "lists ranks"], clicks: Tensor, mask: Tensor | None = None, lambdas: bool = False
) -> Float[Tensor, "ranks ranks"]:
    """S_ij: sum over lists with i clicked and j not, of log(1 + exp(-(s_i - s_j))).

    Args:
        scores: s.
        clicks: c.
        mask: where there is a document.
        lambdas: weigh every pair by what exchanging its documents would change in nDCG, as LambdaRank does.
    """
    s, c, m = checked(scores, clicks, mask)
    _, i, losses = clicked_pairs(s, c, m, lambdas)
    return losses.new_zeros(s.shape[1], s.shape[1]).index_add(0, i, losses)


def clicked_pairs(
    s: Tensor, c: Tensor, m: Tensor, lambdas: bool
) -> tuple[Int[Tensor, " clicks"], Int[Tensor, " clicks"], Float[Tensor, "clicks ranks"]]:
    """List and rank i of every click, and log(1 + exp(-(s_i - s_j))) of its pairs; 0 where j is clicked or missing.

    Clicks are few: pairs are made of them alone. With `lambdas` a pair is weighed by its change of nDCG.
    """
    lists, i = ((c > 0) & m).nonzero(as_tuple=True)
    rows, clicked = s.index_select(0, lists), i.unsqueeze(1)  # rows at a time: s[lists] takes twice as long
    losses = functional.softplus(rows - rows.gather(1, clicked))
    if lambdas:
        losses = losses * _ndcg_changes(s.detach(), c, m, lists, i)
    return lists, i, torch.where(((c <= 0) & m).index_select(0, lists), losses, 0)


def _ndcg_changes(s: Tensor, c: Tensor, m: Tensor, lists: Tensor, i: Tensor) -> Float[Tensor, "clicks ranks"]:
    """|change of nDCG| if documents i and j, one of them clicked, were exchanged in the order of the scores."""
    ranks = s.masked_fill(~m, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    discount = 1 / torch.log2(ranks.to(s.dtype) + 2)
    ideal = (1 / torch.log2(torch.arange(2, s.shape[-1] + 2, device=s.device, dtype=s.dtype))).cumsum(0)
    best = ideal[(c > 0).sum(-1)[lists] - 1]
    discounts = discount.index_select(0, lists)
    return (discounts - discounts.gather(1, i.unsqueeze(1))).abs() / best.unsqueeze(1)


def checked(scores: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and mask of one shape, in float32 at least.

    Raises:
        ValueError: shapes that differ, labels that are negative or not numbers, or clicked where there is no document.
    """
    if scores.ndim != 2 or scores.shape != labels.shape or (mask is not None and mask.shape != scores.shape):
        others = f", mask of {tuple(mask.shape)}" if mask is not None else ""
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} and clicks of {tuple(labels.shape)}{others} differ; (lists, ranks) "
            "each is needed"
        )
    m = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    dtype = torch.promote_types(scores.dtype, torch.float32)
    c = labels.to(dtype)
    wrong = ~(c >= 0) | (~m & (c > 0))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        said = f"clicks[{row}, {column}] is {float(c[row, column])}"
        if not bool(m[row, column]) and float(c[row, column]) > 0:
            raise ValueError(f"{said}, where the mask says that there is no document")
        raise ValueError(f"{said}; a click or a label is a number of at least 0")
    return scores.to(dtype), c, m


def check_clicks(clicks: Tensor) -> None:
    """Raise ValueError for what is neither 0 nor 1."""
    wrong = ((clicks != 0) & (clicks != 1)).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        raise ValueError(f"clicks{place} is {float(clicks[tuple(place)])}; a click is 0 or 1")
