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
        "weights": st.sampled_from([None, "learned", [0.0, 1.0, 2.0, 0.5, 1.0]]),
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


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "none"])
def test_padding_may_stand_anywhere(cell, pooling):
    model = build(cell=cell, pooling=pooling)
    tokens = batch()[1:]
    expected = model.encode(tokens)
    torch.testing.assert_close(model.encode(torch.nn.functional.pad(tokens, (3, 1))), expected)
    holes = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool).expand(2, 6)
    torch.testing.assert_close(model.encode(tokens, holes), model.encode(tokens[:, [0, 2, 3, 5]]))
    assert model.encode(tokens[:0]).shape == (0, 5)
    assert not model.encode(tokens[:, :0]).any()


def test_words_keep_the_marks_of_their_letters():
    assert set(Vocabulary.of(["हिन्दी भाषा, x1"], 1).words) == {"हिन्दी", "भाषा", "x1"}


@pytest.mark.parametrize(
    "options",
    [
        {"weights": [1.0, 2.0, 0.0, 1.0, 3.0]},
        {"head": "factorized", "rank": 2, "separate": True, "weights": "learned"},
        {"cell": "none", "latent": 2},
    ],
)
def test_a_saved_model_scores_the_same(options, tmp_path):
    vocabulary = Vocabulary([f"w{number}" for number in range(1, 20)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SESA(None, NAMES, vocabulary=vocabulary, embedding=6, hidden=5, **options).eval()
    again = SESA.from_pretrained(model.save_pretrained(tmp_path / "model"), concepts=NAMES)
    texts = ["w3 w4 unknown", "W1, w2!"]
    assert torch.equal(again(texts, texts), model(texts, texts))
    halved = SESA.from_pretrained(model.half().save_pretrained(tmp_path / "half"))
    assert halved.bias.dtype == torch.float16
    assert again.concept_values("w3").keys() == dict.fromkeys(NAMES).keys()
    with pytest.raises(ValueError, match="concept 0 is 'python', 'welding' is expected"):
        SESA.from_pretrained(tmp_path / "model", concepts=[*NAMES[1:], NAMES[0]])
    with pytest.raises(ValueError, match="has 5 concepts, 4 are expected"):
        SESA.from_pretrained(tmp_path / "model", concepts=NAMES[1:])
    with pytest.raises(FileNotFoundError, match=r"sesa\.json is missing"):
        SESA.from_pretrained(tmp_path)


def test_a_damaged_checkpoint_is_told(tmp_path):
    build().save_pretrained(tmp_path)
    about, tensors = (tmp_path / "sesa.json").read_text(), (tmp_path / "model.safetensors").read_bytes()
    shorter = about.replace('"biology"', '"biology",\n  "chess"')
    for text, content, words in [
        ("{}", tensors, "is damaged: 'format'"),
        (about[:50], tensors, "is damaged"),
        (about.replace('"format": 1', '"format": 2'), tensors, "has format 2, this version of Fullrank reads 1"),
        (about.replace('"options"', '"choices"'), tensors, "options is missing"),
        (shorter, tensors, "names 6 concepts, but its head has 5"),
        (about, tensors[:100], "is damaged"),
        (about, None, "is damaged: .* No such file"),
    ]:
        (tmp_path / "sesa.json").write_text(text)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            SESA.from_pretrained(tmp_path)
    build(pooling="max").double().save_pretrained(tmp_path)
    (tmp_path / "sesa.json").write_text(about)  # as if writing had been stopped between the two files
    with pytest.raises(ValueError, match="belongs to other tensors"):
        SESA.from_pretrained(tmp_path)


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


def test_each_side_may_have_an_encoder_of_others(tmp_path):
    from transformers import BertConfig, BertModel

    def bert(size=8):
        return BertModel(
            BertConfig(vocab_size=20, hidden_size=size, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        )

    both = bert(), bert()
    model = SESA(concepts=NAMES, encoder=both, separate=True).train()
    model(batch(), batch()).sum().backward()
    assert all(one.embeddings.word_embeddings.weight.grad is not None for one in both)
    scores = model.eval()(batch(), batch())
    assert torch.equal(SESA.from_pretrained(model.save_pretrained(tmp_path), encoder=both)(batch(), batch()), scores)
    alone = [
        (lambda: SESA(concepts=NAMES, encoder=both[0], separate=True), r"encoder=\(a, b\), where b may start as"),
        (lambda: SESA(concepts=NAMES, encoder=(both[0], None), separate=True), r"separate=True needs encoders"),
        (lambda: SESA(concepts=NAMES, encoder=both), "encoder has 2 parts; give one for both sides, or separate=True"),
        (lambda: SESA.from_pretrained(tmp_path, encoder=both[0]), "separate=True needs encoders"),
        (lambda: SESA(concepts=NAMES, encoder=(bert(), bert(4)), separate=True), "vectors of 8 and 4"),
    ]
    for call, words in alone:
        with pytest.raises(ValueError, match=words):
            call()


class Letters:
    """A tokenizer that frames texts, as those of transformers do: 1 letters 2, padded with 3."""

    def __call__(self, texts, padding, padding_side, return_tensors, verbose):
        from transformers import BatchEncoding

        rows = [[1, *(4 + ord(letter) % 16 for letter in text), 2] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids != 3).long()})


def test_texts_go_to_a_transformers_encoder_by_its_tokenizer():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    model = SESA(concepts=NAMES, encoder=bert, tokenizer=Letters()).eval()
    v, empty = model.encode(["abc", "  ", "abcdef"], return_empty=True)
    assert empty.tolist() == [False, True, False]
    assert not v[1].any()
    torch.testing.assert_close(v[:1], model.encode(["abc"]))  # padding is not seen


def test_weights_say_how_much_a_concept_counts():
    v = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    plain, light = build(activation="relu"), build(activation="relu", weights=[0.01, 1.0, 1.0, 1.0, 1.0])
    light.load_state_dict(plain.state_dict(), strict=False)
    for model in (plain, light):
        model.head.weight.data.zero_()
        model.head.bias.data.copy_(v[0])
    parts = {row.concept: row.contribution for row in light.explain(batch(1), batch(1), top=2)[0]}
    assert parts["python"] < 0.02 * parts["welding"]
    assert build(weights="learned").weights.detach() == pytest.approx(torch.ones(5))
    loss = build(weights="learned")
    loss(batch(), batch(seed=1)).sum().backward()
    assert loss.learned_weights.grad.isfinite().all()


def test_concepts_that_both_lack_are_told_from_those_that_both_have():
    model = build()
    model.head.weight.data.zero_()
    model.head.bias.data.copy_(torch.tensor([2.0, -3.0, 0.0, 0.0, 0.0]))
    first, second = model.explain(batch(1), batch(1), top=2)[0]
    assert (first.concept, first.shared_absence, first.contribution > 0) == ("welding", True, True)
    assert (second.concept, second.shared_absence) == ("python", False)


def test_a_vector_of_zeros_scores_the_bias_with_finite_gradients():
    model = build(activation="relu")
    model.head.bias.data.fill_(-100.0)
    scores = model(batch(), batch(seed=1))
    assert torch.equal(scores, model.bias.expand(3, 3))
    scores.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler's
def test_it_compiles(unchecked):
    model = build()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(batch(), batch(seed=1)), model(batch(), batch(seed=1)))


