"""Losses of exemplar retrievers and determinantal selection, against the original code and by enumeration."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from fullrank.search.determinantal import dpp_kernel, dpp_relevance, greedy_map, k_dpp_sample
from fullrank.search.exemplar_losses import (
    contrastive_exemplar_loss,
    mean_pool,
    set_contrastive_loss,
    set_margin_loss,
    set_scores,
)


@pytest.mark.golden("dq-lore", kind="retriever training losses and baselines")
def test_agrees_with_the_original(case):
    config, known = case.spec["config"], case.tensors
    tolerance = {"rtol": case.spec["tolerance"], "atol": case.spec["tolerance"]}

    q, contexts = known["nll_q"].clone().requires_grad_(), known["nll_ctx"].clone().requires_grad_()
    places = {"ctx_indices": known["nll_ctx_indices"], "labels": known["nll_labels"]}
    loss, logits = contrastive_exemplar_loss(q=q, ctx=contexts, **places)
    loss.backward()
    torch.testing.assert_close(loss.detach(), known["nll_loss"].squeeze(), **tolerance)
    torch.testing.assert_close(logits.detach(), known["nll_logits"], **tolerance)
    torch.testing.assert_close(q.grad, known["nll_grad_q"], **tolerance)
    torch.testing.assert_close(contexts.grad, known["nll_grad_ctx"], **tolerance)

    q, contexts = known["dpp_q"].clone().requires_grad_(), known["dpp_ctx"].clone().requires_grad_()
    sets = known["dpp_ctx_indices"].view(len(q), config["candidates"], -1)
    scores = set_scores(q, contexts, sets, config["scale_factor"])
    torch.testing.assert_close(scores.detach(), known["dpp_logits"], **tolerance)
    loss = set_contrastive_loss(scores)
    grads = torch.autograd.grad(loss, (q, contexts))
    torch.testing.assert_close(loss.detach(), known["dpp_loss"].squeeze(), **tolerance)
    torch.testing.assert_close(grads[0], known["dpp_grad_q"], **tolerance)
    torch.testing.assert_close(grads[1], known["dpp_grad_ctx"], **tolerance)
    loss = set_margin_loss(set_scores(q, contexts, sets, config["scale_factor"]), config["margin"])
    torch.testing.assert_close(loss.detach(), known["dpp_pairwise_loss"].squeeze(), **tolerance)
    torch.testing.assert_close(torch.autograd.grad(loss, q)[0], known["dpp_pairwise_grad_q"], **tolerance)

    torch.testing.assert_close(mean_pool(known["pool_hidden"], known["pool_mask"]), known["pool_out"], **tolerance)
    query, reps = known["map_query"][0], known["map_reps"]
    torch.testing.assert_close(dpp_relevance(query, reps, config["scale_factor"]), known["map_rel"], **tolerance)
    kernel = dpp_kernel(query=query, cands=reps, scale=config["scale_factor"])
    torch.testing.assert_close(kernel, known["map_kernel"], **tolerance)
    selected = known["map_selected"].tolist()
    assert greedy_map(kernel=kernel, n=len(selected)) == selected


def test_arrays_are_taken_as_tensors_are():
    rng = np.random.default_rng(0)
    query, rows = rng.normal(size=(2, 4)), rng.normal(size=(2, 12, 4))[:, ::-2]
    tensors = dpp_kernel(torch.from_numpy(query), torch.from_numpy(rows.copy()), 0.5)
    arrays = dpp_kernel(query, rows, scale=0.5)
    assert (type(arrays), arrays.dtype, arrays.shape) == (np.ndarray, np.float64, (2, 6, 6))
    np.testing.assert_allclose(arrays, tensors.numpy())
    np.testing.assert_allclose(dpp_relevance(query, rows) ** 2, dpp_kernel(query, rows).diagonal(0, 1, 2))
    assert greedy_map(arrays[0], 3) == greedy_map(tensors[0], 3)
    drawn = [k_dpp_sample(L, 3, torch.Generator().manual_seed(1)) for L in (arrays[1], tensors[1])]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_of_half_precision_is_of_single(dtype):
    query, rows = torch.randn(4).to(dtype), torch.randn(5, 4).to(dtype)
    torch.testing.assert_close(dpp_kernel(query, rows), dpp_kernel(query.float(), rows.float()))


def kernel(M=6, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return dpp_kernel(torch.randn(d, generator=generator), torch.randn(M, d, generator=generator), 0.5).double()


def test_every_greedy_step_adds_the_most_volume():
    L = kernel(9, 12)
    chosen = []
    for item in greedy_map(L, 5):
        volumes = {
            other: torch.det(L[[*chosen, other]][:, [*chosen, other]]) for other in range(9) if other not in chosen
        }
        assert item == max(volumes, key=volumes.__getitem__)
        chosen.append(item)
    assert len(greedy_map(torch.ones(4, 4), 3)) == 1  # one item has all the volume


def test_samples_have_the_probabilities_of_determinants():
    L = kernel(5, 6)
    sets = list(itertools.combinations(range(5), 2))
    volumes = torch.stack([torch.det(L[list(s)][:, list(s)]) for s in sets])
    generator = torch.Generator().manual_seed(0)
    count = 1500
    seen = Counter(tuple(sorted(k_dpp_sample(L, 2, generator))) for _ in range(count))
    for items, share in zip(sets, (volumes / volumes.sum()).tolist(), strict=True):
        assert seen[items] / count == pytest.approx(share, abs=0.05)
    first, again = (k_dpp_sample(L, 3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 3


def test_large_sets_are_drawn_by_determinants_below_the_smallest_number():
    kernel = torch.logspace(-9, 0, 100, dtype=torch.float64).diag()  # sets of 90 have 1e-364 at most
    drawn = k_dpp_sample(kernel, 90, torch.Generator().manual_seed(0))
    assert len(set(drawn)) == 90
    assert sum(item >= 10 for item in drawn) > 80


def test_equal_scores_have_a_finite_margin_loss():
    scores = torch.ones(2, 3, requires_grad=True)
    set_margin_loss(scores).backward()
    assert scores.grad.isfinite().all()


def test_bad_calls(unchecked):
    with pytest.raises(ValueError, match="scale=0 is not accepted"):
        dpp_kernel(torch.ones(2), torch.ones(3, 2), 0)
    with pytest.raises(ValueError, match=r"query of shape \(3,\) and cands of shape \(3, 2\) do not fit"):
        dpp_kernel(torch.ones(3), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"cands\[1\] is not finite; leave it out"):
        dpp_kernel(np.ones(2), np.array([[1, 1], [np.nan, 1], [1, 1]]))
    assert greedy_map(torch.ones(0, 0), 1) == []
    with pytest.raises(ValueError, match="n=1 is above the kernel's rank of 0"):
        k_dpp_sample(torch.ones(0, 0), 1)
    with pytest.raises(ValueError, match=r"shape \(2, 3\); a square matrix"):
        greedy_map(torch.ones(2, 3), 1)
    with pytest.raises(ValueError, match="n=0"):
        greedy_map(torch.eye(2), 0)
    for choose in (greedy_map, k_dpp_sample):
        with pytest.raises(ValueError, match="row 1 of the kernel is not finite; leave that item out"):
            choose(torch.diag(torch.tensor([1.0, torch.nan])), 1)
    with pytest.raises(ValueError, match="n=2 is above the kernel's rank of 1"):
        k_dpp_sample(torch.ones(3, 3), 2)
    one, two = torch.ones(1, 2), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"ctx_indices=\[2\] is not accepted: there are 2 contexts"):
        contrastive_exemplar_loss(one, two, torch.tensor([2]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels=\[1\] is not accepted: there are 1 ctx_indices"):
        contrastive_exemplar_loss(one, two, torch.tensor([0]), torch.tensor([1]))
