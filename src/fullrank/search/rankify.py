"""Retrieval, re-ranking and answers under the names that Rankify's users know, over this room's methods.

What Rankify gets wrong is right here: `rank` fills `reorder_contexts`, which is what answers are generated from; the
hybrid retriever keeps ids and `has_answer`; a question stays as it is; ReAct searches for its own words; measures equal
trec_eval's and need no Java.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullrank.search import protocols
from fullrank.search.rankify_data import Answer, Context, Dataset, Document, Question
from fullrank.search.rankify_generator import Generator
from fullrank.search.rankify_metrics import Metrics
from fullrank.search.rankify_ranking import Corpus, Reranking, Retriever, chosen, contexts_of
from fullrank.search.run import at_least_one

__all__ = [
    "Answer",
    "Context",
    "Dataset",
    "Document",
    "Generator",
    "Metrics",
    "Pipeline",
    "PipelineResult",
    "Question",
    "Reranking",
    "Retriever",
    "pipeline",
]

_TASKS = ("search", "retrieval", "rerank", "rag")


@dataclass
class PipelineResult:
    """What a pipeline gives for a query.

    Attributes:
        query: as it was asked.
        documents: one, with its `contexts` and, after re-ranking, its `reorder_contexts`.
        answers: one, or None without a generator.
        metadata: the task, and the ids of the contexts that the answer rests on.
    """

    query: str
    documents: list[Document]
    answers: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Pipeline:
    """Search, search and re-rank, or answer. See `pipeline`."""

    def __init__(
        self,
        task: str,
        retriever: Retriever,
        reranker: Reranking | None = None,
        generator: Generator | None = None,
        top_k: int = 10,
    ) -> None:
        self.task, self.retriever, self.reranker, self.generator = task, retriever, reranker, generator
        self.top_k = at_least_one(top_k, "top_k")

    def __call__(
        self, query: str | Sequence[str], documents: Corpus | None = None, corpus: Corpus | None = None
    ) -> Any:
        """Run on one query, or on several: a `PipelineResult`, or a list of them.

        Args:
            query: the question.
            documents: what to search in, if it is not indexed yet (see `Retriever.index`); indexed now. The answers of
                a `Document` with this very question are known.
            corpus: another name for it.
        """
        searched = documents if documents is not None else corpus
        if searched is not None:
            self.retriever.index(searched)
        answers = {d.question.question: d.answers for d in searched or [] if isinstance(d, Document)}
        queries = [query] if isinstance(query, str) else list(query)
        asked = self.retriever.retrieve([Document(text, answers.get(text)) for text in queries])
        if self.reranker is not None:
            self.reranker.rank(asked)
        for document in asked:
            if document.reorder_contexts is not None:
                document.reorder_contexts = document.reorder_contexts[: self.top_k]
        results = self._results(asked)
        return results[0] if isinstance(query, str) else results

    run = __call__

    def retrieve(self, query: str, n_docs: int | None = None) -> list[Context]:
        """Contexts for a query from what is indexed, `n_docs` of them at most.

        Raises:
            RuntimeError: nothing is indexed yet.
        """
        return self.retriever.retrieve([Document(query)])[0].contexts[:n_docs]

    def rerank(
        self, query: str, contexts: Sequence[Context | Mapping[str, Any] | str], top_k: int | None = None
    ) -> list[Context]:
        """Contexts in a better order, `top_k` of them at most; texts without ids are numbered.

        Raises:
            ValueError: the pipeline has no re-ranker.
        """
        if self.reranker is None:
            raise ValueError('the pipeline has no re-ranker: pipeline("rerank"), or reranker=...')
        (document,) = self.reranker.rank([Document(query, None, contexts_of(contexts))])
        return document.final_contexts[:top_k]

    def generate(self, query: str, contexts: Sequence[Context | Mapping[str, Any] | str]) -> str:
        """An answer from contexts.

        Raises:
            ValueError: the pipeline has no generator.
        """
        if self.generator is None:
            raise ValueError('the pipeline has no generator: pipeline("rag")')
        return self.generator.generate([Document(query, None, contexts_of(contexts))])[0]

    def _results(self, asked: list[Document]) -> list[PipelineResult]:
        if self.generator is None:
            return [PipelineResult(d.question.question, [d], None, {"task": self.task}) for d in asked]
        return [
            PipelineResult(d.question.question, [d], [answer.text], {"task": self.task, "sources": answer.sources})
            for d, answer in zip(asked, self.generator.answers(asked), strict=True)
        ]


def pipeline(
    task: str = "rag",
    retriever: str | Retriever = "bm25",
    reranker: str | protocols.Reranker | Reranking | None = None,
    generator: str | Generator = "extractive",
    n_docs: int = 100,
    top_k: int = 10,
    *,
    index_folder: str | Path | None = None,
    retriever_model: Any = None,
    reranker_model: Any = None,
    generator_model: Any = None,
    generator_backend: str = "huggingface",
    **options: Any,
) -> Pipeline:
    """A pipeline in one line: `pipeline("rag")("Where is Paris?", texts).answers`.

    Args:
        task: "search" (or "retrieval"), "rerank", or "rag".
        retriever: a method of `Retriever`, or one that is indexed.
        reranker: a method of `Reranking`, or a re-ranker; by default "rerank" compares meanings by the bundled
            all-MiniLM-L6-v2, and "rag" keeps the retriever's order.
        generator: a method of `Generator`, or one; by default it needs no model.
        n_docs: found per question.
        top_k: left after re-ranking, and given to the generator.
        index_folder: what is searched, if it is on disk.
        retriever_model: `encoder_name` of the retriever.
        reranker_model: `model_name` of the re-ranker.
        generator_model: `model_name` of the generator.
        generator_backend: `backend` of the generator.
        **options: of the generator.

    Raises:
        ValueError: an unknown task or method, or a number below 1.
    """
    task = chosen(task, _TASKS, "task")
    if isinstance(retriever, str):
        retriever = Retriever(retriever, n_docs, index_folder, retriever_model)
    if task == "rerank" and reranker is None:
        reranker = "sentence_transformer_reranker"
    orders = None
    if task in ("rerank", "rag") and reranker is not None:
        orders = reranker if isinstance(reranker, Reranking) else Reranking(reranker, reranker_model)
    if task != "rag":
        return Pipeline(task, retriever, orders, None, top_k)
    if isinstance(generator, str):
        generator = Generator(generator, generator_model, generator_backend, top_k, retriever=retriever, **options)
    return Pipeline(task, retriever, orders, generator, top_k)
