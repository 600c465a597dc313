"""In-context re-ranking: how much a query attends to every passage before it (ICR, Chen, Gutiérrez and Su 2025)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.search.language_model_scores import keeps_state
from fullrank.search.local_model import plain
from fullrank.search.pretrained import Pretrained
from fullrank.search.run import at_least_one

_CHUNK = 512  # tokens of the passages that are read at a time: attention is a matrix of these by all before


class InContextScorer:
    """Attention from query to passage, summed over heads and layers, less that of the query "N/A".

    All passages stand in one prompt, which is read once; then both queries are. Of every passage those tokens are left
    out whose calibrated score is below the mean by two standard deviations.

    Args:
        model: a decoder: an object whose attention is "eager", or a name or folder.
        tokenizer: see `Pretrained`.
        passage_length: tokens read of a passage.
        calibrate: whether the scores of "N/A" are taken off.
        instruction: stands between the passages and the query.
        **options: see `Pretrained`; `max_length` is that of the whole prompt.

    Attributes:
        calls: prompts that were read, with passages or behind them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        passage_length: int = 300,
        calibrate: bool = True,
        instruction: str = "Please find information that are relevant to the following query in the paragraphs above.",
        max_length: int = 32_768,
        **options: Any,
    ) -> None:
        if isinstance(model, str):
            options.setdefault("attn_implementation", "eager")
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForCausalLM", max_length=max_length, **options)
        self.passage_length, self.calibrate = at_least_one(passage_length, "passage_length"), calibrate
        self.instruction = instruction
        self.calls = 0

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text; scores of two lists cannot be compared.

        Raises:
            ValueError: a prompt that is too long, a model that gives no attention, or one in training mode.
        """
        if not texts:
            return []
        start, spans = self._passages(texts)
        behind = [self._query(asked) for asked in ([query, "N/A"] if self.calibrate else [query])]
        needed = len(start) + max(map(len, behind))
        if needed > self.pretrained.limit():
            raise ValueError(
                f"max_length={self.pretrained.limit()}: {len(texts)} passages and the query have {needed} tokens; "
                "shorten them with passage_length, or order fewer at a time with SlidingWindowReranker"
            )
        with torch.inference_mode():
            attention = self._attention(start, behind)
        own = attention[0]
        return [_calibrated(own[at], attention[1][at]) if self.calibrate else float(own[at].sum()) for at in spans]

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first; equal ones keep their order."""
        scores = self.score(query, texts)
        return sorted(range(len(texts)), key=lambda place: -scores[place])

    def _passages(self, texts: Sequence[str]) -> tuple[list[int], list[slice]]:
        """Token ids of all passages, and where each of them stands."""
        loaded = self.pretrained
        tokenizer = loaded.tokenizer
        ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        head, line = loaded.tokens(["Here are some paragraphs:", "\n\n"])
        ids += head
        spans: list[slice] = []
        numbered = [f"[{number}] {plain(text, tokenizer)}" for number, text in enumerate(texts, 1)]
        for row in loaded.tokens(numbered):
            ids += line
            spans.append(slice(len(ids), len(ids) + min(len(row), self.passage_length)))
            ids += row[: self.passage_length]
        return ids, spans

    def _query(self, query: str) -> list[int]:
        loaded = self.pretrained
        return loaded.tokens([f"\n\n{self.instruction}\n\nQuery: {plain(query, loaded.tokenizer)}"])[0]

    def _attention(self, start: list[int], behind: Sequence[list[int]]) -> list[Float[Tensor, " tokens"]]:
        """For every query the attention to every token of the start: mean over the query's tokens, sum over heads."""
        model = self.pretrained.model
        if getattr(model.config, "_attn_implementation", "eager") != "eager":
            raise ValueError(
                f"the model's attention is {model.config._attn_implementation!r}, which does not tell its weights: "
                "load it with attn_implementation='eager', or call model.set_attn_implementation('eager')"
            )
        ids = torch.tensor([start], device=model.device)
        cache = None
        for at in range(0, len(start), _CHUNK):
            out = model.base_model(input_ids=ids[:, at : at + _CHUNK], past_key_values=cache, use_cache=True)
            cache = getattr(out, "past_key_values", None)
            if cache is None:
                raise ValueError(f"a {type(model).__name__} has no attention to read; give a decoder that has")
        self.calls += 1 + len(behind)
        found = []
        for row in behind:
            out = model.base_model(
                input_ids=torch.tensor([row], device=model.device),
                past_key_values=_branch(cache),
                use_cache=True,
                output_attentions=True,
            )
            found.append(_read(out.attentions, len(start), len(row)))
        return found


def _branch(cache: Any) -> Any:
    """The same keys and values, behind which a query can be read while the cache stays as it is.

    Taking the query back would not do: a layer with a sliding window has let go of what left it by then.
    """
    if not hasattr(cache, "layers"):
        return copy.deepcopy(cache)
    twin = copy.copy(cache)
    # Keys and values are joined into new tensors, a state is written over.
    twin.layers = [(copy.deepcopy if keeps_state(layer) else copy.copy)(layer) for layer in cache.layers]
    return twin


def _read(attentions: Sequence[Tensor | None], start: int, query: int) -> Float[Tensor, " start"]:
    """Attention to every token of the start: mean over the query's tokens, sum over heads and layers.

    A layer with a sliding window has weights for the last tokens alone, one without attention has none.
    """
    layers = [weights[0, :, :, :-query].float().mean(1).sum(0) for weights in attentions if weights is not None]
    return torch.stack([torch.nn.functional.pad(seen, (start - len(seen), 0)) for seen in layers]).sum(0)


def _calibrated(own: Float[Tensor, " tokens"], empty: Float[Tensor, " tokens"]) -> float:
    """sum_t (s_t - s'_t) without tokens below mean - 2 std."""
    scores = own - empty
    if len(scores) < 2:
        return float(scores.sum())
    return float(scores[scores > scores.mean() - 2 * scores.std()].sum())
