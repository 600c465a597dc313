"""An encoder of questions with solutions that can be trained: means of the last layer's token vectors, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fullrank.search.exemplar_losses import mean_pool
from fullrank.search.pretrained import Checkpoint, padded, positions
from fullrank.search.run import at_least_one


class ExemplarEncoder(nn.Module):
    """Texts to vectors, not normalised: a module for `EPRTrainer`, and an encoder for `ExemplarRetriever`.

    Args:
        model: an encoder of transformers, such as BERT; or a name or folder of one.
        tokenizer: an object; needed with a model object.
        max_length: tokens that are read of a text, at most what the model's positions hold; the rest is left out.
        batch_size: texts at a time in `encode`.
        **options: for a name or folder, such as `device`, `dtype` or `local_files_only`; see `Checkpoint`.

    Attributes:
        max_seq_length: tokens that are read of a text.

    Raises:
        ValueError: max_length or batch_size below 1, or a model object without a tokenizer.
        MissingExtra: transformers is not installed.
        OSError: the model cannot be loaded.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, *, max_length: int = 512, batch_size: int = 64, **options: Any
    ) -> None:
        super().__init__()
        at_least_one(max_length, "max_length")
        self._checkpoint = Checkpoint(model, tokenizer, kind="AutoModel", batch_size=batch_size, **options)
        self.model, self.tokenizer = self._checkpoint.model, self._checkpoint.tokenizer
        most = positions(self.model)
        self.max_seq_length = max_length if most is None else min(max_length, most)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer as a Hugging Face folder."""
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Vectors of texts, with gradients."""
        return self._pooled(self._tokens(texts))

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, (texts, d), in evaluation mode, from batches of like length."""
        vectors = torch.zeros(len(texts), self.model.config.hidden_size)
        rows, training = self._tokens(texts), self.training
        self.eval()
        try:
            for numbers in self._checkpoint.batches(rows):
                vectors[numbers] = self._pooled([rows[number] for number in numbers]).float().cpu()
        finally:
            self.train(training)
        return vectors.numpy()

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_seq_length).input_ids

    def _pooled(self, rows: Sequence[Sequence[int]]) -> Tensor:
        device = self.model.device
        ids, mask = (part.to(device) for part in padded(rows, self.tokenizer.pad_token_id or 0))
        return mean_pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
