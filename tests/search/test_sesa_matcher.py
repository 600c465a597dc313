"""SESA as an estimator, and unsupervised explicit semantics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, normalize
from sklearn.utils import estimator_checks

from fullrank.search import ESA, DenseRetriever, Document, Reranker, SESAMatcher, SESAReranker, rerank_run, reranker
from fullrank.search.sesa_training import fidelity

from .conftest import HashEncoder

CONCEPTS = ["metal", "law", "music"]
WORDS = {"metal": ["weld", "steel", "forge"], "law": ["court", "judge", "trial"], "music": ["piano", "song", "choir"]}

#: The checks of scikit-learn that do not need numbers as input; `check_estimator` skips estimators of texts altogether.
CONFORMANCE = (
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_mixin_order,
    estimator_checks.check_set_params,
    estimator_checks.check_valid_tag_types,
)


def pairs(count=60, seed=0):
    """Jobs and profiles of one concept each, in words of their own."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count)
    draw = lambda kind: " ".join([*rng.choice(WORDS[CONCEPTS[kind]], 4).tolist(), "work"])  # noqa: E731
    a, b = [draw(kind) for kind in kinds], [draw(kind) for kind in kinds]
    return a, b, kinds, np.eye(3)[kinds]


def test_it_matches_and_says_why():
    a, b, kinds, targets = pairs()
    matcher = SESAMatcher(CONCEPTS, embedding=16, epochs=60, min_count=1, lam=2.0, lr=0.01)
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
    assert matcher.explain(["weld", "steel"], ["forge"], top=99) == rows
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
    named = ESA(np.array(CONCEPTS)).fit(a, sparse.csr_matrix(targets))
    assert (named.transform(texts) != tagged.transform(texts)).nnz == 0
    assert named.get_feature_names_out().tolist() == CONCEPTS
    assert named.transform([]).shape == (0, 3)
    assert (tagged.transform(a).toarray().argmax(1) == kinds).mean() > 0.95
    assert clone(tagged).get_params() == tagged.get_params()


@pytest.fixture(scope="module")
def matcher():
    a, b, kinds, targets = pairs()
    return SESAMatcher(CONCEPTS, embedding=16, epochs=40, min_count=1, lam=2.0).fit(
        a, b, groups=kinds, concepts_a=targets
    )


def test_it_is_an_estimator_of_scikit_learn(matcher):
    for estimator in (matcher, ESA(CONCEPTS)):
        for check in CONFORMANCE:
            check(type(estimator).__name__, clone(estimator))
        assert clone(estimator).get_params() == estimator.get_params()
    assert SESAMatcher(CONCEPTS).set_params(lam=3.0, cell="gru").get_params()["lam"] == 3.0
    with pytest.raises(NotFittedError):
        SESAMatcher(CONCEPTS).transform(["a text"])
    a, b, kinds, targets = pairs(30)
    upper = FunctionTransformer(lambda texts: [text.replace("!", "") for text in texts])
    settings = {"embedding": 8, "epochs": 2, "min_count": 1}
    chain = make_pipeline(upper, SESAMatcher(CONCEPTS, **settings)).fit(a, b, sesamatcher__concepts_a=targets)
    assert chain.transform(["weld!"]).shape == (1, 3)
    search = GridSearchCV(SESAMatcher(CONCEPTS, **settings), {"lam": [0.0, 1.0]}, cv=KFold(2), error_score="raise")
    assert 0 < search.fit(a, b, concepts_a=targets).best_score_ <= 1
    table = clone(matcher).set_params(**settings).set_output(transform="pandas").fit_transform(a, b)
    assert table.columns.tolist() == CONCEPTS
    kind_of = make_pipeline(FrozenEstimator(matcher), LogisticRegression()).fit(a, kinds)
    assert kind_of.score(a, kinds) > 0.9


def test_a_saved_matcher_does_the_same(matcher, tmp_path):
    a, b, kinds, _ = pairs(20, seed=1)
    same = np.array([first == second for first, second in zip(kinds, np.roll(kinds, 1), strict=True)], dtype=int)
    matcher.calibrate(a, np.roll(b, 1), same)
    chances = matcher.match_probability(a, np.roll(b, 1))
    assert chances[same == 1].min() > chances[same == 0].max()
    again = SESAMatcher.from_pretrained(matcher.save_pretrained(tmp_path / "new" / "matcher"))
    assert again.get_params() == matcher.get_params()
    assert np.array_equal(again.transform(a), matcher.transform(a))
    assert again.match_probability(a, b) == pytest.approx(matcher.match_probability(a, b))
    assert (again.losses_, again.score(a, b)) == (matcher.losses_, matcher.score(a, b))
    with pytest.raises(FileNotFoundError, match=r"matcher\.json is missing"):
        SESAMatcher.from_pretrained(tmp_path)
    (tmp_path / "new" / "matcher" / "matcher.json").write_text("{}")
    with pytest.raises(ValueError, match=r"matcher\.json is damaged"):
        SESAMatcher.from_pretrained(tmp_path / "new" / "matcher")
    with pytest.raises(NotFittedError, match="call calibrate"):
        clone(matcher).match_probability(a, b)
    with pytest.raises(ValueError, match="labels of one kind only"):
        matcher.calibrate(a, b, [1] * 20)


