"""Models that score a passage for a query: cross-encoders, monoT5, query likelihood; and duoT5 for pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fullrank.search.language_model_scores import (
    continuation_likelihoods,
    first_step_logits,
    sequence_likelihoods,
)
from fullrank.search.pretrained import Pretrained

Aggregate = Literal["sym-sum", "prob", "log"]

#: Part of a checkpoint's name -> its words for false and true.
MONO_T5_WORDS = {
    "mt5-3b": ("▁", "▁true"),
    "mt5-13b": ("▁", "▁true"),
    "ptt5": ("▁não", "▁sim"),
    "mt5": ("▁no", "▁yes"),
}
_FALSE_TRUE = ("▁false", "▁true")


class CrossEncoderScorer:
    """The logit of [CLS] query [SEP] passage [SEP]: of one label, or log p of the last of two (monoBERT).

    Args:
        model: a sequence classifier of one or two labels: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        **options: see `Pretrained`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSequenceClassification", **options)

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text.

        Raises:
            ValueError: a model with more than two labels, or in training mode.
        """
        if not texts:
            return []
        loaded = self.pretrained
        encoded = loaded.tokenizer(
            [query] * len(texts), list(texts), truncation="only_second", max_length=loaded.max_length
        )
        segments = encoded.get("token_type_ids")
        scores = [0.0] * len(texts)
        for numbers in loaded.batches(encoded["input_ids"]):
            ids, mask = loaded.padded([encoded["input_ids"][number] for number in numbers])
            inputs = {"input_ids": ids, "attention_mask": mask}
            if segments is not None:
                rows = [segments[number] for number in numbers]
                inputs["token_type_ids"] = loaded.padded([[*row] for row in rows])[0] * mask
            with torch.inference_mode():
                values = self._values(loaded.model(**inputs).logits)
            for number, value in zip(numbers, values.float().tolist(), strict=True):
                scores[number] = value
        return scores

    def _values(self, logits: Tensor) -> Tensor:
        if logits.shape[-1] == 1:
            return logits[:, 0]
        if logits.shape[-1] == 2:
            return logits.float().log_softmax(-1)[:, 1]
        raise ValueError(f"the model has {logits.shape[-1]} labels; 1, or 2 with the relevant one last, are needed")


class MonoT5Scorer:
    """log p(true) against false at the first step for "Query: q Document: d Relevant:" (Nogueira et al. 2020).

    Args:
        model: an encoder-decoder: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        words: the checkpoint's tokens for false and true; by default those that its name is known for, else ▁false and
            ▁true.
        **options: see `Pretrained`.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, *, words: tuple[str, str] | None = None, **options: Any
    ) -> None:
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSeq2SeqLM", **options)
        name = str(model).lower() if isinstance(model, str) else ""
        known = next((pair for part, pair in MONO_T5_WORDS.items() if part in name), _FALSE_TRUE)
        self.words = words or known

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text; a passage that is too long is cut, never the end of the prompt.

        Raises:
            ValueError: the tokenizer lacks one of the words, or the query alone is too long.
        """
        if not texts:
            return []
        ids = word_ids(self.pretrained.tokenizer, self.words)
        rows = prompts_around(self.pretrained, f"Query: {query} Document:", texts, " Relevant:")
        return self.pretrained.scored(
            rows, lambda ids_, mask: first_step_logits(self.pretrained.model, ids_, mask, ids).log_softmax(-1)[:, 1]
        )


class QueryLikelihoodScorer:
    """log p(query | passage) by an encoder-decoder or a decoder (UPR, Sachan et al. 2022).

    Args:
        model: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        causal: whether the model is a decoder alone.
        instruction: follows the passage.
        query_length: tokens read of the query.
        **options: see `Pretrained`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        causal: bool = False,
        instruction: str = "Please write a question based on this passage.",
        query_length: int = 128,
        **options: Any,
    ) -> None:
        kind = "AutoModelForCausalLM" if causal else "AutoModelForSeq2SeqLM"
        self.pretrained = Pretrained(model, tokenizer, kind=kind, **options)
        self.causal, self.instruction, self.query_length = causal, instruction, query_length

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One sum of log-probabilities per text.

        Raises:
            ValueError: a query without tokens, or an instruction that alone is too long.
        """
        if not texts:
            return []
        loaded = self.pretrained
        rows = prompts_around(loaded, "Passage:", texts, f" {self.instruction}", closed=not self.causal)
        said = loaded.tokenizer(query, add_special_tokens=False).input_ids[: self.query_length]
        end = loaded.tokenizer.eos_token_id
        said = said if end is None else [*said, end]
        if not said:
            raise ValueError(f"query={query!r} has no tokens; give some words")
        if not self.causal:
            wanted = torch.tensor(said, device=loaded.model.device)
            return loaded.scored(rows, lambda ids, mask: sequence_likelihoods(loaded.model, ids, mask, wanted))
        scores = [0.0] * len(rows)
        for numbers in loaded.batches(rows):
            values = continuation_likelihoods(loaded.model, [rows[n] for n in numbers], [said] * len(numbers))
            for number, value in zip(numbers, values.tolist(), strict=True):
                scores[number] = value
        return scores


class DuoT5Scorer:
    """p_ij that passage i is more relevant than j, and sums of it (Pradeep, Nogueira and Lin 2021).

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
        words: tuple[str, str] = _FALSE_TRUE,
        **options: Any,
    ) -> None:
        if aggregate not in get_args(Aggregate):
            raise ValueError(f"aggregate={aggregate!r} is not known; accepted: {', '.join(get_args(Aggregate))}")
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSeq2SeqLM", **options)
        self.aggregate, self.words = aggregate, words

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text, from n (n - 1) pairs.

        Raises:
            ValueError: see `MonoT5Scorer.score`.
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
        ids = word_ids(self.pretrained.tokenizer, self.words)
        pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j]
        rows = [self._prompt(query, texts[i], texts[j]) for i, j in pairs]
        values = self.pretrained.scored(
            rows, lambda ids_, mask: first_step_logits(self.pretrained.model, ids_, mask, ids).log_softmax(-1)[:, 1]
        )
        logs = torch.zeros(len(texts), len(texts))
        for (i, j), value in zip(pairs, values, strict=True):
            logs[i, j] = value
        return logs

    def _prompt(self, query: str, first: str, second: str) -> list[int]:
        tokenizer, room = self.pretrained.tokenizer, self.pretrained.max_length
        parts = [f"Query: {query} Document0:", first, "Document1:", second, "Relevant:"]
        encoded = [tokenizer(part, add_special_tokens=False).input_ids for part in parts]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        left = room - len(end) - sum(len(encoded[place]) for place in (0, 2, 4))
        if left < 2:
            raise ValueError(f"max_length={room} leaves no room for passages beside the query; allow more")
        return [*encoded[0], *encoded[1][: left // 2], *encoded[2], *encoded[3][: left // 2], *encoded[4], *end]


def prompts_around(
    loaded: Pretrained, before: str, texts: Sequence[str], after: str, closed: bool = True
) -> list[list[int]]:
    """Token ids of prompts; a text that is too long loses its end, what stands around it stays.

    Args:
        loaded: whose tokenizer and length.
        before: stands before every text.
        texts: of the passages.
        after: stands behind every text.
        closed: whether the end token closes the prompt.

    Raises:
        ValueError: what stands around leaves no room.
    """
    tokenizer = loaded.tokenizer
    head = tokenizer(before, add_special_tokens=False).input_ids
    tail = tokenizer(after, add_special_tokens=False).input_ids
    if closed and tokenizer.eos_token_id is not None:
        tail = [*tail, tokenizer.eos_token_id]
    if not closed and tokenizer.bos_token_id is not None:
        head = [tokenizer.bos_token_id, *head]
    room = loaded.max_length - len(head) - len(tail)
    if room < 1:
        raise ValueError(
            f"max_length={loaded.max_length} leaves no room for a passage beside {len(head) + len(tail)} tokens of the "
            "query and the prompt; allow more, or ask in fewer words"
        )
    return [[*head, *tokenizer(text, add_special_tokens=False).input_ids[:room], *tail] for text in texts]


def word_ids(tokenizer: Any, words: tuple[str, str]) -> list[int]:
    """Ids of the words for false and true.

    Raises:
        ValueError: the tokenizer lacks one.
    """
    ids = tokenizer.convert_tokens_to_ids(list(words))
    missing = [word for word, id in zip(words, ids, strict=True) if id is None or id == tokenizer.unk_token_id]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {' and '.join(map(repr, missing))}; name the checkpoint's own: "
            "words=(false, true)"
        )
    return ids
