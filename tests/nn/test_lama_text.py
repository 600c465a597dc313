"""LAMA as a scikit-learn classifier of raw texts."""

from __future__ import annotations

import copy
import json
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from fullrank.nn import LAMATextClassifier
from fullrank.nn.lama_text_inputs import Vocabulary

TEXTS = ["a fine film", "a dull film !", "fine acting", "dull plot", "what a fine plot", "the acting is dull"] * 4
LABELS = ["good", "bad"] * 12

FAST = {"embed_dim": 12, "hidden_size": 8, "classifier_dim": 16, "epochs": 30, "learning_rate": 1e-2, "num_heads": 4}
estimator = partial(LAMATextClassifier, **FAST, random_state=0)


@pytest.fixture(scope="module")
def fitted():
    return estimator().fit(TEXTS, LABELS)


#: The checks of scikit-learn that do not feed tables of numbers.
CHECKS = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("unchecked")
def test_scikit_learns_own_checks(check):
    check("LAMATextClassifier", LAMATextClassifier())


def test_it_learns(fitted):
    assert fitted.score(TEXTS, LABELS) == 1
    assert list(fitted.predict(["a fine plot", "dull acting"])) == ["good", "bad"]
    probabilities = fitted.predict_proba(TEXTS)
    assert probabilities.shape == (24, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    assert list(fitted.classes_) == ["bad", "good"]
    assert fitted.n_iter_ == 30
    assert is_classifier(fitted)


def test_one_text_is_read_as_in_a_batch(fitted):
    texts = ["a fine film", "dull", "", "so unknown", "the acting is fine ! " * 30]
    together = fitted.predict_proba(texts)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(fitted.predict_proba([text])[0], row, rtol=1e-4)


@pytest.mark.parametrize("collection", [np.array, pd.Series, tuple, lambda texts: np.array(texts, dtype=object)])
def test_collections_of_texts(fitted, collection):
    np.testing.assert_array_equal(fitted.predict(collection(TEXTS)), fitted.predict(TEXTS))
    again = estimator(epochs=1).fit(collection(TEXTS), collection(LABELS))
    expected = estimator(epochs=1).fit(TEXTS, LABELS).predict_proba(TEXTS)
    np.testing.assert_allclose(again.predict_proba(TEXTS), expected, rtol=1e-4)


@pytest.mark.parametrize("classes", [[0, 1], [True, False], [3, 7]])
def test_classes_of_any_kind(classes):
    y = [classes[label == "good"] for label in LABELS]
    assert list(estimator().fit(TEXTS, y).predict(TEXTS)) == y


def test_seeds():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (
        estimator(epochs=1, random_state=s).fit(TEXTS, LABELS).predict_proba(TEXTS) for s in (0, 0, 1)
    )
    np.testing.assert_allclose(first, again, rtol=1e-4)
    assert np.abs(first - other).max() > 1e-4
    assert torch.equal(torch.get_rng_state(), state)
    generator = np.random.RandomState(0)
    drawn = [clone(estimator(epochs=1, random_state=generator)) for _ in range(2)]
    assert drawn[0].random_state is not None


def test_model_selection():
    scores = cross_val_score(estimator(), TEXTS, LABELS, cv=2)
    assert scores.min() > 0.9
    search = GridSearchCV(estimator(epochs=2), {"pooling": ["lama", "mean"]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_params_["pooling"] in ("lama", "mean")
    shouted = make_pipeline(FunctionTransformer(lambda texts: [text.upper() for text in texts]), estimator())
    assert shouted.fit(TEXTS, LABELS).score(TEXTS, LABELS) == 1


def test_early_stopping_keeps_the_best_epoch():
    model = estimator(epochs=60, early_stopping=True, validation_fraction=0.25, n_iter_no_change=2)
    model.fit(TEXTS, LABELS)
    assert model.n_iter_ < 60
    assert model.score(TEXTS, LABELS) == 1


@pytest.mark.parametrize("pooling", ["lama", "han", "self_attentive", "mha", "mean", "max"])
def test_explanations(pooling):
    model = estimator(pooling=pooling, epochs=1, penalty=0.1).fit(TEXTS, LABELS)
    texts = ["The acting is Fine !", "dull", "", "never seen"]
    explained = model.explain(texts)
    assert [item.tokens for item in explained] == [
        ["the", "acting", "is", "fine", "!"],
        ["dull"],
        [""],
        ["never", "seen"],
    ]
    for tokens, weights in explained:
        assert weights.shape == (1 if pooling in ("han", "mean", "max") else 4, len(tokens))
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


def test_explanations_find_the_word_that_matters():
    """With a temperature that lets a head choose, some head looks at the word that decides."""
    model = estimator(pooling_options={"temperature": 5.0, "project": False}, epochs=60).fit(TEXTS, LABELS)
    tokens, weights = model.explain(["what a fine film"])[0]
    assert weights[:, tokens.index("fine")].max() > 0.35


@pytest.mark.parametrize("options", [{}, {"pooling": "mha"}, {"pooling_options": {"context": "mean"}}])
def test_saved_and_loaded(options, tmp_path):
    model = estimator(epochs=2, **options).fit(TEXTS, LABELS)
    model.save(tmp_path / "model")
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"lama.json", "model.safetensors"}
    loaded = LAMATextClassifier.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS), rtol=1e-5)
    assert loaded.get_params() == model.get_params()
    assert loaded.explain(TEXTS[:1])[0].tokens == model.explain(TEXTS[:1])[0].tokens
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_allclose(other.predict_proba(TEXTS), model.predict_proba(TEXTS), rtol=1e-5)


