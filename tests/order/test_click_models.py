"""Click models against the enumeration of what users may have examined, by recovery, and by their properties."""

from __future__ import annotations

import itertools
import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from fullrank.order import (
    DBN,
    DCM,
    PBM,
    UBM,
    Cascade,
    ClickSessions,
    ClickSimulator,
    ClickThroughRate,
    evaluate,
    read_click_sessions,
)
from fullrank.order.click_models_top_down import examined_given_all

RANKS = 4
ATTRACTION = np.array([0.7, 0.2, 0.5, 0.4])
SATISFACTION = np.array([0.6, 0.3, 0.8, 0.1])
BY_LAST_CLICK = np.tril([[0.9, 0, 0, 0], [0.8, 0.7, 0, 0], [0.6, 0.5, 0.4, 0], [0.3, 0.2, 0.6, 0.1]])

MODELS = {
    "all": (ClickThroughRate("all"), {"examination_": np.full(4, 0.3), "attraction_": np.ones(4)}),
    "rank": (ClickThroughRate("rank"), {"examination_": np.array([0.5, 0.3, 0.2, 0.1]), "attraction_": np.ones(4)}),
    "document": (ClickThroughRate(), {"examination_": np.ones(4)}),
    "PBM": (PBM(), {"examination_": np.array([0.9, 0.6, 0.4, 0.2])}),
    "UBM": (UBM(), {"examination_": BY_LAST_CLICK}),
    "cascade": (Cascade(), {}),
    "DCM": (DCM(), {"continuation_": np.array([0.8, 0.5, 0.3])}),
    "DBN": (DBN(), {"satisfaction_": SATISFACTION, "continuation_": np.array(0.7)}),
    "simplified DBN": (DBN(1.0), {"satisfaction_": SATISFACTION, "continuation_": np.array(1.0)}),
}
ESTIMATED = ("PBM", "UBM", "DCM", "DBN", "simplified DBN")


def known(name):
    """A model whose parameters are given: documents 0 to 3 in place of what it was fitted on."""
    model, parameters = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = clone(model).fit(np.eye(RANKS, dtype=int), np.arange(RANKS)[None].repeat(RANKS, 0))
    for attribute, value in ({"attraction_": ATTRACTION} | parameters).items():
        setattr(model, attribute, value)
    return model


def onwards(name, k, examined, clicked, satisfied, last):
    """P(rank k + 1 is examined), as the papers tell the user's story."""
    model = MODELS[name][1]
    match name:
        case "PBM" | "rank" | "all" | "document":
            return model["examination_"][k + 1]
        case "UBM":
            return BY_LAST_CLICK[k + 1, k - last if last >= 0 else k + 1]
        case "cascade":
            return float(examined and not clicked)
        case "DCM":
            return examined * (model["continuation_"][k] if clicked else 1.0)
        case _:
            return examined * (not satisfied) * float(model["continuation_"])


def enumerated(name, ranks=RANKS):
    """P(clicks) and P(clicks, rank k is examined) over all that users may have examined and been satisfied by."""
    model = known(name)
    first = model.examination_.ravel()[0] if hasattr(model, "examination_") else 1.0
    likelihood, examined_too = {}, {}
    for clicks in itertools.product((0, 1), repeat=ranks):
        total, looked = 0.0, np.zeros(ranks)
        for examined in itertools.product((0, 1), repeat=ranks):
            for satisfied in itertools.product((0, 1), repeat=ranks):
                p, on, last = 1.0, first, -1
                for k in range(ranks):
                    e, c, s = examined[k], clicks[k], satisfied[k]
                    p *= on if e else 1 - on
                    click = e * model.attraction_[k]
                    p *= click if c else 1 - click
                    satisfying = SATISFACTION[k] * c
                    p *= satisfying if s else 1 - satisfying
                    last = k if c else last
                    on = onwards(name, k, e, c, s, last) if k + 1 < ranks else 0.0
                total += p
                looked += p * np.array(examined)
        likelihood[clicks], examined_too[clicks] = total, looked
    return likelihood, examined_too


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_those_of_all_that_may_have_happened(name):
    likelihood, examined = enumerated(name)
    clicks, p = np.array(list(likelihood)), np.array(list(likelihood.values()))
    assert p.sum() == pytest.approx(1)
    model, documents = known(name), np.arange(RANKS)[None].repeat(len(clicks), 0)
    np.testing.assert_allclose(np.exp(model.log_likelihood(clicks, documents)), p, atol=1e-12)
    np.testing.assert_allclose(model.click_probabilities(documents)[0], p @ clicks, atol=1e-12)
    np.testing.assert_allclose(model.examination_probabilities(documents)[0], sum(examined.values()), atol=1e-12)
    conditional = model.conditional_click_probabilities(clicks, documents)
    for k in range(RANKS):
        for above in itertools.product((0, 1), repeat=k):
            same = (clicks[:, :k] == above).all(1)
            if p[same].sum() > 0:
                expected = p[same] @ clicks[same, k] / p[same].sum()
                np.testing.assert_allclose(conditional[same, k], expected, atol=1e-12)


