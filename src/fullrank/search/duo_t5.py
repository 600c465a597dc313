"""duoT5: an encoder-decoder that says which of two passages is more relevant (Pradeep, Nogueira and Lin 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fullrank.search.language_model_scores import first_step_logits
from fullrank.search.model_scorers import FALSE_TRUE, word_ids
from fullrank.search.pretrained import Pretrained

Aggregate = Literal["sym-sum", "prob", "log"]


class DuoT5Scorer:
    """p_ij that passage i is more relevant than j, and sums of it.

    Args:
        model: an encoder-decoder: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        aggregate: "sym-sum" sum_j p_ij + (1 - p_ji), "prob" sum_j p_ij, or "log" sum_j log p_ij.
        words: see `MonoT5Scorer`.
        **options: see `Pretrained`.

    Raises:
        ValueError: an unknown aggregate.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        aggregate: Aggregate = "sym-sum",
        words: tuple[str, str] = FALSE_TRUE,
        **options: Any,
    ) -> None:
        if aggregate not in get_args(Aggregate):
            raise ValueError(f"aggregate={aggregate!r} is not known; accepted: {', '.join(get_args(Aggregate))}")
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSeq2SeqLM", **options)
        self.aggregate, self.words = aggregate, words

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text, from n (n - 1) pairs.

        Raises:
            ValueError: the tokenizer lacks one of the words, or the query alone is too long.
        """
        n = len(texts)
        if n < 2:
            return [0.0] * n
        logs = self.preferences(query, texts)
        p = logs.exp().fill_diagonal_(0)
        if self.aggregate == "log":
            return logs.fill_diagonal_(0).sum(1).tolist()
        if self.aggregate == "prob":
            return p.sum(1).tolist()
        return (p.sum(1) + (n - 1) - p.sum(0)).tolist()

    def preferences(self, query: str, texts: Sequence[str]) -> Tensor:
        """log p_ij, (n, n); the diagonal means nothing."""
        pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j]
        logs = torch.zeros(len(texts), len(texts))
        rows, columns = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
        logs[rows, columns] = torch.tensor(self._log_shares(query, texts, pairs))
        return logs

    def compare_pairs(self, query: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """(p_ab + 1 - p_ba) / 2 for every pair: above 0.5 where the first is better."""
        texts = [text for pair in pairs for text in pair]
        places = [order for place in range(0, len(texts), 2) for order in ((place, place + 1), (place + 1, place))]
        p = torch.tensor(self._log_shares(query, texts, places)).exp()
        return ((p[0::2] + 1 - p[1::2]) / 2).tolist()

    def _log_shares(self, query: str, texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[float]:
        loaded = self.pretrained
        ids = word_ids(loaded.tokenizer, self.words)
        rows = self._prompts(query, texts, pairs)
        return loaded.scored(
            rows, lambda tokens, mask, _: first_step_logits(loaded.model, tokens, mask, ids).log_softmax(-1)[:, 1]
        )

    def _prompts(self, query: str, texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Both passages lose their ends alike; what stands around them stays."""
        loaded = self.pretrained
        head, middle, tail = loaded.tokens([f"Query: {query} Document0:", " Document1:", " Relevant:"])
        end = [] if loaded.tokenizer.eos_token_id is None else [loaded.tokenizer.eos_token_id]
        left = loaded.limit() - len(end) - len(head) - len(middle) - len(tail)
        if left < 2:
            raise ValueError(
                f"max_length={loaded.limit()} leaves no room for passages beside the query; allow more, or ask in "
                "fewer words"
            )
        read = loaded.tokens([f" {text}" for text in texts])
        prompts = []
        for first, second in pairs:
            a = read[first][: max(left // 2, left - len(read[second]))]
            prompts.append([*head, *a, *middle, *read[second][: left - len(a)], *tail, *end])
        return prompts
