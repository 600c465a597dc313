"""uniCOIL's checkpoints: BERT and one number of each of its states."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertModel, BertPreTrainedModel


class UniCOIL(BertPreTrainedModel):
    """A number for every token of BERT; the names of weights are those of uniCOIL's published checkpoints.

    Args:
        config: of BERT.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.tok_proj = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Numbers before their relu, (batch, tokens, 1)."""
        return self.tok_proj(self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state)