@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("name", ["DCM", "DBN", "simplified DBN"])
def test_what_was_examined_is_told_by_all_that_may_have_happened(name, ranks):
    likelihood, examined = enumerated(name, ranks)
    clicks = np.pad(list(likelihood), ((0, 0), (0, RANKS - ranks))).astype(bool)
    mask = np.arange(RANKS) < np.full(len(clicks), ranks)[:, None]
    behaviour = known(name)._behaviour(np.arange(RANKS)[None].repeat(len(clicks), 0))
    found = examined_given_all(
        clicks, mask, np.tile(ATTRACTION, (len(clicks), 1)), np.broadcast_to(behaviour.after_click, clicks.shape),
        behaviour.after_skip,
    )  # fmt: skip
    expected = np.array(list(examined.values())) / np.array(list(likelihood.values()))[:, None]
    np.testing.assert_allclose(found[:, :ranks], expected, atol=1e-12)
    assert not found[:, ranks:].any()


def shown(sessions, rng, queries=5, documents=6, ranks=5):
    """Random lists of unequal length."""
    query = rng.integers(queries, size=sessions)
    listed = np.argsort(rng.random((sessions, documents)), axis=1)[:, :ranks]
    mask = np.arange(ranks) < rng.integers(1, ranks + 1, size=sessions)[:, None]
    return listed, query, mask


TRUE = {
    "PBM": (PBM(), {"examination_": np.array([1, 0.7, 0.5, 0.3, 0.2])}),
    "UBM": (UBM(), {"examination_": np.tril(np.linspace(1, 0.3, 25).reshape(5, 5))}),
    "cascade": (Cascade(), {}),
    "DCM": (DCM(), {"continuation_": np.array([0.9, 0.7, 0.5, 0.3])}),
    "DBN": (DBN(), {"continuation_": np.array(0.8)}),
    "simplified DBN": (DBN(1.0), {"continuation_": np.array(1.0)}),
    "rank": (ClickThroughRate("rank"), {"examination_": np.array([0.5, 0.4, 0.3, 0.2, 0.1])}),
    "document": (ClickThroughRate(), {"examination_": np.ones(5)}),
}


@pytest.mark.parametrize("name", TRUE)
def test_parameters_are_recovered(name):
    rng = np.random.default_rng(0)
    lists = shown(20_000, rng)
    model, parameters = TRUE[name]
    true = clone(model).set_params(**({"max_iter": 1, "tol": 0.0} if "max_iter" in model.get_params() else {}))
    true.fit(np.zeros(lists[2].shape, dtype=int), *lists)
    attraction = np.ones(30) if name == "rank" else rng.uniform(0.1, 0.8, 30)
    true.attraction_, true.satisfaction_ = attraction, rng.uniform(0.1, 0.8, 30)
    for attribute, value in parameters.items():
        setattr(true, attribute, value)
    clicks = true.sample(*lists, rng)
    found = clone(model).fit(clicks, *lists)
    scale = found.examination_.ravel()[0] / parameters["examination_"].ravel()[0] if "UM" in name else 1.0
    if name == "PBM":
        np.testing.assert_allclose(found.propensities(), parameters["examination_"], atol=0.03)
        scale = found.examination_[0]
    if name == "UBM":
        scale = found.examination_[0, 0]
    np.testing.assert_allclose(found.attraction_ * scale, attraction, atol=0.06)
    if name in ("UBM", "rank"):
        used = np.tri(5, dtype=bool) if name == "UBM" else np.ones(5, dtype=bool)
        expected = parameters["examination_"][used]
        np.testing.assert_allclose(found.examination_[used] / scale, expected, atol=0.08)
    if "continuation_" in parameters:
        np.testing.assert_allclose(found.continuation_, parameters["continuation_"], atol=0.04)
    if "DBN" in name:
        assert np.abs(found.satisfaction_ - true.satisfaction_).mean() < 0.06
    assert found.score(clicks, *lists) >= true.score(clicks, *lists)
    best, baseline = found.perplexity(clicks, *lists), ClickThroughRate("all").fit(clicks, *lists)
    assert best.overall < baseline.perplexity(clicks, *lists).overall


