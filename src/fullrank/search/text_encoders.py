"""Encoders of texts as vectors: recurrent cells over words, and encoders of others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fullrank.search.analysis import word_pattern

Cell = Literal["lstm", "gru", "none"]
Pooling = Literal["mean", "max", "last"]
_WORD = re.compile(word_pattern(r"\w"))


class Vocabulary:
    """Words by number; 0 is padding, and words that are not known are left out.

    Args:
        words: the first has the number 1.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words, 1)}

    def __len__(self) -> int:
        return len(self.words) + 1

    @classmethod
    def of(cls, texts: Sequence[str], min_count: int = 3, most: int = 50_000) -> Vocabulary:
        """The words of texts, most frequent first.

        Args:
            texts: to count in.
            min_count: rarer words are left out.
            most: how many at most.

        Raises:
            ValueError: no word is frequent enough.
        """
        counts = Counter(word for text in texts for word in words_of(text))
        frequent = [word for word, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if count >= min_count]
        if not frequent:
            raise ValueError(
                f"no word of {len(texts)} texts occurs {min_count} times: give more texts, or less min_count"
            )
        return cls(frequent[:most])

    def numbers(self, text: str) -> list[int]:
        """Numbers of a text's known words."""
        return [self._numbers[word] for word in words_of(text) if word in self._numbers]

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Texts as rows of numbers, padded on the right with 0."""
        rows = [self.numbers(text) for text in texts]
        tokens = torch.zeros(len(rows), max(1, *map(len, rows)) if rows else 1, dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        return tokens


def checked_texts(texts: Iterable[Any]) -> list[str]:
    """The texts, as a list.

    Raises:
        TypeError: one text in place of several, or something that is not text.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts={texts[:40]!r} is one text; a list of texts is needed")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"texts[{place}]={text!r} is {type(text).__name__}; text is needed")
    return found


def words_of(text: str) -> list[str]:
    """Runs of letters, with what stands on or beside them, and digits, lower-cased."""
    return _WORD.findall(text.lower())


class RecurrentEncoder(nn.Module):
    """Token vectors, a cell over them that never sees padding, and a pool of its states.

    Args:
        vocab_size: of the token ids.
        embedding: size of token vectors.
        cell: "lstm", "gru" or "none".
        hidden: of the cell, for each direction.
        bidirectional: whether it reads both ways.
        pooling: of the states.
        dropout: of the token vectors.

    Attributes:
        width: size of the result.
    """

    def __init__(
        self, vocab_size: int, embedding: int, cell: Cell, hidden: int, bidirectional: bool, pooling: Pooling,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.1)
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
        self.rnn = None
        if cell != "none":
            self.rnn = kinds[cell](embedding, hidden, batch_first=True, bidirectional=bidirectional)
        self.pooling: Pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.width = embedding if self.rnn is None else hidden * (2 if bidirectional else 1)

    def forward(
        self, tokens: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch H"]:
        """h; 0 for a text without tokens."""
        if not tokens.numel():
            return self.embedding.weight.new_zeros(len(tokens), self.width)
        if self.rnn is None and self.pooling == "mean" and (self.dropout.p == 0 or not self.training):
            return self._bag(tokens, mask)
        if self.rnn is not None:  # a cell reads from the front: padding goes behind what there is
            order = (~mask).byte().argsort(dim=1, stable=True)
            tokens, mask = tokens.gather(1, order), mask.gather(1, order)
        embedded = self.dropout(self.embedding(tokens))
        return pooled(embedded if self.rnn is None else self._states(self.rnn, embedded, mask), mask, self.pooling)

    def _bag(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The mean of token vectors, without a tensor of all of them."""
        lengths = mask.sum(1)
        offsets = lengths.cumsum(0) - lengths
        return nn.functional.embedding_bag(tokens[mask], self.embedding.weight, offsets, mode="mean", padding_idx=0)

    def _states(self, rnn: nn.RNNBase, embedded: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        device = embedded.device.type
        # not every CPU has an LSTM for the types of autocast
        with torch.autocast(device, enabled=device != "cpu" and torch.is_autocast_enabled(device)):
            states = rnn(packed)[0]
        return pad_packed_sequence(states, batch_first=True, total_length=mask.shape[1])[0]


class StatesEncoder(nn.Module):
    """A module whose output has `last_hidden_state`, such as one of transformers, with a pool of the states."""

    def __init__(self, encoder: nn.Module, width: int | None, pooling: Pooling) -> None:
        super().__init__()
        config: Any = getattr(encoder, "config", None)
        found = width or getattr(config, "hidden_size", None)
        if not found:
            raise ValueError("encoder_width=None: the encoder does not tell the size of its states; give it")
        self.module, self.width = encoder, int(found)
        self.pooling: Pooling = pooling

    def forward(
        self, tokens: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch H"]:
        """h."""
        return pooled(self.module(input_ids=tokens, attention_mask=mask.long()).last_hidden_state, mask, self.pooling)


class VectorEncoder(nn.Module):
    """An object with `encode(texts)`, as it is: it is not trained, and not part of the model's state."""

    def __init__(self, encoder: Any, width: int | None) -> None:
        super().__init__()
        if not hasattr(encoder, "encode"):
            raise TypeError(
                f"encoder={encoder!r} is {type(encoder).__name__}; a module with last_hidden_state, or an object with "
                "encode(texts), is needed"
            )
        self._encoder = [encoder]  # in a list, so that no module of it is registered
        self.width = int(width or torch.as_tensor(encoder.encode(["width"])).shape[-1])
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def forward(self, texts: list[str]) -> Float[Tensor, "batch H"]:
        """Vectors of texts."""
        place: Any = self.place
        vectors = torch.as_tensor(self._encoder[0].encode(texts)).reshape(len(texts), self.width)
        return vectors.detach().to(place.device, place.dtype)


def pooled(
    states: Float[Tensor, "batch tokens H"], mask: Bool[Tensor, "batch tokens"], pooling: Pooling
) -> Float[Tensor, "batch H"]:
    """One vector of the states of tokens that there are; 0 without any."""
    present = mask.unsqueeze(-1)
    if pooling == "mean":
        return (states * present).sum(1) / present.sum(1).clamp(min=1)
    if pooling == "max":
        highest = states.masked_fill(~present, -torch.inf).amax(1)
        return highest.masked_fill(~mask.any(1, keepdim=True), 0)
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).amax(1)
    return states[torch.arange(len(states)), last] * mask.any(1, keepdim=True)
