"""DQ-LoRe's selection of exemplars: a draft solution joins the question in the second query (arXiv 2310.02954)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from fullrank.search.exemplar_retriever import ExemplarRetriever, Found
from fullrank.search.exemplar_selection import complex_exemplars
from fullrank.search.exemplars import PROMPT, Exemplar, Template, pair_text
from fullrank.search.language_model import BatchFunctionModel, LanguageModel, language_model
from fullrank.search.run import at_least_one

Generate = Callable[[list[str]], Sequence[str]]
FirstShots = Sequence[Exemplar] | Callable[[list[str]], Sequence[Sequence[Exemplar]]]


@runtime_checkable
class VectorReranker(Protocol):
    """Orders candidates by their vectors, such as `LoReReranker`."""

    def rank(self, query: Any, candidates: Any, k: int | None = None) -> tuple[Any, Any]:
        """Indices of the k best candidates, best first, and their scores."""
        ...


@dataclass(frozen=True)
class Selection:
    """Exemplars for one question, and the way there.

    Attributes:
        exemplars: most similar first.
        draft: the solution that the first call gave; empty where it gave none, and the question alone was searched.
        first_prompt: of the first call.
        prompt: of the second call, whose completion is the answer.
        scores: of the exemplars.
    """

    exemplars: tuple[Exemplar, ...]
    draft: str
    first_prompt: str
    prompt: str
    scores: tuple[float, ...]


class DualQuerySelector:
    """Asks a language model for a draft, retrieves by question and draft, re-ranks in low rank.

        selections = DualQuerySelector(model, retriever, LoReReranker()).select(questions)
        answers = [final_answer(text) for text in model.complete([selection.prompt for selection in selections])]

    Args:
        generate: from a list of prompts to their completions, such as any client; or a language model, an object with
            `complete` such as `TransformersModel` or `ServerModel`, which is asked at temperature 0.
        retriever: over the pool, indexed by question and solution.
        reranker: orders what was retrieved; None for the retriever's order.
        first_shot_selector: exemplars of the first call: a fixed list, or a function from questions to a list for each,
            such as `partial(lexical_exemplars, pool, n=8)`; default those of the pool with the most steps.
        n_shots: exemplars that are chosen.
        n_candidates: M, retrieved for the re-ranker.
        template: from exemplars and a question to a prompt.
        max_new_tokens: of a draft.
        stop: a draft ends before the first of these: models that only continue texts go on with questions of their own.

    Raises:
        ValueError: numbers below 1.
        TypeError: the model cannot be asked.
    """

    def __init__(
        self,
        generate: LanguageModel | Generate,
        retriever: ExemplarRetriever,
        reranker: VectorReranker | None,
        first_shot_selector: FirstShots | None = None,
        n_shots: int = 8,
        n_candidates: int = 64,
        template: Template = PROMPT,
        max_new_tokens: int = 300,
        stop: Sequence[str] = ("\nQuestion:",),
    ) -> None:
        numbers = {"n_shots": n_shots, "n_candidates": n_candidates, "max_new_tokens": max_new_tokens}
        for name, value in numbers.items():
            at_least_one(value, name)
        self.model = language_model(generate, BatchFunctionModel)
        self.retriever, self.reranker = retriever, reranker
        self.first_shot_selector, self.template = first_shot_selector, template
        self.n_shots, self.n_candidates = n_shots, n_candidates
        self.max_new_tokens, self.stop = max_new_tokens, stop

    def select(self, questions: Sequence[str], exclude_ids: Sequence[Collection[str]] = ()) -> list[Selection]:
        """Exemplars for every question; the first calls are made together.

        Args:
            questions: in words.
            exclude_ids: for every question exemplars that are left out of both calls, such as itself where it is in the
                pool; empty for none.

        Raises:
            RuntimeError: the retriever holds nothing.
            ValueError: another number of completions, first exemplars or exclusions than of questions.
        """
        if not questions:
            return []
        if exclude_ids and len(exclude_ids) != len(questions):
            raise ValueError(
                f"exclude_ids has {len(exclude_ids)} entries for {len(questions)} questions; one each is needed"
            )
        first = self._first_prompts(list(questions), exclude_ids)
        said = self.model.complete(first, max_new_tokens=self.max_new_tokens, stop=self.stop)
        drafts = [draft.strip() for draft in said]
        empty = drafts.count("")
        if empty:
            warnings.warn(f"{empty} of {len(drafts)} drafts are empty: the question alone is searched", stacklevel=2)
        vectors = self.retriever.encode([pair_text(q, d) for q, d in zip(questions, drafts, strict=True)])
        found = self.retriever.places(vectors, max(self.n_candidates, self.n_shots), exclude_ids)
        fewest = min(len(places) for places, _ in found)
        if fewest < self.n_shots:
            warnings.warn(f"n_shots={self.n_shots}, but the pool leaves {fewest} exemplars to choose", stacklevel=2)
        return [
            self._selection(question, draft, prompt, vector, near)
            for question, draft, prompt, vector, near in zip(questions, drafts, first, vectors, found, strict=True)
        ]

    def _first_prompts(self, questions: list[str], exclude_ids: Sequence[Collection[str]]) -> list[str]:
        prompts = []
        excluded = exclude_ids or [()] * len(questions)
        for question, row, left_out in zip(questions, self._first_shots(questions), excluded, strict=True):
            shots = [shot for shot in row if shot.id not in left_out]
            if self.first_shot_selector is None:
                shots = shots[: self.n_shots]
            prompts.append(self.template(shots, question))
        return prompts

    def _first_shots(self, questions: list[str]) -> Sequence[Sequence[Exemplar]]:
        chosen = self.first_shot_selector
        if chosen is None:
            pool = self.retriever.exemplars
            chosen = complex_exemplars(pool, len(pool))  # what is excluded leaves its place to the next
        if not callable(chosen):
            return [chosen] * len(questions)
        rows = chosen(questions)
        if len(rows) != len(questions):
            raise ValueError(
                f"first_shot_selector gave {len(rows)} lists for {len(questions)} questions; one each is needed"
            )
        return rows

    def _selection(self, question: str, draft: str, first: str, vector: Tensor, near: Found) -> Selection:
        places, scores = near
        if self.reranker is not None and places:
            order, values = self.reranker.rank(vector, self.retriever.vectors[places], self.n_shots)
            places, scores = [places[place] for place in order.tolist()], values.tolist()
        chosen = tuple(self.retriever.exemplars[place] for place in places[: self.n_shots])
        return Selection(chosen, draft, first, self.template(chosen, question), tuple(scores[: self.n_shots]))
