import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from fullrank.tasks.losses import labelled_losses

BERT = {
    "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 8, "num_labels": 3,
}  # fmt: skip


def _tokens(size, labels):
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randint(1, size, (2, 6), generator=generator) for name in ("input_ids", "labels")}
    batch["labels"] = batch["labels"] % labels
    batch["labels"][:, 4:] = -100
    return batch


MODELS = {
    "token classes": lambda: (BertForTokenClassification(BertConfig(**BERT)), _tokens(30, 3)),
    "masked tokens": lambda: (BertForMaskedLM(BertConfig(**BERT)), _tokens(30, 30)),
    "next tokens": lambda: (
        GPT2LMHeadModel(
            GPT2Config(vocab_size=30, n_embd=12, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
        ),
        _tokens(30, 30),
    ),
    "a decoder": lambda: (
        T5ForConditionalGeneration(
            T5Config(vocab_size=30, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        ),
        _tokens(30, 30),
    ),
    "several classes": lambda: (
        BertForSequenceClassification(BertConfig(**BERT, problem_type="multi_label_classification")),
        _tokens(30, 3) | {"labels": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])},
    ),
}


@pytest.mark.parametrize("task", MODELS)
def test_a_samples_loss_is_the_one_that_the_model_was_trained_with(task):
    torch.manual_seed(0)
    model, batch = MODELS[task]()
    model.eval()
    losses = labelled_losses(model, batch)
    assert losses.shape == (2,)
    for row, loss in enumerate(losses):
        sample = {name: value[row : row + 1] for name, value in batch.items()}
        torch.testing.assert_close(loss, model(**sample).loss)
