"""A small causal language model of bytes, trained in a study on the bundled WikiText-2."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class ByteModelSize(NamedTuple):
    """How large a model is trained, and for how long."""

    layers: int
    width: int
    context: int
    batch: int
    steps: int


def byte_model(size: ByteModelSize, seed: int) -> Any:
    """An untrained GPT-2 over bytes, without dropout."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=256, n_positions=size.context, n_embd=size.width, n_layer=size.layers, n_head=size.width // 32,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()


def train_byte_model(size: ByteModelSize, seed: int, device: str = "cpu") -> Any:
    """The model trained on the validation articles, with a rate that rises to 3e-3 and falls."""
    import torch

    model = byte_model(size, seed).to(device).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=size.steps)
    for _ in range(size.steps):
        batch = sequences(size.batch, size.context, generator).to(device)
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def sequences(count: int, context: int, generator: Any) -> Tensor:
    """Pieces of the validation articles from random places, (count, context)."""
    import torch

    ids = _bytes("valid")
    starts = torch.randint(len(ids) - context, (count,), generator=generator)
    return torch.stack([ids[start : start + context] for start in starts]).long()


def byte_perplexity(model: Any, count: int, context: int) -> float:
    """Perplexity by byte of the first so many pieces of the test articles."""
    import torch
    from torch.nn.functional import cross_entropy

    pieces = _bytes("test")[: count * context].view(count, context).long().to(model.device)
    losses = []
    with torch.no_grad():
        for batch in pieces.split(32):
            logits = model(input_ids=batch).logits.float()
            losses.append(cross_entropy(logits[:, :-1].mT, batch[:, 1:], reduction="none").flatten())
    return math.exp(min(float(torch.cat(losses).mean()), 80.0))


def plant_outliers(model: Any, factor: float, channels: int) -> None:
    """Make input channels of attention and feed-forward layers larger, and what feeds them as much smaller.

    The model's function stays: the layer norm before takes the inverse.
    """
    import torch

    with torch.no_grad():
        for block in model.transformer.h:
            for norm, layer in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                norm.weight[:channels] /= factor
                norm.bias[:channels] /= factor
                layer.weight[:channels] *= factor  # a Conv1D's weight is (in, out)


@cache
def _bytes(split: str) -> Tensor:
    import torch

    from fullrank import data

    text: str = data.load("wikitext2", split)[0]["text"]
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
