"""Trees on the gradients of the unbiased objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from fullrank.order import simulate_clicks
from fullrank.order.lightgbm_ranker import LightGBMRanker, gradient_and_curvature
from fullrank.order.ultr_losses import pairwise_softplus
from fullrank.order.ultr_objectives import DLA, Naive, PairDebias, make_objective
from fullrank.order.ultr_ranker import ULTRRanker

OBJECTIVES = ["naive", "ips", "dla", "rem", "pairdebias", "unbiased-lambdarank", "two-tower"]
PROPENSITIES = [0.68, 0.61, 0.48, 0.34, 0.28, 0.2]


def clicked(lists=300, ranks=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((lists * ranks, 4)).astype(np.float32)
    grades = np.clip(np.round(X[:, 0] * 1.5 + 1.5), 0, 4).astype(int)
    clicks = simulate_clicks(grades.reshape(lists, ranks), rng=rng).ravel()
    return X, grades, clicks, np.repeat(np.arange(lists), ranks)


@pytest.mark.parametrize("objective", [*OBJECTIVES, "lambdarank"])
def test_it_learns_what_was_clicked(objective, tmp_path):
    X, grades, clicks, qid = clicked()
    ranker = clone(LightGBMRanker(objective, PROPENSITIES, trees=15, lr=0.2, leaves=7)).fit(X, clicks, qid)
    assert ranker.score(X, grades, qid) > 0.85
    again = LightGBMRanker.load(ranker.save(tmp_path / "ranker"))
    assert again.get_params() | {"propensities": PROPENSITIES} == ranker.get_params()
    np.testing.assert_array_equal(again.predict(X), ranker.predict(X))
    if objective == "lambdarank":
        assert again.objective_ is None
    else:
        learned, kept = ranker.objective_.state_dict(), again.objective_.state_dict()
        assert learned.keys() == kept.keys()
        assert all(torch.equal(kept[name], value) for name, value in learned.items())
        assert not again.objective_.training
    assert (
        again.save(tmp_path / "again").joinpath("ranker.json").read_text()
        == (tmp_path / "ranker" / "ranker.json").read_text()
    )
    np.testing.assert_array_equal(clone(ranker).fit(X, clicks, qid).predict(X), ranker.predict(X))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_derivatives_are_those_of_the_loss(name):
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    clicks = (torch.rand(5, 4, generator=generator) < 0.4).double()
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[3, 2:], clicks[3, 2:] = False, 0
    objective = make_objective(name, 4, [1, 0.7, 0.5, 0.3]).eval()

    def loss(scores):
        torch.manual_seed(0)
        return objective(scores, clicks, mask) * len(scores)

    torch.manual_seed(0)
    gradient, curvature = gradient_and_curvature(objective, s, clicks, mask)
    # weights that themselves come from the scores stay as they are, so whole Hessians are compared
    hessian = torch.autograd.functional.hessian(loss, s).reshape(20, 20).diagonal().reshape(5, 4)
    torch.testing.assert_close(curvature, hessian)
    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(loss, s))
    assert (curvature[~mask] == 0).all()
    gradient, curvature = gradient_and_curvature(Naive(), s, torch.zeros(5, 4), mask)
    assert bool(torch.isfinite(gradient).all() and torch.isfinite(curvature).all())


def test_positions_are_learned_in_turns():
    X, _, _, qid = clicked(2000)
    rng = np.random.default_rng(1)
    attraction = 1 / (1 + np.exp(-2 * X[:, 0]))
    examined = rng.random(len(X)) < np.tile([1, 0.8, 0.6, 0.4, 0.2, 0.1], 2000)
    clicks = (examined & (rng.random(len(X)) < attraction)).astype(int)
    ranker = LightGBMRanker("dla", trees=30, leaves=7, list_size=6).fit(X, clicks, qid)
    assert isinstance(ranker.objective_, DLA)
    learned = ranker.objective_.propensities().numpy()
    assert (np.diff(learned) < 0).all()
    np.testing.assert_allclose(learned, [1, 0.8, 0.6, 0.4, 0.2, 0.1], atol=0.12)


def test_unbiased_lambdarank_weighs_pairs_by_their_change_of_ndcg():
    s, clicks = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    S = pairwise_softplus(s, clicks, lambdas=True)
    discounts = {0: 1.0, 2: 1 / np.log2(3), 1: 0.5}  # by the order of the scores; the best DCG is 1
    for other in (0, 2):
        change = abs(discounts[1] - discounts[other])
        assert float(S[1, other]) == pytest.approx(change * np.log1p(np.exp(float(s[0, other]))))
    assert float(S.sum()) == pytest.approx(float(S[1, 0] + S[1, 2]))
    moved = torch.tensor([[3, 1, 2]])
    objective = PairDebias(3, lambdas=True).eval()
    assert float(objective(s, clicks, positions=moved)) == pytest.approx(float(S.sum()))


def test_documents_in_any_order_and_below_the_list():
    X, _, clicks, qid = clicked(60)
    places = np.tile(np.arange(1, 7), 60)
    order = np.random.default_rng(0).permutation(len(X))
    ranker = LightGBMRanker("naive", trees=3, list_size=4).fit(X, clicks, qid)
    other = clone(ranker).fit(X[order], clicks[order], qid[order], positions=places[order])
    np.testing.assert_array_equal(ranker.predict(X), other.predict(X))


def test_bad_calls(tmp_path):
    X, _, clicks, qid = clicked(10)
    with pytest.raises(ValueError, match="objective='trees' is not known"):
        LightGBMRanker("trees").fit(X, clicks, qid)
    with pytest.raises(ValueError, match=r"lr=0\.0 is not accepted"):
        LightGBMRanker("naive", lr=0.0).fit(X, clicks, qid)
    with pytest.raises(ValueError, match="X has 2 features"):
        LightGBMRanker("naive", trees=1).fit(X, clicks, qid).predict(X[:, :2])
    with pytest.raises(ValueError, match="a click is 0 or 1"):
        LightGBMRanker("naive", trees=1).fit(X, clicks + 1, qid)
    with pytest.raises(FileNotFoundError, match=r"ranker\.json is missing"):
        LightGBMRanker.load(tmp_path)
    linear = ULTRRanker().fit(X, clicks, qid).save(tmp_path / "linear")
    with pytest.raises(ValueError, match="holds a ULTRRanker"):
        LightGBMRanker.load(linear)
    trees = LightGBMRanker("naive", trees=1).fit(X, clicks, qid).save(tmp_path / "trees")
    with pytest.raises(ValueError, match="describes a LightGBMRanker"):
        ULTRRanker.load(trees)
    (trees / "objective.safetensors").unlink()
    with pytest.raises(ValueError, match=r"objective\.safetensors is damaged, or of another objective"):
        LightGBMRanker.load(trees)
    (trees / "trees.txt").write_text("no trees")
    with pytest.raises(ValueError, match="is damaged"):
        LightGBMRanker.load(trees)
    (trees / "trees.txt").unlink()
    with pytest.raises(ValueError, match=r"trees\.txt is damaged"):
        LightGBMRanker.load(trees)