@pytest.mark.parametrize("name", ESTIMATED)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), smoothing=st.sampled_from([0.0, 0.5, 1.0]), ranks=st.integers(1, 5))
def test_every_step_is_uphill(name, seed, smoothing, ranks):
    rng = np.random.default_rng(seed)
    lists = shown(rng.integers(1, 40), rng, ranks=ranks)
    clicks = (rng.random(lists[2].shape) < rng.random()) & lists[2]
    model = clone(MODELS[name][0]).set_params(smoothing=smoothing, max_iter=25, tol=0.0).fit(clicks, *lists)
    gains = np.diff(model.log_posteriors_)
    assert (gains >= -1e-9 * np.abs(model.log_posteriors_[:-1]) - 1e-10).all()
    if not smoothing:
        assert model.log_posteriors_[-1] == pytest.approx(model.log_likelihood(clicks, *lists).sum(), abs=1e-8)
    for attribute in (*model._BY_PAIR, *model._LEARNED):
        values = np.asarray(getattr(model, attribute))
        assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("name", ESTIMATED)
def test_no_neighbour_fits_better(name):
    rng = np.random.default_rng(1)
    lists = shown(600, rng, queries=1, documents=5, ranks=4)
    clicks = (rng.random(lists[2].shape) < 0.35) & lists[2]
    model = clone(MODELS[name][0]).set_params(smoothing=0.0, max_iter=5000, tol=1e-11).fit(clicks, *lists)
    best = model.score(clicks, *lists)
    fixed = ("continuation_",) if name == "simplified DBN" else ()
    for attribute in (*model._BY_PAIR, *(other for other in model._LEARNED if other not in fixed)):
        value = np.atleast_1d(getattr(model, attribute))
        for place in np.ndindex(value.shape):
            for step in (-0.02, 0.02):
                moved = value.copy()
                moved[place] = np.clip(moved[place] + step, 0, 1)
                setattr(model, attribute, moved.reshape(np.shape(getattr(model, attribute))))
                assert model.score(clicks, *lists) <= best + 1e-7
                setattr(model, attribute, value.reshape(np.shape(getattr(model, attribute))))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_of_sessions_and_padding_change_nothing(name, seed):
    rng = np.random.default_rng(seed)
    documents, queries, mask = shown(30, rng)
    clicks = (rng.random(mask.shape) < 0.3) & mask
    model = clone(MODELS[name][0])
    if "max_iter" in model.get_params():
        model.set_params(max_iter=20, tol=0.0)
    expected = model.fit(clicks, documents, queries, mask).relevance(documents, queries, mask)
    order = rng.permutation(30)
    wider = np.pad(mask[order], ((0, 0), (0, 2)))
    names = np.pad(documents[order], ((0, 0), (0, 2)), constant_values=-7).astype(str)
    again = clone(model).fit(np.pad(clicks[order], ((0, 0), (0, 2))), names, queries[order].astype(str), wider)
    found = again.relevance(names, queries[order].astype(str), wider)
    np.testing.assert_allclose(found[:, :-2], expected[order], atol=1e-8)
    p = again.click_probabilities(names, queries[order].astype(str), wider)
    assert ((p >= 0) & (p <= 1)).all()
    assert not p[~wider].any()
    assert not again.sample(names, queries[order].astype(str), wider, rng)[~wider].any()