def test_known_concepts_and_empty_texts():
    known = torch.zeros(3, 5)
    known[1, 2] = 1
    model = build()
    torch.testing.assert_close(model.encode(batch(), known=known) - model.encode(batch()), known)
    torch.testing.assert_close(model.encode(batch(), known=known.tolist()), model.encode(batch(), known=known))
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
    dense = build()
    with pytest.raises(ValueError, match="a dense head cannot grow"):
        dense.add_concepts(["chess"])
    assert dense.concept_names == tuple(NAMES)
    single = SESA(20, ["law"], hidden=5, head="factorized", rank=1).add_concepts(["chess"])
    assert single.encode(batch()).isfinite().all()
    weighted = build(head="factorized", rank=2, weights=torch.full((5,), 2.0)).add_concepts(["chess"])
    assert weighted.weights.tolist() == [2.0] * 5 + [1.0]
    with pytest.raises(ValueError, match="'law' stands twice"):
        model.add_concepts(["law"])


def test_groups_are_no_negatives_and_sampling_estimates_the_loss():
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    same = torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(softmax_loss(scores, same), softmax_loss(scores))
    comparison = build().compare(batch(4), batch(4, seed=1))
    for rank in ("softmax", "hinge", "logistic"):
        grouped = SESALoss(rank)(comparison, group_ids=torch.tensor([0, 0, 1, 1]))
        one_group = SESALoss(rank)(comparison, group_ids=torch.zeros(4, dtype=torch.long))
        assert grouped < SESALoss(rank)(comparison) + (1e-6 if rank != "logistic" else 9)
        if rank == "logistic":
            torch.testing.assert_close(one_group, torch.nn.functional.softplus(-comparison.scores.diagonal()).mean())
    labels = torch.full((4, 4), torch.nan)
    labels[0, 1] = 1
    expected = torch.nn.functional.softplus(-comparison.scores[0, 1])
    torch.testing.assert_close(SESALoss("logistic")(comparison, labels=labels), expected)
    model = build()
    hidden = model.hidden(batch())[0]
    loss = sampled_concept_loss(model.head, hidden, [[0], [1, 2], []], 50, torch.Generator().manual_seed(0))
    assert loss.isfinite()
    with pytest.raises(ValueError, match="listed has the number 9; those of the concepts are 0 to 4"):
        sampled_concept_loss(model.head, hidden, [[0], [9], []])
    with pytest.raises(ValueError, match="2 lists of concepts for 3 texts"):
        sampled_concept_loss(model.head, hidden, [[0], [1]])
    with pytest.raises(ValueError, match="names no concept"):
        sampled_concept_loss(model.head, hidden, [[], [], []])
    torch.testing.assert_close(
        model.head.at(hidden, torch.tensor([[1], [2], [0]])).flatten(), model.head(hidden)[[0, 1, 2], [1, 2, 0]]
    )


