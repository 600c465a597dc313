"""An encoder-decoder that reads every passage alone and writes their order (ListT5, LiT5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fullrank.search.encoder_states import EncoderStates, encoder_outputs
from fullrank.search.listwise import parse_order
from fullrank.search.model_scorers import prompts_around
from fullrank.search.pretrained import Pretrained

Style = Literal["listt5", "lit5"]


class FusionOrder:
    """Numbered passages through the encoder one by one; the decoder attends to all of them and writes numbers.

    Args:
        model: a T5: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        style: "listt5" asks "Query: q, Index: i, Context: d" and gets "3 1 2", the best last (Yoon et al. 2024); "lit5"
            asks "Search Query: q Passage: [i] d Relevance Ranking:" and gets "[2] > [1]", the best first (Tamber et al.
            2023).
        keep: passages whose encoder states are kept: in a tournament they come again.
        **options: see `Pretrained`; `max_length` is that of one passage.

    Raises:
        ValueError: an unknown style, or a negative `keep`; see `Pretrained`.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, *, style: Style = "listt5", keep: int = 100, **options: Any
    ) -> None:
        if style not in get_args(Style):
            raise ValueError(f"style={style!r} is not known; accepted: {', '.join(get_args(Style))}")
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSeq2SeqLM", **options)
        self.states = EncoderStates(self.pretrained, keep)
        self.style: Style = style

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places that the model wrote, best first, as it did: perhaps not all of them, or none."""
        return self.orders(query, [texts])[0]

    def orders(self, query: str, lists: Sequence[Sequence[str]]) -> list[list[int]]:
        """`order` of every list; as many lists are decoded together as have `batch_size` passages.

        Raises:
            ValueError: a query that leaves no room for a passage, or a model in training mode.
        """
        rows = [self._rows(query, texts) for texts in lists]
        orders: list[list[int]] = []
        together = max(1, self.pretrained.batch_size // max(map(len, rows), default=1))
        with torch.inference_mode():
            for start in range(0, len(rows), together):
                orders += self._decoded(rows[start : start + together])
        return orders

    def _decoded(self, lists: Sequence[list[list[int]]]) -> list[list[int]]:
        states = self.states.of([row for rows in lists for row in rows])
        fused: list[Tensor] = []
        for rows in lists:
            fused.append(torch.cat(states[: len(rows)]))
            states = states[len(rows) :]
        outputs, mask = encoder_outputs(fused)
        count = max(map(len, lists))
        ids = self.pretrained.model.generate(
            encoder_outputs=outputs,
            attention_mask=mask,
            max_new_tokens=count + 2 if self.style == "listt5" else 6 * count,
            do_sample=False,
            num_beams=1,
        )
        said = [parse_order(text) for text in self.pretrained.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return [order[::-1] for order in said] if self.style == "listt5" else said

    def _rows(self, query: str, texts: Sequence[str]) -> list[list[int]]:
        numbers = range(1, len(texts) + 1)
        if self.style == "listt5":
            return prompts_around(
                self.pretrained, [f"Query: {query}, Index: {n}, Context:" for n in numbers], texts, ""
            )
        before = [f"Search Query: {query} Passage: [{n}]" for n in numbers]
        return prompts_around(self.pretrained, before, texts, " Relevance Ranking:")
