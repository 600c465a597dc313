"""Training of what compares questions with exemplars: by single exemplars (EPR, DQ-LoRe) or by whole sets (CEIL)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fullrank.search.exemplar_losses import (
    contrastive_exemplar_loss,
    set_contrastive_loss,
    set_margin_loss,
    set_scores,
)
from fullrank.search.resumable_training import ResumableTrainer, Training, digest
from fullrank.search.run import at_least_one

Items = Tensor | Sequence[str]
SetLoss = Literal["contrastive", "margin"]


class EPRTrainer(ResumableTrainer):
    """Trains vectors so that exemplars which help are near (EPR, Rubin et al. 2022; DQ-LoRe's retriever).

    Every step draws one positive of the best `top` candidates and one hard negative of the worst `top`; the contexts of
    the whole batch are negatives of each other. See `ResumableTrainer` for the rest.

    Args:
        module: from a batch of items to the vectors that are compared: a head on vectors, or an `ExemplarEncoder` on
            texts.
        top: t.
        **options: lr, epochs, batch_size, warmup, holdout and seed of `ResumableTrainer`.

    Raises:
        ValueError: top below 1; see `ResumableTrainer`.
    """

    def __init__(self, module: nn.Module, top: int = 5, **options: Any) -> None:
        super().__init__(module, **options)
        self.top = at_least_one(top, "top")

    def fit(
        self,
        contexts: Items,
        ranked: Sequence[Sequence[int]],
        queries: Items | None = None,
        resume: str | Path | None = None,
    ) -> Training:
        """Train; afterwards the module is in evaluation mode.

        Args:
            contexts: vectors (pool, d) or texts of the pool.
            ranked: for every sample the places of its candidates, most helpful first, itself not among them.
            queries: of the samples; default sample i is the query of context i (question with solution, DQ-LoRe). EPR
                gives the questions alone.
            resume: folder for finished epochs: a call that was interrupted goes on behind the last of them.

        Raises:
            ValueError: a sample with fewer than 2 top candidates, other numbers of queries than of samples, a place
                that the pool does not have, a loss that is not finite, or a folder of another training.
        """
        queries = contexts[: len(ranked)] if queries is None else queries
        if len(queries) != len(ranked) or not ranked:
            raise ValueError(f"{len(ranked)} ranked lists for {len(queries)} queries; one each is needed")
        short = next((n for n, places in enumerate(ranked) if len(places) < 2 * self.top), None)
        if short is not None:
            raise ValueError(f"sample {short} has {len(ranked[short])} candidates; 2 x top={2 * self.top} are needed")
        _check_places([ranked], contexts)
        good = torch.tensor([list(places[: self.top]) for places in ranked])
        bad = torch.tensor([list(places[-self.top :]) for places in ranked])

        def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
            draw = torch.randint(self.top, (2, len(rows)), generator=generator)
            pool, place = torch.unique(torch.cat([good[rows, draw[0]], bad[rows, draw[1]]]), return_inverse=True)
            q, c = self.module(_take(queries, rows)), self.module(_take(contexts, pool))
            place = place.to(c.device)
            return contrastive_exemplar_loss(q, c, place, torch.arange(len(rows), device=c.device))[0]

        return self._train(len(ranked), loss_of, {"ranked": digest(torch.cat([good, bad], 1))}, resume)


class CEILTrainer(ResumableTrainer):
    """Trains vectors so that the determinants of helpful sets are large (CEIL, Ye et al. 2023).

    Vectors are compared at unit length. See `ResumableTrainer` for the rest; the authors' code takes 120 epochs, 64
    samples at a time.

    Args:
        module: see `EPRTrainer`.
        loss: "contrastive", in which the best set is the target, or "margin", between all pairs of sets.
        scale: see `dpp_kernel`.
        margin: see `set_margin_loss`.
        **options: lr, epochs, batch_size, warmup, holdout and seed of `ResumableTrainer`.

    Raises:
        ValueError: an unknown loss; see `ResumableTrainer`.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: SetLoss = "contrastive",
        scale: float = 0.1,
        margin: float = 0.02,
        **options: Any,
    ) -> None:
        super().__init__(module, **options)
        if loss not in get_args(SetLoss):
            raise ValueError(f"loss={loss!r} is not known; accepted: {', '.join(get_args(SetLoss))}")
        self.loss, self.scale, self.margin = loss, scale, margin

    def fit(
        self,
        contexts: Items,
        sets: Sequence[Sequence[Sequence[int]]],
        queries: Items | None = None,
        resume: str | Path | None = None,
    ) -> Training:
        """Train; afterwards the module is in evaluation mode.

        Args:
            contexts: vectors (pool, d) or texts of the pool.
            sets: for every sample its candidate sets, most helpful first, equally many of equally many places.
            queries: see `EPRTrainer.fit`.
            resume: see `EPRTrainer.fit`.

        Raises:
            ValueError: fewer than 2 sets, sets of different sizes; see `EPRTrainer.fit`.
        """
        queries = contexts[: len(sets)] if queries is None else queries
        if len(queries) != len(sets) or not sets:
            raise ValueError(f"candidate sets of {len(sets)} samples for {len(queries)} queries; one each is needed")
        shapes = {(len(row), len(places)) for row in sets for places in row}
        if len(shapes) != 1 or min(map(len, sets)) < 2:
            raise ValueError("every sample needs at least 2 sets, equally many, of equally many exemplars")
        _check_places(sets, contexts)
        every = torch.tensor([[list(places) for places in row] for row in sets])

        def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
            pool, place = torch.unique(every[rows], return_inverse=True)
            q = normalize(self.module(_take(queries, rows)), dim=-1)
            c = normalize(self.module(_take(contexts, pool)), dim=-1)
            scores = set_scores(q, c, place.to(c.device), self.scale)
            return set_contrastive_loss(scores) if self.loss == "contrastive" else set_margin_loss(scores, self.margin)

        return self._train(len(sets), loss_of, {"sets": digest(every)}, resume)


def _take(items: Items, rows: Tensor) -> Any:
    return items[rows.to(items.device)] if isinstance(items, Tensor) else [items[row] for row in rows.tolist()]


def _check_places(rows: Sequence[Sequence[Sequence[int]]], contexts: Items) -> None:
    outside = next((p for row in rows for places in row for p in places if not 0 <= p < len(contexts)), None)
    if outside is not None:
        raise ValueError(f"place {outside} is not accepted: the pool has the places 0 to {len(contexts) - 1}")
