"""From questions to answers: retrieve, re-rank, generate from the final order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fullrank.search.answers import BatchGenerator, asked
from fullrank.search.protocols import Answer, Document, Generator, Queries, Ranking, Reranker, Retriever, named
from fullrank.search.run import at_least_one


@dataclass(frozen=True)
class Answered:
    """A question with its answer, and the way there.

    Attributes:
        question: as it was asked.
        answer: with its sources.
        ranking: all documents that were found, in the final order; the first `top_k` went to the generator.
    """

    question: str
    answer: Answer
    ranking: Ranking


def answer_questions(
    questions: Queries,
    retriever: Retriever,
    documents: Sequence[Document] | Mapping[str, Document],
    generator: Generator,
    reranker: Reranker | None = None,
    n_docs: int = 100,
    top_k: int = 5,
) -> dict[str, Answered]:
    """Answer questions from documents.

    Args:
        questions: see `Retriever.search`.
        retriever: finds `n_docs` documents a question.
        documents: those of the retriever, by id or as a list.
        generator: answers from the first `top_k` of the final order.
        reranker: orders what was found, if there is one.
        n_docs: found per question.
        top_k: given to the generator per question.

    Returns:
        by question id, in the order of the questions.

    Raises:
        ValueError: a blank question, `n_docs` or `top_k` below 1, a retriever that finds a document which is not among
            the documents, or a re-ranker that loses or adds some.
    """
    for name, value in (("n_docs", n_docs), ("top_k", top_k)):
        at_least_one(value, name)
    texts = {id: asked(question) for id, question in named(questions).items()}
    rankings = rank(texts, retriever, by_id(documents), reranker, n_docs)
    contexts = [ranking.documents[:top_k] for ranking in rankings.values()]
    answers = generate(generator, list(texts.values()), contexts)
    return {
        id: Answered(texts[id], answer, ranking)
        for (id, ranking), answer in zip(rankings.items(), answers, strict=True)
    }


def rank(
    questions: Mapping[str, str],
    retriever: Retriever,
    documents: Mapping[str, Document],
    reranker: Reranker | None,
    n_docs: int,
) -> dict[str, Ranking]:
    """The final order of what is found for every question."""
    run = retriever.search(questions, n_docs)
    rankings: dict[str, Ranking] = {}
    for id, question in questions.items():
        found = run.ranking(id, n_docs)
        ranking = Ranking(question, tuple(known(documents, name) for name, _ in found), tuple(s for _, s in found))
        rankings[id] = ranking if reranker is None or not found else reordered(reranker, ranking)
    return rankings


def reordered(reranker: Reranker, ranking: Ranking) -> Ranking:
    """A ranking in a re-ranker's order.

    Raises:
        ValueError: the re-ranker lost documents, or gave others.
    """
    new = reranker.rerank(ranking.query, ranking.documents)
    before, after = (sorted(document.id for document in order.documents) for order in (ranking, new))
    if before != after:
        raise ValueError(
            f"the re-ranker gave {len(after)} documents for {len(before)}, and not the same ones; it only orders"
        )
    return new


def generate(generator: Generator, questions: Sequence[str], contexts: Sequence[Sequence[Document]]) -> list[Answer]:
    """One answer per question, all together where the generator can."""
    if isinstance(generator, BatchGenerator):
        return generator.answer_all(questions, contexts)
    return [generator.answer(question, found) for question, found in zip(questions, contexts, strict=True)]


def by_id(documents: Sequence[Document] | Mapping[str, Document]) -> Mapping[str, Document]:
    """Documents by id; a mapping as it is, such as one that reads them from disk."""
    return documents if isinstance(documents, Mapping) else {document.id: document for document in documents}


def known(documents: Mapping[str, Document], id: str) -> Document:
    """The document of an id that a retriever found.

    Raises:
        ValueError: there is none.
    """
    try:
        return documents[id]
    except KeyError:
        raise ValueError(
            f"the retriever found the document {id!r}, which is not among the documents; give those that it indexed"
        ) from None
