"""The text classifier of LAMA as a transformers model: `Trainer`, `save_pretrained` and `from_pretrained` work."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.nn.lama import orthogonality_penalty
from fullrank.nn.lama_classifier import LAMAClassifier
from fullrank.nn.lama_poolings import PoolingName

require("transformers", "adapt")

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput  # noqa: E402


class LAMAConfig(PretrainedConfig):
    """Configuration of `LAMAForSequenceClassification`.

    Args:
        vocab_size: how many words. Default 8,000.
        embed_dim, hidden_size, num_heads, pooling, dropout, classifier_dim, pooling_options: of `LAMAClassifier`.
        penalty: weight in the loss of ‖A Aᵀ - I‖²_F, see `orthogonality_penalty`. Default 0, as in the paper.
        pad_token_id: the word that stands for padding. Default 0.
        options: of every configuration, such as `num_labels`.

    Raises:
        ValueError: a negative penalty. The other values are checked when the model is built.
    """

    model_type = "lama"

    def __init__(
        self,
        vocab_size: int = 8000,
        embed_dim: int = 300,
        hidden_size: int = 100,
        num_heads: int = 8,
        pooling: PoolingName = "lama",
        dropout: float = 0.3,
        classifier_dim: int | None = 128,
        pooling_options: dict[str, Any] | None = None,
        penalty: float = 0.0,
        pad_token_id: int = 0,
        **options: Any,
    ) -> None:
        if penalty < 0:
            raise ValueError(f"penalty={penalty}: use 0 or more")
        self.vocab_size, self.embed_dim, self.hidden_size = vocab_size, embed_dim, hidden_size
        self.num_heads, self.pooling, self.pooling_options = num_heads, pooling, dict(pooling_options or {})
        self.dropout, self.classifier_dim, self.penalty = dropout, classifier_dim, penalty
        self.pad_token_id = pad_token_id
        super().__init__(**options)


class LAMAForSequenceClassification(PreTrainedModel):
    """A `LAMAClassifier` that transformers trains, saves and loads.

    Example:
        >>> model = LAMAForSequenceClassification(LAMAConfig(vocab_size=100, num_labels=3))
        >>> model(torch.tensor([[5, 7, 9, 0]]), labels=torch.tensor([2]), output_attentions=True).attentions[0].shape
        torch.Size([1, 8, 4])
    """

    config_class = LAMAConfig
    base_model_prefix = "network"
    main_input_name = "input_ids"

    def __init__(self, config: LAMAConfig) -> None:
        super().__init__(config)
        self.network = LAMAClassifier(
            config.vocab_size, cast(int, config.num_labels), config.embed_dim, config.hidden_size, config.num_heads,
            cast(PoolingName, config.pooling), config.dropout, config.pad_token_id,
            classifier_dim=config.classifier_dim, pooling_options=config.pooling_options,
        )  # fmt: skip
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Shaped[Tensor, "batch tokens"] | None = None,
        labels: Shaped[Tensor, "batch ..."] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **further: Any,
    ) -> SequenceClassifierOutput | tuple[Float[Tensor, "..."] | tuple[Float[Tensor, "..."], ...], ...]:
        """Logits, and the loss where labels are given.

        Args:
            input_ids: words, padded on the right.
            attention_mask: 1 where there is a word; None: wherever there is not `pad_token_id`.
            labels: classes; numbers for regression or several labels, as `config.problem_type` says.
            output_attentions: give A, (batch, m, tokens), as the only entry of `attentions`. Default that of the
                configuration.
            return_dict: False for a tuple. Default that of the configuration.
            further: of the loss, such as `num_items_in_batch` from the trainer.

        Raises:
            TypeError, ValueError: see `LAMAClassifier.forward`.
        """
        wanted = self.config.output_attentions if output_attentions is None else output_attentions
        penalised = labels is not None and self.config.penalty > 0
        found = self.network(input_ids, attention_mask, need_weights=bool(wanted or penalised))
        logits, A = found if isinstance(found, tuple) else (found, None)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **further)
            if penalised and A is not None:
                loss = loss + self.config.penalty * orthogonality_penalty(A)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, attentions=(A,) if wanted and A is not None else None
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.network.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings, such as by pre-trained ones."""
        self.network.embedding = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Every layer starts as it starts outside of transformers."""
        if isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()


AutoConfig.register(LAMAConfig.model_type, LAMAConfig, exist_ok=True)
AutoModelForSequenceClassification.register(LAMAConfig, LAMAForSequenceClassification, exist_ok=True)
