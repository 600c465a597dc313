"""SESA as an estimator, and unsupervised explicit semantics."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from fullrank.search import Document, Reranker
from fullrank.search.explicit_semantics import ESA
from fullrank.search.sesa_matcher import SESAMatcher

CONCEPTS = ["metal", "law", "music"]
WORDS = {"metal": ["weld", "steel", "forge"], "law": ["court", "judge", "trial"], "music": ["piano", "song", "choir"]}


def pairs(count=60, seed=0):
    """Jobs and profiles of one concept each, in words of their own."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count)
    draw = lambda kind: " ".join([*rng.choice(WORDS[CONCEPTS[kind]], 4).tolist(), "work"])  # noqa: E731
    a, b = [draw(kind) for kind in kinds], [draw(kind) for kind in kinds]
    return a, b, kinds, np.eye(3)[kinds]


def test_it_matches_and_says_why():
    a, b, kinds, targets = pairs()
    matcher = SESAMatcher(CONCEPTS, embedding=16, epochs=120, min_count=1, lam=2.0)
    matcher.fit(a, b, groups=kinds, concepts_a=targets)
    assert matcher.losses_[-1] < matcher.losses_[0]
    assert matcher.get_feature_names_out().tolist() == CONCEPTS
    vectors = matcher.transform(a)
    assert (vectors.argmax(1) == kinds).mean() > 0.95
    places, scores = matcher.rank(["weld steel"], ["court judge", "forge steel", "piano song"], k=2)
    assert places[0, 0] == 1
    assert scores.shape == (1, 2)
    rows = matcher.explain("weld steel", "forge", top=99)
    assert len(rows) == 3
    ranking = matcher.rerank("judge", [Document("x", "piano song"), Document("y", "court trial")])
    assert ranking.documents[0].id == "y"
    assert isinstance(matcher, Reranker)
    again = clone(matcher).fit(a, b, groups=kinds, concepts_a=targets)
    assert np.array_equal(again.transform(a), vectors)


@pytest.mark.parametrize(
    "options", [{"lam": 0.0}, {"standardize": False, "activation": "sigmoid"}, {"cell": "gru", "hidden": 8}]
)
def test_other_forms_train(options):
    a, b, _, targets = pairs(30)
    targets[0, 0] = np.nan
    matcher = SESAMatcher(CONCEPTS, embedding=8, epochs=3, min_count=1, **options)
    assert np.isfinite(matcher.fit(a, b, concepts_a=targets).transform(a)).all()


def test_sentences_are_drawn():
    a, b, _, targets = pairs(30)
    lists = [[text.split()[0], *text.split()[1:]] for text in a]
    matcher = SESAMatcher(CONCEPTS, embedding=8, epochs=2, min_count=1).fit(lists, b, concepts_a=targets, sentences=2)
    assert matcher.transform(["weld"]).shape == (1, 3)


def test_explicit_semantic_analysis():
    texts = [" ".join(words) for words in WORDS.values()]
    esa = ESA(CONCEPTS).fit(texts)
    found = esa.transform(["the judge sang a song", "steel"])
    assert found.shape == (2, 3)
    assert found[1].toarray().argmax() == 0
    assert found[0, 0] == 0
    assert ESA(CONCEPTS, top=1).fit(texts).transform(["judge song song"])[0].nnz == 1
    a, _, kinds, targets = pairs()
    tagged = ESA(CONCEPTS).fit(a, targets)
    assert (tagged.transform(a).toarray().argmax(1) == kinds).mean() > 0.95
    assert clone(tagged).get_params() == tagged.get_params()


def test_bad_calls():
    a, b, _, targets = pairs(4)
    for call, words in [
        (lambda: SESAMatcher(CONCEPTS).fit(a, b[:2]), "4 and 2 texts"),
        (lambda: SESAMatcher(CONCEPTS, min_count=1).fit(a, b, concepts_a=targets[:, :2]), r"shape \(4, 2\); \(4, 3\)"),
        (lambda: ESA().fit([]), r"texts=\[\]"),
        (lambda: ESA(["one"]).fit(a), "1 names for 4 concepts"),
        (lambda: ESA().fit(a, targets[:2]), "weights have shape"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
