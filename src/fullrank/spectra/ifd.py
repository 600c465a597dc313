"""IFD, instruction-following difficulty (Li and others, NAACL 2024, arXiv 2308.12032): how little a prompt helps."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fullrank.spectra.modes import evaluating
from fullrank.spectra.responses import encode_response, mean_response_loss


@torch.no_grad()
def ifd_score(model: nn.Module, tokenizer: Any, prompt: str, response: str, *, max_length: int = 1024) -> float:
    """Perplexity of a response after its prompt over its perplexity alone.

    Near 1 the prompt does not help; above 1 it hurts, and such samples are usually dropped, as in
    `select_by_metric(records, "ifd", valid=lambda score: 0 <= score <= 1)`. Alone, the first token has no context and
    is predicted only where the tokenizer puts a start token before it.

    Args:
        model: a transformers causal language model; measured in eval mode, left as it was.
        tokenizer: its tokenizer.
        prompt: joined to the response by a line break.
        response: at least two tokens.
        max_length: further tokens are cut off; the default is the context of GPT-2, the usual scorer.

    Raises:
        ValueError: no response token remains to be predicted.
    """
    device = next(model.parameters()).device
    ids, labels = encode_response(tokenizer, prompt, response, max_length)
    alone = torch.tensor(tokenizer(response, truncation=True, max_length=max_length)["input_ids"], dtype=torch.long)
    with evaluating(model):
        difference = _loss(model, ids, labels, device) - _loss(model, alone, alone, device)
    if math.isnan(difference):
        raise ValueError(
            f"response={response[:40]!r} has no token to predict within max_length={max_length}: "
            "give a response of two tokens or more, or a larger max_length"
        )
    return math.exp(difference)


def _loss(model: nn.Module, ids: Int[Tensor, "length"], labels: Int[Tensor, "length"], device: torch.device) -> float:
    if len(ids) < 2:
        return math.nan
    logits = model(input_ids=ids[None].to(device)).logits
    return float(mean_response_loss(logits, labels[None].to(device)))
