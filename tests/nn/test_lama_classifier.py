"""The poolings beside LAMA, the torch classifier, and the transformers model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments

from fullrank.nn import (
    LAMAClassifier,
    LAMAConfig,
    LAMAForSequenceClassification,
    PoolingClassifier,
    orthogonality_penalty,
    pooling_layer,
)

POOLINGS = ["lama", "han", "self_attentive", "mha", "mean", "max"]
ROWS = {"lama": 4, "self_attentive": 4}
LENGTHS = [5, 2, 7]


def words(longest=7, seed=0):
    ids = torch.randint(1, 30, (len(LENGTHS), longest), generator=torch.Generator().manual_seed(seed))
    return ids * (torch.arange(longest) < torch.tensor(LENGTHS)[:, None])


def classifier(pooling="lama", **options):
    torch.manual_seed(0)
    return LAMAClassifier(30, 3, 10, 8, 4, pooling, **options).eval()


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_alone_and_in_a_padded_batch(name):
    torch.manual_seed(0)
    layer = pooling_layer(name, 16, 4)
    H = torch.randn(3, 9, 16)
    mask = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
    pooled, A = layer(H, mask, need_weights=True)
    assert pooled.shape == (3, layer.rows, 16)
    assert layer.rows == ROWS.get(name, 1)
    torch.testing.assert_close(layer(H, mask), pooled)
    torch.testing.assert_close(A.sum(-1), torch.ones(A.shape[:2]))
    assert (A.masked_select(~mask[:, None]) == 0).all()
    for row, length in enumerate(LENGTHS):
        alone, weights = layer(H[row : row + 1, :length], need_weights=True)
        torch.testing.assert_close(alone[0], pooled[row])
        torch.testing.assert_close(weights[0], A[row, :, :length])
    with pytest.raises(ValueError, match="rows 1 have no words"):
        layer(H, mask & torch.tensor([[True], [False], [True]]))


def test_poolings_by_hand():
    H = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    torch.testing.assert_close(pooling_layer("mean", 2)(H, mask), torch.tensor([[[2.0, 3.0]]]))
    largest, shares = pooling_layer("max", 2)(H, mask, need_weights=True)
    torch.testing.assert_close(largest, torch.tensor([[[3.0, 5.0]]]))
    torch.testing.assert_close(shares, torch.tensor([[[0.5, 0.5, 0.0]]]))


def test_transformer_pooling_is_the_mean_of_its_attention():
    torch.manual_seed(0)
    layer, H = pooling_layer("mha", 8, 2), torch.randn(2, 5, 8)
    attended, weights = layer.attend(H, H, H, average_attn_weights=False)
    pooled, A = layer(H, need_weights=True)
    torch.testing.assert_close(pooled[:, 0], attended.mean(1))
    torch.testing.assert_close(A, weights.mean(2))
    assert sum(p.numel() for p in pooling_layer("mha", 128, 8).parameters()) == 66_048


def test_a_pooling_classifier_reads_any_states():
    torch.manual_seed(0)
    model = PoolingClassifier(384, 5, num_heads=2, classifier_dim=None, pooling_options={"context": "mean"}).eval()
    logits, A = model(torch.randn(2, 6, 384), torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]]), need_weights=True)
    assert logits.shape == (2, 5)
    assert A.shape == (2, 2, 6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_and_neighbours_do_not_matter(pooling):
    model, ids = classifier(pooling), words(10)
    logits, A = model(ids, need_weights=True)
    for row, length in enumerate(LENGTHS):
        alone, weights = model(ids[row : row + 1, :length], need_weights=True)
        torch.testing.assert_close(alone[0], logits[row])
        torch.testing.assert_close(weights[0], A[row, :, :length])
    masked = ids.masked_fill(ids == 0, 9)
    torch.testing.assert_close(model(masked, ids != 0), logits)


def test_a_text_without_words_can_be_told_from_nothing():
    model, ids = classifier("lama", pooling_options={"on_empty": "zeros"}), words(10)
    logits, A = model(torch.cat([ids, torch.zeros_like(ids[:1])]), need_weights=True)
    torch.testing.assert_close(logits[:-1], model(ids))
    torch.testing.assert_close(logits[-1:], model.classifier.output(torch.zeros(1, model.classifier.pooling.rows * 16)))
    assert not A[-1].any()
    with pytest.raises(ValueError, match=r"rows 0 have no words to attend to: leave them out$"):
        classifier("han")(torch.zeros_like(ids[:1]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_everything_is_trained(pooling):
    model = classifier(pooling).train()
    nn.functional.cross_entropy(model(words()), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert not model.embedding.weight.grad[0].any()


def test_parameter_counts():
    counts = LAMAClassifier(100, 3, 50, 64, 8).parameter_counts()
    assert counts["embedding"] == 5_000
    assert counts["attention"] == 18_688
    assert counts["classifier"] == 8 * 128 * 128 + 128 + 128 * 3 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 0}, "num_labels=0: use an integer of at least 1"),
        ({"vocab_size": 0}, "vocab_size=0: use an integer of at least 1"),
        ({"hidden_size": 0}, "hidden_size=0: use an integer of at least 1"),
        ({"classifier_dim": 0}, "classifier_dim=0: use an integer of at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0: use a probability in \[0, 1\)"),
        ({"padding_idx": 20}, "padding_idx=20: a vocabulary of 20 has words 0 to 19"),
        ({"pooling": "sum"}, "pooling='sum': use one of 'lama', 'han', 'self_attentive', 'mha', 'mean', 'max'"),
        ({"pooling": "mha", "num_heads": 3}, "num_heads=3: a width of 16 cannot be split"),
        ({"pooling_options": {"output_dim": 3}}, "output_dim is not accepted here"),
        ({"pooling_options": {"rank": 0}}, "rank=0: use an integer of at least 1"),
    ],
)
def test_bad_options(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LAMAClassifier(**{"vocab_size": 20, "num_labels": 2, "hidden_size": 8} | options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a text"],), TypeError, "input_ids is list: .* for raw text use fullrank.nn.LAMATextClassifier"),
        ((torch.ones(2, 3),), ValueError, r"input_ids is torch.float32 of shape \(2, 3\): whole numbers"),
        ((torch.ones(3).long(),), ValueError, r"of shape \(3,\): whole numbers \(batch, tokens\)"),
        ((torch.tensor([[1, 0], [0, 0]]),), ValueError, "rows 1 have no words"),
        ((torch.tensor([[0, 1]]),), ValueError, "padding before words: pad on the right"),
        ((torch.tensor([[2, 1]]), torch.ones(1, 3)), ValueError, r"mask has shape \(1, 3\)"),
    ],
)
def test_bad_calls(arguments, error, message, unchecked):
    with pytest.raises(error, match=message):
        classifier()(*arguments)


# --- transformers -----------------------------------------------------------------------------------------------------


def transformers_model(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "embed_dim": 10, "hidden_size": 8, "num_heads": 4, "num_labels": 3, "classifier_dim": 16}
    return LAMAForSequenceClassification(LAMAConfig(**sizes | options)).eval()


@pytest.mark.parametrize("options", [{}, {"pooling": "mha"}, {"pooling_options": {"context": "mean", "rank": 2}}])
def test_saved_and_loaded(options, tmp_path):
    model = transformers_model(**options)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    assert isinstance(AutoConfig.from_pretrained(tmp_path), LAMAConfig)
    for kind in (LAMAForSequenceClassification, AutoModelForSequenceClassification):
        loaded = kind.from_pretrained(tmp_path).eval()
        saved, read = model.config.to_dict(), loaded.config.to_dict()
        assert {name for name in saved if saved[name] != read[name]} <= {"_name_or_path", "transformers_version"}
        torch.testing.assert_close(loaded(words()).logits, model(words()).logits)


def test_outputs():
    model, labels = transformers_model(), torch.tensor([0, 2, 1])
    output = model(words(), labels=labels, output_attentions=True)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    assert [A.shape for A in output.attentions] == [(3, 4, 7)]
    assert model(words()).attentions is None
    assert model(words()).loss is None
    loss, logits = model(words(), labels=labels, return_dict=False)
    torch.testing.assert_close(logits, output.logits)
    torch.testing.assert_close(loss, output.loss)
    mask = (words() != 0).long()
    torch.testing.assert_close(model(words(), mask).logits, output.logits)


def test_the_penalty_enters_the_loss():
    labels = torch.tensor([0, 2, 1])
    plain, penalised = transformers_model(), transformers_model(penalty=0.5)
    A = plain(words(), output_attentions=True).attentions[0]
    expected = plain(words(), labels=labels).loss + 0.5 * orthogonality_penalty(A)
    found = penalised(words(), labels=labels)
    torch.testing.assert_close(found.loss, expected)
    assert found.attentions is None
    with pytest.raises(ValueError, match=r"penalty=-1.0: use 0 or more"):
        LAMAConfig(penalty=-1.0)


def test_it_starts_as_it_starts_outside_of_transformers():
    """The normal draws of transformers would leave c near zero, which stops the factors."""
    torch.manual_seed(0)
    model = LAMAForSequenceClassification(LAMAConfig(vocab_size=500, num_labels=3))
    pooling = model.network.classifier.pooling
    assert float(pooling.c.detach().std()) == pytest.approx(1, rel=0.2)
    assert float(model.network.embedding.weight.detach().std()) == pytest.approx(1, rel=0.1)
    assert not model.get_input_embeddings().weight[0].any()


def test_several_labels_and_regression():
    several = transformers_model(problem_type="multi_label_classification")
    assert several(words(), labels=torch.ones(3, 3)).loss.ndim == 0
    regression = transformers_model(num_labels=1)
    assert regression(words(), labels=torch.rand(3)).loss.ndim == 0


def test_the_trainer_trains_it(tmp_path):
    ids = torch.randint(2, 30, (48, 6), generator=torch.Generator().manual_seed(0))
    labels = (ids == 5).any(1).long()
    ids[::2, 0], labels[::2] = 5, 1
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=25, per_device_train_batch_size=16, learning_rate=1e-2,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(transformers_model(num_labels=2, dropout=0.0), arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.3 * before
    assert (trainer.predict(rows).predictions.argmax(1) == labels.numpy()).mean() > 0.95
