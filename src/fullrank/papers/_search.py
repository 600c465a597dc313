"""Find papers: keywords and meaning, fused by reciprocal rank, on the retrievers of the `search` room."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from platformdirs import user_cache_path

from fullrank.papers._catalogue import catalogue
from fullrank.papers._paper import Paper
from fullrank.search import BM25Retriever, DenseRetriever, Document, HybridRetriever, Run

Mode = Literal["hybrid", "keyword", "semantic"]
_MODES = get_args(Mode)


@dataclass(frozen=True)
class PaperHit:
    """One paper found.

    Attributes:
        paper: the paper.
        score: of its mode: a sum of reciprocal ranks, a BM25 score, or a cosine.
        terms: the query's terms that it holds.
        cosine: similarity of meaning, or None in keyword mode.
    """

    paper: Paper
    score: float
    terms: tuple[str, ...]
    cosine: float | None


def search(query: str, k: int = 10, mode: Mode = "hybrid") -> list[PaperHit]:
    """Papers for a query, best first.

    Args:
        query: any words; "fine-tune with few parameters" finds adapters.
        k: how many at most.
        mode: "keyword" (BM25), "semantic" (all-MiniLM-L6-v2), or both fused.

    Raises:
        ValueError: a blank query, an unknown mode, or k below 1.
        MissingExtra: the search extra is not installed.
    """
    if not query.strip():
        raise ValueError('query="" asks for nothing; give some words, such as "fine-tune with few parameters"')
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r} is not known; accepted: {', '.join(_MODES)}")
    count = len(catalogue())
    keyword = _keyword()
    cosines = Run({"0": {}}) if mode == "keyword" else _semantic().search(query, count)
    if mode == "semantic":
        run = cosines
    elif mode == "keyword":
        run = keyword.search(query, count)
    else:
        run = HybridRetriever([keyword, _semantic()]).search(query, count)
    papers = {paper.slug: paper for paper in catalogue()}
    documents = {document.id: document for document in _documents()}
    return [
        PaperHit(
            paper=papers[slug],
            score=score,
            terms=tuple(keyword.matched_terms(query, documents[slug])),
            cosine=cosines["0"].get(slug),
        )
        for slug, score in run.top(k).ranking("0")
    ]


@cache
def _documents() -> tuple[Document, ...]:
    return tuple(
        Document(paper.slug, f"{paper.summary} {' '.join(paper.topics)}. {paper.slug}", title=paper.title)
        for paper in catalogue()
    )


@cache
def _keyword() -> BM25Retriever:
    return BM25Retriever().build(_documents())


@cache
def _semantic() -> DenseRetriever:
    """The vectors of the catalogue's texts are kept in the user's cache; a damaged or outdated copy is made anew."""
    texts = json.dumps([document.searched for document in _documents()])
    key = hashlib.sha256(texts.encode()).hexdigest()[:16]
    folder = user_cache_path("fullrank") / "papers" / key
    if (folder / "retriever.json").exists():
        try:
            return DenseRetriever.load(folder)
        except (OSError, ValueError, KeyError):  # a cache, so made again below
            shutil.rmtree(folder)
    retriever = DenseRetriever().build(_documents())
    retriever.save(folder)
    return retriever
