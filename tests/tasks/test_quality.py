import pytest
import torch
from transformers import BertModel

from fullrank.tasks import Examples, load_as_is, load_examples, quality_of

from ..adapt.folders import decoder_folder, encoder_folder, labelled_file, table


def _pairs(path):
    rows = [
        {"first": f"good {word}", "second": f"{other} {word}", "score": score}
        for word in ("film", "day", "food")
        for other, score in (("good", 5), ("fine", 3), ("grim", 0))
    ]
    return table(path, rows * 3)


@pytest.fixture
def encoder(tmp_path):
    folder = encoder_folder(tmp_path / "encoder")
    _, tokenizer = load_as_is(folder)
    backbone = BertModel.from_pretrained(folder)
    return backbone.eval(), tokenizer


def test_a_model_with_a_head_is_asked_for_its_classes(tmp_path):
    model, tokenizer = load_as_is(encoder_folder(tmp_path / "m"))
    assert type(model).__name__ == "BertForSequenceClassification"
    quality = quality_of(model, tokenizer, load_examples(labelled_file(tmp_path / "a.tsv")))
    assert quality.metric == "accuracy"
    assert not quality.lower_is_better
    assert 0 <= quality.measure(model)["accuracy"] <= 1
    batch = next(quality.batches(4))
    assert quality.sample_losses(model, batch).shape == (4,)


def test_a_language_model_is_asked_for_perplexity(tmp_path):
    model, tokenizer = load_as_is(decoder_folder(tmp_path / "m"))
    examples = load_examples(labelled_file(tmp_path / "a.tsv"), "causal-lm")
    quality = quality_of(model, tokenizer, examples)
    assert quality.lower_is_better
    batch = next(quality.batches(3))
    losses = quality.sample_losses(model, batch)
    tokens = (batch["labels"][:, 1:] >= 0).sum(1)
    whole = model(**batch).loss
    torch.testing.assert_close((losses * tokens).sum() / tokens.sum(), whole)


def test_an_encoder_is_asked_for_the_similarity_of_pairs(encoder, tmp_path):
    model, tokenizer = encoder
    quality = quality_of(model, tokenizer, load_examples(_pairs(tmp_path / "p.tsv")))
    found = quality.measure(model)
    assert quality.metric in found
    assert -100 <= found[quality.metric] <= 100
    batch = next(quality.batches(5))
    alone = {side: {name: value[:1] for name, value in batch[side].items()} for side in ("first", "second")}
    one = quality.sample_losses(model, {**alone, "labels": batch["labels"][:1]})
    torch.testing.assert_close(quality.sample_losses(model, batch)[:1], one, rtol=1e-4, atol=1e-6)


def test_an_encoder_is_asked_through_the_probe_of_the_original(encoder, tmp_path):
    model, tokenizer = encoder
    quality = quality_of(model, tokenizer, load_examples(labelled_file(tmp_path / "a.tsv")))
    assert quality.measure(model)["accuracy"] > 0.6
    broken = BertModel(model.config).eval()
    assert (
        quality.sample_losses(model, next(quality.batches(4))).mean()
        < quality.sample_losses(broken, next(quality.batches(4))).mean()
    )


def test_examples_that_do_not_fit_are_refused(encoder, tmp_path):
    model, tokenizer = encoder
    with pytest.raises(ValueError, match="has no tokenizer"):
        quality_of(model, None, load_examples(labelled_file(tmp_path / "a.tsv")))
    texts = load_examples(labelled_file(tmp_path / "a.tsv"), "causal-lm")
    with pytest.raises(ValueError, match="BertModel cannot be asked for causal-lm"):
        quality_of(model, tokenizer, texts)
    headed, _ = load_as_is(encoder_folder(tmp_path / "m"))
    three = Examples("three", "classification", texts.train, texts.test, ("a", "b", "c"))
    with pytest.raises(ValueError, match="the model's head has 2 outputs, three needs 3"):
        quality_of(headed, tokenizer, three)
    scores = Examples("scores", "regression", texts.train, texts.test, ())
    with pytest.raises(ValueError, match="BertModel is an encoder without a head, which regression"):
        quality_of(model, tokenizer, scores)
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_as_is(tmp_path)