def test_ranking_is_explained_and_ties_keep_their_order(matcher, tmp_path):
    documents = [Document("x", "piano song"), Document("y", "unknown words"), Document("z", "court trial")]
    documents += [Document("blank", ""), Document("w", "judge", title="court")]
    folder = matcher.save_pretrained(tmp_path / "matcher")
    expected = matcher.rerank("judge", documents)
    for made in (reranker("sesa", matcher), reranker("sesa", matcher.model_), reranker("sesa", folder, batch_size=2)):
        assert isinstance(made, SESAReranker)
        ranking = made.rerank("judge", documents)
        assert ranking.scores == pytest.approx(expected.scores, abs=1e-5)
        reasons = made.explain("judge", ranking.documents, top=99)
        bias = float(made.scorer.model.bias.detach())
        for score, rows in zip(ranking.scores, reasons, strict=True):
            assert sum(row.contribution for row in rows) + bias == pytest.approx(score, abs=1e-4)
        assert reasons[0][0].concept == "law"
    assert [document.id for document in expected.documents if document.id in ("y", "blank")] == ["y", "blank"]
    run = rerank_run(reranker("sesa", folder), {"q": "judge"}, documents, {"q": {"x": 2.0, "z": 1.0}})
    assert run.ranking("q")[0][0] == "z"
    assert reranker("sesa", folder).rerank("judge", []).documents == ()
    assert reranker("sesa", folder).explain("judge", []) == []
    with pytest.raises(TypeError, match="a SESA, a fitted SESAMatcher or a folder is needed"):
        reranker("sesa", 3)
    with pytest.raises(FileNotFoundError, match=r"sesa\.json is missing"):
        reranker("sesa", tmp_path).rerank("judge", documents)


def test_it_encodes_for_retrieval(matcher):
    index = DenseRetriever(matcher).build([Document("x", "piano song"), Document("z", "court trial")])
    assert index.search("judge", 1).ranking("0")[0][0] == "z"


def test_short_explanations_are_rewarded_without_a_ranking_loss():
    a, b, _, targets = pairs(20)
    free, small = (
        SESAMatcher(CONCEPTS, min_count=1, epochs=20, rank_weight=0.0, l1=l1).fit(a, b, concepts_a=targets)
        for l1 in (0.0, 3.0)
    )
    assert np.abs(small.transform(a)).mean() < 0.5 * np.abs(free.transform(a)).mean()


def test_a_pair_that_is_left_over_is_left_out():
    a, b, _, _ = pairs(5)
    for loss in ("softmax", "hinge"):
        fitted = [
            SESAMatcher(CONCEPTS, min_count=1, epochs=1, batch_size=4, rank_loss=loss).fit(a, b, y)
            for y in (None, [1] * 5)
        ]
        assert fitted[0].losses_ == fitted[1].losses_


def test_it_learns_from_clicks():
    a, b, kinds, targets = pairs(120)
    shown = np.roll(b, 1).tolist()
    clicked = (kinds == np.roll(kinds, 1)).astype(int)
    matcher = SESAMatcher(CONCEPTS, rank_loss="logistic", embedding=16, epochs=40, min_count=1, lr=0.02)
    matcher.fit(a, shown, clicked, concepts_a=targets)
    scores = [matcher.rank([first], [second])[1][0, 0] for first, second in zip(a, shown, strict=True)]
    assert np.mean(np.array(scores)[clicked == 1]) > np.mean(np.array(scores)[clicked == 0]) + 1
    assert np.isfinite(matcher.fit(a[:1], b[:1], [1]).losses_).all()  # one pair is enough where it has a label


def test_listed_names_and_tables_mean_the_same():
    a, b, kinds, targets = pairs(30)
    names = [[CONCEPTS[kind]] for kind in kinds]
    fit = lambda given, **options: (  # noqa: E731
        SESAMatcher(CONCEPTS, standardize=False, embedding=8, epochs=2, min_count=1, **options)
        .fit(a, b, concepts_a=given)
        .transform(a)
    )
    expected = fit(targets)
    assert np.array_equal(fit(names), expected)
    assert np.array_equal(fit(sparse.csr_matrix(targets)), expected)
    sampled = fit(names, negatives=2, head="factorized", head_rank=2)
    assert np.array_equal(fit(sparse.csr_matrix(targets), negatives=2, head="factorized", head_rank=2), sampled)
    unknown = [None, *names[1:]]
    assert not np.array_equal(fit(unknown), expected)
    assert np.isfinite(fit(targets, weights="idf", activation="sigmoid")).all()


