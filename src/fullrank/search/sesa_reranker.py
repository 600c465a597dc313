"""SESA as a re-ranker that says of each score which concepts it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.search.model_scorers import distinct
from fullrank.search.pointwise import ModelScorer, PointwiseReranker
from fullrank.search.protocols import Document
from fullrank.search.sesa import SESA, Contribution, unit


class SESAScorer(ModelScorer):
    """Scores of a SESA: queries are its side a, texts its side b. A text is encoded once for all queries.

    Args:
        model: a `SESA`, a fitted `SESAMatcher`, or the folder of either, loaded at first use.
        encoder: of a model that was trained over one of your own.
        tokenizer: of that encoder.
        device: where a folder's model goes.
        batch_size: texts at a time.
        max_length: tokens read of a text, of a folder's model; its own number by default.

    Raises:
        TypeError: it is none of these.
    """

    def __init__(
        self,
        model: Any,
        *,
        encoder: Any = None,
        tokenizer: Any = None,
        device: str = "cpu",
        batch_size: int = 256,
        max_length: int | None = None,
    ) -> None:
        model = getattr(model, "model_", model)
        if not isinstance(model, SESA | str | Path):
            raise TypeError(
                f"model={model!r} is {type(model).__name__}; a SESA, a fitted SESAMatcher or a folder is needed"
            )
        self._model, self._device, self._max_length = model, device, max_length
        self._parts = {"encoder": encoder, "tokenizer": tokenizer}
        self.batch_size = batch_size

    @property
    def model(self) -> SESA:
        """The model, loaded.

        Raises:
            FileNotFoundError: the folder holds no SESA.
            ValueError: it is damaged.
        """
        if not isinstance(self._model, SESA):
            loaded = SESA.from_pretrained(self._model, **self._parts).to(self._device)
            if self._max_length is not None:
                loaded.config = replace(loaded.config, max_length=self._max_length)
            self._model = loaded
        return self._model

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """s of every query with the text at its place."""
        if not texts:
            return []
        first, second = (self._compared(side, name) for side, name in ((queries, "a"), (texts, "b")))
        with torch.inference_mode():
            if self.model.config.similarity == "cosine":
                first, second = unit(first), unit(second)
            return self.model.score((first * second).sum(1)).tolist()

    def explain(self, query: str, texts: Sequence[str], top: int = 5) -> list[list[Contribution]]:
        """The concepts that move the score of every text most; see `SESA.explain`."""
        return self.model.explain([query] * len(texts), list(texts), top) if texts else []

    def _compared(self, texts: Sequence[str], side: str) -> Float[Tensor, "texts D"]:
        unique, places = distinct(texts)
        return in_batches(partial(self.model.compared, side=side), unique, self.batch_size)[places]


class SESAReranker(PointwiseReranker):
    """Orders documents by SESA's scores, and says which concepts they are made of.

    Args:
        model: see `SESAScorer`.
        **options: see `SESAScorer`.

    Raises:
        TypeError: see `SESAScorer`.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(SESAScorer(model, **options))

    def explain(self, query: str, documents: Sequence[Document], top: int = 5) -> list[list[Contribution]]:
        """Of every document the concepts that move its score most, largest first; all of them sum to s - c.

        Raises:
            ValueError: `top` below 1.
        """
        return self.scorer.explain(query, [document.searched for document in documents], top)


@torch.inference_mode()
def in_batches(
    vectors_of: Callable[[list[str], Tensor | None], Tensor],
    texts: Sequence[str],
    batch_size: int,
    known: Tensor | None = None,
) -> Float[Tensor, "texts D"]:
    """Vectors of texts and what is known of them, a batch of like length at a time: padding costs what words cost."""
    order = torch.tensor(sorted(range(len(texts)), key=lambda number: len(texts[number])), dtype=torch.long)
    found = [
        vectors_of([texts[int(number)] for number in rows], None if known is None else known[rows])
        for rows in order.split(batch_size)
    ]
    return torch.cat(found)[order.argsort()]
