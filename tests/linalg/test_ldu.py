"""LDU: the product is the matrix, the factors are SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.linalg import ldu


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_the_product_is_the_matrix(m: int, n: int, seed: int) -> None:
    W = torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    permutation, L, d, U, small = ldu(W)
    torch.testing.assert_close((L * d) @ U, W[permutation])
    k = min(m, n)
    torch.testing.assert_close(L.diagonal(), torch.ones(k, dtype=torch.float64))
    torch.testing.assert_close(U.diagonal(), torch.ones(k, dtype=torch.float64))
    assert torch.equal(L, L.tril())
    assert torch.equal(U, U.triu())
    assert small == 0


def test_the_factors_are_scipys() -> None:
    W = np.random.default_rng(0).normal(size=(18, 10))
    P, L, upper = scipy.linalg.lu(W)
    ours = ldu(torch.from_numpy(W))
    np.testing.assert_allclose(ours.L, L, atol=1e-12)
    np.testing.assert_allclose(ours.d, np.diag(upper), atol=1e-12)
    np.testing.assert_array_equal(ours.permutation, P.argmax(0))


@pytest.mark.parametrize("W", [torch.zeros(4, 6), torch.ones(5, 5), torch.diag(torch.tensor([2.0, 1e-9, 3.0]))])
def test_a_matrix_that_lacks_rank_keeps_its_product(W: torch.Tensor) -> None:
    permutation, L, d, U, small = ldu(W)
    assert small > 0
    torch.testing.assert_close((L * d) @ U, W[permutation])
    assert d.isfinite().all()
    assert U.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    W = torch.randn(6, 7).half()
    assert ldu(W).L.dtype == torch.float32
    torch.testing.assert_close(ldu(W).d, ldu(W.float()).d)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer\.3 has nan at \(1, 0\)"):
        ldu(torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]), name="layer.3")
    with pytest.raises(ValueError, match="pivot_floor=-1"):
        ldu(torch.eye(2), pivot_floor=-1.0)
