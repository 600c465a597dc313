"""Losses that train a retriever of exemplars: EPR's and DQ-LoRe's contrast, and CEIL's for whole sets."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fullrank.search.determinantal import dpp_kernel, log_volumes

_LEAST = 1e-9


def mean_pool(
    hidden: Float[Tensor, "batch tokens d"], mask: Int[Tensor, "batch tokens"] | Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch d"]:
    """The mean over the tokens that are not masked."""
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=_LEAST)


def contrastive_exemplar_loss(
    q: Float[Tensor, "batch d"],
    ctx: Float[Tensor, "contexts d"],
    ctx_indices: Int[Tensor, "samples 1"] | Int[Tensor, " samples"],
    labels: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch contexts"]]:
    """L = -1/B sum_i log( exp(q_i . e_i+) / sum_c exp(q_i . c) ), over all contexts of the batch.

    Args:
        q: encoded questions with their solutions.
        ctx: encoded exemplars, each once: positives and hard negatives of all questions.
        ctx_indices: row in `ctx` of every positive and negative that was drawn.
        labels: which entry of `ctx_indices` is every question's positive.

    Returns:
        The loss, and the logits q c^T.

    Raises:
        ValueError: a row that the contexts do not have, or an entry that ctx_indices does not have.
    """
    drawn = ctx_indices.flatten()
    _check_places("labels", labels, len(drawn), "ctx_indices")
    _check_places("ctx_indices", drawn, len(ctx), "contexts")
    logits = q @ ctx.mT
    return functional.cross_entropy(logits, drawn[labels]), logits


def set_scores(
    queries: Float[Tensor, "batch d"],
    contexts: Float[Tensor, "contexts d"],
    sets: Int[Tensor, "batch sets n"],
    scale: float = 0.1,
) -> Float[Tensor, "batch sets"]:
    """CEIL's score of candidate sets: log |det| of the kernel of query and exemplars.

    Args:
        queries: encoded questions, of unit length.
        contexts: encoded exemplars, of unit length.
        sets: rows of the contexts in every set.
        scale: see `dpp_kernel`.
    """
    kernel = dpp_kernel(queries, contexts.unsqueeze(0).expand(len(queries), -1, -1), scale, unit_length=True)
    return log_volumes(kernel, sets)


def set_contrastive_loss(scores: Float[Tensor, "batch sets"]) -> Float[Tensor, ""]:
    """CEIL's contrast: the first set is the best one.

    Args:
        scores: see `set_scores`; sets in the order of their worth, best first.
    """
    return functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def set_margin_loss(scores: Float[Tensor, "batch sets"], margin: float = 0.02) -> Float[Tensor, ""]:
    """CEIL's pairwise form: a set that is i places worse scores at least i margins less.

    Scores are scaled to [0, 1] within each question, by minima and maxima without gradient.

    Args:
        scores: see `set_contrastive_loss`.
        margin: between neighbours.
    """
    low, high = scores.detach().amin(1, keepdim=True), scores.detach().amax(1, keepdim=True)
    scaled = (scores - low) / (high - low).clamp(min=_LEAST)
    loss = scores.new_zeros(())
    for gap in range(1, scores.shape[1]):
        better, worse = scaled[:, :-gap].flatten(), scaled[:, gap:].flatten()
        loss = loss + functional.margin_ranking_loss(better, worse, torch.ones_like(better), margin * gap)
    return loss


def _check_places(name: str, places: Tensor, count: int, of: str) -> None:
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < count:
        raise ValueError(f"{name}={places.tolist()} is not accepted: there are {count} {of}")