def test_damaged_files_are_refused(tmp_path):
    estimator(epochs=1).fit(TEXTS, LABELS).save(tmp_path)
    about = json.loads((tmp_path / "lama.json").read_text())
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or does not belong to lama.json"):
        LAMATextClassifier.load(tmp_path)
    for text, message in (("{", "lama.json is damaged: Expecting"), ("[]", "lama.json is no classifier's: it holds a")):
        (tmp_path / "damaged").mkdir(exist_ok=True)
        (tmp_path / "damaged" / "lama.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            LAMATextClassifier.load(tmp_path / "damaged")
    (tmp_path / "lama.json").write_text(json.dumps(about | {"format": 9}))
    with pytest.raises(ValueError, match="has format 9: this version reads format 1"):
        LAMATextClassifier.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        LAMATextClassifier.load(tmp_path / "nowhere")
    with pytest.raises(NotFittedError):
        estimator().save(tmp_path)


@pytest.mark.parametrize("folder", ["bundled", None])
def test_a_frozen_encoder(folder, tmp_path):
    from fullrank.data import bundled_encoder

    model = estimator(encoder=folder or str(bundled_encoder()), epochs=8, max_tokens=16, classifier_dim=None)
    model.fit(TEXTS, LABELS)
    assert model.score(TEXTS, LABELS) == 1
    tokens, weights = model.explain(["Fine acting"])[0]
    assert tokens == ["[CLS]", "fine", "acting", "[SEP]"]
    assert weights.shape == (4, 4)
    model.save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2_000_000
    loaded = LAMATextClassifier.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(TEXTS), model.predict(TEXTS))
    assert len(pickle.dumps(model)) < 2_000_000


def test_a_vocabulary_keeps_frequent_words():
    learned = Vocabulary.learned(["b a a", "A c b", "d"], r"\w+", True, 2, 1, 2)
    assert learned.words == ("a", "b")  # the third word of each text is cut
    assert len(learned) == 4
    assert [ids.tolist() for ids in learned.encode(["a b a", "c", ""])] == [[2, 3], [1], [1]]
    assert Vocabulary.learned(["b a"], r"\w+", False, 9, 2, 9).words == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a text", ["good"]), r"X is one string: give a list of texts, such as \[text\]"),
        (([], []), "X has no texts: give at least one"),
        ((["a", 3], LABELS[:2]), r"X\[1\] is int: texts are strings"),
        ((["a", None], LABELS[:2]), r"X\[1\] is NoneType: texts are strings"),
        ((np.array([["a"], ["b"]]), LABELS[:2]), r"X has shape \(2, 1\): a list or a one-dimensional array"),
        ((["a", "b", "c"], LABELS[:2]), "X has 3 texts and y 2 classes"),
        ((["a", "b"], ["good", "good"]), "y has one class only, .*good.*: at least two are needed"),
        ((["a", "b"], [0.5, 1.5]), "Unknown label type"),
    ],
)
def test_bad_texts(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        estimator().fit(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs=0: use an integer of at least 1"),
        ({"num_heads": 1.5}, ValueError, "num_heads=1.5: use an integer of at least 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate=0.0: use a positive number"),
        ({"penalty": -1.0}, ValueError, "penalty=-1.0: use 0 or more"),
        ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, "validation_fraction=1.0: use a share"),
        ({"pooling": "sum"}, ValueError, "pooling='sum': use one of"),
        ({"token_pattern": "["}, ValueError, r"token_pattern='\[': use a regular expression"),
        ({"encoder": "/nowhere"}, FileNotFoundError, "encoder='/nowhere' is not a folder: use 'gru', 'bundled'"),
    ],
)
def test_bad_parameters(options, error, message, unchecked):
    with pytest.raises(error, match=message):
        LAMATextClassifier(**options).fit(TEXTS, LABELS)


def test_before_fitting():
    for call in ("predict", "predict_proba", "explain"):
        with pytest.raises(NotFittedError):
            getattr(estimator(), call)(TEXTS)
