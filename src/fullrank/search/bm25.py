"""BM25 retrieval on bm25s: an index is a folder of memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fullrank._optional import require
from fullrank.search.index_folder import open_index, save_index
from fullrank.search.protocols import Document, Queries, identifiers, named
from fullrank.search.run import Run, at_least_one

Variant = Literal["robertson", "lucene", "atire", "bm25l", "bm25+"]


class BM25Retriever:
    """Lexical retrieval by BM25.

    Args:
        variant: how term frequency and document frequency enter (Kamphuis et al. 2020).
        k1: saturation of term frequency, 0 or more; positive for "bm25+".
        b: normalisation by document length, 0 to 1.
        stopwords: language of the words to leave out, such as "en" or "de"; None for none.

    Raises:
        MissingExtra: bm25s is not installed.
        ValueError: an unknown variant or language, or k1 or b out of range.
    """

    def __init__(
        self, variant: Variant = "lucene", k1: float = 1.2, b: float = 0.75, stopwords: str | None = "en"
    ) -> None:
        self._bm25s: Any = require("bm25s", "search")
        if variant not in get_args(Variant):
            raise ValueError(f"variant={variant!r} is not known; accepted: {', '.join(get_args(Variant))}")
        if k1 < 0:
            raise ValueError(f"k1={k1} is not accepted; it is 0 or more, by custom 0.9 to 1.5")
        if k1 == 0 and variant == "bm25+":  # a term that a document lacks would count 0 / 0
            raise ValueError("k1=0 is not accepted for bm25+, which divides by it; give a positive one")
        if not 0 <= b <= 1:
            raise ValueError(f"b={b} is not accepted; it is from 0 to 1")
        self.variant, self.k1, self.b, self.stopwords = variant, k1, b, stopwords
        self._words("")  # bm25s knows which languages it has
        self._index: Any = None
        self._ids: np.ndarray = np.array([], dtype=object)

    def build(self, documents: Sequence[Document]) -> BM25Retriever:
        """Index documents, in place of what was indexed before.

        Raises:
            ValueError: no documents, an id twice, or no document with a word to index.
        """
        ids = identifiers(documents)
        tokens = self._tokenize([document.searched for document in documents])
        if not tokens.vocab.keys() - {""}:
            raise ValueError(f"none of the {len(ids)} documents holds a word to index (two letters, no stop word)")
        index = self._bm25s.BM25(method=self.variant, k1=self.k1, b=self.b)
        index.index(tokens, show_progress=False)
        self._index, self._ids = index, np.array(ids, dtype=object)
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

    def matched_terms(self, query: str, document: Document) -> list[str]:
        """The query's terms that the document holds: why it was found."""
        return sorted(set(self._words(query)) & set(self._words(document.searched)))

    def save(self, folder: str | Path) -> Path:
        """Write the index; whoever reads the folder meanwhile sees the one before.

        Raises:
            RuntimeError: nothing is indexed yet.
            OSError: the folder cannot be written.
        """
        index = self._indexed()
        options = {"variant": self.variant, "k1": self.k1, "b": self.b, "stopwords": self.stopwords}
        about = {"options": options, "ids": self._ids.tolist()}
        return save_index(folder, "BM25Retriever", about, lambda files: index.save(str(files), show_progress=False))

    @classmethod
    def load(cls, folder: str | Path) -> BM25Retriever:
        """Open an index, memory-mapped.

        Raises:
            FileNotFoundError: the folder holds no index.
            ValueError: it is damaged or of another retriever.
        """
        return open_index(folder, "BM25Retriever", cls._read, (ValueError, OSError, EOFError, KeyError, TypeError))

    @classmethod
    def _read(cls, about: dict[str, Any], files: Path) -> BM25Retriever:
        retriever = cls(**about["options"])
        retriever._index = retriever._bm25s.BM25.load(str(files), mmap=True)
        retriever._ids = np.array(about["ids"], dtype=object)
        if retriever._index.scores["num_docs"] != len(retriever._ids):
            raise ValueError(f"{retriever._index.scores['num_docs']} documents, {len(retriever._ids)} ids")
        return retriever

    def _indexed(self) -> Any:
        if self._index is None:
            raise RuntimeError("nothing is indexed yet: call build(documents) or load(folder) first")
        return self._index

    def _best(self, text: str, k: int) -> dict[str, float]:
        """The k best documents of one query that hold a term of it, in the order of `Run`."""
        terms = self._index.get_tokens_ids(self._words(text))
        if not terms:
            return {}
        starts, postings = self._index.scores["indptr"], self._index.scores["indices"]
        holds = np.zeros(len(self._ids), dtype=bool)
        for term in set(terms):
            holds[postings[starts[term] : starts[term + 1]]] = True
        found = np.flatnonzero(holds)
        scores = self._index.get_scores_from_ids(terms)[found]
        if len(found) > k:  # ties of the last place stay in, so that their order decides
            last = np.partition(scores, len(scores) - k)[len(scores) - k]
            found, scores = found[scores >= last], scores[scores >= last]
        run = Run()
        run["0"] = dict(zip(self._ids[found], scores.tolist(), strict=True))
        return dict(run.ranking("0", k))

    def _tokenize(self, texts: list[str]) -> Any:
        return self._bm25s.tokenize(texts, stopwords=self.stopwords, show_progress=False)

    def _words(self, text: str) -> list[str]:
        return self._bm25s.tokenize([text], stopwords=self.stopwords, return_ids=False, show_progress=False)[0]
