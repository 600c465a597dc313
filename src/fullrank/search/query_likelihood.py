"""Re-ranking by the likelihood of the query: what would one ask about this passage? (UPR, Sachan et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fullrank.search.encoder_states import EncoderStates, encoder_outputs
from fullrank.search.language_model_scores import continuation_likelihoods, sequence_likelihoods
from fullrank.search.model_scorers import distinct, prompts_around
from fullrank.search.pointwise import ModelScorer
from fullrank.search.pretrained import Pretrained

_NO_LABEL = -100


class QueryLikelihoodScorer(ModelScorer):
    """sum_t log p(q_t | passage, q_<t) by an encoder-decoder or a decoder.

    Args:
        model: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        causal: whether the model is a decoder alone.
        instruction: follows the passage.
        query_length: tokens read of the query.
        keep: passages whose encoder states are kept for the next query; an encoder-decoder alone has such states. One
            passage of 200 tokens takes 0.8 MB for a T5 of width 1,024.
        **options: see `Pretrained`; `max_length` is that of the prompt with the passage.

    Raises:
        ValueError: `keep` is negative, or given for a decoder; see `Pretrained`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        causal: bool = False,
        instruction: str = "Please write a question based on this passage.",
        query_length: int = 128,
        keep: int = 0,
        **options: Any,
    ) -> None:
        if causal and keep:
            raise ValueError(f"keep={keep} with causal=True: a decoder alone has no encoder states to keep")
        kind = "AutoModelForCausalLM" if causal else "AutoModelForSeq2SeqLM"
        self.pretrained = Pretrained(model, tokenizer, kind=kind, **options)
        self.causal, self.instruction, self.query_length = causal, instruction, query_length
        self.states = EncoderStates(self.pretrained, keep)

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One sum of log-probabilities for every query with the text at its place.

        Raises:
            ValueError: a query without tokens, or an instruction that alone is too long.
        """
        if not texts:
            return []
        loaded = self.pretrained
        said = self._said(queries)
        behind = max(map(len, said)) if self.causal else 0
        rows = prompts_around(loaded, ["Passage:"] * len(texts), texts, f" {self.instruction}", not self.causal, behind)
        if self.causal:
            return loaded.scored(rows, lambda _, __, numbers: self._continued(rows, said, numbers))
        if self.states.most:
            return loaded.scored(rows, lambda _, __, numbers: self._decoded(rows, said, numbers))
        return loaded.scored(
            rows, lambda ids, mask, numbers: sequence_likelihoods(loaded.model, ids, mask, self._labels(said, numbers))
        )

    def _said(self, queries: Sequence[str]) -> list[list[int]]:
        """Tokens of every query, and the end."""
        unique, places = distinct(queries)
        end = self.pretrained.tokenizer.eos_token_id
        tokens = [ids[: self.query_length] + ([] if end is None else [end]) for ids in self.pretrained.tokens(unique)]
        empty = next((query for query, ids in zip(unique, tokens, strict=True) if not ids), None)
        if empty is not None:
            raise ValueError(f"query={empty!r} has no tokens; give some words")
        return [tokens[place] for place in places]

    def _labels(self, said: list[list[int]], numbers: list[int]) -> Tensor:
        rows = [torch.tensor(said[number]) for number in numbers]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_NO_LABEL)
        return padded.to(self.pretrained.model.device)

    def _decoded(self, rows: list[list[int]], said: list[list[int]], numbers: list[int]) -> Tensor:
        states, mask = encoder_outputs(self.states.of([rows[number] for number in numbers]))
        return sequence_likelihoods(self.pretrained.model, None, mask, self._labels(said, numbers), states)

    def _continued(self, rows: list[list[int]], said: list[list[int]], numbers: list[int]) -> Tensor:
        return continuation_likelihoods(
            self.pretrained.model, [rows[number] for number in numbers], [said[number] for number in numbers]
        )
