"""Fusion-in-Decoder: every context is read alone, and one decoder attends to them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int

from fullrank._optional import require
from fullrank.search.answers import asked
from fullrank.search.local_model import plain
from fullrank.search.pretrained import check_evaluating, padded
from fullrank.search.protocols import Answer, Document
from fullrank.search.run import at_least_one


class FusionInDecoder:
    """T5 with many contexts at a cost linear in their number (Izacard and Grave 2021).

    Every text "question: ... title: ... context: ..." goes through the encoder alone; the states of all of them, one
    after the other, are what the decoder attends to. T5's decoder knows no position of a state, so the order of the
    contexts does not change the answer.

    Args:
        model: a T5 with a language model head, as an object in evaluation mode.
        tokenizer: its tokenizer.
        n_contexts: contexts that are read, at most.
        passage_length: tokens of one text; what is longer loses the end of its context.
        max_new_tokens: of the answer.
        batch_size: texts through the encoder at a time.

    Raises:
        ValueError: a number below 1, or a model that is no encoder-decoder.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        n_contexts: int = 100,
        passage_length: int = 250,
        max_new_tokens: int = 50,
        batch_size: int = 16,
    ) -> None:
        numbers = {
            "n_contexts": n_contexts,
            "passage_length": passage_length,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
        }
        for name, value in numbers.items():
            at_least_one(value, name)
        if not model.config.is_encoder_decoder:
            raise ValueError(f"a {type(model).__name__} has no encoder; Fusion-in-Decoder needs a T5 or its like")
        self.model, self.tokenizer = model, tokenizer
        self.n_contexts, self.passage_length = n_contexts, passage_length
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size

    def answer(self, question: str, contexts: Sequence[Document]) -> Answer:
        """See `Generator.answer`; without contexts the question is read alone.

        Raises:
            ValueError: a blank question, one that fills `passage_length`, or a model in training mode.
        """
        check_evaluating(self.model, "answers")
        read = contexts[: self.n_contexts]
        with torch.inference_mode():
            states, mask = self.encode(question, read)
            outputs = require("transformers.modeling_outputs", "search").BaseModelOutput(last_hidden_state=states)
            ids = self.model.generate(
                encoder_outputs=outputs,
                attention_mask=mask,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
        text = self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
        return Answer(text.strip(), tuple(document.id for document in read))

    def encode(
        self, question: str, contexts: Sequence[Document]
    ) -> tuple[Float[torch.Tensor, "1 states dim"], Int[torch.Tensor, "1 states"]]:
        """The encoder's states of every text, one text after the other, and the mask of what is no filling.

        Raises:
            ValueError: see `answer`.
        """
        rows = self._rows(question, contexts)
        filling = self.tokenizer.pad_token_id or 0
        pieces: list[torch.Tensor] = []
        for start in range(0, len(rows), self.batch_size):
            ids, mask = padded(rows[start : start + self.batch_size], filling)
            mask = mask.to(self.model.device)
            states = self.model.get_encoder()(input_ids=ids.to(self.model.device), attention_mask=mask)
            pieces.append(states.last_hidden_state[mask.bool()])  # filling never reaches the decoder
        joined = torch.cat(pieces)[None]
        return joined, torch.ones(joined.shape[:2], dtype=torch.long, device=joined.device)

    def _rows(self, question: str, contexts: Sequence[Document]) -> list[list[int]]:
        head = f"question: {asked(question)}"
        needed = len(self.tokenizer(plain(head, self.tokenizer)).input_ids)
        if needed >= self.passage_length:
            raise ValueError(
                f"the question has {needed} tokens and leaves no place for a context in passage_length="
                f"{self.passage_length}; allow more, or ask in fewer words"
            )
        texts = [f"{head} title: {document.title} context: {document.text}" for document in contexts] or [head]
        return [
            self.tokenizer(plain(text, self.tokenizer), truncation=True, max_length=self.passage_length).input_ids
            for text in texts
        ]
