"""Wavelet transforms: against PyWavelets, orthonormal in every size."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.linalg import band_sizes, dwt, idwt

WAVELETS = ["haar", "db2", "db4", "sym4", "coif1", "db8"]


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize(("size", "levels"), [(2, 1), (8, 1), (8, 3), (12, 2), (96, 2), (384, 3)])
def test_coefficients_are_those_of_pywavelets(wavelet: str, size: int, levels: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, size))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Level value of .* is too high")
        theirs = np.concatenate(pywt.wavedec(x, wavelet, "periodization", levels, axis=-1), -1)
    np.testing.assert_allclose(dwt(torch.from_numpy(x), wavelet, levels), theirs, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WAVELETS), st.integers(1, 40), st.integers(1, 4))
def test_the_transform_is_orthonormal_and_inverted_by_its_adjoint(wavelet: str, size: int, levels: int) -> None:
    T = dwt(torch.eye(size, dtype=torch.float64), wavelet, levels).mT
    assert T.shape == (sum(band_sizes(size, levels)), size)
    torch.testing.assert_close(T.mT @ T, torch.eye(size, dtype=torch.float64))
    c = torch.randn(2, len(T), dtype=torch.float64)
    torch.testing.assert_close(idwt(c, size, wavelet, levels), c @ T)


def test_gradients_flow_and_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dwt(x, "db2", 2), x)
    assert torch.autograd.gradcheck(
        lambda c: idwt(c, 10, "db2", 1), torch.randn(10, dtype=torch.float64, requires_grad=True)
    )
    half = torch.randn(3, 8).bfloat16()
    torch.testing.assert_close(dwt(half), dwt(half.float()))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dwt(torch.zeros(4), "nonsense"), "'nonsense' is not known"),
        (lambda: dwt(torch.zeros(4), "bior2.2"), "not orthogonal"),
        (lambda: dwt(torch.zeros(4), levels=0), "levels=0"),
        (lambda: idwt(torch.zeros(5), 4), "5 coefficients, but a signal of size=4 has 4"),
        (lambda: band_sizes(0, 1), "size=0"),
    ],
)
def test_bad_input_is_named(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
