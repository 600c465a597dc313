import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.spectra import effective_rank, energy_rank, power_law_exponent, ranks, spectral_entropy, stable_rank

spectra = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


@settings(max_examples=40, deadline=None)
@given(values=spectra)
def test_the_squared_entropy_is_that_of_the_squares(values):
    assert float(effective_rank(values, squared=True)) == pytest.approx(float(effective_rank(values**2)), rel=1e-12)
    p = values / values.sum()
    assert float(spectral_entropy(values)) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(values=spectra)
def test_zeros_add_nothing(values):
    padded = torch.nn.functional.pad(values, (0, 5))
    for rank in (effective_rank, stable_rank, ranks.participation_ratio, ranks.nuclear_norm, ranks.frobenius_norm):
        assert float(rank(padded)) == pytest.approx(float(rank(values)), rel=1e-12)
    assert int(energy_rank(padded, 1.0)) == len(values)


@pytest.mark.parametrize("count", [10, 1000])
def test_shares_that_are_reached_exactly_are_reached(count):
    values = torch.ones(count)
    assert [int(energy_rank(values, tenths / 10)) for tenths in range(1, 11)] == [
        tenths * count // 10 for tenths in range(1, 11)
    ]


@settings(max_examples=40, deadline=None)
@given(values=spectra, eps=st.sampled_from([1e-7, 1e-5, 1e-3]))
def test_eps_adds_to_every_share_outside_the_normalisation(values, eps):
    p = values / values.sum() + eps
    assert float(effective_rank(values, eps=eps)) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-12)


@pytest.mark.parametrize(("eps", "inflation"), [(1e-7, 1.0014), (1e-5, 1.15)])
def test_what_eps_does_to_a_wide_embedding(eps, inflation):
    values = torch.arange(1, 2049, dtype=torch.float64) ** -1.0
    assert float(effective_rank(values, eps=eps) / effective_rank(values)) == pytest.approx(inflation, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(exponent=st.floats(0.1, 3), first=st.integers(1, 5), count=st.integers(12, 200))
def test_a_power_law_gives_its_exponent_back(exponent, first, count):
    values = torch.arange(1, count + 1, dtype=torch.float64) ** (-exponent / 2)
    assert float(power_law_exponent(values, first=first)) == pytest.approx(exponent, rel=1e-9)


def test_a_power_law_ignores_the_tail_of_a_deficient_matrix():
    values = torch.arange(1, 41, dtype=torch.float64) ** -0.5
    values[30:] = 1e-18
    assert float(power_law_exponent(values)) == pytest.approx(1, rel=1e-9)


def test_a_slope_needs_two_indices():
    with pytest.raises(ValueError, match="first=3 and last=3 of 3 values"):
        power_law_exponent(torch.tensor([3.0, 2.0, 1.0]))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_ranks_have_gradients(seed):
    values = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).add(0.1).requires_grad_()
    for rank in (effective_rank, spectral_entropy, stable_rank, ranks.participation_ratio, ranks.nuclear_norm):
        assert torch.autograd.gradcheck(rank, (values,))


def test_the_gradient_at_zero_values_is_finite():
    values = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
    effective_rank(values).backward()
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())


@pytest.mark.parametrize("count", [1, 4, 100])
def test_flat_spectra_have_every_rank(count):
    values = torch.full((count,), 0.3)
    for rank in (effective_rank, stable_rank, ranks.participation_ratio):
        assert float(rank(values)) == pytest.approx(count, rel=1e-5)
    assert float(spectral_entropy(values)) == pytest.approx(math.log(count), abs=1e-5)
