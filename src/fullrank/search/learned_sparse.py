"""Learned sparse vectors: weights of terms by a model (SPLADE, Formal et al. 2021; uniCOIL, Lin and Ma 2021)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.search.analysis import term_counts
from fullrank.search.pretrained import Pretrained

QueryWeights = Literal["model", "tokens"]
Weights = dict[str, float]


def splade_pooling(
    logits: Float[Tensor, "batch tokens vocabulary"], mask: Tensor | None = None
) -> Float[Tensor, "batch vocabulary"]:
    """v_w = max_i log(1 + relu(logit_iw)) over the tokens that there are.

    Args:
        logits: of a masked language model.
        mask: which tokens there are, (batch, tokens).
    """
    weights = torch.log1p(torch.relu(logits))
    return weights.amax(1) if mask is None else (weights * mask.unsqueeze(-1)).amax(1)


@runtime_checkable
class SparseEncoder(Protocol):
    """Gives texts as weights of terms, all finite and at least 0; a term that is left out weighs nothing."""

    def encode_documents(self, texts: Sequence[str]) -> Sequence[Weights]:
        """Weights of every document's terms."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Sequence[Weights]:
        """Weights of every query's terms."""
        ...


class PretrainedSparseEncoder(ABC):
    """A model of transformers that weighs terms; what they are, its subclasses say.

    Args:
        model: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        query_weights: "model" weighs queries as it weighs documents; "tokens" counts how often a token stands in the
            query, so that a query costs no model (as DeepImpact and SPLADE-doc do).
        **options: see `Pretrained`.

    Raises:
        ValueError: unknown query weights; see `Pretrained`.
    """

    method: str
    kind: Any

    def __init__(
        self, model: Any, tokenizer: Any = None, *, query_weights: QueryWeights = "model", **options: Any
    ) -> None:
        if query_weights not in get_args(QueryWeights):
            raise ValueError(
                f"query_weights={query_weights!r} is not known; accepted: {', '.join(get_args(QueryWeights))}"
            )
        self.pretrained = Pretrained(model, tokenizer, kind=self.kind, **options)
        self.query_weights: QueryWeights = query_weights

    def encode_documents(self, texts: Sequence[str]) -> list[Weights]:
        """See `SparseEncoder.encode_documents`.

        Raises:
            ValueError: the model gives another shape.
        """
        return self._encoded(texts, repeats=False)

    def encode_queries(self, texts: Sequence[str]) -> list[Weights]:
        """See `SparseEncoder.encode_queries`.

        Raises:
            ValueError: the model gives another shape.
        """
        if self.query_weights == "model":
            return self._encoded(texts, repeats=True)
        tokenizer = self.pretrained.tokenizer
        rows = self.pretrained.tokens(texts)
        counted = [term_counts(tokenizer.convert_ids_to_tokens(row)) for row in rows]
        return [{term: float(count) for term, count in counts.items()} for counts in counted]

    @property
    def description(self) -> dict[str, Any] | None:
        """What `sparse_encoder` makes the same encoder of; None for a model object, which no file can hold."""
        pretrained = self.pretrained
        return pretrained.described(
            method=self.method, query_weights=self.query_weights, max_length=pretrained.max_length
        )

    def _encoded(self, texts: Sequence[str], repeats: bool) -> list[Weights]:
        """Weights of texts, batch by batch.

        Args:
            texts: to weigh.
            repeats: whether a token that stands twice counts twice, where tokens are weighed.
        """
        rows = self._ids(texts)
        found: list[Weights] = [{} for _ in rows]
        for numbers in self.pretrained.batches(rows):
            batch = [rows[number] for number in numbers]
            for number, weights in zip(numbers, self._weights(batch, repeats), strict=True):
                found[number] = weights
        return found

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        loaded = self.pretrained
        return loaded.tokenizer(list(texts), truncation=True, max_length=loaded.limit()).input_ids if texts else []

    @abstractmethod
    def _weights(self, rows: list[list[int]], repeats: bool) -> Iterator[Weights]:
        """Weights of every row of a batch."""