def test_samples_are_those_of_the_simulator():
    grades = np.random.default_rng(0).integers(0, 5, (50, 12))
    for users, model in (("pbm", PBM()), ("cascade", Cascade()), ("ubm", UBM())):
        simulator = ClickSimulator(users)
        model.set_params(**({} if users == "cascade" else {"max_iter": 1, "tol": 0.0}))
        model.fit(np.zeros((50, 12), dtype=int), grades)
        model.attraction_ = simulator.attraction(np.arange(5))
        if users == "pbm":
            model.examination_ = simulator.propensities(12)
        if users == "ubm":
            model.examination_ = simulator.users(12).table
        drawn = simulator.simulate(grades, np.random.default_rng(3)).clicks
        assert np.array_equal(model.sample(grades, rng=np.random.default_rng(3)), drawn)


@pytest.mark.parametrize(("users", "model"), [("pbm", PBM()), ("cascade", Cascade()), ("ubm", UBM())])
def test_unfitted_models_click_on_labels_as_the_simulator_does(users, model):
    simulator, labels = ClickSimulator(users), np.random.default_rng(0).integers(0, 5, (3, 20, 12))
    drawn = simulator.simulate(labels.reshape(60, 12), np.random.default_rng(3)).clicks.reshape(labels.shape)
    found = model.sample(labels, np.random.default_rng(3))
    assert found.dtype == np.int64
    assert np.array_equal(found, drawn)
    assert np.array_equal(model.sample(labels, rng=np.random.default_rng(3)), drawn)
    assert np.array_equal(model.sample(simulator.attraction(labels), np.random.default_rng(3)), drawn)
    one = labels[0, 0]
    p = model.probabilities(one)
    assert p.shape == one.shape
    np.testing.assert_allclose(model.probabilities(labels)[0, 0], p)
    np.testing.assert_allclose(model.probabilities(simulator.attraction(labels))[0, 0], p)
    rates = model.sample(np.tile(one, (40_000, 1)), np.random.default_rng(1)).mean(0)
    np.testing.assert_allclose(rates, p, atol=0.012)
    mask = np.arange(12) < 5
    np.testing.assert_allclose(model.probabilities(np.where(mask, one, -1), mask), np.where(mask, p, 0))
    assert not model.sample(np.where(mask, one, -1), np.random.default_rng(1), mask=mask)[5:].any()
    with pytest.raises(NotFittedError):
        model.click_probabilities(labels[0])


def test_probabilities_of_labels_are_those_of_the_equations():
    labels = np.array([4, 0, 2])
    a = np.array([1.0, 0.1, 0.28])
    np.testing.assert_allclose(PBM().probabilities(labels), [0.68, 0.61 * 0.1, 0.48 * 0.28])
    np.testing.assert_allclose(Cascade().probabilities(a * 0.5), [0.5, 0.5 * 0.05, 0.5 * 0.95 * 0.14])
    np.testing.assert_allclose(UBM().probabilities(labels), [1, 0.98 * 0.1, (0.1 * 0.98 + 0.62 * 0.902) * 0.28])
    second = 0.5 * 0.1
    np.testing.assert_allclose(DCM().probabilities(labels), [1, second, (second * 0.5 + 0.45) * 0.28])
    np.testing.assert_allclose(DBN(1.0).probabilities(labels), [1, second, (second * 0.5 + 0.45) * 0.28])
    np.testing.assert_allclose(ClickThroughRate().probabilities(labels), a)


@pytest.mark.parametrize("name", MODELS)
def test_fitted_models_look_at_labels_as_they_learned(name):
    model, documents = known(name), np.arange(RANKS)[None]
    if "DBN" in name:
        model.satisfaction_ = np.full(RANKS, SATISFACTION.mean())
    labels = model.attraction_[documents]
    np.testing.assert_allclose(model.probabilities(labels), model.click_probabilities(documents))
    drawn = model.sample(labels.repeat(50, 0), np.random.default_rng(0))
    assert np.array_equal(drawn, model.sample(documents.repeat(50, 0), rng=np.random.default_rng(0)))


