"""From raw texts to what a pooling classifier reads: numbered words, or the token states of a frozen encoder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullrank._model_hub import know_compressed_layers
from fullrank._optional import require
from fullrank.data import bundled_encoder

_PADDING, _UNKNOWN = 0, 1
_BATCH = 64


class Vocabulary:
    """Numbered words; 0 is padding and 1 every other word. A text without words is read as one unknown word.

    Args:
        words: numbered from 2.
        token_pattern: regular expression of a word.
        lowercase: fold case first.
        max_tokens: longer texts are cut.
    """

    def __init__(self, words: Iterable[str], token_pattern: str, lowercase: bool, max_tokens: int) -> None:
        self.words = tuple(words)
        self.lowercase, self.max_tokens = lowercase, max_tokens
        self._pattern = re.compile(token_pattern)
        self._number = {word: number for number, word in enumerate(self.words, start=2)}

    @classmethod
    def learned(
        cls, texts: Iterable[str], token_pattern: str, lowercase: bool, max_tokens: int, min_count: int, max_words: int
    ) -> Vocabulary:
        """The most frequent words of texts, those seen equally often by the alphabet."""
        reader = cls((), token_pattern, lowercase, max_tokens)
        counts = Counter(word for text in texts for word in reader.tokens(text))
        frequent = sorted(
            (word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word)
        )
        return cls(frequent[:max_words], token_pattern, lowercase, max_tokens)

    def __len__(self) -> int:
        return len(self.words) + 2

    def tokens(self, text: str) -> list[str]:
        """The words of a text."""
        found = [match.group() for match in self._pattern.finditer(text.lower() if self.lowercase else text)]
        return found[: self.max_tokens] or [""]

    def encode(self, texts: Iterable[str]) -> list[Tensor]:
        """The numbers of the words of every text."""
        return [
            torch.tensor([self._number.get(word, _UNKNOWN) for word in self.tokens(text)], dtype=torch.int64)
            for text in texts
        ]


class FrozenEncoder:
    """Token states of a transformers encoder that is not trained.

    Args:
        folder: a local Hugging Face folder, or "bundled" for all-MiniLM-L6-v2.
        max_tokens: longer texts are cut; at most what the encoder can read.
        device: to compute on.

    Raises:
        MissingExtra: transformers or the bundled encoder is not installed.
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | Path, max_tokens: int, device: str = "cpu") -> None:
        self.folder = bundled_encoder() if str(folder) == "bundled" else Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"encoder={str(folder)!r} is not a folder: use 'gru', 'bundled', or a local Hugging Face folder"
            )
        self.max_tokens, self.device = max_tokens, device

    @property
    def width(self) -> int:
        """D of the states."""
        return _loaded(self.folder, self.device)[1].config.hidden_size

    def tokens(self, text: str) -> list[str]:
        """Word pieces of a text, with the encoder's own marks such as [CLS]."""
        tokenizer, _ = _loaded(self.folder, self.device)
        return tokenizer.convert_ids_to_tokens(self._tokenized([text], tokenizer)["input_ids"][0])

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """States (tokens, D) of every text, on the CPU."""
        tokenizer, model = _loaded(self.folder, self.device)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        states: list[Any] = [None] * len(texts)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = self._tokenized([texts[row] for row in rows], tokenizer, padding=True, return_tensors="pt")
            with torch.no_grad():
                found = model(**batch.to(self.device)).last_hidden_state.float().cpu()
            for row, text, mask in zip(rows, found, batch["attention_mask"].bool().cpu(), strict=True):
                states[row] = text[mask]
        return states

    def _tokenized(self, texts: list[str], tokenizer: Any, **options: Any) -> Any:
        limit = min(self.max_tokens, tokenizer.model_max_length)
        return tokenizer(texts, truncation=True, max_length=limit, **options)


@lru_cache(maxsize=2)
def _loaded(folder: Path, device: str) -> tuple[Any, Any]:
    """Tokenizer and model; shared, so that estimators stay small when they are copied or pickled."""
    transformers = require("transformers", "search")
    progress = require("transformers.utils.logging", "search")
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # it would write over ours
    know_compressed_layers(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
    finally:
        if shown:
            progress.enable_progress_bar()
    return tokenizer, model.eval().requires_grad_(False).to(device)
