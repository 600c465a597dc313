"""What trains SESA: L = L_rank + lam L_concept + l1 |v|_1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fullrank.search.concept_head import ConceptHead
from fullrank.search.sesa import Comparison

RankLoss = Literal["softmax", "logistic", "hinge"]
ConceptLoss = Literal["bce", "mse"]


class SESALoss(nn.Module):
    """The loss of a batch of matching pairs (a_i, b_i).

    Args:
        rank: "softmax" over the batch in both directions, "logistic" on labelled pairs, or "hinge" on the cosines.
        concept: "bce" of the logits, "mse", or None.
        lam: lambda, weight of the concept loss.
        l1: weight of the explicit values' mean absolute size.
        margin: of the hinge.
        unlisted: omega, weight of concepts whose target is 0 in the "bce": a concept that is not listed is unknown
            rather than absent. Default 0.1.

    Raises:
        ValueError: an unknown loss, or a negative weight.
    """

    def __init__(
        self,
        rank: RankLoss = "softmax",
        concept: ConceptLoss | None = None,
        lam: float | int = 1.0,
        l1: float | int = 0.0,
        margin: float = 0.3,
        unlisted: float | int = 0.1,
    ) -> None:
        super().__init__()
        if rank not in get_args(RankLoss):
            raise ValueError(f"rank={rank!r} is not known; accepted: {', '.join(get_args(RankLoss))}")
        if concept not in (None, *get_args(ConceptLoss)):
            raise ValueError(f"concept={concept!r} is not known; accepted: {', '.join(get_args(ConceptLoss))}, None")
        for name, value in (("lam", lam), ("l1", l1), ("margin", margin), ("unlisted", unlisted)):
            if value < 0:
                raise ValueError(f"{name}={value} is not accepted; it is 0 or more")
        self.concept: ConceptLoss | None = concept
        self.rank, self.lam, self.l1, self.margin, self.unlisted = rank, lam, l1, margin, unlisted

    def forward(
        self,
        comparison: Comparison,
        targets: Float[Tensor, "batch K"] | None = None,
        observed: Tensor | None = None,
        labels: Float[Tensor, "A B"] | None = None,
        group_ids: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            comparison: of the pairs, from `SESA.compare`.
            targets: of side a's concepts; in [0, 1] for "bce", standardised for "mse".
            observed: which targets are known; default all.
            labels: of "logistic": 1 for a match, 0 for none, NaN for a pair that was not logged; default the diagonal.
            group_ids: pairs of one group are no negatives of each other.

        Raises:
            ValueError: a batch of one pair where the batch gives the negatives, targets of another shape or range, or
                another number of groups than of pairs.
        """
        if group_ids is not None and len(group_ids) != len(comparison.scores):
            raise ValueError(f"{len(group_ids)} group_ids for {len(comparison.scores)} pairs; one each is needed")
        loss = self._rank(comparison, labels, group_ids)
        if self.concept is not None and targets is not None:
            loss = loss + self.lam * concept_loss(comparison.logits_a, targets, observed, self.concept, self.unlisted)
        return loss + self.l1 * mean_size(comparison) if self.l1 else loss

    def _rank(self, comparison: Comparison, labels: Tensor | None, group_ids: Tensor | None) -> Tensor:
        same = None if group_ids is None else group_ids.unsqueeze(0) == group_ids.unsqueeze(1)
        if self.rank == "logistic":
            return logistic_loss(comparison.scores, labels, same)
        if self.rank == "softmax":
            return softmax_loss(comparison.scores, same)
        return hinge_loss(comparison.cosine, self.margin, same)


def mean_size(comparison: Comparison) -> Float[Tensor, ""]:
    """Mean absolute value of the explicit vectors, of one side and of the other."""
    return comparison.explicit_a.abs().mean() + comparison.explicit_b.abs().mean()


def softmax_loss(scores: Float[Tensor, "batch batch"], same: Bool[Tensor, "batch batch"] | None = None) -> Tensor:
    """-1/2B sum_i [log softmax(S_i:)_i + log softmax(S_:i)_i]; pairs of the same group are left out of the sums."""
    _need_negatives(scores, "softmax")
    if same is not None:
        itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(same & ~itself, -torch.inf)
    target = torch.arange(len(scores), device=scores.device)
    return 0.5 * (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.mT, target))


