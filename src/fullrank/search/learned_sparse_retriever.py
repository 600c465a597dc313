"""Retrieval by learned sparse vectors, on the inverted index that BM25 is on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fullrank.search.index_folder import open_index
from fullrank.search.inverted_index import InvertedIndex, Scored
from fullrank.search.learned_sparse import SparseEncoder, Weights, sparse_encoder
from fullrank.search.protocols import Document
from fullrank.search.segmented_index import DAMAGE, check_made, recorded_encoder
from fullrank.search.segments import Segment, weighted_segment


class LearnedSparseRetriever(InvertedIndex):
    """Retrieval by the product of query and document weights, s(q, d) = sum_t w_q(t) w_d(t), exact.

    Args:
        encoder: `SpladeEncoder` for SPLADE, `TokenWeightEncoder` for uniCOIL and DeepImpact, or any object with
            `encode_documents(texts)` and `encode_queries(texts)`.

    Raises:
        TypeError: the encoder has not both.
    """

    segment_size = 10_000

    def __init__(self, encoder: SparseEncoder) -> None:
        if not isinstance(encoder, SparseEncoder):
            raise TypeError(
                f"encoder={encoder!r} is {type(encoder).__name__}; an object with encode_documents(texts) and "
                f"encode_queries(texts) is needed, such as SpladeEncoder(model)"
            )
        self.encoder = encoder
        super().__init__()

    @classmethod
    def load(cls, folder: str | Path, encoder: SparseEncoder | None = None, **options: Any) -> LearnedSparseRetriever:
        """Open an index, memory-mapped.

        Args:
            folder: of the index.
            encoder: the one that it was built with; by default the one that is named in the index, if it was made of a
                name or a folder.
            **options: of the encoder that is named, such as `device`.

        Raises:
            FileNotFoundError: the folder holds no index.
            ValueError: it is damaged or of another retriever, or options for an encoder that is given.
            LookupError: it names no encoder, and none is given.
            TypeError: see `LearnedSparseRetriever`.
        """
        if encoder is not None:
            check_made(options)
        given = None if encoder is None else cls(encoder)

        def read(about: dict[str, Any], files: Path) -> LearnedSparseRetriever:
            retriever = cls(recorded_encoder(about, sparse_encoder, options)) if given is None else given
            return retriever._take(Segment, about, files)

        return open_index(folder, cls.__name__, read, DAMAGE)

    # --- within --------------------------------------------------------------------------------------------------

    def _segment(self, documents: Sequence[Document]) -> Segment:
        texts = [document.searched for document in documents]
        return weighted_segment(documents, _checked(self.encoder.encode_documents(texts), texts))

    def _about(self) -> dict[str, Any]:
        return {"encoder": getattr(self.encoder, "description", None)}

    def _check_built(self) -> None:
        if not any(segment.terms for segment in self._segments):
            raise ValueError(f"the encoder gave none of the {self._count} documents a term that weighs more than 0")

    def _query_weights(self, texts: Sequence[str]) -> list[Weights]:
        asked = [text for text in texts if text.strip()]
        found = iter(_checked(self.encoder.encode_queries(asked), asked) if asked else [])
        return [next(found) if text.strip() else {} for text in texts]

    def _scored(self, term: str) -> Scored | None:
        found = self._postings(term)
        if not found:
            return None
        held = np.concatenate([documents + self._offsets[number] for number, documents, _ in found])
        return Scored(held, np.concatenate([weights for _, _, weights in found]), 0.0)


def _checked(given: Sequence[Weights], texts: Sequence[str]) -> list[Weights]:
    """Weights of texts, without those that are 0."""
    if len(given) != len(texts):
        raise ValueError(f"encoder gave weights for {len(given)} texts of {len(texts)}; one dictionary each is needed")
    for text, weights in zip(texts, given, strict=True):
        for term, weight in weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(
                    f"encoder gave the term {term!r} the weight {weight} in the text {text[:80]!r}; a finite number, 0 "
                    f"or more, is needed"
                )
    return [{term: weight for term, weight in weights.items() if weight > 0} for weights in given]
