"""Re-ranking by vectors: of whole texts, of tokens (ColBERT) and over the vocabulary (SPLADE)."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fullrank.search.dense import load_encoder
from fullrank.search.late_interaction import Convention, maxsim
from fullrank.search.learned_sparse import SpladeEncoder
from fullrank.search.model_scorers import distinct
from fullrank.search.pointwise import ModelScorer
from fullrank.search.pretrained import Pretrained


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

    [unused0] stands behind [CLS] in a query, [unused1] in a passage; a query is filled up with [MASK] tokens, which
    take part in the sum; punctuation of passages does not.

    Args:
        model: of transformers: an object whose output has `last_hidden_state`, or is a tensor (as `colbert.ColBERT`);
            or the name or folder of a ColBERT checkpoint.
        tokenizer: see `Pretrained`.
        query_length: tokens of a query, with the filling.
        convention: see `maxsim`.
        markers: tokens that mark a query and a passage.
        dim: of a named checkpoint's vectors.
        **options: see `Pretrained`.

    Raises:
        ValueError: `query_length` below 4; see `Pretrained`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        query_length: int = 32,
        convention: Convention = "all",
        markers: tuple[str, str] = ("[unused0]", "[unused1]"),
        dim: int | None = None,
        **options: Any,
    ) -> None:
        if query_length < 4:
            raise ValueError(f"query_length={query_length} is not accepted; two tokens of frame, a marker and a word")
        if dim is not None:
            options["dim"] = dim
        self.pretrained = Pretrained(model, tokenizer, kind=_colbert, **options)
        self.query_length, self.markers = query_length, markers
        self.convention: Convention = convention

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One sum for every query with the text at its place; a text is encoded once for all queries.

        Raises:
            ValueError: the tokenizer lacks a marker or [MASK].
        """
        if not texts:
            return []
        unique, places = distinct(queries)
        rows = [self._query(query) for query in unique]
        Q, words = self._vectors([ids for ids, _ in rows], [count for _, count in rows])
        scores = np.zeros(len(texts))
        for numbers, D, present in self._passages(texts):
            pairs = _by_query(numbers, places)
            for query, found in pairs.items():
                at = torch.tensor([row for row, _ in found], device=D.device)
                own = slice(query, query + 1)
                values = maxsim(Q[own], D[at], words[own], present[at], self.convention)[0]
                scores[[number for _, number in found]] = values.float().cpu().numpy()
        return scores.tolist()

    def _query(self, query: str) -> tuple[list[int], int]:
        """Ids, filled with [MASK], and how many are no filling."""
        tokenizer = self.pretrained.tokenizer
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token, with which ColBERT fills queries up")
        ids = self._marked([query], self.markers[0], self.query_length)[0]
        return ids + [tokenizer.mask_token_id] * (self.query_length - len(ids)), len(ids)

    def _marked(self, texts: Sequence[str], marker: str, length: int) -> list[list[int]]:
        tokenizer = self.pretrained.tokenizer
        id = tokenizer.convert_tokens_to_ids(marker)
        if id is None or id == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {marker!r}; name the checkpoint's own: markers=(query, text)")
        encoded = tokenizer(list(texts), truncation=True, max_length=length - 1).input_ids
        return [[ids[0], id, *ids[1:]] for ids in encoded]

    def _passages(self, texts: Sequence[str]) -> Iterator[tuple[list[list[int]], Tensor, Tensor]]:
        """Numbers of the texts that every row stands for, token vectors, and which tokens count."""
        loaded = self.pretrained
        unique, places = distinct(texts)
        stands: list[list[int]] = [[] for _ in unique]
        for number, place in enumerate(places):
            stands[place].append(number)
        rows = self._marked(unique, self.markers[1], loaded.limit())
        skipped = torch.tensor([id for id in loaded.tokenizer.convert_tokens_to_ids(list(string.punctuation)) if id])
        skipped = skipped[skipped != (-1 if loaded.tokenizer.unk_token_id is None else loaded.tokenizer.unk_token_id)]
        for numbers in loaded.batches(rows):
            batch = [rows[number] for number in numbers]
            D, present = self._vectors(batch, [len(row) for row in batch])
            ids, _ = loaded.padded(batch)
            yield [stands[number] for number in numbers], D, present & ~torch.isin(ids, skipped.to(ids.device))

    def _vectors(
        self, rows: list[list[int]], lengths: list[int]
    ) -> tuple[Float[Tensor, "rows tokens dim"], Bool[Tensor, "rows tokens"]]:
        loaded = self.pretrained
        ids, _ = loaded.padded(rows)
        reach = torch.tensor(lengths, device=ids.device).unsqueeze(1)
        present = torch.arange(ids.shape[1], device=ids.device) < reach
        with torch.inference_mode():
            out = loaded.model(input_ids=ids, attention_mask=present.long())
        states = out if isinstance(out, Tensor) else out.last_hidden_state
        return torch.nn.functional.normalize(states, dim=-1), present


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
        Q = torch.cat([self.encoder.vectors([query]) for query in unique])
        distinct_texts, positions = distinct(texts)
        stands: list[list[int]] = [[] for _ in distinct_texts]
        for number, place in enumerate(positions):
            stands[place].append(number)
        scores = np.zeros(len(texts))
        for numbers, D in self.encoder.batches(distinct_texts):
            pairs = [(row, number) for row, place in enumerate(numbers) for number in stands[place]]
            first = torch.tensor([places[number] for _, number in pairs], device=D.device)
            second = torch.tensor([row for row, _ in pairs], device=D.device)
            scores[[number for _, number in pairs]] = (Q @ D.T)[first, second].float().cpu().numpy()
        return scores.tolist()


def _by_query(numbers: Sequence[Sequence[int]], places: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """Row and number of every text of a batch, by the place of its query."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row, own in enumerate(numbers):
        for number in own:
            found.setdefault(places[number], []).append((row, number))
    return found


def _colbert() -> Any:
    from fullrank.search.colbert import ColBERT

    return ColBERT
