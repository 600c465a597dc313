"""Learning while lists are shown."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from fullrank.order import ClickSimulator
from fullrank.order.pdgd import PDGD, exchange_weights, plackett_luce


def probability(scores, order):
    left = list(range(len(scores)))
    p = 1.0
    for document in order:
        p *= math.exp(scores[document]) / sum(math.exp(scores[other]) for other in left)
        left.remove(document)
    return p


def test_lists_are_drawn_by_their_probability():
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    drawn = plackett_luce(scores.expand(20_000, 3), 2, generator=torch.Generator().manual_seed(0))
    for order in itertools.permutations(range(3), 2):
        share = float((drawn == torch.tensor(order)).all(1).double().mean())
        assert share == pytest.approx(probability(scores[0].tolist(), order), abs=0.012)
    masked = plackett_luce(scores, 3, torch.tensor([[True, False, True]]))
    assert masked[0, 2] == 1


def test_weights_are_those_of_the_exchanged_list():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    shown = torch.tensor([[4, 1, 3, 0]])
    rho = exchange_weights(scores, shown, torch.ones(1, 6, dtype=torch.bool))[0]
    order, known = shown[0].tolist(), scores[0].tolist()
    for i, j in itertools.combinations(range(4), 2):
        exchanged = list(order)
        exchanged[i], exchanged[j] = exchanged[j], exchanged[i]
        here, there = probability(known, order), probability(known, exchanged)
        assert float(rho[i, j]) == pytest.approx(there / (here + there), rel=1e-9)
        assert rho[i, j] == rho[j, i]


def test_weights_of_documents_far_below_the_first_are_those_of_the_list_without_it():
    scores = torch.tensor([[0.5, -0.5, 1.0, 0.0]])
    shown, there = torch.tensor([[1, 2, 0]]), torch.ones(1, 4, dtype=torch.bool)
    alone = exchange_weights(scores, shown, there)[0]
    led = torch.cat([torch.tensor([[100.0]]), scores], 1)
    rho = exchange_weights(led, torch.tensor([[0, 2, 3, 1]]), torch.ones(1, 5, dtype=torch.bool))[0]
    torch.testing.assert_close(rho[1:, 1:], alone)


def test_the_gradient_is_that_of_the_paper():
    scores = torch.tensor([[0.3, -0.2, 0.9, 0.1]], dtype=torch.float64, requires_grad=True)
    shown, clicks = torch.tensor([[2, 0, 3, 1]]), torch.tensor([[0, 1, 0, 0]])
    PDGD()(scores, shown, clicks).backward()
    rho = exchange_weights(scores.detach(), shown, torch.ones(1, 4, dtype=torch.bool))[0]
    expected = torch.zeros(4, dtype=torch.float64)
    for place, document in ((0, 2), (2, 3)):  # the last document stands two below the click
        p = torch.sigmoid(scores[0, 0] - scores[0, document]).detach()
        expected[0] -= rho[1, place] * p * (1 - p)
        expected[document] += rho[1, place] * p * (1 - p)
    torch.testing.assert_close(scores.grad[0], expected)


def test_it_learns_from_biased_clicks():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, 3, generator=generator)
    grades = (x[..., 0] * 1.5 + 1.5).round().clamp(0, 4).long()
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.3)
    rng, simulator, objective = np.random.default_rng(0), ClickSimulator(), PDGD()
    for _ in range(40):
        shown = plackett_luce(x @ weights, 5, generator=generator)
        clicks = torch.from_numpy(simulator.simulate(grades.gather(1, shown).numpy(), rng).clicks)
        optimizer.zero_grad()
        objective(x @ weights, shown, clicks).backward()
        optimizer.step()
    learned = weights.detach()
    assert learned[0] > 5 * learned[1:].abs().max()


def test_nothing_is_learned_without_clicks_or_documents():
    scores = torch.zeros(2, 3, requires_grad=True)
    shown = torch.tensor([[0, 1], [1, 2]])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    loss = PDGD()(scores, shown, torch.tensor([[1, 0], [0, 0]]), mask)
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad.abs().max() == 0


def test_bad_calls(unchecked):
    scores, shown = torch.zeros(1, 3), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="ranks=4 is not accepted; 1 to 3"):
        plackett_luce(scores, 4)
    with pytest.raises(ValueError, match="clicks have shape"):
        PDGD()(scores, shown, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="other numbers than 0 and 1"):
        PDGD()(scores, shown, torch.tensor([[2, 0]]))