@pytest.mark.parametrize("cell", ["lstm", "gru", "none"])
def test_autocast_keeps_the_scores(cell):
    model = build(cell=cell)
    for a in (batch(), batch()[1:]):  # texts of several lengths, and of one
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model(a, batch(seed=1))
        torch.testing.assert_close(scores.float(), model(a, batch(seed=1)), rtol=0.05, atol=0.2)
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
        (lambda: build().encode(batch(), known=torch.full((3, 5), torch.inf)), r"known\[0, 0\] \('python'\) is inf"),
        (lambda: build().encode(["a text"]), "no vocabulary"),
        (lambda: build(weights=[1.0, 2.0]), r"weights have shape \(2,\); \(5,\)"),
        (lambda: build(weights=[1.0, 2.0, -1.0, 1.0, 1.0]), r"weights\[2\]=-1.0 is not accepted"),
        (lambda: build(weights="tf-idf"), "weights='tf-idf' is not accepted"),
        (lambda: build().explain(batch(), batch(), top=0), "top=0"),
        (lambda: build().explain(batch(2), batch(3)), "2 and 3 texts"),
        (lambda: build().similarity(torch.ones(1, 5), torch.ones(1, 5).double()), "side a is torch.float32 on cpu"),
        (lambda: build().contributions(torch.ones(1, 5), torch.ones(1, 5, device="meta")), "on meta: bring both"),
        (lambda: build().to("meta").encode(batch()), "token ids are on cpu, the model is on meta"),
        (lambda: SESALoss()(build().compare(batch(), batch()), group_ids=torch.zeros(2).long()), "2 group_ids for 3"),
        (
            lambda: concept_loss(torch.zeros(1, 2), torch.tensor([[0.0, torch.nan]]), kind="mse"),
            r"targets\[0, 1\] is nan",
        ),
        (lambda: logistic_loss(torch.zeros(2, 2), torch.full((2, 2), torch.nan)), "no pair was logged"),
        (lambda: logistic_loss(torch.zeros(2, 2), torch.zeros(2, 3)), r"labels have shape \(2, 3\)"),
        (lambda: logistic_loss(torch.zeros(2, 2), torch.full((2, 2), 2.0)), r"labels\[0, 0\] is 2.0; 1, 0, or NaN"),
        (lambda: Vocabulary.of(["one text"]), "no word of 1 texts"),
        (lambda: build(sparsity=0), "sparsity=0 is not accepted"),
        (lambda: build(head="factorized", rank=0), "rank=0 is not accepted"),
        (lambda: build(max_length=0), "max_length=0 is not accepted"),
        (lambda: build(latent=-1), "latent=-1 is not accepted"),
        (lambda: build().encode(batch() + 20), r"token ids lie between 20 and \d+; 0 to 19 are known"),
        (lambda: build().encode(batch().float()), r"token ids are torch.float32 of shape \(3, 6\)"),
        (lambda: build().encode(batch()[0]), r"token ids are torch.int64 of shape \(6,\)"),
        (lambda: build().encode(batch(), torch.ones(3, 5)), r"mask has shape \(3, 5\); .* \(3, 6\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
    spoken = SESA(None, ["a"], vocabulary=Vocabulary(["w"]))
    for make, words in [
        (lambda: SESA(9, ["a", 2]), r"concepts\[1\]=2 is int"),
        (lambda: SESA(9, "ab"), "concepts='ab' is one text; a list of names"),
        (lambda: spoken.encode("a text"), "texts='a text' is one text; a list of texts"),
        (lambda: spoken(["a text"], [None]), r"texts\[0\]=None is NoneType; text is needed"),
    ]:
        with pytest.raises(TypeError, match=words):
            make()
    shortened = build(max_length=4)
    with pytest.warns(UserWarning, match="2 texts have more than max_length=4 tokens"):
        shortened.encode(batch())
    shortened.encode(batch())  # told once, counted always
    assert shortened.truncated == 4
    assert len(build().explain(batch(), batch(), top=99)[0]) == 5
