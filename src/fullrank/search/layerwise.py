"""A decoder that says Yes: the logit of one word behind query and passage, at any of its layers (BGE re-rankers)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.search.language_model_scores import next_token_logits
from fullrank.search.pointwise import ModelScorer
from fullrank.search.pretrained import Pretrained


class LayerwiseScorer(ModelScorer):
    """The logit of "Yes" behind "A: query, B: passage" and an instruction (bge-reranker gemma and minicpm-layerwise).

    Args:
        model: a decoder: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        layer: layers that are run; all by default. A model that takes `cutoff_layers` is asked for that one; of another
            the first layers alone are run, under its last norm and head.
        instruction: asks for the answer.
        word: whose logit is the score.
        **options: see `Pretrained`; `max_length` is that of query and passage, without the instruction.

    Raises:
        ValueError: `layer` below 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        layer: int | None = None,
        instruction: str = (
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'."
        ),
        word: str = "Yes",
        **options: Any,
    ) -> None:
        if layer is not None and layer < 1:
            raise ValueError(f"layer={layer} is not accepted; at least 1 layer is run")
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForCausalLM", **options)
        self.layer, self.instruction, self.word = layer, instruction, word

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One logit for every query with the text at its place; a passage that is too long loses its end.

        Raises:
            ValueError: more layers than the model has, or positions that leave no room.
        """
        if not texts:
            return []
        loaded = self.pretrained
        yes = loaded.tokens([self.word])[0][:1]
        rows = self._rows(queries, texts)
        if self.layer is None:
            return loaded.scored(rows, lambda ids, mask, ns: _behind(loaded.model, [rows[n] for n in ns], yes))
        if "cutoff_layers" in inspect.signature(loaded.model.forward).parameters:
            return loaded.scored(rows, self._at_own_head)
        shallow = shallower(loaded.model, self.layer)
        return loaded.scored(rows, lambda ids, mask, ns: _behind(shallow, [rows[n] for n in ns], yes))

    def _at_own_head(self, ids: Tensor, mask: Tensor, numbers: list[int]) -> Tensor:
        """The one value that a model with a head at every layer gives for every place."""
        out = self.pretrained.model(input_ids=ids, attention_mask=mask, cutoff_layers=[self.layer], return_dict=True)
        values = out[0][-1].reshape(*ids.shape)
        return values[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]

    def _rows(self, queries: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        loaded = self.pretrained
        line, asked = loaded.tokens(["\n", self.instruction])
        start = [] if loaded.tokenizer.bos_token_id is None else [loaded.tokenizer.bos_token_id]
        room = loaded.limit(len(line) + len(asked))
        if room < 8:
            raise ValueError(f"max_length={room} leaves no room for query and passage; allow more")
        heads = [ids[: room * 3 // 4] for ids in loaded.tokens([f"A: {query}" for query in queries])]
        bodies = loaded.tokens([f"B: {text}" for text in texts])
        return [
            [*[*start, *head, *line, *body][:room], *line, *asked] for head, body in zip(heads, bodies, strict=True)
        ]


def shallower(model: Any, layers: int) -> Any:
    """A decoder of the first layers of another, with the same weights; the other stays as it is.

    Raises:
        ValueError: more layers than it has, or no list of layers in it.
    """
    count = model.config.num_hidden_layers
    if layers > count:
        raise ValueError(f"layer={layers} is not accepted; the model has {count} layers")
    base = model.base_model
    name = next(
        (n for n, part in base.named_children() if isinstance(part, nn.ModuleList) and len(part) == count), None
    )
    if name is None:
        raise ValueError(f"layer={layers}: a {type(model).__name__} has no list of {count} layers to stop in")
    cut = _shell(base)
    cut._modules[name] = nn.ModuleList(list(getattr(base, name))[:layers])
    cut.config = copy.copy(base.config)
    cut.config.num_hidden_layers = layers
    whole = _shell(model)
    whole._modules[model.base_model_prefix] = cut
    return whole


def _shell(module: Any) -> Any:
    """The same module with a list of children of its own."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _behind(model: Any, rows: list[list[int]], ids: list[int]) -> Tensor:
    return next_token_logits(model, rows, ids)[:, 0]
