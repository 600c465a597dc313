"""Text classifiers with attention pooling: over any encoder's states, and over a bidirectional GRU of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fullrank.nn.lama_poolings import PoolingName, pooling_layer
from fullrank.nn.word_masks import as_keep_mask, refuse_empty


class PoolingClassifier(nn.Module):
    """Pools the states of a text, flattens, and classifies.

    Args:
        input_dim: D, width of the states.
        num_labels: K.
        pooling: "lama", "han", "self_attentive", "mha", "mean" or "max". Default "lama".
        num_heads: of poolings that have several. Default 8.
        dropout: before every linear layer of the classifier. Default 0.3.
        classifier_dim: width of the hidden ReLU layer; None for a linear classifier. Default 128.
        pooling_options: further options of the pooling, such as {"context": "mean"}.

    Raises:
        ValueError: a size below 1, dropout outside [0, 1), or what the pooling does not accept.
    """

    def __init__(
        self,
        input_dim: int,
        num_labels: int,
        pooling: PoolingName = "lama",
        num_heads: int = 8,
        *,
        dropout: float = 0.3,
        classifier_dim: int | None = 128,
        pooling_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _at_least_one(num_labels=num_labels, classifier_dim=1 if classifier_dim is None else classifier_dim)
        check_dropout(dropout)
        self.pooling: Any = pooling_layer(pooling, input_dim, num_heads, **(pooling_options or {}))
        flat = self.pooling.rows * input_dim
        hidden = () if classifier_dim is None else (nn.Linear(flat, classifier_dim), nn.ReLU(), nn.Dropout(dropout))
        self.output = nn.Sequential(nn.Dropout(dropout), *hidden, nn.Linear(classifier_dim or flat, num_labels))

    def forward(
        self,
        states: Float[Tensor, "batch tokens dim"],
        mask: Shaped[Tensor, "batch tokens"] | None = None,
        need_weights: bool = False,
    ) -> Float[Tensor, "batch labels"] | tuple[Float[Tensor, "batch labels"], Float[Tensor, "batch heads tokens"]]:
        """Logits, and with `need_weights` what every word weighs in every head.

        Args:
            states: of the words.
            mask: True or 1 where there is a word; None: everywhere.
            need_weights: return the attention too.

        Raises:
            ValueError: shapes that do not fit, or a text without words.
        """
        if need_weights:
            pooled, weights = self.pooling(states, mask, need_weights=True)
            return self.output(pooled.flatten(1)), weights
        return self.output(self.pooling(states, mask).flatten(1))


class LAMAClassifier(nn.Module):
    """Word embeddings, a bidirectional GRU, attention pooling, a hidden ReLU layer (Mehta et al. 2019, Figure 1).

    Args:
        vocab_size: how many words.
        num_labels: K.
        embed_dim: e. Default 300.
        hidden_size: h of each direction; states have D = 2 h features. Default 100.
        num_heads: m. Default 8.
        pooling: "lama", or "han", "self_attentive", "mha", "mean", "max" in its place. Default "lama".
        dropout: on embeddings and before every linear layer of the classifier. Default 0.3.
        padding_idx: the word that stands for padding. Default 0.
        classifier_dim: width of the hidden ReLU layer; None for a linear classifier. Default 128.
        pooling_options: further options of the pooling, such as {"context": "mean"}.

    Raises:
        ValueError: a size below 1, dropout outside [0, 1), a `padding_idx` outside the vocabulary, or what the pooling
            does not accept.
    """

    def __init__(
        self,
        vocab_size: int,
        num_labels: int,
        embed_dim: int = 300,
        hidden_size: int = 100,
        num_heads: int = 8,
        pooling: PoolingName = "lama",
        dropout: float = 0.3,
        padding_idx: int = 0,
        *,
        classifier_dim: int | None = 128,
        pooling_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _at_least_one(vocab_size=vocab_size, embed_dim=embed_dim, hidden_size=hidden_size)
        check_dropout(dropout)
        if not 0 <= padding_idx < vocab_size:
            raise ValueError(f"padding_idx={padding_idx}: a vocabulary of {vocab_size} has words 0 to {vocab_size - 1}")
        self.padding_idx = padding_idx
        self.embedding: nn.Module = nn.Embedding(vocab_size, embed_dim, padding_idx)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(embed_dim, hidden_size, batch_first=True, bidirectional=True)
        self.classifier = PoolingClassifier(
            2 * hidden_size, num_labels, pooling, num_heads,
            dropout=dropout, classifier_dim=classifier_dim, pooling_options=pooling_options,
        )  # fmt: skip

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        mask: Shaped[Tensor, "batch tokens"] | None = None,
        need_weights: bool = False,
    ) -> Float[Tensor, "batch labels"] | tuple[Float[Tensor, "batch labels"], Float[Tensor, "batch heads tokens"]]:
        """Logits, and with `need_weights` what every word weighs in every head.

        Args:
            input_ids: words, padded on the right.
            mask: True or 1 where there is a word; None: wherever there is not `padding_idx`.
            need_weights: return the attention too.

        Raises:
            TypeError: `input_ids` is text.
            ValueError: no integers of shape (batch, tokens), a mask that does not fit, padding before words, or a text
                without words (unless the pooling is LAMA with `on_empty="zeros"`).
        """
        _check_ids(input_ids)
        keep = as_keep_mask(input_ids, mask)
        keep = input_ids != self.padding_idx if keep is None else keep
        if getattr(self.classifier.pooling, "on_empty", "error") == "error":
            refuse_empty(input_ids, keep)
        return self.classifier(self._states(input_ids, keep), keep, need_weights)

    def _states(self, input_ids: Tensor, keep: Bool[Tensor, "batch tokens"]) -> Tensor:
        """H; the GRU sees the words alone."""
        if bool((keep[:, 1:] & ~keep[:, :-1]).any()):
            raise ValueError("mask has padding before words: pad on the right (padding_side='right' of a tokenizer)")
        words = pack_padded_sequence(
            self.dropout(self.embedding(input_ids)),
            keep.sum(1).clamp(min=1).cpu(),  # of a text without words one state is computed, to which none attends
            batch_first=True,
            enforce_sorted=False,
        )
        return pad_packed_sequence(self.gru(words)[0], batch_first=True, total_length=input_ids.shape[1])[0]

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters the embedding, the GRU, the attention and the classifier have."""
        parts: dict[str, nn.Module] = {
            "embedding": self.embedding,
            "encoder": self.gru,
            "attention": self.classifier.pooling,
            "classifier": self.classifier.output,
        }
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def check_dropout(dropout: float) -> None:
    """Raise unless it is a probability below 1.

    Raises:
        ValueError: it is not.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: use a probability in [0, 1)")


def _check_ids(input_ids: Any) -> None:
    if not isinstance(input_ids, Tensor):
        raise TypeError(
            f"input_ids is {type(input_ids).__name__}: a tensor of word numbers (batch, tokens) is accepted; for raw "
            "text use fullrank.nn.LAMATextClassifier"
        )
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"input_ids is {input_ids.dtype} of shape {tuple(input_ids.shape)}: whole numbers (batch, tokens) are "
            "accepted"
        )


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: use an integer of at least 1")
