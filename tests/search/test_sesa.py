"""SESA against an independent derivation, its own identities, and bad input."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search.sesa import SESA
from fullrank.search.sesa_losses import (
    SESALoss,
    concept_loss,
    hinge_loss,
    logistic_loss,
    sampled_concept_loss,
    softmax_loss,
)
from fullrank.search.text_encoders import Vocabulary

from .conftest import HashEncoder

NAMES = ["python", "welding", "law", "music", "biology"]


def golden_model(spec, known):
    config = spec["config"]
    names = [f"concept {k}" for k in range(config["concepts"])]
    model = SESA(
        config["vocab"], names, embedding=config["embedding"], cell=config["cell"], hidden=config["hidden"],
        bidirectional=config["bidirectional"], activation=config["activation"], dropout=0.0,
        **{name: config[name] for name in ("pooling", "similarity") if name in config},
    ).double()  # fmt: skip
    state = {"encoder.embedding.weight": known["embedding"], "head.weight": known["W"], "head.bias": known["b"]}
    state |= {"log_scale": known["log_scale"], "bias": known["bias"]}
    state |= {f"encoder.{name}": tensor for name, tensor in known.items() if name.startswith("rnn.")}
    model.load_state_dict({**model.state_dict(), **state})
    return model


@pytest.mark.golden("sesa")
def test_agrees_with_the_derivation(case):
    spec, known = case.spec, case.tensors
    config = spec["config"]
    close = {"rtol": spec["tolerance"], "atol": spec["tolerance"]}
    model = golden_model(spec, known)
    tokens = known["tokens_a"], known["tokens_b"]
    found = model.compare(*tokens)
    for side, ids in zip("ab", tokens, strict=True):
        torch.testing.assert_close(model.hidden(ids)[0], known[f"hidden_{side}"], **close)
        torch.testing.assert_close(getattr(found, f"logits_{side}"), known[f"z_{side}"], **close)
        torch.testing.assert_close(getattr(found, f"explicit_{side}"), known[f"explicit_{side}"], **close)
    torch.testing.assert_close(found.cosine, known["cosine"], **close)
    torch.testing.assert_close(found.scores, known["scores"], **close)
    torch.testing.assert_close(found.explicit_a @ found.explicit_b.mT, known["dot"], **close)
    torch.testing.assert_close(model.contributions(found.explicit_a, found.explicit_b), known["contributions"], **close)
    torch.testing.assert_close(softmax_loss(found.scores), known["loss_softmax"], **close)
    torch.testing.assert_close(logistic_loss(found.scores), known["loss_logistic"], **close)
    torch.testing.assert_close(hinge_loss(found.cosine, config["margin"]), known["loss_hinge"], **close)
    for kind in ("bce", "mse"):
        loss = concept_loss(found.logits_a, known["concept_targets"], known["concept_known"], kind)
        torch.testing.assert_close(loss, known[f"loss_concept_{kind}"], **close)
    total = SESALoss("softmax", "bce", config["lambda_concept"], unlisted=1.0)(
        found, known["concept_targets"], known["concept_known"]
    )
    torch.testing.assert_close(total, known["loss_total"], **close)
    total.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    renamed = {"embedding": "encoder.embedding.weight", "W": "head.weight", "b": "head.bias"}
    for name, expected in known.items():
        if name.startswith("grad_"):
            name = name.removeprefix("grad_")
            mine = grads[renamed.get(name, f"encoder.{name}" if name.startswith("rnn.") else name)]
            torch.testing.assert_close(mine, expected, **close)


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SESA(20, NAMES, embedding=6, hidden=5, dropout=0.0, **options).eval()


def batch(count=3, length=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 20, (count, length), generator=generator)
    tokens[0, length // 2 :] = 0
    return tokens


OPTIONS = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(["lstm", "gru", "none"]),
        "pooling": st.sampled_from(["mean", "max", "last"]),
        "activation": st.sampled_from(["linear", "sigmoid", "relu"]),
        "similarity": st.sampled_from(["cosine", "dot"]),
        "head": st.sampled_from(["dense", "factorized"]),
        "latent": st.sampled_from([0, 3]),
        "sparsity": st.sampled_from([None, 2]),
        "separate": st.booleans(),
        "rank": st.just(3),
    }
)


@settings(max_examples=25, deadline=None)
@given(OPTIONS)
def test_padding_changes_nothing_and_contributions_sum_to_the_score(options):
    model = build(**options)
    a, b = batch(), batch(seed=1)
    padded = torch.cat([a, torch.zeros(3, 4, dtype=torch.long)], dim=1)
    scores = model(a, b)
    torch.testing.assert_close(model(padded, b), scores)
    torch.testing.assert_close(model(a[1:2], b)[0], scores[1])
    explained = model.explain(a, b, top=99)
    for i, rows in enumerate(explained):
        total = sum(row.contribution for row in rows) + float(model.bias.detach())
        assert total == pytest.approx(float(scores[i, i].detach()), abs=1e-4)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(a, b), scores)


@pytest.mark.parametrize(
    "options", [{}, {"head": "factorized", "rank": 2, "separate": True}, {"cell": "none", "latent": 2}]
)
def test_a_saved_model_scores_the_same(options, tmp_path):
    vocabulary = Vocabulary([f"w{number}" for number in range(1, 20)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SESA(None, NAMES, vocabulary=vocabulary, embedding=6, hidden=5, **options).eval()
    again = SESA.from_pretrained(model.save_pretrained(tmp_path / "model"), concepts=NAMES)
    texts = ["w3 w4 unknown", "W1, w2!"]
    assert torch.equal(again(texts, texts), model(texts, texts))
    assert again.concept_values("w3").keys() == dict.fromkeys(NAMES).keys()
    with pytest.raises(ValueError, match="concept 0 is 'python', 'welding' is expected"):
        SESA.from_pretrained(tmp_path / "model", concepts=[*NAMES[1:], NAMES[0]])
    with pytest.raises(ValueError, match="has 5 concepts, 4 are expected"):
        SESA.from_pretrained(tmp_path / "model", concepts=NAMES[1:])
    with pytest.raises(FileNotFoundError, match=r"sesa\.json is missing"):
        SESA.from_pretrained(tmp_path)
    (tmp_path / "model" / "sesa.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        SESA.from_pretrained(tmp_path / "model")


def test_encoders_of_others(tmp_path):
    model = SESA(concepts=NAMES, encoder=HashEncoder(8)).eval()
    texts = ["one", "two"]
    scores = model(texts, texts)
    assert scores.shape == (2, 2)
    assert not any("encoder" in name for name in model.state_dict())
    again = SESA.from_pretrained(model.save_pretrained(tmp_path), encoder=HashEncoder(8))
    assert torch.equal(again(texts, texts), scores)
    with pytest.raises(ValueError, match=r"from_pretrained\(folder, encoder=...\)"):
        SESA.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="give texts, not token ids"):
        model.encode(batch())

    from transformers import BertConfig, BertModel

    bert = BertModel(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    over = SESA(concepts=NAMES, encoder=bert).train()
    over(batch(), batch()).sum().backward()
    assert bert.embeddings.word_embeddings.weight.grad is not None


def test_known_concepts_and_empty_texts():
    known = torch.zeros(3, 5)
    known[1, 2] = 1
    model = build()
    torch.testing.assert_close(model.encode(batch(), known=known) - model.encode(batch()), known)
    unsure = build(activation="sigmoid")
    assert unsure.encode(batch(), known=known)[1, 2] == 1
    empty = batch()
    empty[2] = 0
    v, flags = model.encode(empty, return_empty=True)
    assert flags.tolist() == [False, False, True]
    assert not v[2].any()
    scores = model(empty, batch(seed=1))
    torch.testing.assert_close(scores[2], model.bias.detach().expand(3))
    scores.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_factorized_head_grows():
    model = build(head="factorized", rank=2)
    before = model.encode(batch())
    model.add_concepts(["chess", "cooking"])
    after = model.encode(batch())
    torch.testing.assert_close(after[:, :5], before)
    assert after.shape == (3, 7)
    with pytest.raises(ValueError, match="a dense head cannot grow"):
        build().add_concepts(["chess"])
    with pytest.raises(ValueError, match="'law' stands twice"):
        model.add_concepts(["law"])


def test_groups_are_no_negatives_and_sampling_estimates_the_loss():
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    same = torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(softmax_loss(scores, same), softmax_loss(scores))
    comparison = build().compare(batch(4), batch(4, seed=1))
    for rank in ("softmax", "hinge"):
        grouped = SESALoss(rank)(comparison, group_ids=torch.tensor([0, 0, 1, 1]))
        assert grouped < SESALoss(rank)(comparison) + 1e-6
    labels = torch.full((4, 4), torch.nan)
    labels[0, 1] = 1
    expected = torch.nn.functional.softplus(-comparison.scores[0, 1])
    torch.testing.assert_close(SESALoss("logistic")(comparison, labels=labels), expected)
    model = build()
    hidden = model.hidden(batch())[0]
    loss = sampled_concept_loss(model.head, hidden, [[0], [1, 2], []], 50, torch.Generator().manual_seed(0))
    assert loss.isfinite()
    torch.testing.assert_close(
        model.head.at(hidden, torch.tensor([[1], [2], [0]])).flatten(), model.head(hidden)[[0, 1, 2], [1, 2, 0]]
    )


def test_autocast_keeps_the_scores():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(batch(), batch(seed=1))
    torch.testing.assert_close(scores.float(), model(batch(), batch(seed=1)), rtol=0.05, atol=0.2)
    assert model.to(torch.float64)(batch(), batch()).dtype == torch.float64


def test_bad_calls(unchecked):
    for make, words in [
        (lambda: SESA(9, []), "names no axis"),
        (lambda: SESA(9, ["a", "b", "a"]), "'a' stands twice among 3"),
        (lambda: SESA(None, ["a"]), "vocab_size=None"),
        (lambda: SESA(9, ["a"], cell="transformer"), "cell='transformer' is not known; accepted: lstm, gru, none"),
        (lambda: SESALoss("triplet"), "rank='triplet'"),
        (lambda: SESALoss(lam=-1), "lam=-1"),
        (lambda: SESALoss()(build().compare(batch(1), batch(1))), 'give a larger batch, or rank="logistic"'),
        (lambda: concept_loss(torch.zeros(2, 3), torch.zeros(2, 4)), r"shape \(2, 4\); \(2, 3\)"),
        (lambda: concept_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.5]])), r"targets\[0, 1\] is 1.5"),
        (lambda: build().encode(batch(), known=torch.zeros(3, 4)), "known has shape"),
        (lambda: build().encode(batch(), known=torch.full((3, 5), torch.nan)), r"known\[0, 0\] \('python'\) is nan"),
        (lambda: build().encode(["a text"]), "no vocabulary"),
        (lambda: Vocabulary.of(["one text"]), "no word of 1 texts"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(TypeError, match=r"concepts\[1\]=2 is int"):
        SESA(9, ["a", 2])
    with pytest.warns(UserWarning, match="2 texts have more than max_length=4 tokens"):
        build(max_length=4).encode(batch())
