"""What retrievers, re-rankers and generators are: small protocols that any object can meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from fullrank.search.empty_queries import tell_empty
from fullrank.search.run import Run

Queries = Mapping[str, str] | Sequence[str] | str


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        id: unique in its collection; without white space, if it is to stand in TREC files.
        text: what is searched and shown.
        title: searched and shown before the text, if there is one.
        metadata: anything else.

    Raises:
        ValueError: an empty id.
        TypeError: an id, a text or a title that is not text.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"id={self.id!r} is {type(self.id).__name__}; a document's id is text: str(id)")
        if not self.id:
            raise ValueError("id='' is empty; a document needs an id")
        for name in ("text", "title"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"document {self.id!r}: {name}={value!r} is {type(value).__name__}; text is needed")

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

    Raises:
        ValueError: another number of scores than of documents.
    """

    query: str
    documents: tuple[Document, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.documents):
            raise ValueError(f"{len(self.scores)} scores for {len(self.documents)} documents; one each is needed")


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


def whole_characters(text: str) -> str:
    """A text with "?" for halves of characters, which JSON and shells can bring, but no file or tokenizer takes."""
    return text.encode(errors="replace").decode()


def named(queries: Queries) -> dict[str, str]:
    """Queries by id, whatever form they came in.

    Raises:
        TypeError: they are of no such form, or one of them is no text.
        ValueError: two ids with the same text, such as 1 and "1".
    """
    if isinstance(queries, str):
        return {"0": queries}
    if not isinstance(queries, Iterable):
        raise TypeError(f"queries={queries!r} is {type(queries).__name__}; a text, texts, or texts by id are needed")
    given = list(queries.items() if isinstance(queries, Mapping) else enumerate(queries))
    wrong = next(((query_id, text) for query_id, text in given if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"query {str(wrong[0])!r} is {wrong[1]!r}, of {type(wrong[1]).__name__}; text is needed")
    texts = {str(query_id): text for query_id, text in given}
    if len(texts) < len(given):
        raise ValueError("two query ids have the same text")
    return texts


def asked_in_blocks(texts: Mapping[str, str], size: int) -> Iterator[list[str]]:
    """Ids of the queries that are not blank, so many at a time; of the others there is a warning."""
    asked = [query_id for query_id, text in texts.items() if text.strip()]
    tell_empty((query_id for query_id, text in texts.items() if not text.strip()), stacklevel=4)
    for start in range(0, len(asked), size):
        yield asked[start : start + size]


def identifiers(documents: Sequence[Document]) -> list[str]:
    """The documents' ids.

    Raises:
        ValueError: no documents, or an id twice.
        TypeError: one that is no document.
    """
    if not documents:
        raise ValueError("documents=[] leaves nothing to index; give at least one")
    for document in documents:
        if not isinstance(document, Document):
            kind = type(document).__name__
            raise TypeError(f"documents hold {document!r:.60}, which is {kind}; Document(id, text) is needed")
    ids = [document.id for document in documents]
    twice = next((id for id, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"two documents have the id {twice!r}; ids are unique in a collection")
    return ids
