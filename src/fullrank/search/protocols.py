"""What retrievers, re-rankers and generators are: small protocols that any object can meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from fullrank.search.run import Run

Queries = Mapping[str, str] | Sequence[str] | str


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        id: unique in its collection, without white space.
        text: what is searched and shown.
        title: searched and shown before the text, if there is one.
        metadata: anything else.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def searched(self) -> str:
        """Title and text."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True)
class Ranking:
    """Documents in order for one query.

    Attributes:
        query: the query's text.
        documents: best first.
        scores: in the documents' order.
    """

    query: str
    documents: tuple[Document, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """An answer and what it rests on.

    Attributes:
        text: the answer.
        sources: ids of the documents used.
        metadata: of the generator, such as token counts.
    """

    text: str
    sources: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Retriever(Protocol):
    """Finds documents for queries."""

    def search(self, queries: Queries, k: int = 10) -> Run:
        """The k best documents of every query.

        Args:
            queries: texts by query id; a list of texts, whose ids are "0", "1", ...; or one text, whose id is "0".
            k: how many at most.
        """
        ...


@runtime_checkable
class Reranker(Protocol):
    """Orders given documents anew."""

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """The documents in a better order."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Answers a question from contexts."""

    def answer(self, question: str, contexts: Sequence[Document]) -> Answer:
        """An answer, and the documents it rests on."""
        ...


def named(queries: Queries) -> dict[str, str]:
    """Queries by id, whatever form they came in."""
    if isinstance(queries, str):
        return {"0": queries}
    if isinstance(queries, Mapping):
        return dict(queries)
    return {str(number): text for number, text in enumerate(queries)}


def checked(documents: Sequence[Document], k: int | None = None) -> list[str]:
    """The documents' ids.

    Raises:
        ValueError: no documents, an id twice, or k below 1.
    """
    if k is not None and k < 1:
        raise ValueError(f"k={k}: at least 1 document is needed")
    ids = [document.id for document in documents]
    if not ids:
        raise ValueError("documents=[] leaves nothing to index")
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ValueError(f"two documents have the id {twice!r}; ids are unique in a collection")
    return ids
