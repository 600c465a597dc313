"""BM25 retrieval on an inverted index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fullrank.search.analysis import Analyzer, term_counts
from fullrank.search.bm25_weights import Variant, absent_frequency, inverse_document_frequency, term_frequency
from fullrank.search.index_folder import open_index
from fullrank.search.inverted_index import InvertedIndex, Scored
from fullrank.search.protocols import Document
from fullrank.search.segmented_index import DAMAGE
from fullrank.search.segments import Segment, counted_segment

# Terms whose scores are kept, and how many postings they have at most: 256 MB.
_KEPT_TERMS = 20_000
_KEPT_POSTINGS = 16_000_000


class BM25Retriever(InvertedIndex):
    """Lexical retrieval by BM25.

    The statistics that scores rest on (N, df, avgdl) are those of all documents, however they came in.

    Args:
        variant: how term frequency and document frequency enter (Kamphuis et al. 2020).
        k1: saturation of term frequency, 0 or more; positive for "bm25+".
        b: normalisation by document length, 0 to 1.
        stopwords: language of the words to leave out, such as "en" or "de"; None for none.
        stemming: language whose endings are cut, such as "en" or "de"; None for none.
        analyzer: a function from a text to its terms, in place of both; it is given again to `load`.
        delta: what "bm25l" and "bm25+" add to a term frequency, positive; Lv and Zhai (2011) take 0.5 and 1.

    Raises:
        MissingExtra: bm25s, whose lists of stop words are used, or PyStemmer is not installed.
        ValueError: an unknown variant or language, or k1, b or delta out of range.
    """

    def __init__(
        self,
        variant: Variant = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        stopwords: str | None = "en",
        stemming: str | None = None,
        analyzer: Callable[[str], Sequence[str]] | None = None,
        delta: float | int = 0.5,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant={variant!r} is not known; accepted: {', '.join(get_args(Variant))}")
        if not 0 <= k1 < math.inf:
            raise ValueError(f"k1={k1} is not accepted; it is 0 or more, by custom 0.9 to 1.5")
        if k1 == 0 and variant == "bm25+":  # a term that a document lacks would count 0 / 0
            raise ValueError("k1=0 is not accepted for bm25+, which divides by it; give a positive one")
        if not 0 <= b <= 1:
            raise ValueError(f"b={b} is not accepted; it is from 0 to 1")
        if not 0 < delta < math.inf:
            raise ValueError(f"delta={delta} is not accepted; it is above 0, by custom 0.5 or 1")
        self.variant: Variant = variant
        self.k1, self.b, self.delta, self.stopwords, self.stemming = k1, b, delta, stopwords, stemming
        self._terms = analyzer or Analyzer(stopwords, stemming).terms
        self._own_analyzer = analyzer is None
        super().__init__()

    def matched_terms(self, query: str, document: Document) -> list[str]:
        """The query's terms that the document holds: why it was found."""
        return sorted(set(self._terms(query)) & set(self._terms(document.searched)))

    @classmethod
    def load(cls, folder: str | Path, analyzer: Callable[[str], Sequence[str]] | None = None) -> BM25Retriever:
        """Open an index, memory-mapped.

        Args:
            folder: of the index.
            analyzer: the one that it was built with, if that was a function of yours.

        Raises:
            FileNotFoundError: the folder holds no index.
            ValueError: it is damaged, of another retriever, or was built with an analyzer of its own.
        """
        return open_index(folder, cls.__name__, lambda about, files: cls._read(about, files, analyzer), DAMAGE)

    @classmethod
    def _read(cls, about: dict[str, Any], files: Path, analyzer: Any) -> BM25Retriever:
        if not about["own_analyzer"] and analyzer is None:
            raise ValueError("it was built with an analyzer of its own: load(folder, analyzer=...)")
        return cls(**about["options"], analyzer=analyzer)._take(Segment, about, files)

    # --- within --------------------------------------------------------------------------------------------------

    def _segment(self, documents: Sequence[Document]) -> Segment:
        return counted_segment(documents, self._terms)

    def _about(self) -> dict[str, Any]:
        options = {"variant": self.variant, "k1": self.k1, "b": self.b, "delta": self.delta}
        options |= {"stopwords": self.stopwords, "stemming": self.stemming} if self._own_analyzer else {}
        return {"options": options, "own_analyzer": self._own_analyzer}

    def _check_built(self) -> None:
        if not any(segment.terms for segment in self._segments):
            raise ValueError(f"none of the {self._count} documents holds a word to index (two letters, no stop word)")

    def _refresh(self) -> None:
        """Take the statistics of all segments."""
        super()._refresh()
        average = sum(segment.total for segment in self._segments) / max(self._count, 1)
        self._norms = [1 - self.b + self.b * segment.lengths / (average or 1.0) for segment in self._segments]
        self._kept: dict[str, Scored | None] = {}
        self._kept_postings = 0

    def _query_weights(self, texts: Sequence[str]) -> list[dict[str, int]]:
        return [term_counts(self._terms(text)) for text in texts]

    def _scored(self, term: str) -> Scored | None:
        if term in self._kept:
            return self._kept[term]
        scored = self._score(term)
        self._kept[term] = scored
        self._kept_postings += _length(scored)
        if len(self._kept) > _KEPT_TERMS or self._kept_postings > _KEPT_POSTINGS:
            self._forget_terms()
        return scored

    def _forget_terms(self) -> None:
        """Forget what was kept first, until a quarter of the room is free."""
        held = {term: _length(scored) for term, scored in list(self._kept.items())}
        left, terms = sum(held.values()), len(held)
        for term, postings in held.items():
            if left <= _KEPT_POSTINGS * 3 // 4 and terms <= _KEPT_TERMS * 3 // 4:
                break
            self._kept.pop(term, None)
            left, terms = left - postings, terms - 1
        self._kept_postings = left

    def _score(self, term: str) -> Scored | None:
        found = self._postings(term)
        if not found:
            return None
        held = np.concatenate([documents + self._offsets[number] for number, documents, _ in found])
        tf = [
            term_frequency(self.variant, frequencies, self._norms[number][documents], self.k1, self.delta)
            for number, documents, frequencies in found
        ]
        idf = inverse_document_frequency(self.variant, self._count, len(held))
        absent = idf * absent_frequency(self.variant, self.k1, self.delta)
        return Scored(held, idf * np.concatenate(tf) - absent, absent)


def _length(scored: Scored | None) -> int:
    return 0 if scored is None else len(scored.documents)