class SpladeEncoder(PretrainedSparseEncoder):
    """Weights over the whole vocabulary by a masked language model, so that texts are expanded (SPLADE).

    Args:
        model: a masked language model: an object, a name or a folder.
        tokenizer: see `PretrainedSparseEncoder`.
        **options: see `PretrainedSparseEncoder`.
    """

    method = "splade"
    kind = "AutoModelForMaskedLM"

    def vectors(self, texts: Sequence[str]) -> Float[Tensor, "texts vocabulary"]:
        """Weights of every word of the vocabulary, at least 0; one batch."""
        if not texts:  # the model alone knows how wide its vocabulary is
            return self.vectors([""])[:0]
        return self._vectors(self._ids(texts))

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Float[Tensor, "batch vocabulary"]]]:
        """Numbers of texts of like length and their vectors, batch by batch."""
        rows = self._ids(texts)
        for numbers in self.pretrained.batches(rows):
            yield numbers, self._vectors([rows[number] for number in numbers])

    def _vectors(self, rows: list[list[int]]) -> Float[Tensor, "texts vocabulary"]:
        loaded = self.pretrained
        ids, mask = loaded.padded(rows)
        with torch.inference_mode():
            return splade_pooling(loaded.model(input_ids=ids, attention_mask=mask).logits, mask)

    def _weights(self, rows: list[list[int]], repeats: bool) -> Iterator[Weights]:
        for vector in self._vectors(rows).float().cpu():
            words = vector.nonzero().flatten()
            yield dict(zip((self._word(word) for word in words.tolist()), vector[words].tolist(), strict=True))

    def _word(self, number: int) -> str:
        # A vocabulary may be padded beyond the tokenizer's own words.
        return self._vocabulary.get(number, f"[{number}]")

    @cached_property
    def _vocabulary(self) -> dict[int, str]:
        return {number: word for word, number in self.pretrained.tokenizer.get_vocab().items()}


class TokenWeightEncoder(PretrainedSparseEncoder):
    """One weight, relu of the model's number, for every token that a text holds (uniCOIL, DeepImpact).

    A document's term has the largest weight of its tokens, a query's their sum, so that with query tokens i
    s = sum_i w_i max_{j: d_j = q_i} w_j. Tokens that frame a text ([CLS], [SEP]) are no terms.

    Args:
        model: of transformers: an object whose output is a tensor (texts, tokens) or (texts, tokens, 1), as
            `unicoil.UniCOIL`, or has such `logits`, as a token classifier with one label; or the name or folder of a
            uniCOIL checkpoint.
        tokenizer: see `PretrainedSparseEncoder`.
        **options: see `PretrainedSparseEncoder`.
    """

    method = "unicoil"

    @staticmethod
    def kind() -> Any:
        """UniCOIL, imported when a checkpoint is loaded."""
        from fullrank.search.unicoil import UniCOIL

        return UniCOIL

    def _weights(self, rows: list[list[int]], repeats: bool) -> Iterator[Weights]:
        loaded = self.pretrained
        ids, mask = loaded.padded(rows)
        with torch.inference_mode():
            out = loaded.model(input_ids=ids, attention_mask=mask)
        values = out if isinstance(out, Tensor) else out.logits
        if values.shape not in (ids.shape, (*ids.shape, 1)):
            raise ValueError(
                f"model gave shape {tuple(values.shape)} for {len(rows)} texts of {ids.shape[1]} tokens; one number a "
                f"token is needed, {tuple(ids.shape)}"
            )
        for row, weights in zip(rows, values.reshape(ids.shape).relu().float().tolist(), strict=True):
            found: Weights = {}
            for term, weight, id in zip(loaded.tokenizer.convert_ids_to_tokens(row), weights, row, strict=False):
                if id not in self._frame and weight > 0:
                    before = found.get(term, 0.0)
                    found[term] = before + weight if repeats else max(before, weight)
            yield found

    @cached_property
    def _frame(self) -> set[int]:
        tokenizer = self.pretrained.tokenizer
        return {*tokenizer("").input_ids, *tokenizer.all_special_ids}


#: Name -> what makes the encoder of a model and options.
SPARSE_ENCODERS: dict[str, type[PretrainedSparseEncoder]] = {
    encoder.method: encoder for encoder in (SpladeEncoder, TokenWeightEncoder)
}


def sparse_encoder(method: str, model: Any, tokenizer: Any = None, **options: Any) -> PretrainedSparseEncoder:
    """An encoder by the name of its method.

    Raises:
        ValueError: an unknown method; see `PretrainedSparseEncoder`.
    """
    if method not in SPARSE_ENCODERS:
        raise ValueError(f"method={method!r} is not known; accepted: {', '.join(SPARSE_ENCODERS)}")
    return SPARSE_ENCODERS[method](model, tokenizer, **options)
