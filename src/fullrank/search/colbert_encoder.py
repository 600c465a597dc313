"""Token vectors of queries and documents (ColBERT, Khattab and Zaharia 2020)."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fullrank.search.pretrained import Pretrained


class QueryTokens(NamedTuple):
    """Token vectors of queries.

    Attributes:
        vectors: of all tokens.
        words: which tokens are words; the others are [MASK] tokens that augment the query.
    """

    vectors: Float[Tensor, "queries tokens dim"]
    words: Bool[Tensor, "queries tokens"]


@runtime_checkable
class TokenEncoder(Protocol):
    """Gives texts as vectors of their tokens, of unit length by custom."""

    def encode_queries(self, texts: Sequence[str]) -> QueryTokens:
        """Token vectors of queries, all with as many."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> Sequence[Float[Tensor, "_ dim"]]:
        """Token vectors of every document, those that count."""
        ...


class ColBERTEncoder:
    """Token vectors by a model of transformers.

    [unused0] stands behind [CLS] in a query, [unused1] in a passage; a query is filled up with [MASK] tokens, which
    take part in the sum; punctuation of passages does not.

    Args:
        model: of transformers: an object whose output has `last_hidden_state`, or is a tensor (as `colbert.ColBERT`);
            or the name or folder of a ColBERT checkpoint.
        tokenizer: see `Pretrained`.
        query_length: tokens of a query, with the filling.
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
        markers: Sequence[str] = ("[unused0]", "[unused1]"),
        dim: int | None = None,
        **options: Any,
    ) -> None:
        if query_length < 4:
            raise ValueError(f"query_length={query_length} is not accepted; two tokens of frame, a marker and a word")
        if dim is not None:
            options["dim"] = dim
        self.pretrained = Pretrained(model, tokenizer, kind=_colbert, **options)
        self.query_length, self.markers, self.dim = query_length, tuple(markers), dim

    def encode_queries(self, texts: Sequence[str]) -> QueryTokens:
        """See `TokenEncoder.encode_queries`.

        Raises:
            ValueError: the tokenizer lacks a marker or [MASK].
        """
        mask = self.pretrained.tokenizer.mask_token_id
        if mask is None:
            raise ValueError("the tokenizer has no mask token, with which ColBERT fills queries up")
        if not texts:  # the model alone knows how many numbers a vector has
            return QueryTokens(*(part[:0] for part in self.encode_queries([""])))
        rows = self._marked(texts, self.markers[0], self.query_length)
        filled = [row + [mask] * (self.query_length - len(row)) for row in rows]
        size = self.pretrained.batch_size
        parts = [
            self._vectors(filled[start : start + size], [len(row) for row in rows[start : start + size]])
            for start in range(0, len(rows), size)
        ]
        return QueryTokens(torch.cat([vectors for vectors, _ in parts]), torch.cat([words for _, words in parts]))

    def encode_documents(self, texts: Sequence[str]) -> list[Float[Tensor, "_ dim"]]:
        """See `TokenEncoder.encode_documents`.

        Raises:
            ValueError: the tokenizer lacks a marker.
        """
        found: dict[int, Tensor] = {}
        for numbers, vectors, present in self.batches(texts):
            found |= {number: row[own] for number, row, own in zip(numbers, vectors, present, strict=True)}
        return [found[number] for number in range(len(texts))]

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Numbers of documents of like length, their token vectors, and which tokens count."""
        loaded = self.pretrained
        rows = self._marked(texts, self.markers[1], loaded.limit())
        skipped = torch.tensor([id for id in loaded.tokenizer.convert_tokens_to_ids(list(string.punctuation)) if id])
        skipped = skipped[skipped != (-1 if loaded.tokenizer.unk_token_id is None else loaded.tokenizer.unk_token_id)]
        for numbers in loaded.batches(rows):
            batch = [rows[number] for number in numbers]
            vectors, present = self._vectors(batch, [len(row) for row in batch])
            ids, _ = loaded.padded(batch)
            yield numbers, vectors, present & ~torch.isin(ids, skipped.to(ids.device))

    @property
    def description(self) -> dict[str, Any] | None:
        """The arguments that make the same encoder; None for a model object, which no file can hold."""
        options = {} if self.dim is None else {"dim": self.dim}
        return self.pretrained.described(
            query_length=self.query_length,
            markers=list(self.markers),
            max_length=self.pretrained.max_length,
            **options,
        )

    def _marked(self, texts: Sequence[str], marker: str, length: int) -> list[list[int]]:
        tokenizer = self.pretrained.tokenizer
        id = tokenizer.convert_tokens_to_ids(marker)
        if id is None or id == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {marker!r}; name the checkpoint's own: markers=(query, text)")
        encoded = tokenizer(list(texts), truncation=True, max_length=length - 1).input_ids if texts else []
        return [[ids[0], id, *ids[1:]] for ids in encoded]

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


def _colbert() -> Any:
    from fullrank.search.colbert import ColBERT

    return ColBERT
