"""Small models with every kind of layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel


def mlp(inputs: int = 12, outputs: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, outputs))


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(8, 6, 3, padding_mode="reflect", padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def bert(labels: int = 3) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=16, num_labels=labels, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=3, bos_token_id=None, eos_token_id=None
    )
    return GPT2LMHeadModel(config).eval()


def texts(batches: int = 2, size: int = 3, tokens: int = 7, labels: int = 3, seed: int = 0) -> list[dict[str, Tensor]]:
    """Batches with padding and classes."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(batches):
        mask = torch.ones(size, tokens, dtype=torch.int64)
        mask[-1, tokens - 2 :] = 0
        made.append(
            {
                "input_ids": torch.randint(1, 40, (size, tokens), generator=generator),
                "attention_mask": mask,
                "labels": torch.randint(labels, (size,), generator=generator),
            }
        )
    return made
