"""DQ-LoRe's selection of exemplars: a draft solution joins the question in the second query (arXiv 2310.02954)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.search.dq_lore import LoReReranker
from fullrank.search.exemplar_losses import contrastive_exemplar_loss
from fullrank.search.exemplars import Exemplar, ExemplarRetriever, complex_exemplars, prompt_of
from fullrank.search.language_model_scores import continuation_likelihoods
from fullrank.search.run import at_least_one

Generate = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Selection:
    """Exemplars for one question, and the way there.

    Attributes:
        exemplars: most similar first.
        draft: the solution that the first call gave; empty where it gave none.
        first_prompt, prompt: of the first and the second call.
        scores: of the exemplars.
    """

    exemplars: tuple[Exemplar, ...]
    draft: str
    first_prompt: str
    prompt: str
    scores: tuple[float, ...]


class DualQuerySelector:
    """Asks a language model for a draft, retrieves by question and draft, re-ranks in low rank.

    Args:
        generate: from prompts to completions: any client of a language model.
        retriever: over the pool, indexed by question and solution.
        reranker: orders what was retrieved; default LoRe with 16 components; None for the retriever's order.
        first_shots: exemplars of the first call; default those of the pool with the most steps.
        n_shots: exemplars that are chosen.
        n_candidates: M, retrieved for the re-ranker.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(
        self,
        generate: Generate,
        retriever: ExemplarRetriever,
        reranker: LoReReranker | str | None = "lore",
        first_shots: Sequence[Exemplar] | None = None,
        n_shots: int = 8,
        n_candidates: int = 64,
    ) -> None:
        for name, value in (("n_shots", n_shots), ("n_candidates", n_candidates)):
            at_least_one(value, name)
        self.generate, self.retriever = generate, retriever
        self.reranker = LoReReranker() if isinstance(reranker, str) else reranker
        self.first_shots = list(first_shots) if first_shots is not None else None
        self.n_shots, self.n_candidates = n_shots, n_candidates

    def select(self, questions: Sequence[str], exclude_ids: Sequence[str] = ()) -> list[Selection]:
        """Exemplars for every question; the first calls are made together.

        Raises:
            ValueError: another number of completions than of prompts.
        """
        shots = self.first_shots
        if shots is None:
            shots = complex_exemplars(self.retriever.exemplars, self.n_shots)
        first = [prompt_of(shots, question) for question in questions]
        drafts = self.generate(first)
        if len(drafts) != len(first):
            raise ValueError(f"generate gave {len(drafts)} completions for {len(first)} prompts; one each is needed")
        empty = sum(not draft.strip() for draft in drafts)
        if empty:
            warnings.warn(f"{empty} of {len(drafts)} drafts are empty: the question alone is searched", stacklevel=2)
        texts = [f"{q}\t{d}" if d.strip() else q for q, d in zip(questions, drafts, strict=True)]
        vectors = self.retriever.encode(texts)
        found = self.retriever.places(vectors, max(self.n_candidates, self.n_shots), exclude_ids)
        if found and len(found[0][0]) < self.n_shots:
            warnings.warn(f"the pool has {len(found[0][0])} exemplars for n_shots={self.n_shots}", stacklevel=2)
        return [
            self._selection(question, draft.strip(), prompt, vector, *near)
            for question, draft, prompt, vector, near in zip(questions, drafts, first, vectors, found, strict=True)
        ]

    def _selection(
        self, question: str, draft: str, first: str, vector: Tensor, places: list[int], scores: list[float]
    ) -> Selection:
        if self.reranker is not None and places:
            order, values = self.reranker.rank(vector, self.retriever.vectors[places], self.n_shots)
            places, scores = [places[place] for place in order.tolist()], values.tolist()
        chosen = tuple(self.retriever.exemplars[place] for place in places[: self.n_shots])
        return Selection(chosen, draft, first, prompt_of(chosen, question), tuple(scores[: self.n_shots]))


class EPRTrainer:
    """Trains vectors so that exemplars which help are near (EPR, Rubin et al. 2022; DQ-LoRe's retriever).

    Every step draws one positive of the best `top` candidates and one hard negative of the worst `top`; the contexts of
    the whole batch are negatives of each other.

    Args:
        module: from raw vectors (n, d) to the vectors that are compared.
        top: t.
        lr: of AdamW.
        epochs: passes over the training samples.
        batch_size: samples at a time.
        seed: of the draws.

    Raises:
        ValueError: top, epochs or batch_size below 1.
    """

    def __init__(
        self,
        module: nn.Module,
        top: int = 5,
        lr: float = 1e-3,
        epochs: int = 30,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        for name, value in (("top", top), ("epochs", epochs), ("batch_size", batch_size)):
            at_least_one(value, name)
        self.module, self.top, self.lr = module, top, lr
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed

    def fit(self, vectors: Float[Tensor, "pool d"], ranked: Sequence[Sequence[int]]) -> list[float]:
        """Train; the mean loss of every epoch.

        Args:
            vectors: of the pool; sample i is the query of its own vector.
            ranked: for every sample the places of its candidates, most helpful first, itself not among them.

        Raises:
            ValueError: a sample with fewer than 2 top candidates.
        """
        short = next((n for n, places in enumerate(ranked) if len(places) < 2 * self.top), None)
        if short is not None:
            raise ValueError(f"sample {short} has {len(ranked[short])} candidates; 2 x top={2 * self.top} are needed")
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=self.lr)
        good = torch.tensor([list(places[: self.top]) for places in ranked])
        bad = torch.tensor([list(places[-self.top :]) for places in ranked])
        losses = []
        for _ in range(self.epochs):
            total = 0.0
            for rows in torch.randperm(len(ranked), generator=generator).split(self.batch_size):
                draw = torch.randint(self.top, (2, len(rows)), generator=generator)
                positives, negatives = good[rows, draw[0]], bad[rows, draw[1]]
                pool, place = torch.unique(torch.cat([positives, negatives]), return_inverse=True)
                loss, _ = contrastive_exemplar_loss(
                    self.module(vectors[rows]), self.module(vectors[pool]), place[: len(rows)]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            losses.append(total / len(ranked))
        return losses


def score_candidates(
    model: Any, tokenizer: Any, prompts: Sequence[str], targets: Sequence[str], batch_size: int = 16
) -> list[float]:
    """Mean log-likelihood per token of every target behind its prompt, in batches of like length.

    Args:
        model: a decoder of transformers, in evaluation mode.
        tokenizer: of the model.
        prompts: such as a candidate exemplar and the question.
        targets: such as the reference solution.
        batch_size: pairs at a time.

    Raises:
        ValueError: another number of targets, or an empty prompt or target.
    """
    if len(prompts) != len(targets):
        raise ValueError(f"{len(targets)} targets for {len(prompts)} prompts; one each is needed")
    heads = [tokenizer(prompt).input_ids for prompt in prompts]
    tails = [tokenizer(target, add_special_tokens=False).input_ids for target in targets]
    empty = next((n for n, tail in enumerate(tails) if not tail), None)
    if empty is not None:
        raise ValueError(f"target {empty} has no tokens; give some words")
    scores = [0.0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda n: len(heads[n]) + len(tails[n]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        sums = continuation_likelihoods(model, [heads[n] for n in numbers], [tails[n] for n in numbers])
        for number, value in zip(numbers, sums.tolist(), strict=True):
            scores[number] = value / len(tails[number])
    return scores
