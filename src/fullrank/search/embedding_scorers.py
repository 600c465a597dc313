"""Re-ranking by vectors: of whole texts, of tokens (ColBERT) and over the vocabulary (SPLADE)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullrank.search.colbert_encoder import ColBERTEncoder
from fullrank.search.dense import load_encoder
from fullrank.search.late_interaction import Convention, maxsim
from fullrank.search.learned_sparse import SpladeEncoder
from fullrank.search.model_scorers import distinct
from fullrank.search.pointwise import ModelScorer


class EncoderScorer(ModelScorer):
    """Cosine of encoded query and texts: a bi-encoder as a re-ranker. A text is encoded once for all queries.

    Args:
        encoder: an object with `encode(texts)`, or a local model folder, loaded at first use; the bundled
            all-MiniLM-L6-v2 by default.
        device: where a folder's model goes.
        batch_size: texts at a time, for an encoder that can be told; its own number by default.
    """

    def __init__(self, encoder: Any = None, device: str = "cpu", batch_size: int | None = None) -> None:
        self._encoder, self._device = encoder, device
        self._options = {} if batch_size is None else {"batch_size": batch_size}

    @property
    def encoder(self) -> Any:
        """The encoder, loaded.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        if self._encoder is None or isinstance(self._encoder, str | Path):
            self._encoder = load_encoder(self._encoder, self._device)
        return self._encoder

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One cosine for every query with the text at its place."""
        if not texts:
            return []
        unique, places = distinct([*queries, *texts])
        vectors = np.asarray(self.encoder.encode(unique, **self._options), dtype=np.float64)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        first, second = vectors[places[: len(queries)]], vectors[places[len(queries) :]]
        return np.einsum("pd,pd->p", first, second).tolist()


class LateInteractionScorer(ModelScorer):
    """sum_i max_j of token vectors (ColBERT, Khattab and Zaharia 2020).

    Args:
        model: see `ColBERTEncoder`.
        tokenizer: see `ColBERTEncoder`.
        convention: see `maxsim`.
        **options: see `ColBERTEncoder`.

    Raises:
        ValueError: see `ColBERTEncoder`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, *, convention: Convention = "all", **options: Any) -> None:
        self.encoder = ColBERTEncoder(model, tokenizer, **options)
        self.convention: Convention = convention

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One sum for every query with the text at its place; a text is encoded once for all queries.

        Raises:
            ValueError: the tokenizer lacks a marker or [MASK].
        """
        if not texts:
            return []
        unique, places = distinct(queries)
        Q, words = self.encoder.encode_queries(unique)
        distinct_texts, positions = distinct(texts)
        stands = _stands(distinct_texts, positions)
        scores = np.zeros(len(texts))
        for numbers, D, present in self.encoder.batches(distinct_texts):
            pairs = _by_query([stands[number] for number in numbers], places)
            for query, found in pairs.items():
                at = torch.tensor([row for row, _ in found], device=D.device)
                own = slice(query, query + 1)
                values = maxsim(Q[own], D[at], words[own], present[at], self.convention)[0]
                scores[[number for _, number in found]] = values.float().cpu().numpy()
        return scores.tolist()


class SparseScorer(ModelScorer):
    """Dot product of weights over the vocabulary (SPLADE, Formal et al. 2021).

    Args:
        model: a masked language model: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        **options: see `Pretrained`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        self.encoder = SpladeEncoder(model, tokenizer, **options)

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One product for every query with the text at its place; a text is encoded once for all queries."""
        if not texts:
            return []
        unique, places = distinct(queries)
        Q = torch.cat([self.encoder.vectors([query]) for query in unique]).float()
        distinct_texts, positions = distinct(texts)
        stands = _stands(distinct_texts, positions)
        scores = np.zeros(len(texts))
        for numbers, D in self.encoder.batches(distinct_texts):
            pairs = [(row, number) for row, place in enumerate(numbers) for number in stands[place]]
            first = torch.tensor([places[number] for _, number in pairs], device=D.device)
            second = torch.tensor([row for row, _ in pairs], device=D.device)
            scores[[number for _, number in pairs]] = (Q @ D.float().T)[first, second].cpu().numpy()
        return scores.tolist()


def _stands(unique: Sequence[str], places: Sequence[int]) -> list[list[int]]:
    """Numbers of the texts that every distinct text stands for."""
    stands: list[list[int]] = [[] for _ in unique]
    for number, place in enumerate(places):
        stands[place].append(number)
    return stands


def _by_query(numbers: Sequence[Sequence[int]], places: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """Row and number of every text of a batch, by the place of its query."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row, own in enumerate(numbers):
        for number in own:
            found.setdefault(places[number], []).append((row, number))
    return found
