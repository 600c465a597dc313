"""Unbiased learning to rank against the official steps, by exact expectation, and by its properties."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from fullrank.order.click_simulation import ClickSimulator, simulate_clicks
from fullrank.order.ultr_losses import ips_pointwise, pairwise_softplus, sigmoid_loss, softmax_loss
from fullrank.order.ultr_objectives import (
    DLA,
    IPS,
    Naive,
    PairDebias,
    PositionBasedModel,
    RegressionEM,
    make_objective,
)

LISTS = {"sigmoid_loss": "sigmoid", "softmax_loss": "softmax"}


class Repeated(PairDebias):
    """Every list counted as often as there are lists."""

    def _by_position(self, scores, clicks, mask, places):
        return super()._by_position(scores, clicks, mask, places) * len(scores)


class Given(RegressionEM):
    """Labels drawn with numbers that are given."""

    def _uniforms(self, like):
        return self.numbers.to(like.dtype)


def scorer(known):
    network = nn.Sequential(
        nn.Linear(known["init.a.weight"].shape[1], len(known["init.a.weight"])),
        nn.ELU(),
        nn.Linear(len(known["init.a.weight"]), 1),
    )
    network.load_state_dict(
        {
            f"{place}.{part}": known[f"init.{name}.{part}"]
            for place, name in ((0, "a"), (2, "b"))
            for part in ("weight", "bias")
        }
    )
    return network


def objective(tag, method, known, list_size):
    options = method["hparams"]
    match method["algorithm"]:
        case "NavieAlgorithm":
            return Naive(LISTS[options["loss_func"]])
        case "IPWrank":
            return IPS(1 / known[f"{tag}.weights0"][0], None, LISTS[options["loss_func"]], weight_nonclicked=True)
        case "DLA":
            made = DLA(list_size, LISTS[options["loss_func"]], None, options["logits_to_prob"].removesuffix("_loss") if
                       options["logits_to_prob"] == "sigmoid" else "softmax", elu=True)  # fmt: skip
            with torch.no_grad():
                made.logits.copy_(known[f"{tag}.propensity_init.linear_layer.weight"][0])
                made.shift.copy_(known[f"{tag}.propensity_init.linear_layer.bias"])
            return made
        case "RegressionEM":
            return Given(list_size, options["EM_step_size"])
        case "PairDebias":
            return Repeated(list_size, options["regulation_p"], options["EM_step_size"], running=False)
    raise AssertionError(method["algorithm"])


def names(network):
    return {
        "a.weight": network[0].weight,
        "a.bias": network[0].bias,
        "b.weight": network[2].weight,
        "b.bias": network[2].bias,
    }


@pytest.mark.golden("baidu-ultr", kind="unbiased learning to rank, official training steps")
def test_agrees_with_the_official_steps(case):
    spec, known = case.spec, case.tensors
    steps, B, L = (spec["shapes"][name] for name in ("steps", "batch_lists", "list_size"))
    for tag, method in spec["methods"].items():
        network, made = scorer(known), objective(tag, method, known, L)
        official = B if method["algorithm"] == "PairDebias" else 1  # a sum over lists, ours is a mean
        everything = [*network.parameters(), *made.parameters()]
        optimizer = torch.optim.Adagrad(everything, lr=spec["lr"], eps=1e-10)
        for step in range(steps):
            if isinstance(made, DLA):  # the official one forgets its sums at every step
                optimizer = torch.optim.Adagrad(everything, lr=spec["lr"], eps=1e-10)
            if isinstance(made, Given):
                made.numbers = known[f"{tag}.uniforms"][step]
            scores = network(known["features"][step]).view(B, L)
            clicks = known["clicks"][step]
            if step == 0 and isinstance(made, DLA):
                rank, exam = made.losses(scores, clicks, None, torch.arange(L).expand(B, L))
                assert float(rank.detach()) == pytest.approx(float(known[f"{tag}.rank_loss0"]), abs=1e-5)
                assert float(exam.detach()) == pytest.approx(float(known[f"{tag}.exam_loss0"]), abs=1e-5)
            loss = made(scores, clicks) * official
            optimizer.zero_grad()
            loss.backward()
            assert float(loss.detach()) == pytest.approx(float(known[f"{tag}.losses"][step]), rel=1e-4), (tag, step)
            if step == 0:
                for name, weight in names(network).items():
                    torch.testing.assert_close(weight.grad, known[f"{tag}.grad0.{name}"], rtol=1e-4, atol=1e-5)
            torch.nn.utils.clip_grad_norm_(everything, method["hparams"]["max_gradient_norm"])
            optimizer.step()
            moment = {0: "after1", steps - 1: "final"}.get(step)
            if moment:
                _same_state(network, made, known, tag, moment)


def _same_state(network, made, known, tag, moment):
    # A gradient that is zero but for rounding moves Adagrad's first step either way.
    for name, weight in names(network).items():
        certain = known[f"{tag}.grad0.{name}"].abs() > 1e-6
        torch.testing.assert_close(
            weight.detach()[certain], known[f"{tag}.{moment}.{name}"][certain], rtol=1e-4, atol=1e-5
        )
    if isinstance(made, RegressionEM):
        torch.testing.assert_close(made.theta, known[f"{tag}.propensity_{moment}"][0], rtol=1e-5, atol=1e-5)
    if isinstance(made, PairDebias):
        for name in ("t_plus", "t_minus"):
            torch.testing.assert_close(getattr(made, name), known[f"{tag}.{name}_{moment}"][0], rtol=1e-3, atol=1e-4)
    if isinstance(made, DLA) and moment == "final":
        weight = known[f"{tag}.propensity_final.linear_layer.weight"][0]
        torch.testing.assert_close(made.logits.detach(), weight, rtol=1e-4, atol=1e-5)


@pytest.mark.golden("baidu-ultr", kind="click simulation")
def test_agrees_with_the_official_simulators(case):
    for known in case.spec["cases"]:
        simulator = ClickSimulator(
            known["model"],
            known["eta"],
            known["neg_click_prob"],
            known["pos_click_prob"],
            known["relevance_grading_num"],
        )
        for ranked in known["lists"]:
            found = simulator.simulate(np.array([ranked["labels"]]), uniforms=np.array([ranked["uniforms"]]))
            assert found.clicks[0].tolist() == ranked["clicks"]
            for name, mine in (("exam_prob", found.examination), ("click_prob", found.attraction)):
                np.testing.assert_allclose(mine[0], ranked[name], atol=case.spec["tolerance"])
            np.testing.assert_allclose(found.weights[0], ranked["ips_weights"], rtol=1e-12)


def test_the_inverse_propensity_losses_are_unbiased():
    """Over all 2^L click patterns."""
    L = 6
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(1, L, generator=generator, dtype=torch.float64)
    e = torch.rand(L, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    attraction = torch.rand(L, generator=generator, dtype=torch.float64)
    full_list = -(attraction * s[0].log_softmax(-1)).sum()
    full_point = -(
        attraction * nn.functional.logsigmoid(s[0]) + (1 - attraction) * nn.functional.logsigmoid(-s[0])
    ).sum()
    listwise, pointwise, naive = 0.0, 0.0, 0.0
    for pattern in itertools.product((0.0, 1.0), repeat=L):
        c = torch.tensor([pattern], dtype=torch.float64)
        p = torch.where(c[0] > 0, e * attraction, 1 - e * attraction).prod()
        a = c / e
        listwise += p * softmax_loss(s, c, 1 / e.expand(1, L), eps=0) * a.sum()
        pointwise += p * ips_pointwise(s, c, (1 / e).expand(1, L))
        naive += p * -(c * s.log_softmax(-1)).sum()
    torch.testing.assert_close(listwise, full_list, rtol=0, atol=1e-10)
    torch.testing.assert_close(pointwise, full_point, rtol=0, atol=1e-10)
    assert abs(naive - full_list) > 0.1


@pytest.mark.parametrize("logits_to_prob", ["softmax", "sigmoid"])
def test_weights_of_dual_learning_do_not_depend_on_a_document_far_above(logits_to_prob):
    scores, places = torch.tensor([[0.0, -2.0, 900.0]]), torch.arange(3)[None]
    found = DLA(3, logits_to_prob=logits_to_prob).relative(scores, torch.ones(1, 3, dtype=torch.bool), places)
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0, -900.0]]).exp())


MAKERS = {
    "naive": lambda: Naive(),
    "naive sigmoid": lambda: Naive("sigmoid"),
    "ips": lambda: IPS([1, 0.8, 0.5, 0.3, 0.2]),
    "ips sigmoid": lambda: IPS([1, 0.8, 0.5, 0.3, 0.2], loss="sigmoid"),
    "dla": lambda: DLA(5),
    "dla sigmoid": lambda: DLA(5, "sigmoid", logits_to_prob="sigmoid"),
    "rem": lambda: RegressionEM(5, soft=True),
    "pairdebias": lambda: PairDebias(5),
    "two-tower": lambda: PositionBasedModel(5),
    "product": lambda: PositionBasedModel(5, "product"),
}


def lists(seed=0, B=4, L=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, L, generator=generator), (torch.rand(B, L, generator=generator) < 0.4).float()


@pytest.mark.parametrize("name", MAKERS)
def test_padding_and_order_change_nothing(name):
    scores, clicks = lists()
    expected = MAKERS[name]()(scores, clicks)
    wider = nn.functional.pad(scores, (0, 3), value=1e6), nn.functional.pad(clicks, (0, 3))
    mask = nn.functional.pad(torch.ones_like(scores, dtype=torch.bool), (0, 3))
    places = torch.arange(1, 9).clamp(max=5).expand(4, 8)
    torch.testing.assert_close(MAKERS[name]()(*wider, mask, places), expected)
    order = torch.tensor([3, 0, 4, 1, 2])
    positions = (order + 1).expand(4, 5)
    shuffled = MAKERS[name]()(scores[:, order], clicks[:, order], positions=positions)
    torch.testing.assert_close(shuffled, expected)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_half_precision_and_silent_batches(name):
    scores, clicks = lists()
    scores.requires_grad_()
    MAKERS[name]()(scores, clicks).backward()
    assert scores.grad.isfinite().all()
    half = MAKERS[name]()(scores.detach().half(), clicks)
    assert half.dtype == torch.float32
    quiet = torch.randn(3, 5, requires_grad=True)
    made = MAKERS[name]()
    loss = made(quiet, torch.zeros(3, 5))
    loss.backward()
    assert loss.isfinite()
    if name in ("naive", "ips", "dla", "pairdebias"):
        assert loss == 0
        assert not quiet.grad.any()
        assert not any(parameter.grad.any() for parameter in made.parameters())
    for shape in ((0, 5), (2, 0)):
        assert MAKERS[name]()(torch.zeros(shape), torch.zeros(shape)) == 0
    assert MAKERS[name]().state_dict().keys() == MAKERS[name]().state_dict().keys()


def test_silent_batches_lose_nothing_without_a_floor():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = softmax_loss(scores, torch.zeros(2, 3), eps=0)
    loss.backward()
    assert loss == 0
    assert not scores.grad.any()
    assert sigmoid_loss(torch.zeros(1, 2), torch.zeros(1, 2)) == pytest.approx(2 * np.log(2))
    assert pairwise_softplus(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).tolist() == [
        [0, pytest.approx(np.log(2))],
        [0, 0],
    ]


def test_state_and_propensities():
    made = RegressionEM(4, step_size=0.5)
    made(torch.zeros(8, 4), torch.zeros(8, 4))
    assert made.propensities()[0] == 1
    again = RegressionEM(4)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.theta, made.theta)
    before = made.eval().theta.clone()
    made(torch.zeros(8, 4), torch.zeros(8, 4))
    assert torch.equal(made.theta, before)
    assert DLA(3).propensities().tolist() == [1, 1, 1]
    assert IPS([0.5, 0.25]).propensities().tolist() == [1, 0.5]
    assert IPS([1, 0.5]).effective_sample_size(torch.ones(1, 2)) == pytest.approx(9 / 5)


@pytest.mark.parametrize(("behaviour", "eta"), [("pbm", 1.0), ("pbm", 0.0), ("cascade", 1.0), ("ubm", 1.0)])
def test_simulated_rates(behaviour, eta):
    grades = np.tile(np.arange(5), (40_000, 3))[:, :12]
    simulator = ClickSimulator(behaviour, eta)
    found = simulator.simulate(grades, np.random.default_rng(0))
    expected = (found.examination * found.attraction).mean(0)
    np.testing.assert_allclose(found.clicks.mean(0), expected, atol=0.02)
    if behaviour == "cascade":
        assert found.clicks.sum(1).max() == 1
    again = simulate_clicks(
        grades[:5], behaviour, eta, rng=np.random.default_rng(1), mask=np.tile(np.arange(12) < 3, (5, 1))
    )
    assert not again[:, 3:].any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Naive()(torch.zeros(2, 3), torch.full((2, 3), 0.5)), "clicks[0, 0] is 0.5; a click is 0 or 1"),
        (lambda: Naive()(torch.zeros(2, 3), torch.zeros(2, 4)), "differ; (lists, ranks) each is needed"),
        (lambda: Naive()(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, False]])), "no document"),
        (lambda: Naive()(torch.zeros(1, 2), torch.ones(1, 2), positions=torch.tensor([[0, 1]])), "they count from 1"),
        (lambda: Naive("hinge"), "loss='hinge' is not known; accepted: softmax, sigmoid"),
        (lambda: Naive()(torch.zeros(3), torch.full((3,), 0.5)), "clicks[0] is 0.5; a click is 0 or 1"),
        (lambda: Naive()(torch.zeros(3), torch.zeros(3)), "(lists, ranks) each is needed"),
        (
            lambda: Naive()(torch.zeros(1, 2), torch.zeros(1, 2), positions=torch.tensor([[1, torch.nan]])),
            "positions hold nan; they are whole numbers from 1",
        ),
        (lambda: IPS([1, 0]), "propensities[1] is 0.0"),
        (lambda: IPS([0, 0.5]), "propensities[0] is 0.0"),
        (lambda: IPS([-1, -0.5]), "propensities[0] is -1.0"),
        (lambda: IPS([2, 1]), "propensities[0] is 2.0"),
        (lambda: IPS([1, 0.5], clip=0), "clip=0 is not accepted"),
        (lambda: DLA(3, clip=-1), "clip=-1 is not accepted"),
        (lambda: RegressionEM(3, step_size=2.0), "step_size=2.0 is not accepted"),
        (lambda: PairDebias(3, step_size=-0.1), "step_size=-0.1 is not accepted"),
        (lambda: PairDebias(3, p=float("nan")), "p=nan"),
        (lambda: IPS([0.5, 1]), "propensities[1] is 2.0"),
        (lambda: IPS([1, float("nan")]), "propensities[1] is nan"),
        (lambda: IPS([]), "propensities=[]"),
        (lambda: DLA(0), "list_size=0"),
        (lambda: DLA(3, logits_to_prob="sigmoid_loss"), "logits_to_prob='sigmoid_loss'"),
        (lambda: RegressionEM(3, init=1.0), "init=1.0"),
        (lambda: PairDebias(3, p=-1), "p=-1"),
        (lambda: PositionBasedModel(3, form="sum"), "form='sum'"),
        (lambda: make_objective("dlaa", 3), "objective='dlaa' is not known; accepted: naive, ips, dla"),
        (lambda: make_objective("ips", 3), "needs propensities"),
        (lambda: ClickSimulator("dcm"), "behaviour='dcm'"),
        (lambda: ClickSimulator(eta=-1), "eta=-1"),
        (lambda: ClickSimulator(noise=2), "noise=2"),
        (lambda: ClickSimulator(top_grade=0), "top_grade=0"),
        (lambda: ClickSimulator().simulate(np.array([[-1]])), "grades hold -1"),
        (lambda: ClickSimulator("ubm").propensities(3), "no propensity by rank alone"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_positions_beyond_the_table_take_the_last():
    made = IPS([1, 0.5])
    with pytest.warns(UserWarning, match="position 3 is beyond list_size=2"):
        loss = made(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    assert loss.isfinite()
    made(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