@pytest.mark.parametrize("name", MODELS)
def test_a_log_is_given_whole(name):
    rng = np.random.default_rng(0)
    documents, queries, mask = shown(60, rng)
    sessions = ClickSessions((rng.random(mask.shape) < 0.3) & mask, documents, queries, mask)
    model, other = clone(MODELS[name][0]).fit(sessions), clone(MODELS[name][0]).fit(*sessions)
    assert np.array_equal(model.attraction_, other.attraction_)
    assert np.array_equal(model.log_likelihood(sessions), model.log_likelihood(*sessions))
    assert model.score(sessions) == model.score(*sessions)
    for conditional in (False, True):
        found, expected = (model.perplexity(*log, conditional=conditional) for log in ((sessions,), sessions))
        assert np.array_equal(found.by_rank, expected.by_rank)
    p = model.conditional_click_probabilities(sessions)
    assert np.array_equal(p, model.conditional_click_probabilities(*sessions))
    pair = clone(model).fit(sessions[:2])
    assert pair.pairs_.queries is None


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: PBM().fit(ONE[0]), TypeError, "documents are missing, beside clicks of type ndarray"),
        (lambda: PBM().fit((ONE[0],)), TypeError, "documents are missing, beside clicks of type tuple"),
        (lambda: PBM().fit(ONE, mask=[[True, True]]), TypeError, "were given beside a whole log"),
        (lambda: PBM().probabilities(np.array([[1, -1]])), ValueError, "grades hold -1; they are 0 or more"),
        (lambda: PBM().probabilities(np.array([[0.5, 2.0]])), ValueError, "labels[0, 1] is 2.0; floating-point labels"),
        (lambda: PBM().probabilities(np.array([np.nan])), ValueError, "labels[0] is nan"),
        (lambda: PBM().probabilities(np.array([["a"]])), ValueError, "labels are of type <U1"),
        (lambda: PBM().probabilities(np.array(1)), ValueError, "labels have shape ()"),
        (lambda: PBM().probabilities(ONE[1], np.array([True])), ValueError, "mask has shape (1,)"),
        (lambda: DBN(2.0).probabilities(ONE[1]), ValueError, "continuation=2.0 is not accepted"),
    ],
)
def test_bad_logs_and_labels(call, error, words, unchecked):
    with pytest.raises(error, match=re.escape(words)):
        call()


@pytest.mark.parametrize("name", MODELS)
def test_sampled_clicks_have_the_stated_probabilities(name):
    model, documents = known(name), np.arange(RANKS)[None].repeat(40_000, 0)
    rates = model.sample(documents, rng=np.random.default_rng(0)).mean(0)
    np.testing.assert_allclose(rates, model.click_probabilities(documents[:1])[0], atol=0.012)


@pytest.mark.parametrize("by", ["all", "rank", "document"])
def test_click_through_rates_are_counted(by):
    clicks, documents = np.array([[1, 0], [1, 1], [0, 0]]), np.array([["a", "b"], ["b", "a"], ["a", "b"]])
    found = ClickThroughRate(by, smoothing=0.0).fit(clicks, documents).click_probabilities(documents)
    rates = {"all": [[1 / 2] * 2] * 3, "rank": [[2 / 3, 1 / 3]] * 3, "document": [[2 / 3, 1 / 3], [1 / 3, 2 / 3]] * 2}
    np.testing.assert_allclose(found, rates[by][:3])


def test_the_cascade_counts_down_to_the_first_click():
    clicks, documents = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]]), np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    model = Cascade(smoothing=0.0).fit(clicks, documents)
    np.testing.assert_allclose(model.attraction_, [0, 2 / 3, 0])
    assert model.log_likelihood(clicks, documents)[0] == -np.inf


def test_perplexity_is_that_of_its_definition():
    clicks, documents = np.array([[1, 0], [0, 0], [1, 0]]), np.zeros((3, 2), dtype=int)
    mask = np.array([[True, True], [True, False], [True, False]])
    model = ClickThroughRate("rank").fit(clicks, documents, mask=mask)
    found = model.perplexity(clicks, documents, mask=mask)
    p = model.click_probabilities(documents[:1])[0]
    expected = [2 ** (-(2 * np.log2(p[0]) + np.log2(1 - p[0])) / 3), 1 / (1 - p[1])]
    np.testing.assert_allclose(found.by_rank, expected)
    assert found.overall == pytest.approx(np.mean(expected))
    longer = np.pad(mask, ((0, 0), (0, 1)))
    assert np.isnan(model.perplexity(np.pad(clicks, ((0, 0), (0, 1))), np.zeros((3, 3), int), mask=longer).by_rank[2])
    after_a_click = known("DCM").perplexity(np.array([[1, 0]]), np.array([[0, 1]]), conditional=True)
    np.testing.assert_allclose(after_a_click.by_rank, [1 / 0.7, 1 / (1 - 0.8 * 0.2)])