def test_known_concepts_rank_without_any_text(matcher):
    places, scores = matcher.rank([""], ["", ""], known_queries=[["law"]], known_candidates=[["music"], ["law"]])
    assert places[0].tolist() == [1, 0]
    rows = matcher.explain("", "", known_a=["law"], known_b=["law"])
    bias = float(matcher.model_.bias.detach())
    assert [row.concept for row in rows if row.contribution] == ["law"]
    assert rows[0].contribution + bias == pytest.approx(scores[0, 0], abs=1e-4)
    a, b, _, targets = pairs(20)
    trained = clone(matcher).set_params(epochs=1).fit(a, b, known_b=targets)
    assert float(trained.model_.known_weight.detach()) != 1


def test_held_out_pairs_choose_the_epoch():
    a, b, kinds, targets = pairs(60)
    settings = {"embedding": 8, "epochs": 30, "min_count": 1, "validation_fraction": 0.3, "patience": 2}
    matcher = SESAMatcher(CONCEPTS, **settings).fit(a, b, concepts_a=targets)
    assert len(matcher.validation_) == len(matcher.losses_) < 30
    best = max(epoch["MRR"] for epoch in matcher.validation_)
    assert [epoch["MRR"] for epoch in matcher.validation_].index(best) == len(matcher.validation_) - 3
    with pytest.warns(UserWarning, match=r"no epoch reached fidelity_floor=1\.1"):
        SESAMatcher(CONCEPTS, **settings, fidelity_floor=1.1).fit(a, b, concepts_a=targets)
    with pytest.raises(ValueError, match="holds out 1 of 1 groups"):
        SESAMatcher(CONCEPTS, **{**settings, "validation_fraction": 0.9}).fit(a, b, groups=[0] * 60)
    assert fidelity(targets, targets) == pytest.approx(1)
    assert fidelity(-targets, np.where(kinds[:, None] == 0, np.nan, targets)) == pytest.approx(-2 / 3)


def test_any_encoder_may_stand_below():
    a, b, _, targets = pairs(20)
    matcher = SESAMatcher(CONCEPTS, encoder=HashEncoder(8), epochs=2, weights="learned").fit(a, b, concepts_a=targets)
    places, _ = matcher.rank(a, b, k=3)
    assert places.shape == (20, 3)
    assert matcher.rank([], b)[0].shape == (0, 0)


class TitleEncoder(HashEncoder):
    """Vectors of its own."""

    def encode(self, texts, /):
        return super().encode([text.title() for text in texts])


def test_each_side_may_have_an_encoder_of_its_own(tmp_path):
    a, b, _, targets = pairs(20)
    encoders = HashEncoder(8), TitleEncoder(8)
    matcher = SESAMatcher(CONCEPTS, encoder=encoders, separate=True, epochs=2).fit(a, b, concepts_a=targets)
    assert not np.allclose(matcher.transform(a, side="a"), matcher.transform(a, side="b"))
    again = SESAMatcher.from_pretrained(matcher.save_pretrained(tmp_path), encoder=encoders)
    assert np.array_equal(again.rank(a, b, k=3)[0], matcher.rank(a, b, k=3)[0])


def test_seeds_are_numbers_generators_or_none(tmp_path, unchecked):
    a, b, _, targets = pairs(20)

    def fitted(seed):
        return SESAMatcher(CONCEPTS, embedding=8, epochs=1, random_state=seed).fit(a, b, concepts_a=targets)

    one, same, free = (fitted(np.random.RandomState(3)), fitted(np.random.RandomState(3)), fitted(None))
    assert np.array_equal(one.transform(a), same.transform(a))
    assert not np.array_equal(free.transform(a), fitted(None).transform(a))
    assert np.array_equal(fitted(np.int64(3)).transform(a), fitted(3).transform(a))
    assert SESAMatcher.from_pretrained(one.save_pretrained(tmp_path)).random_state is None


def test_explicit_vectors_keep_their_largest_values():
    texts = ["weld steel forge", "court judge steel", "piano song judge steel"]
    whole = ESA(CONCEPTS).fit(texts).transform(["steel judge", "zebra", "song"])
    for count in (1, 2, 3):
        found = ESA(CONCEPTS, top=count).fit(texts).transform(["steel judge", "zebra", "song"])
        assert np.diff(found.indptr).tolist() == [min(count, stored) for stored in np.diff(whole.indptr)]
        least = np.sort(whole.toarray(), axis=1)[:, -count]
        assert (found.toarray()[whole.toarray() > least[:, None]] > 0).all()
        assert set(found.data) <= set(whole.data)
    assert np.allclose(normalize(whole).toarray(), normalize(whole.toarray()))


