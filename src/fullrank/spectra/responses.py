"""A prompt and its response as tokens, and the loss that is taken over the response alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

#: Label of a token that no loss is taken over.
IGNORED = -100


def encode_response(
    tokenizer: Any, prompt: str, response: str, max_length: int, chat: bool = False
) -> tuple[Int[Tensor, "length"], Int[Tensor, "length"]]:
    """Token ids of prompt and response, and labels that are -100 before the response.

    Args:
        tokenizer: a transformers tokenizer; a fast one tells exactly where the response begins.
        prompt: joined to the response by a line break, or by the chat template with `chat`.
        response: the text that the loss is taken over.
        max_length: further tokens are cut off.
        chat: use the tokenizer's chat template.
    """
    prefix = _chat_prefix(tokenizer, prompt) if chat else prompt + "\n"
    fast = getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(prefix + response, truncation=True, max_length=max_length, return_offsets_mapping=fast)
    ids = torch.tensor(encoded["input_ids"], dtype=torch.long)
    labels = ids.clone()
    if fast:  # a token that begins before the response belongs to the prompt
        before = [begin < len(prefix) or begin == end for begin, end in encoded["offset_mapping"]]
        labels[torch.tensor(before, dtype=torch.bool)] = IGNORED
    else:
        labels[: len(tokenizer(prefix)["input_ids"])] = IGNORED
    return ids, labels


def mean_response_loss(
    logits: Float[Tensor, "batch length vocabulary"], labels: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch"]:
    """Mean cross entropy over each sample's response tokens, in nats; NaN for a sample without any."""
    targets = labels[:, 1:]
    # The loss of an ignored position is 0, so the sum is over response tokens.
    token = nn.functional.cross_entropy(logits[:, :-1].float().mT, targets, ignore_index=IGNORED, reduction="none")
    return token.sum(-1) / (targets != IGNORED).sum(-1)


def _chat_prefix(tokenizer: Any, prompt: str) -> str:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": prompt},
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
