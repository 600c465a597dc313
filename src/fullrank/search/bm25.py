"""BM25 retrieval on an index of segments, which grows and shrinks without being built anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fullrank.order import trec_order
from fullrank.search.analysis import Analyzer, term_counts
from fullrank.search.bm25_weights import Variant, absent_frequency, inverse_document_frequency, term_frequency
from fullrank.search.index_folder import open_index, save_index
from fullrank.search.protocols import Document, Queries, named
from fullrank.search.run import Run, at_least_one
from fullrank.search.segments import Segment, segments_of

_SEGMENT = 100_000  # documents, indexed at a time
_KEPT_TERMS = 20_000  # whose scores are kept
_DAMAGE = (ValueError, OSError, EOFError, KeyError, TypeError, IndexError)


class BM25Retriever:
    """Lexical retrieval by BM25.

    The statistics that scores rest on (N, df, avgdl) are those of all documents, however they came in.

    Args:
        variant: how term frequency and document frequency enter (Kamphuis et al. 2020).
        k1: saturation of term frequency, 0 or more; positive for "bm25+".
        b: normalisation by document length, 0 to 1.
        stopwords: language of the words to leave out, such as "en" or "de"; None for none.
        stemming: language whose endings are cut, such as "en" or "de"; None for none.
        analyzer: a function from a text to its terms, in place of both; it is given again to `load`.

    Raises:
        MissingExtra: bm25s, whose lists of stop words are used, or PyStemmer is not installed.
        ValueError: an unknown variant or language, or k1 or b out of range.
    """

    def __init__(
        self,
        variant: Variant = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        stopwords: str | None = "en",
        stemming: str | None = None,
        analyzer: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant={variant!r} is not known; accepted: {', '.join(get_args(Variant))}")
        if k1 < 0:
            raise ValueError(f"k1={k1} is not accepted; it is 0 or more, by custom 0.9 to 1.5")
        if k1 == 0 and variant == "bm25+":  # a term that a document lacks would count 0 / 0
            raise ValueError("k1=0 is not accepted for bm25+, which divides by it; give a positive one")
        if not 0 <= b <= 1:
            raise ValueError(f"b={b} is not accepted; it is from 0 to 1")
        self.variant: Variant = variant
        self.k1, self.b, self.stopwords, self.stemming = k1, b, stopwords, stemming
        self._terms = analyzer or Analyzer(stopwords, stemming).terms
        self._own_analyzer = analyzer is None
        self._segments: list[Segment] = []
        self._refresh()

    def __len__(self) -> int:
        return self._count

    def build(self, documents: Iterable[Document], scratch: str | Path | None = None) -> BM25Retriever:
        """Index documents, in place of what was indexed before.

        Args:
            documents: read one after another.
            scratch: a folder for parts of the index, so that memory holds one part of 100,000 documents only; parts
                stay there until the index is saved elsewhere.

        Raises:
            ValueError: no documents, an id twice, or no document with a word to index.
        """
        before, self._segments = self._segments, []
        try:
            self._take(documents, scratch)
            if not self._count:
                raise ValueError("documents=[] leaves nothing to index; give at least one")
            if not any(segment.terms for segment in self._segments):
                raise ValueError(
                    f"none of the {self._count} documents holds a word to index (two letters, no stop word)"
                )
        except BaseException:
            self._segments = before
            self._refresh()
            raise
        return self

    def add(self, documents: Iterable[Document], scratch: str | Path | None = None) -> BM25Retriever:
        """Index more documents; one with an id that is there takes the other's place.

        Raises:
            ValueError: an id twice among them.
        """
        before = list(self._segments)
        try:
            new = list(segments_of(documents, self._terms, _SEGMENT))
            self._drop({id for segment in new for id in segment.ids})
            self._segments += [self._spilled(segment, scratch) for segment in new]
            self._refresh()
            self._check_unique(new)
        except BaseException:
            self._segments = before
            self._refresh()
            raise
        return self

    def delete(self, ids: Iterable[str]) -> BM25Retriever:
        """Forget documents.

        Raises:
            LookupError: an id that is not there.
        """
        wanted = set(ids)
        unknown = wanted - {id for segment in self._segments for id in segment.ids}
        if unknown:
            raise LookupError(f"the index has no document {min(unknown)!r}; it has {self._count}")
        self._drop(wanted)
        self._refresh()
        return self

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; documents without any of a query's terms are not results.

        Raises:
            ValueError: k below 1.
            RuntimeError: nothing is indexed yet.
        """
        self._indexed()
        at_least_one(k)
        run = Run()
        for query_id, text in named(queries).items():
            run[query_id] = self._best(text, k)
        return run

    def explain(self, query: str, document_id: str) -> dict[str, float]:
        """What every term of a query adds to a document's score, largest first; they sum to it.

        Raises:
            LookupError: the index has no such document.
        """
        number = self._number(document_id)
        parts: dict[str, float] = {}
        for term, count in term_counts(self._terms(query)).items():
            scored = self._scored(term)
            if scored is None:
                continue
            places, values, absent = scored
            at = np.searchsorted(places, number)
            held = at < len(places) and places[at] == number
            value = float(values[at]) + absent if held else absent
            if value:
                parts[term] = count * value
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    def matched_terms(self, query: str, document: Document) -> list[str]:
        """The query's terms that the document holds: why it was found."""
        return sorted(set(self._terms(query)) & set(self._terms(document.searched)))

    @property
    def documents(self) -> Mapping[str, Document]:
        """The indexed documents by id, read when they are asked for."""
        return _Documents(self)

    def save(self, folder: str | Path) -> Path:
        """Write the index; whoever reads the folder meanwhile sees the one before. Parts that lie there are not copied.

        Raises:
            RuntimeError: nothing is indexed yet.
            OSError: the folder cannot be written.
        """
        self._indexed()
        options = {"variant": self.variant, "k1": self.k1, "b": self.b}
        options |= {"stopwords": self.stopwords, "stemming": self.stemming} if self._own_analyzer else {}
        about = {"options": options, "own_analyzer": self._own_analyzer, "segments": len(self._segments)}

        def write(files: Path) -> None:
            for number, segment in enumerate(self._segments):
                segment.write(files / f"{number:05d}")

        return save_index(folder, "BM25Retriever", about, write)

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
        return open_index(folder, "BM25Retriever", lambda about, files: cls._read(about, files, analyzer), _DAMAGE)

    @classmethod
    def _read(cls, about: dict[str, Any], files: Path, analyzer: Any) -> BM25Retriever:
        if not about["own_analyzer"] and analyzer is None:
            raise ValueError("it was built with an analyzer of its own: load(folder, analyzer=...)")
        retriever = cls(**about["options"], analyzer=analyzer)
        retriever._segments = [Segment.read(files / f"{number:05d}") for number in range(about["segments"])]
        retriever._refresh()
        return retriever

    # --- within --------------------------------------------------------------------------------------------------

    def _indexed(self) -> None:
        if not self._segments:
            raise RuntimeError("nothing is indexed yet: call build(documents) or load(folder) first")

    def _take(self, documents: Iterable[Document], scratch: str | Path | None) -> None:
        for segment in segments_of(documents, self._terms, _SEGMENT):
            self._segments.append(self._spilled(segment, scratch))
        self._refresh()
        self._check_unique(self._segments)

    def _spilled(self, segment: Segment, scratch: str | Path | None) -> Segment:
        if scratch is None:
            return segment
        Path(scratch).mkdir(parents=True, exist_ok=True)
        return segment.write(Path(tempfile.mkdtemp(prefix="segment-", dir=scratch)) / "files")

    def _check_unique(self, segments: Sequence[Segment]) -> None:
        seen: set[str] = set()
        for segment in segments:
            for id in segment.ids:
                if id in seen:
                    raise ValueError(f"two documents have the id {id!r}; ids are unique in a collection")
                seen.add(id)

    def _drop(self, ids: set[str]) -> None:
        kept: list[Segment] = []
        for segment in self._segments:
            gone = np.array([id in ids for id in segment.ids], dtype=bool)
            if gone.all() and len(gone):
                continue
            kept.append(segment.without(gone) if gone.any() else segment)
        self._segments = kept

    def _refresh(self) -> None:
        """Take the statistics of all segments."""
        self._offsets = np.concatenate([[0], np.cumsum([len(segment) for segment in self._segments])]).astype(np.int64)
        self._count = int(self._offsets[-1])
        average = sum(segment.total for segment in self._segments) / max(self._count, 1)
        self._norms = [1 - self.b + self.b * segment.lengths / (average or 1.0) for segment in self._segments]
        self._kept: dict[str, tuple[np.ndarray, np.ndarray, float] | None] = {}
        self._id_numbers: dict[str, int] | None = None

    def _scored(self, term: str) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Documents that hold a term, what it adds to them beyond what it adds to all, and that; None if none does."""
        if term not in self._kept:
            if len(self._kept) >= _KEPT_TERMS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[term] = self._score(term)
        return self._kept[term]

    def _score(self, term: str) -> tuple[np.ndarray, np.ndarray, float] | None:
        places, values = [], []
        for segment, offset, norm in zip(self._segments, self._offsets[:-1].tolist(), self._norms, strict=True):
            found = segment.postings(term)
            if found is not None:
                documents, tf = found
                places.append(documents.astype(np.int64) + offset)
                values.append(term_frequency(self.variant, tf, norm[documents], self.k1))
        if not places:
            return None
        held = np.concatenate(places)
        idf = inverse_document_frequency(self.variant, self._count, len(held))
        absent = idf * absent_frequency(self.variant, self.k1)
        return held, idf * np.concatenate(values) - absent, absent

    def _best(self, text: str, k: int) -> dict[str, float]:
        """The k best documents of one query that hold a term of it, in the order of `Run`."""
        counted = term_counts(self._terms(text))
        parts = [(count, scored) for term, count in counted.items() if (scored := self._scored(term)) is not None]
        if not parts:
            return {}
        scores = np.zeros(self._count)
        if len(parts) == 1:
            found = parts[0][1][0]
        else:
            holds = np.zeros(self._count, dtype=bool)
            for _, (places, _, _) in parts:
                holds[places] = True
            found = np.flatnonzero(holds)
        for count, (places, values, _) in parts:
            scores[places] += values if count == 1 else count * values
        reached = scores[found] + sum(count * absent for count, (_, _, absent) in parts)
        if len(found) > k:  # ties of the last place stay in, so that their order decides
            last = np.partition(reached.astype(np.float32), len(found) - k)[len(found) - k]
            best = reached.astype(np.float32) >= last
            found, reached = found[best], reached[best]
        ids = [self._id(number) for number in found.tolist()]
        order = trec_order(ids, reached)[:k].tolist()
        return {ids[place]: float(reached[place]) for place in order}

    def _id(self, number: int) -> str:
        segment, place = self._located(number)
        return segment.ids[place]

    def _located(self, number: int) -> tuple[Segment, int]:
        """The segment of a document, and its number there."""
        at = int(np.searchsorted(self._offsets, number, side="right")) - 1
        return self._segments[at], number - int(self._offsets[at])

    def _number(self, id: str) -> int:
        if self._id_numbers is None:
            every = (id for segment in self._segments for id in segment.ids)
            self._id_numbers = {id: number for number, id in enumerate(every)}
        if id not in self._id_numbers:
            raise LookupError(f"the index has no document {id!r}; it has {self._count}")
        return self._id_numbers[id]

    def _document(self, id: str) -> Document:
        segment, place = self._located(self._number(id))
        return segment.document(place)


class _Documents(Mapping[str, Document]):
    """The documents of an index by id."""

    def __init__(self, retriever: BM25Retriever) -> None:
        self._retriever = retriever

    def __getitem__(self, id: str) -> Document:
        try:
            return self._retriever._document(id)
        except LookupError as error:
            raise KeyError(id) from error

    def __iter__(self) -> Iterator[str]:
        return (id for segment in self._retriever._segments for id in segment.ids)

    def __len__(self) -> int:
        return len(self._retriever)
