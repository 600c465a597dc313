"""Rankify's retriever and re-ranking: methods by name over documents of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from fullrank.search import protocols
from fullrank.search.answer_measures import has_answer
from fullrank.search.answering import known, reordered
from fullrank.search.bm25 import BM25Retriever
from fullrank.search.dense import DenseRetriever
from fullrank.search.hybrid import HybridRetriever
from fullrank.search.protocols import Queries, Ranking
from fullrank.search.rankify_data import Context, Document
from fullrank.search.rerankers import reranker
from fullrank.search.run import Run, at_least_one

Corpus = Sequence[Document | Context | protocols.Document | Mapping[str, Any] | str]


class Retriever:
    """Finds contexts for questions in a corpus.

    Args:
        method: "bm25"; "dense", "bge", "contriever" or "ance" for an encoder; "hybrid" for BM25 and an encoder, fused
            by reciprocal rank.
        n_docs: contexts per question.
        encoder_name: a local folder, or an object with `encode(texts)`; the bundled all-MiniLM-L6-v2 by default.
        **options: of the method, such as `k1`.

    Raises:
        ValueError: an unknown method, or `n_docs` below 1.
    """

    def __init__(self, method: str = "bm25", n_docs: int = 10, encoder_name: Any = None, **options: Any) -> None:
        methods: dict[str, Callable[[], Any]] = {
            "bm25": lambda: BM25Retriever(**options),
            **dict.fromkeys(("dense", "bge", "contriever", "ance"), lambda: DenseRetriever(encoder_name, **options)),
            "hybrid": lambda: [BM25Retriever(), DenseRetriever(encoder_name)],
        }
        self.method, self.n_docs, self._options = (
            chosen(method, tuple(methods), "method"),
            at_least_one(n_docs),
            options,
        )
        self._parts = methods[self.method]()
        self._retriever: protocols.Retriever | None = None
        self.documents: dict[str, protocols.Document] = {}

    def index(self, corpus: Corpus) -> Retriever:
        """Index a corpus, in place of the one before.

        Args:
            corpus: texts, dictionaries with id, title and contents (or text), `Context`s, or the contexts of
                `Document`s; without ids they are numbered.

        Raises:
            ValueError: an empty corpus, an id twice, or a context without text.
        """
        documents = collection(corpus)
        parts = self._parts if isinstance(self._parts, list) else [self._parts]
        for part in parts:
            part.build(documents)
        self._retriever = HybridRetriever(parts, **self._options) if isinstance(self._parts, list) else self._parts
        self.documents.clear()  # kept as one object: ReAct reads from it
        self.documents.update({document.id: document for document in documents})
        return self

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `fullrank.search.Retriever.search`.

        Raises:
            RuntimeError: nothing is indexed yet.
        """
        if self._retriever is None:
            raise RuntimeError("nothing is indexed yet: call index(corpus) first")
        return self._retriever.search(queries, k)

    def retrieve(self, documents: Sequence[Document]) -> list[Document]:
        """Fill the `contexts` of documents, with `has_answer` where answers are known, and give them back.

        What was re-ranked before is forgotten.

        Raises:
            RuntimeError: see `search`.
        """
        run = self.search([document.question.question for document in documents], self.n_docs)
        for number, document in enumerate(documents):
            found = run.ranking(str(number), self.n_docs)
            document.contexts = [self._context(id, score, document.answers.answers) for id, score in found]
            document.reorder_contexts = None
        return list(documents)

    def _context(self, id: str, score: float, answers: Sequence[str]) -> Context:
        found = known(self.documents, id)
        holds = has_answer(found.text, answers) if answers else None
        return Context(score, holds, id, found.title, found.text)


class Reranking:
    """Orders the contexts of documents anew.

    Args:
        method: see `fullrank.search.reranker`, or an object with `rerank(query, documents)`.
        model_name: a name or folder for the method to load, if it has a model.
        **options: of the method.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(self, method: str | protocols.Reranker, model_name: Any = None, **options: Any) -> None:
        self.reranker = method if isinstance(method, protocols.Reranker) else reranker(method, model_name, **options)

    def rank(self, documents: Sequence[Document]) -> list[Document]:
        """Fill `reorder_contexts`, with the re-ranker's scores, and give the documents back; `contexts` stay.

        Raises:
            ValueError: a context without id or text, two with one id, or a re-ranker that loses some.
        """
        for document in documents:
            document.reorder_contexts = self._reordered(document)
        return list(documents)

    def _reordered(self, document: Document) -> list[Context]:
        read = [context.to_document() for context in document.contexts]
        by_id = dict(zip(protocols.identifiers(read), document.contexts, strict=True)) if read else {}
        if not read:
            return []
        old = tuple(-float(number) for number in range(len(read)))
        new = reordered(self.reranker, Ranking(document.question.question, tuple(read), old))
        return [replace(by_id[d.id], score=score) for d, score in zip(new.documents, new.scores, strict=True)]


def chosen(name: str, names: Sequence[str], what: str) -> str:
    """A name, in small letters, that is one of several.

    Raises:
        ValueError: it is none; the message names close ones.
    """
    if name.lower() in names:
        return name.lower()
    close = get_close_matches(name.lower(), names, 3, 0.5)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"{what}={name!r} is not known; accepted: {', '.join(names)}{meant}")


def collection(corpus: Corpus) -> list[protocols.Document]:
    """A corpus in any form as documents; the contexts of several questions once each."""
    contexts: list[Context | protocols.Document] = []
    for entry in corpus:
        if isinstance(entry, Document):
            contexts += entry.contexts
        elif isinstance(entry, Context | protocols.Document):
            contexts.append(entry)
        else:
            contexts.append(Context(text=entry) if isinstance(entry, str) else Context.from_dict(entry))
    numbered = [
        replace(context, id=str(number)) if context.id is None else context for number, context in enumerate(contexts)
    ]
    documents = [context.to_document() if isinstance(context, Context) else context for context in numbered]
    if any(isinstance(entry, Document) for entry in corpus):
        documents = list({document.id: document for document in documents}.values())
    return documents
