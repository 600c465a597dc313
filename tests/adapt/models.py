"""Tiny random models to adapt, the same for the same seed: an MLP and three transformers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

#: Model -> layers to adapt, by name ending.
TARGETS = {
    "mlp": ["0", "2"],
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["attn.c_attn", "mlp.c_proj"],
    "bert": ["query", "intermediate.dense"],
}


def build(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _BUILDERS[name]().eval()


def inputs(name: str, batch: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    if name == "mlp":
        return {"input": torch.randn(batch, 10, generator=generator)}
    return {"input_ids": torch.randint(1, 40, (batch, 6), generator=generator)}


def output(model: nn.Module, name: str, **kwargs: object) -> torch.Tensor:
    given = inputs(name)
    found = model(given["input"], **kwargs) if name == "mlp" else model(**given, **kwargs)
    return found if name == "mlp" else found.logits


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 12, bias=False), nn.ReLU(), nn.Linear(12, 3))


def _llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, initializer_range=0.2, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def _bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, initializer_range=0.2, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


_BUILDERS = {"mlp": _mlp, "llama": _llama, "gpt2": _gpt2, "bert": _bert}