def logistic_loss(
    scores: Float[Tensor, "A B"],
    labels: Float[Tensor, "A B"] | None = None,
    same: Bool[Tensor, "A B"] | None = None,
) -> Tensor:
    """Mean of the cross entropy of scores as logits over the labelled pairs.

    Args:
        scores: S.
        labels: 1, 0, or NaN for a pair that was not logged; default 1 on the diagonal, 0 elsewhere.
        same: pairs of one group, which count as not logged off the diagonal, without labels.

    Raises:
        ValueError: labels of another shape, outside [0, 1], or none.
    """
    if labels is None:
        labels = torch.eye(*scores.shape, dtype=scores.dtype, device=scores.device)
        if same is not None:
            labels = labels.masked_fill(same & (labels == 0), torch.nan)
    if labels.shape != scores.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; {tuple(scores.shape)} is needed")
    logged = ~labels.isnan()
    if not logged.any():
        raise ValueError("labels are all NaN: no pair was logged")
    wrong = (logged & ((labels < 0) | (labels > 1))).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(f"labels[{row}, {column}] is {float(labels[row, column])}; 1, 0, or NaN without a log entry")
    return functional.binary_cross_entropy_with_logits(scores[logged], labels[logged].to(scores.dtype))


def hinge_loss(
    cosine: Float[Tensor, "batch batch"], margin: float, same: Bool[Tensor, "batch batch"] | None = None
) -> Tensor:
    """Mean over the negatives of max(0, margin - C_ii + C_ij)."""
    _need_negatives(cosine, "hinge")
    negative = ~torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    if same is not None:
        negative = negative & ~same
    lost = torch.relu(margin - cosine.diagonal().unsqueeze(1) + cosine)
    return lost[negative].mean() if negative.any() else (lost * 0).sum()


def concept_loss(
    logits: Float[Tensor, "batch K"],
    targets: Float[Tensor, "batch K"],
    observed: Tensor | None = None,
    kind: ConceptLoss = "bce",
    unlisted: float | int = 1.0,
) -> Float[Tensor, ""]:
    """Mean over the observed entries of the cross entropy of z as logits, or of (z - y)^2.

    Args:
        logits: z.
        targets: y.
        observed: o, 0 or 1; default all.
        kind: "bce" or "mse".
        unlisted: weight of entries of "bce" whose target is 0.

    Raises:
        ValueError: targets of another shape, outside [0, 1] for "bce", or an observed one that is not a number.
    """
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; {tuple(logits.shape)}, texts by concepts, is needed"
        )
    seen = torch.ones_like(logits) if observed is None else observed.to(logits.dtype)
    targets = torch.where(seen > 0, targets.to(logits.dtype), torch.zeros_like(logits))
    wrong = (~targets.isfinite() if kind == "mse" else ~((targets >= 0) & (targets <= 1))).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        needed = "a number is needed" if kind == "mse" else "it lies in [0, 1] for bce"
        raise ValueError(
            f"targets[{row}, {column}] is {float(targets[row, column])}; {needed}, or observed=0 where it is not known"
        )
    if kind == "mse":
        return (seen * (logits - targets).square()).sum() / seen.sum().clamp(min=1)
    weight = seen * torch.where(targets == 0, unlisted, 1.0)
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weight * losses).sum() / seen.sum().clamp(min=1)


def sampled_concept_loss(
    head: ConceptHead,
    hidden: Float[Tensor, "batch H"],
    listed: Sequence[Sequence[int]],
    negatives: int = 5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The cross entropy over listed concepts, and so many unlisted ones for each, drawn uniformly: O(batch), not O(K).

    Args:
        head: of the model.
        hidden: h, from `SESA.hidden`.
        listed: numbers of every text's concepts.
        negatives: unlisted concepts for every listed one.
        generator: of the draws.

    Raises:
        ValueError: no text lists a concept, a number that is no concept's, or another number of lists than of texts.
    """
    if len(listed) != len(hidden):
        raise ValueError(f"{len(listed)} lists of concepts for {len(hidden)} texts; one each is needed")
    K = len(head.bias)
    rows = torch.tensor([row for row, concepts in enumerate(listed) for _ in concepts], dtype=torch.long)
    positive = torch.tensor([concept for concepts in listed for concept in concepts], dtype=torch.long)
    if not len(rows):
        raise ValueError("listed names no concept of any text")
    if int(positive.min()) < 0 or int(positive.max()) >= K:
        wrong = int(positive[(positive < 0) | (positive >= K)][0])
        raise ValueError(f"listed has the number {wrong}; those of the concepts are 0 to {K - 1}")
    drawn = torch.randint(K, (len(rows), negatives), generator=generator)
    taken = torch.isin(rows.unsqueeze(1) * K + drawn, rows * K + positive)
    columns = torch.cat([positive.unsqueeze(1), drawn], dim=1).to(hidden.device)
    logits = head.at(hidden[rows.to(hidden.device)], columns)
    targets = torch.zeros_like(logits)
    targets[:, 0] = 1
    kept = torch.cat([torch.ones(len(rows), 1, dtype=torch.bool), ~taken], dim=1).to(hidden.device)
    return functional.binary_cross_entropy_with_logits(logits[kept], targets[kept])


def _need_negatives(scores: Tensor, name: str) -> None:
    if len(scores) < 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores of shape {tuple(scores.shape)}: the {name} loss takes its negatives from a batch of at least 2 "
            'pairs; give a larger batch, or rank="logistic"'
        )