def test_bad_calls(unchecked):
    a, b, _, targets = pairs(4)

    def fit(groups=None, y=None, concepts_a=None, concepts_b=None, **options):
        matcher = SESAMatcher(CONCEPTS, min_count=1, epochs=1, **options)
        return matcher.fit(a, b, y, concepts_a, concepts_b, groups=groups)

    many = SESAMatcher([str(number) for number in range(50_000)])
    for call, words in [
        (lambda: SESAMatcher(CONCEPTS).fit(a, b[:2]), "4 and 2 texts"),
        (lambda: many.fit(a * 1000, b * 1000, concepts_a=[[]] * 4000), 'negatives=5, head="factorized"'),
        (lambda: fit(concepts_a=targets[:, :2]), r"concepts_a has shape \(4, 2\); \(4, 3\)"),
        (lambda: fit(concepts_b=np.where(targets, np.inf, 0)), r"concepts_b\[0\] \('\w+'\) is infinite"),
        (
            lambda: fit(concepts_a=targets * 2, standardize=False),
            "is 2.0; it lies in",
        ),
        (lambda: fit(concepts_a=[["chess"], [], [], []]), r"concepts_a\[0\] lists 'chess', which is none of the 3"),
        (lambda: fit(concepts_a=[["law"]]), "concepts_a has 1 lists; one for each of 4"),
        (lambda: fit(groups=[1, 2]), "2 groups for 4 pairs"),
        (lambda: fit(y=[1, 0, 1, 2]), "y of shape"),
        (lambda: fit(y=[1, 0, 1, 1]), 'only rank_loss="logistic" learns from them'),
        (lambda: fit(weights="idf"), "give concepts_a"),
        (lambda: SESAMatcher(CONCEPTS).fit(a[:1], b[:1]), "one pair has no negatives"),
        (
            lambda: SESAMatcher([str(k) for k in range(50_000)]).fit(a * 1000, b * 1000, concepts_a=[[]] * 4000),
            "negatives=",
        ),
        (lambda: fit().rank(a, []), "candidate_texts="),
        (lambda: fit().rank(a, b, k=0), "k=0"),
        (lambda: fit(batch_size=0), "batch_size=0 is not accepted"),
        (lambda: fit(batch_size=1), 'batch_size=1 of 4 pairs.*rank_loss="logistic"'),
        (lambda: fit(batch_size=1, y=[1, 1, 1, 1]), "batch_size=1 of 4 pairs"),
        (lambda: fit(lam=-1.0), "lam=-1.0 is not accepted"),
        (lambda: fit(lr=-1), "lr=-1 is not accepted; it is above 0"),
        (lambda: fit(lr=float("nan")), "lr=nan is not accepted"),
        (lambda: fit(patience=0), "patience=0 is not accepted"),
        (lambda: fit(fidelity_floor=0.5, validation_fraction=0.5), "fidelity_floor=0.5 .* give concepts_a too"),
        (lambda: fit(concepts_a=targets, fidelity_floor=0.5), "fidelity_floor=0.5 .* give validation_fraction above 0"),
        (lambda: fit(validation_fraction=-0.5), "validation_fraction=-0.5 holds out -2 of 4"),
        (lambda: fit(random_state=-1), "random_state=-1 is not accepted"),
        (lambda: fit(random_state="one"), "random_state='one' is not accepted"),
        (lambda: fit(encoder=HashEncoder(8), separate=True), r"separate=True needs encoders of your own for both"),
        (lambda: fit(rank_weight=-1.0), "rank_weight=-1.0 is not accepted"),
        (lambda: fit(l1=-1.0), "l1=-1.0 is not accepted"),
        (lambda: fit(negatives=0), "negatives=0 is not accepted"),
        (lambda: fit().score(a, b[:2]), "4 and 2 texts"),
        (lambda: fit().calibrate(a, b[:2], [1, 0, 1, 0]), "4 and 2 texts"),
        (lambda: ESA(top=0).fit(a), "top=0"),
        (lambda: ESA().fit([]), r"texts=\[\]"),
        (lambda: ESA(["one"]).fit(a), "1 names for 4 concepts"),
        (lambda: ESA().fit(a, targets[:2]), "weights have shape"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match=r"texts_b\[1\]=3 is int"):
        SESAMatcher(CONCEPTS).fit(a[:2], ["one", 3])
    with pytest.raises(TypeError, match="texts_a is one text"):
        SESAMatcher(CONCEPTS).fit("one text", b)
    with pytest.raises(TypeError, match="query_texts is one text"):
        fit().rank("one text", b)
    with pytest.raises(TypeError, match="candidate_texts is one text"):
        fit().rank(a, "one text")
