"""ColBERT's checkpoints: BERT and a linear map of its states."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertModel, BertPreTrainedModel


class ColBERT(BertPreTrainedModel):
    """Token vectors of BERT, mapped to a small space without bias; the names of weights are those of ColBERT v1, v2.

    Args:
        config: of BERT.
        dim: of the vectors.
    """

    def __init__(self, config: Any, dim: int = 128) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.linear = nn.Linear(config.hidden_size, dim, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token vectors, (batch, tokens, dim)."""
        return self.linear(self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state)
