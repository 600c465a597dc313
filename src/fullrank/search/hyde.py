"""Retrieval by passages that a language model imagines (HyDE, Gao et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float

from fullrank.search.empty_queries import tell_empty
from fullrank.search.language_model import LanguageModel, language_model
from fullrank.search.prompts import filled
from fullrank.search.protocols import Queries, named
from fullrank.search.run import Run, at_least_one

_PROMPT = "Answer the question in one short passage, as an encyclopedia would.\n\nQuestion: {question}\n\nPassage:"


@runtime_checkable
class VectorRetriever(Protocol):
    """Retrieval by vectors, such as a `DenseRetriever`."""

    def encode(self, texts: list[str]) -> Float[torch.Tensor, "texts dim"]:
        """Vectors of texts."""
        ...

    def search_vectors(self, queries: Sequence[str], vectors: Float[torch.Tensor, "queries dim"], k: int = 10) -> Run:
        """The k best documents for the vector of every query.

        Args:
            queries: their ids.
            vectors: of the queries.
            k: how many at most.
        """
        ...


class HyDERetriever:
    """Searches with the mean of a query's vector and those of passages that a language model writes to answer it.

    e = (f(q) + sum_n f(d_n)) / (N + 1), where d_n are sampled; an empty passage is left out.

    Args:
        retriever: a `DenseRetriever`, or any other `VectorRetriever`, over the collection.
        model: writes the passages: a language model, or a function from a prompt to its completion.
        passages: N, how many it writes for each query.
        prompt: what it is asked; `{question}` is the query.
        max_new_tokens: of a passage.
        temperature: of the samples; 0 is accepted for one passage only.
        seed: of the samples.

    Raises:
        TypeError: the retriever searches no vectors, or the model cannot be asked.
        ValueError: fewer than one passage or token, a temperature that gives the same passage always, or a prompt
            without `{question}`.
    """

    def __init__(
        self,
        retriever: VectorRetriever,
        model: LanguageModel | Callable[[str], str],
        *,
        passages: int = 8,
        prompt: str = _PROMPT,
        max_new_tokens: int = 256,
        temperature: float = 0.7,
        seed: int = 0,
    ) -> None:
        if not isinstance(retriever, VectorRetriever):
            raise TypeError(
                f"retriever={retriever!r} is {type(retriever).__name__}; one that searches vectors is needed, such as "
                f"DenseRetriever"
            )
        if temperature < 0 or (temperature == 0 and passages > 1):
            raise ValueError(
                f"temperature={temperature} is not accepted for {passages} passages; give one above 0, such as 0.7"
            )
        if "{question}" not in prompt:
            raise ValueError(f"prompt={prompt!r} has no place for the query; put {{question}} where it belongs")
        self.retriever, self.model = retriever, language_model(model)
        self.passages = at_least_one(passages, "passages")
        self.max_new_tokens = at_least_one(max_new_tokens, "max_new_tokens")
        self.prompt, self.temperature, self.seed = prompt, temperature, seed

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`. A blank query finds nothing, and a warning names it.

        Raises:
            ValueError: k below 1.
            RuntimeError: nothing is indexed yet.
        """
        at_least_one(k)
        texts = named(queries)
        asked = [query_id for query_id, text in texts.items() if text.strip()]
        tell_empty(query_id for query_id, text in texts.items() if not text.strip())
        found = Run()
        if asked:
            found = self.retriever.search_vectors(asked, self.vectors([texts[query_id] for query_id in asked]), k)
        run = Run()
        for query_id in texts:
            run[query_id] = found.get(query_id, {})
        return run

    def written(self, queries: Sequence[str]) -> list[list[str]]:
        """The passages that the model writes for every query, without empty ones."""
        prompts = [filled(self.prompt, query).text for query in queries]
        said = self.model.complete(
            [prompt for prompt in prompts for _ in range(self.passages)],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        each = [said[start : start + self.passages] for start in range(0, len(said), self.passages)]
        return [[text.strip() for text in passages if text.strip()] for passages in each]

    def vectors(self, queries: Sequence[str]) -> Float[torch.Tensor, "queries dim"]:
        """e of every query."""
        groups: list[list[str]] = [
            [query, *passages] for query, passages in zip(queries, self.written(queries), strict=True)
        ]
        encoded: Any = self.retriever.encode([text for group in groups for text in group])
        return torch.stack([part.mean(0) for part in encoded.split([len(group) for group in groups])])