def test_pairs_that_were_not_shown_take_the_mean_and_later_ranks_the_last():
    model = known("PBM")
    np.testing.assert_allclose(model.relevance(np.array([[3, 9]])), [[0.4, ATTRACTION.mean()]])
    later = model.click_probabilities(np.array([[0, 0, 0, 0, 0, 0]]))
    np.testing.assert_allclose(later[0], np.array([0.9, 0.6, 0.4, 0.2, 0.2, 0.2]) * 0.7)
    for name in MODELS:
        longer = known(name).log_likelihood(np.array([[0, 1, 0, 0, 0, 0, 0]]), np.array([[0, 1, 2, 3, 4, 5, 6]]))
        assert np.isfinite(longer).all()


def test_relevance_is_a_run():
    rng = np.random.default_rng(2)
    documents, queries, mask = shown(2_000, rng)
    true = rng.permutation(30).reshape(5, 6)
    attractive = true[queries[:, None], documents] / 30
    clicks = (rng.random(mask.shape) < attractive * np.array([1, 0.6, 0.4, 0.3, 0.2])) & mask
    run = PBM(tol=1e-5).fit(clicks, documents, queries, mask).run()
    qrels = {str(q): {str(d): int(true[q, d]) // 6 for d in range(6)} for q in range(5)}
    assert evaluate(qrels, run, ["nDCG@10"])["nDCG@10"] > 0.95
    with pytest.raises(ValueError, match="fitted without queries"):
        known("PBM").run()


@pytest.mark.parametrize("name", MODELS)
def test_saving(name, tmp_path):
    rng = np.random.default_rng(4)
    documents, queries, mask = shown(60, rng)
    names = np.char.add("d", documents.astype(str))
    clicks = (rng.random(mask.shape) < 0.3) & mask
    model = clone(MODELS[name][0]).fit(clicks, names, queries, mask)
    again = type(model).load(model.save(tmp_path / "model.json"))
    assert np.array_equal(again.log_likelihood(clicks, names, queries, mask),
                          model.log_likelihood(clicks, names, queries, mask))  # fmt: skip
    assert again.run() == model.run()
    assert again.get_params() == model.get_params()
    lines = model.save(tmp_path / "pairs.csv").read_text().splitlines()
    assert lines[0].startswith("query_id,doc_id,attraction")
    assert len(lines) == len(model.pairs_) + 1


def test_files_that_hold_no_model(tmp_path):
    path = known("PBM").save(tmp_path / "model.json")
    with pytest.raises(ValueError, match=r"holds a PBM, not a UBM: PBM\.load reads it"):
        UBM.load(path)
    about = json.loads(path.read_text())
    about["learned"]["attraction_"].pop()
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="damaged"):
        PBM.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no click model"):
        PBM.load(path)
    with pytest.raises(NotFittedError):
        PBM().save(path)
    with pytest.raises(NotFittedError):
        PBM().click_probabilities(np.array([[1]]))


ONE = np.array([[1, 0]]), np.array([[1, 2]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PBM().fit([[1, 2]], ONE[1]), "clicks[0, 1] is 2; a click is 0 or 1"),
        (lambda: PBM().fit([[1, 0, 0]], ONE[1]), "clicks have shape (1, 3); that of the documents, (1, 2), is needed"),
        (lambda: PBM().fit([1, 0], [1, 2]), "documents have shape (2,)"),
        (lambda: PBM().fit(*ONE, mask=[[True]]), "mask has shape (1, 1)"),
        (lambda: PBM().fit([[0, 0]], ONE[1], mask=[[False, True]]), "mask[0, 1] is True below one that is False"),
        (lambda: PBM().fit([[0, 1]], ONE[1], mask=[[True, False]]), "clicks[0, 1] is 1, where the mask says"),
        (lambda: PBM().fit([[0, 0]], ONE[1], mask=[[False, False]]), "1 sessions hold no document"),
        (lambda: PBM().fit(ONE[0], [[0.5, 1.5]]), "documents are of type float64; whole numbers or texts"),
        (lambda: PBM().fit(*ONE, queries=[1, 2]), "queries have shape (2,); one for each of 1 sessions"),
        (lambda: known("PBM").relevance([[1]], queries=[1]), "queries were given; the model was fitted without"),
        (lambda: known("PBM").relevance([["a"]]), "documents are of type <U1; the model was fitted on int64"),
        (lambda: PBM(smoothing=-1).fit(*ONE), "smoothing=-1 is not accepted"),
        (lambda: PBM(max_iter=0).fit(*ONE), "max_iter=0 is not accepted"),
        (lambda: UBM(tol=-1).fit(*ONE), "tol=-1 is not accepted"),
        (lambda: Cascade(-1).fit(*ONE), "smoothing=-1 is not accepted"),
        (lambda: DCM(smoothing=float("nan")).fit(*ONE), "smoothing=nan is not accepted"),
        (lambda: DBN(2.0).fit(*ONE), "continuation=2.0 is not accepted; it is a probability"),
        (lambda: ClickThroughRate("page").fit(*ONE), "by='page' is not known; accepted: all, rank, document"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_slow_convergence_is_told():
    rng = np.random.default_rng(0)
    documents, queries, mask = shown(200, rng)
    with pytest.warns(ConvergenceWarning, match="max_iter=2 steps"):
        PBM(max_iter=2).fit((rng.random(mask.shape) < 0.4) & mask, documents, queries, mask)


LOG = [
    {"query_id": "q", "doc_ids": ["a", "b", "c"], "clicks": [0, 1, 0]},
    {"query_id": 7, "doc_ids": ["b"], "clicks": [True]},
]


def test_logs_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in LOG) + "\n\n")
    sessions = read_click_sessions(path)
    assert sessions.clicks.tolist() == [[False, True, False], [True, False, False]]
    assert sessions.documents.tolist() == [["a", "b", "c"], ["b", "", ""]]
    assert sessions.queries.tolist() == ["q", "7"]
    assert sessions.mask.tolist() == [[True] * 3, [True, False, False]]
    assert ClickThroughRate().fit(*sessions).run()["7"].keys() == {"b"}
    from pyarrow import parquet

    rows = [{**row, "query_id": str(row["query_id"]), "clicks": [int(c) for c in row["clicks"]]} for row in LOG]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "log.parquet")
    again = read_click_sessions(tmp_path / "log.parquet")
    assert all(np.array_equal(one, other) for one, other in zip(sessions, again, strict=True))


