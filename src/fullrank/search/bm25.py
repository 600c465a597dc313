"""BM25 retrieval on bm25s: an index is a folder of memory-mapped files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fullrank._files import write_json
from fullrank._optional import require
from fullrank.search.protocols import Document, Queries, checked, named
from fullrank.search.run import Run

Variant = Literal["robertson", "lucene", "atire", "bm25l", "bm25+"]


class BM25Retriever:
    """Lexical retrieval by BM25.

    Args:
        variant: how term frequency and document frequency enter (Kamphuis et al. 2020).
        k1: saturation of term frequency.
        b: normalisation by document length, 0 to 1.
        stopwords: language code of the words to leave out, or None for none.

    Raises:
        MissingExtra: bm25s is not installed.
    """

    def __init__(
        self, variant: Variant = "lucene", k1: float = 1.2, b: float = 0.75, stopwords: str | None = "en"
    ) -> None:
        self._bm25s: Any = require("bm25s", "search")
        self.options = {"variant": variant, "k1": k1, "b": b, "stopwords": stopwords}
        self._index: Any = None
        self._ids: list[str] = []

    def build(self, documents: Sequence[Document]) -> BM25Retriever:
        """Index documents, in place of what was indexed before.

        Raises:
            ValueError: no documents, or an id twice.
        """
        self._ids = checked(documents)
        tokens = self._tokens([document.searched for document in documents])
        self._index = self._bm25s.BM25(method=self.options["variant"], k1=self.options["k1"], b=self.options["b"])
        self._index.index(tokens, show_progress=False)
        return self

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; documents without any of a query's terms are not results.

        Raises:
            ValueError: k below 1.
            RuntimeError: nothing is indexed yet.
        """
        if self._index is None:
            raise RuntimeError("nothing is indexed yet: call build(documents) or load(folder) first")
        if k < 1:
            raise ValueError(f"k={k}: at least 1 document is needed")
        run = Run()
        for query_id, text in named(queries).items():
            run[query_id] = self._one(text, min(k, len(self._ids)))
        return run

    def matched_terms(self, query: str, document: Document) -> list[str]:
        """The query's terms that the document holds: why it was found."""
        wanted, held = (self._words(text) for text in (query, document.searched))
        return sorted(set(wanted) & set(held))

    def save(self, folder: str | Path) -> Path:
        """Write the index: bm25s' files, and `retriever.json` last."""
        folder = Path(folder)
        self._index.save(str(folder), show_progress=False)
        write_json(folder / "retriever.json", {"options": self.options, "ids": self._ids})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> BM25Retriever:
        """Open an index, memory-mapped.

        Raises:
            FileNotFoundError: the folder holds no index.
        """
        folder = Path(folder)
        about = json.loads((folder / "retriever.json").read_text())
        retriever = cls(**about["options"])
        retriever._ids = about["ids"]
        retriever._index = retriever._bm25s.BM25.load(str(folder), mmap=True)
        return retriever

    def _one(self, text: str, k: int) -> dict[str, float]:
        words = [word for word in self._words(text) if word in self._index.vocab_dict]
        if not words:
            return {}
        documents, scores = self._index.retrieve([words], k=k, show_progress=False)
        return {self._ids[int(d)]: float(s) for d, s in zip(documents[0], scores[0], strict=True) if s > 0}

    def _tokens(self, texts: list[str]) -> Any:
        return self._bm25s.tokenize(texts, stopwords=self.options["stopwords"] or [], show_progress=False)

    def _words(self, text: str) -> list[str]:
        stopwords = self.options["stopwords"] or []
        return self._bm25s.tokenize([text], stopwords=stopwords, return_ids=False, show_progress=False)[0]
