"""From questions to answers: retrieve, re-rank, generate from the final order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fullrank.search.answers import BatchGenerator, asked
from fullrank.search.pointwise import PointwiseReranker
from fullrank.search.protocols import Answer, Document, Generator, Queries, Ranking, Reranker, Retriever, named
from fullrank.search.run import at_least_one

_PAIRS = 4096  # of query and document that a scorer gets together


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
        rankings[id] = Ranking(question, tuple(known(documents, name) for name, _ in found), tuple(s for _, s in found))
    if reranker is None:
        return rankings
    return dict(zip(rankings, reorder_all(reranker, rankings.values()), strict=True))


def reorder_all(reranker: Reranker, rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """Rankings in a re-ranker's order, one after another; what scores pairs gets those of many queries together.

    Raises:
        ValueError: see `reordered`.
    """
    if not isinstance(reranker, PointwiseReranker):
        yield from (reordered(reranker, ranking) if ranking.documents else ranking for ranking in rankings)
        return
    waiting: list[Ranking] = []
    pairs = 0
    for ranking in rankings:
        waiting.append(ranking)
        pairs += len(ranking.documents)
        if pairs >= _PAIRS:
            yield from _scored_anew(reranker, waiting)
            waiting, pairs = [], 0
    if waiting:
        yield from _scored_anew(reranker, waiting)


def _scored_anew(reranker: PointwiseReranker, rankings: Sequence[Ranking]) -> list[Ranking]:
    return reranker.rerank_all([each.query for each in rankings], [each.documents for each in rankings])


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
