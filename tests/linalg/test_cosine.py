"""The cosine transform: against SciPy, in every kind of size and dtype."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.linalg import cosine_rows, dct, dct2, dct2_at, idct2, sparse_idct2

SHAPES = [(1, 1), (1, 5), (2, 3), (7, 8), (13, 13), (64, 96), (97, 31), (384, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_both_directions_are_scipys(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(3, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    forward = torch.from_numpy(scipy.fft.dctn(x.double().numpy(), axes=(1, 2), norm="ortho"))
    back = torch.from_numpy(scipy.fft.idctn(x.double().numpy(), axes=(1, 2), norm="ortho"))
    assert dct2(x).dtype == dtype
    torch.testing.assert_close(dct2(x).double(), forward, rtol=tolerance, atol=tolerance * 3)
    torch.testing.assert_close(idct2(x).double(), back, rtol=tolerance, atol=tolerance * 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_the_inverse_is_the_adjoint(p: int, q: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    S, G = (torch.randn(p, q, dtype=torch.float64, generator=generator) for _ in range(2))
    torch.testing.assert_close(dct2(idct2(S)), S)
    torch.testing.assert_close((idct2(S) * G).sum(), (S * dct2(G)).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(0, 1000))
def test_single_entries_are_those_of_the_whole_transforms(p: int, q: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randint(p, (2, k), generator=generator), torch.randint(q, (2, k), generator=generator)
    x = torch.randn(p, q, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(dct2_at(x, u, v), dct2(x)[u, v])
    a = torch.randn(k, dtype=torch.float64, generator=generator)
    S = torch.zeros(p, q, dtype=torch.float64).index_put((u[0], v[0]), a, accumulate=True)
    torch.testing.assert_close(sparse_idct2(a, u[0], v[0], (p, q)), idct2(S))


@pytest.mark.parametrize("size", [1, 2, 7, 96])
def test_one_axis_is_scipys(size: int) -> None:
    x = torch.randn(3, size, dtype=torch.float64)
    torch.testing.assert_close(dct(x), torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho")))


def test_no_signals_have_no_transforms() -> None:
    assert dct(torch.zeros(0, 7)).shape == (0, 7)


def test_factors_first_needed_without_gradients_serve_training() -> None:
    with torch.inference_mode():
        dct2(torch.randn(19, 23))
    x = torch.randn(19, 23, requires_grad=True)
    dct2(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("size", [1, 2, 9, 768, 4096])
def test_rows_are_orthonormal_and_make_the_transform(size: int) -> None:
    some = torch.arange(size) if size < 1000 else torch.tensor([0, 1, 2, 1023, 2048, 4094, 4095])
    rows = cosine_rows(some, size).double()
    torch.testing.assert_close(rows @ rows.mT, torch.eye(len(some), dtype=torch.float64), rtol=0, atol=1e-6)
    unit = torch.zeros(len(some), size, dtype=torch.float64)
    unit[torch.arange(len(some)), some] = 1
    through = torch.from_numpy(scipy.fft.idct(unit.numpy(), axis=1, norm="ortho"))
    torch.testing.assert_close(cosine_rows(some, size, torch.float64), through, rtol=0, atol=1e-12)


def test_gradients_flow() -> None:
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dct2, x)
    assert torch.autograd.gradcheck(idct2, x)
    u, v = torch.tensor([0, 2, 4, 2]), torch.tensor([3, 0, 5, 0])
    assert torch.autograd.gradcheck(lambda x: dct2_at(x, u, v), x)
    a = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: sparse_idct2(a, u, v, (5, 6)), a)


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(6, 7).bfloat16()
    torch.testing.assert_close(dct2(x), dct2(x.float()))


def test_frequencies_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 7 are accepted"):
        cosine_rows(torch.tensor([0, 8]), 8)
