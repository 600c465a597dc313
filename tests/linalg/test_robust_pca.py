"""Robust PCA: known sums are taken apart, both forms agree, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.linalg import RobustPCA, robust_pca


def known_sum(m, n, rank, share, seed=0, dtype=torch.float64):
    """Gaussian factors, and large errors at random places."""
    normal = torch.Generator().manual_seed(seed)
    L = torch.randn(m, rank, generator=normal, dtype=dtype) @ torch.randn(rank, n, generator=normal, dtype=dtype)
    S = 10 * torch.randn(m, n, generator=normal, dtype=dtype)
    return L, S * (torch.rand(m, n, generator=normal, dtype=dtype) < share)


def relative(found, true):
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("method", ["ialm", "randomized"])
@pytest.mark.parametrize(("m", "n"), [(80, 80), (120, 60), (50, 110)])
def test_a_known_sum_is_taken_apart(m, n, method):
    L, S = known_sum(m, n, rank=3, share=0.05)
    found = robust_pca(L + S, method=method)
    assert bool(found.converged)
    assert float(found.residual) <= 1e-7
    assert int(found.rank) == 3
    assert relative(found.low_rank, L) < 1e-5
    assert relative(found.sparse, S) < 1e-5
    assert torch.equal(found.sparse.abs() > 1e-4, S.abs() > 1e-4)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 4), share=st.floats(0.0, 0.06))
def test_both_forms_agree(seed, rank, share):
    M = sum(known_sum(70, 60, rank, share, seed))
    exact, fast = robust_pca(M), robust_pca(M, method="randomized")
    assert relative(fast.low_rank, exact.low_rank) < 1e-5
    assert int(fast.rank) == int(exact.rank)
    assert int(exact.iterations) <= 60


@pytest.mark.parametrize("method", ["ialm", "randomized"])
def test_a_batch_is_its_items(method):
    M = torch.stack([sum(known_sum(40, 30, rank, share)) for rank, share in ((1, 0.02), (2, 0.1), (3, 0))])
    M = torch.cat([M, torch.zeros(1, 40, 30, dtype=M.dtype)]).view(2, 2, 40, 30)
    found = robust_pca(M, method=method)
    assert found.rank.shape == found.converged.shape == (2, 2)
    assert len(set(found.iterations.flatten().tolist())) > 1
    for place in ((0, 0), (0, 1), (1, 0)):
        alone = robust_pca(M[place], method=method)
        torch.testing.assert_close(found.low_rank[place], alone.low_rank, rtol=1e-4, atol=1e-5)
        if method == "ialm":
            assert int(found.iterations[place]) == int(alone.iterations)
    assert int(found.rank[1, 1]) == int(found.iterations[1, 1]) == 0
    assert not found.low_rank[1, 1].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    L, S = known_sum(60, 50, 2, 0.03)
    found = robust_pca((L + S).to(dtype))
    assert isinstance(found, RobustPCA)
    assert found.low_rank.dtype == found.sparse.dtype == dtype
    assert relative(found.low_rank.double(), L) < {torch.float64: 1e-5, torch.float32: 1e-4}.get(dtype, 0.1)


def test_scale_and_transposition_change_nothing():
    M = sum(known_sum(50, 40, 2, 0.05))
    found = robust_pca(M)
    torch.testing.assert_close(robust_pca(1e4 * M).low_rank, 1e4 * found.low_rank, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(robust_pca(M.mT).sparse, found.sparse.mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 120), (torch.float32, -110), (torch.float64, 1000)])
def test_norms_beyond_the_range_of_the_dtype(dtype, power):
    M = sum(known_sum(12, 9, rank=2, share=0.05, dtype=dtype))
    found, expected = robust_pca(M * 2.0**power), robust_pca(M)
    assert bool(found.converged)
    assert int(found.rank) == int(expected.rank)
    torch.testing.assert_close(found.low_rank / 2.0**power, expected.low_rank, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.sparse / 2.0**power, expected.sparse, rtol=1e-6, atol=1e-6)


def test_the_weight_moves_what_is_sparse():
    M = sum(known_sum(40, 40, 3, 0.1))
    ranks = [int(robust_pca(M, lam=lam).rank) for lam in (0.02, 0.16, 2.0)]
    assert ranks == sorted(ranks)
    assert not robust_pca(M, lam=10.0).sparse.any()


def test_a_run_that_is_cut_short_says_so():
    M = sum(known_sum(30, 30, 2, 0.1))
    with pytest.warns(RuntimeWarning, match=r"1 of 1 matrices did not reach the relative residual 1e-07 in 3 iterat"):
        found = robust_pca(M, max_iterations=3)
    assert not bool(found.converged)
    assert int(found.iterations) == 3
    assert float(found.residual) == pytest.approx(relative(found.low_rank + found.sparse, M), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exact"}, "method='exact' is not known; accepted: 'ialm', 'randomized'"),
        ({"lam": 0.0}, "lam=0.0: use a positive number"),
        ({"lam": float("inf")}, "lam=inf: use a positive number"),
        ({"tolerance": -1.0}, "tolerance=-1.0: use a positive number"),
        ({"max_iterations": 0}, "max_iterations=0: use at least 1"),
        ({"matrix": torch.eye(3, dtype=torch.long)}, "matrix has dtype torch.int64: a floating dtype is needed"),
        ({"matrix": torch.ones(3)}, r"matrix has shape \(3,\): \(\.\.\., rows, columns\)"),
        ({"matrix": torch.ones(0, 3)}, r"matrix has shape \(0, 3\)"),
        ({"matrix": torch.tensor([[1.0, float("nan")]])}, r"matrix has nan at \(0, 1\)"),
    ],
)
def test_bad_input(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        robust_pca(**({"matrix": torch.eye(3)} | options))
