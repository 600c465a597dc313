"""What language models say about a query and a passage: the likelihood of the query, or a word's at the first step."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fullrank.search.pretrained import padded

_NO_LABEL = -100
_WORTH_SHARING = 16  # tokens of a common start that are worth a pass of their own


@torch.no_grad()
def sequence_likelihoods(
    model: Any,
    input_ids: Int[Tensor, "passages tokens"] | None,
    attention_mask: Int[Tensor, "passages tokens"],
    query_ids: Int[Tensor, " query"] | Int[Tensor, "passages query"],
    states: Any = None,
) -> Float[Tensor, " passages"]:
    """sum_t log p(q_t | passage, q_<t) of an encoder-decoder, with the end token that closes the query (UPR).

    Args:
        model: of transformers, in evaluation mode.
        input_ids: prompts with the passages; None if their states are given.
        attention_mask: of the prompts.
        query_ids: the query and its end token; or one for every passage, padded with -100.
        states: `encoder_outputs` of the prompts, if they are known.
    """
    labels = query_ids if query_ids.ndim == 2 else query_ids.repeat(len(attention_mask), 1)
    source = {"input_ids": input_ids} if states is None else {"encoder_outputs": states}
    logits = model(**source, attention_mask=attention_mask, labels=labels).logits.float()
    return _likelihoods(logits, labels)


@torch.no_grad()
def continuation_likelihoods(
    model: Any, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], padding: int = 0
) -> Float[Tensor, " rows"]:
    """sum_t log p(y_t | prompt, y_<t) of a decoder, every continuation behind its own prompt.

    Rows are padded on the right, where a causal model does not look. A long common start is read once.

    Args:
        model: of transformers, in evaluation mode.
        prompts: token ids, each with at least one.
        continuations: token ids.
        padding: the id that fills rows.

    Raises:
        ValueError: an empty prompt, or another number of continuations.
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(continuations)} continuations for {len(prompts)} prompts; one each is needed")
    empty = next((place for place, prompt in enumerate(prompts) if not len(prompt)), None)
    if empty is not None:
        raise ValueError(f"prompt {empty} is empty: what follows it has no first probability; give a start token")
    if not prompts:
        return torch.zeros(0)
    rows = [[*prompt, *said] for prompt, said in zip(prompts, continuations, strict=True)]
    first = min(map(len, prompts)) - 1
    width = max(map(len, rows))
    if width - 1 == first:
        return torch.zeros(len(rows))  # nothing is said
    labels = torch.full((len(rows), width - first - 1), _NO_LABEL)
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        labels[place, len(prompt) - first - 1 : len(row) - first - 1] = torch.tensor(row[len(prompt) :])
    logits = decoder_logits(model, rows, range(first, width - 1), padding)
    return _likelihoods(logits, labels.to(logits.device))


@torch.no_grad()
def next_token_logits(
    model: Any, rows: Sequence[Sequence[int]], ids: Sequence[int] | Tensor, padding: int = 0
) -> Float[Tensor, "rows ids"]:
    """Logits of some tokens behind every row, of a decoder; a long common start is read once.

    Args:
        model: of transformers, in evaluation mode.
        rows: token ids, each with at least one.
        ids: of the tokens.
        padding: the id that fills rows.
    """
    ends = sorted({len(row) - 1 for row in rows})
    logits = decoder_logits(model, rows, ends, padding)
    last = torch.tensor([ends.index(len(row) - 1) for row in rows], device=logits.device)
    behind = logits[torch.arange(len(rows), device=logits.device), last]
    return behind[:, torch.as_tensor(ids, device=logits.device)]


@torch.no_grad()
def decoder_logits(
    model: Any, rows: Sequence[Sequence[int]], places: Sequence[int], padding: int = 0
) -> Float[Tensor, "rows places vocabulary"]:
    """A decoder's logits at some places of rows that are padded on the right.

    Args:
        model: of transformers, in evaluation mode.
        rows: token ids.
        places: ascending; logits elsewhere are not made, if the model can leave them out.
        padding: the id that fills rows.
    """
    ids, mask = (part.to(model.device) for part in padded(rows, padding))
    shared = min(common_start(rows), places[0])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    worth = len(rows) > 1 and shared >= _WORTH_SHARING
    cache = _read_once(model, ids[:1, :shared], len(rows)) if worth else None
    if cache is None:
        shared = 0
    else:
        inputs |= {"input_ids": ids[:, shared:], "past_key_values": cache}
    wanted = torch.tensor([place - shared for place in places], device=ids.device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        return model(**inputs, logits_to_keep=wanted).logits.float()
    return model(**inputs).logits[:, wanted].float()


def common_start(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with together."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


@torch.no_grad()
def first_step_logits(
    model: Any,
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Int[Tensor, "batch tokens"],
    ids: Sequence[int],
    said: Sequence[int] = (),
) -> Float[Tensor, "batch ids"]:
    """Logits of some tokens at the decoder's first step, of an encoder-decoder.

    Args:
        model: of transformers, in evaluation mode.
        input_ids: prompts.
        attention_mask: of the prompts.
        ids: of the tokens.
        said: ids that the decoder has said already.
    """
    start = torch.tensor([[int(model.config.decoder_start_token_id), *said]], device=input_ids.device)
    logits = model(
        input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=start.repeat(len(input_ids), 1)
    ).logits
    return logits[:, -1, list(ids)].float()


def _read_once(model: Any, start: Int[Tensor, "1 shared"], rows: int) -> Any | None:
    """Keys and values of a start, for every row; None of a model that keeps a state in place of them (Mamba, LFM2)."""
    cache = getattr(model.base_model(input_ids=start, use_cache=True), "past_key_values", None)
    if cache is None or any(map(keeps_state, getattr(cache, "layers", ()))):
        return None
    cache.batch_repeat_interleave(rows)
    return cache


def keeps_state(layer: Any) -> bool:
    """Whether a layer of a cache holds a state, which is written over, in place of keys and values."""
    return hasattr(layer, "conv_states")


def _likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    logs = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(labels == _NO_LABEL, 0, logs).sum(-1)
