"""What language models say about a query and a passage: the likelihood of the query, or a word's at the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NO_LABEL = -100


@torch.no_grad()
def sequence_likelihoods(
    model: Any,
    input_ids: Int[Tensor, "passages tokens"],
    attention_mask: Int[Tensor, "passages tokens"],
    query_ids: Int[Tensor, " query"],
) -> Float[Tensor, " passages"]:
    """sum_t log p(q_t | passage, q_<t) of an encoder-decoder, with the end token that closes the query (UPR).

    Args:
        model: of transformers, in evaluation mode.
        input_ids: prompts with the passages.
        attention_mask: of the prompts.
        query_ids: the query and its end token.
    """
    labels = query_ids.repeat(len(input_ids), 1)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).logits.float()
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).sum(-1)


@torch.no_grad()
def continuation_likelihoods(
    model: Any, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], padding: int = 0
) -> Float[Tensor, " rows"]:
    """sum_t log p(y_t | prompt, y_<t) of a decoder, every continuation behind its own prompt.

    Rows are padded on the right, where a causal model does not look.

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
    rows = [[*prompt, *said] for prompt, said in zip(prompts, continuations, strict=True)]
    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), _NO_LABEL)
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
        labels[place, len(prompt) : len(row)] = ids[place, len(prompt) : len(row)]
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1].float()
    wanted = labels[:, 1:].to(device)
    logs = logits.log_softmax(-1).gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(wanted == _NO_LABEL, 0, logs).sum(-1)


@torch.no_grad()
def first_step_logits(
    model: Any, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"], ids: Sequence[int]
) -> Float[Tensor, "batch ids"]:
    """Logits of some tokens at the decoder's first step, of an encoder-decoder."""
    start = torch.full((len(input_ids), 1), int(model.config.decoder_start_token_id), device=input_ids.device)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=start).logits
    return logits[:, 0, list(ids)].float()