def test_a_log_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("\r\n".join(json.dumps(row) for row in LOG), "utf-8-sig")
    assert read_click_sessions(path).queries.tolist() == ["q", "7"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.jsonl", '{"query_id": 1, "doc_ids": ["a"]}\n', "line 1: query_id, doc_ids and clicks are needed"),
        ("log.jsonl", '{"query_id": 1, "doc_ids": ["a"], "clicks": [0, 1]}\n', "line 1: query_id, doc_ids and clicks"),
        ("log.jsonl", '{"query_id": 1, "doc_ids": ["a"], "clicks": [3]}\n', "a click of 0 or 1 for every document"),
        ("log.jsonl", '{"query_id": 1, "doc_ids": "a", "clicks": [0]}\n', "line 1: query_id, doc_ids and clicks"),
        ("log.jsonl", '{"query_id": null, "doc_ids": ["a"], "clicks": [0]}\n', "line 1: query_id, doc_ids and clicks"),
        ("log.jsonl", '{"query_id": 1, "doc_ids": [null], "clicks": [0]}\n', "line 1: query_id, doc_ids and clicks"),
        ("log.jsonl", "\nclick\n", "line 2 is no JSON: 'click\\n'"),
        ("log.jsonl", "\n", "holds no session"),
        ("log.txt", "", "a click log that ends in .jsonl or .parquet is read"),
        ("log.jsonl", '{"query_id": "caf\xe9"}\n', "line 1 is no JSON: "),
        ("log.parquet", "PAR1, but no more", "log.parquet is no Parquet file, or damaged"),
    ],
)
def test_logs_that_cannot_be_read(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=re.escape(words)):
        read_click_sessions(path)
