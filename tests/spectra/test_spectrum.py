import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.spectra import Spectrum

RANKS = ("effective_rank", "stable_rank", "participation_ratio", "numerical_rank")
sides = st.integers(1, 24)
seeds = st.integers(0, 999)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(rows: int, columns: int, rank: int, seed: int = 0) -> torch.Tensor:
    return gaussian(rows, rank, seed=seed) @ gaussian(rank, columns, seed=seed + 1)


def every_rank(spectrum: Spectrum) -> dict[str, float]:
    found = {name: float(getattr(spectrum, name)) for name in RANKS}
    return found | {
        "rankme": float(spectrum.rankme()),
        "energy": float(spectrum.energy_rank(0.9)),
        "error": float(spectrum.error_rank(0.3)),
    }


@settings(max_examples=25, deadline=None)
@given(rows=sides, columns=sides, seed=seeds)
def test_orthogonal_transforms_and_transposition_change_nothing(rows, columns, seed):
    A = gaussian(rows, columns, seed=seed)
    Q, P = (torch.linalg.qr(gaussian(side, side, seed=seed + 1)).Q for side in (rows, columns))
    before = Spectrum.of(A)
    for moved in (Q @ A, A @ P, Q @ A @ P, A.mT):
        after = Spectrum.of(moved)
        torch.testing.assert_close(after.values, before.values, rtol=1e-7, atol=1e-7)
        assert every_rank(after) == pytest.approx(every_rank(before), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(rows=sides, columns=sides, seed=seeds, scale=st.sampled_from([1e-30, -1e-3, 7.0, 1e25]))
def test_ranks_ignore_scale_and_norms_follow_it(rows, columns, seed, scale):
    A = gaussian(rows, columns, seed=seed)
    before, after = Spectrum.of(A), Spectrum.of(scale * A)
    assert every_rank(after) == pytest.approx(every_rank(before), rel=1e-6)
    for norm in ("nuclear_norm", "frobenius_norm", "spectral_norm"):
        assert float(getattr(after, norm)) == pytest.approx(abs(scale) * float(getattr(before, norm)), rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(rows=sides, columns=sides, rank=st.integers(1, 24), seed=seeds)
def test_ranks_keep_their_order(rows, columns, rank, seed):
    """1 <= stable rank, participation ratio <= effective rank <= rank <= min(shape)."""
    rank = min(rank, rows, columns)
    spectrum = Spectrum.of(low_rank(rows, columns, rank, seed))
    found = {name: float(getattr(spectrum, name)) for name in RANKS}
    assert found["numerical_rank"] == rank <= min(spectrum.shape)
    # The tail of a float64 spectrum is rounding: it may lift the entropy by its logarithm, no more.
    slack = 1 + 1e-9
    assert 1 <= found["effective_rank"] * slack <= rank * slack**2 + 1e-4
    assert 1 <= found["stable_rank"] * slack <= rank * slack**2
    assert found["stable_rank"] <= found["participation_ratio"] * slack
    assert found["participation_ratio"] <= found["effective_rank"] * slack
    assert float(spectrum.frobenius_norm) <= float(spectrum.nuclear_norm) * slack
    assert float(spectrum.nuclear_norm) <= math.sqrt(rank) * float(spectrum.frobenius_norm) * slack + 1e-4


@settings(max_examples=25, deadline=None)
@given(rows=sides, columns=sides, seed=seeds, share=st.floats(0.05, 1.0))
def test_energy_and_error_ranks_are_the_smallest_that_suffice(rows, columns, seed, share):
    spectrum = Spectrum.of(gaussian(rows, columns, seed=seed))
    power = spectrum.values.square()
    held = power.cumsum(0) / power.sum()
    k = int(spectrum.energy_rank(share))
    assert held[k - 1] >= share - 1e-9
    assert k == 1 or held[k - 2] < share + 1e-9
    r = int(spectrum.error_rank(0.5))
    assert float((1 - held[r - 1]).clamp_min(0).sqrt()) <= 0.5 + 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 17])
def test_identity_is_full_in_every_sense(size, dtype):
    spectrum = Spectrum.of(torch.eye(size, dtype=dtype))
    assert spectrum.dtype == dtype
    assert every_rank(spectrum) == pytest.approx(
        dict.fromkeys(every_rank(spectrum), size) | {"energy": math.ceil(0.9 * size), "error": math.ceil(0.91 * size)},
        rel=1e-4,
    )
    assert float(spectrum.entropy) == pytest.approx(math.log(size), abs=1e-6)
    assert float(spectrum.condition_number) == 1


def test_rank_one():
    spectrum = Spectrum.of(torch.outer(gaussian(30), gaussian(20, seed=1)))
    assert every_rank(spectrum) == pytest.approx(dict.fromkeys(every_rank(spectrum), 1), abs=1e-4)
    assert float(spectrum.nuclear_norm) == pytest.approx(float(spectrum.spectral_norm), rel=1e-6)


@pytest.mark.parametrize("q", [0.3, 0.5, 0.9])
def test_geometric_decay_in_closed_form(q):
    """s_k = q^k: the entropy of a truncated geometric distribution, and geometric sums for the others."""
    n = 40
    Q, P = (torch.linalg.qr(gaussian(side, n, seed=side)).Q for side in (60, 50))
    spectrum = Spectrum.of((Q * q ** torch.arange(n, dtype=torch.float64)) @ P.mT)

    def total(ratio: float) -> float:
        return (1 - ratio**n) / (1 - ratio)

    mean_index = q / (1 - q) - n * q**n / (1 - q**n)
    entropy = math.log(total(q)) - mean_index * math.log(q)
    assert float(spectrum.entropy) == pytest.approx(entropy, rel=1e-7)
    assert float(spectrum.effective_rank) == pytest.approx(math.exp(entropy), rel=1e-7)
    assert float(spectrum.nuclear_norm) == pytest.approx(total(q), rel=1e-7)
    assert float(spectrum.stable_rank) == pytest.approx(total(q**2), rel=1e-7)
    assert float(spectrum.participation_ratio) == pytest.approx(total(q**2) ** 2 / total(q**4), rel=1e-7)
    # The tail after k values holds (q^2k - q^2n) / (1 - q^2n) of the energy.
    energy = next(k for k in range(1, n + 1) if q ** (2 * k) - q ** (2 * n) <= 0.01 * (1 - q ** (2 * n)))
    assert int(spectrum.energy_rank(0.99)) == energy
    assert int(spectrum.error_rank(0.1)) == energy


@settings(max_examples=10, deadline=None)
@given(batch=st.sampled_from([(3,), (2, 2), (1,)]), rows=sides, columns=sides, seed=seeds)
def test_a_batch_is_its_matrices(batch, rows, columns, seed):
    matrices = gaussian(*batch, rows, columns, seed=seed)
    together = Spectrum.of(matrices)
    assert together.shape == (rows, columns)
    assert together.effective_rank.shape == batch
    for index, matrix in enumerate(matrices.flatten(0, -3)):
        alone = Spectrum.of(matrix)
        for name in (*RANKS, "nuclear_norm", "condition_number"):
            found = float(getattr(together, name).flatten()[index])
            assert found == pytest.approx(float(getattr(alone, name)), rel=1e-6)


def test_a_zero_matrix_has_no_effective_rank():
    spectrum = Spectrum.of(torch.zeros(5, 3))
    assert spectrum.values.tolist() == [0, 0, 0]
    assert int(spectrum.numerical_rank) == 0
    assert float(spectrum.nuclear_norm) == 0
    assert math.isnan(float(spectrum.effective_rank))
    assert math.isnan(float(spectrum.stable_rank))


def test_a_zero_matrix_does_not_spoil_its_batch():
    matrices = torch.stack([torch.zeros(6, 4), torch.eye(6, 4)])
    assert Spectrum.of(matrices).effective_rank.isnan().tolist() == [True, False]
    assert float(Spectrum.of(matrices).effective_rank[1]) == pytest.approx(4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_computed_in_float32(dtype, tolerance):
    A = gaussian(80, 30)
    half = Spectrum.of(A.to(dtype))
    assert half.values.dtype == torch.float32
    torch.testing.assert_close(half.values, Spectrum.of(A.to(dtype).double()).values.float(), rtol=1e-5, atol=1e-5)
    assert float(half.effective_rank) == pytest.approx(float(Spectrum.of(A).effective_rank), rel=tolerance)
    assert int(half.numerical_rank) == 30  # counted with float32's epsilon: half's would hide values of any matrix


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_centring_takes_the_common_row_away(dtype):
    A = gaussian(50, 6).to(dtype)
    offset = A + 8
    centred = Spectrum.of(offset, center=True)
    torch.testing.assert_close(centred.values, Spectrum.of(A, center=True).values, rtol=1e-2, atol=2e-2)
    assert float(Spectrum.of(offset).effective_rank) < float(centred.effective_rank)


@pytest.mark.parametrize("method", ["auto", "exact", "gram"])
def test_every_method_gives_the_same_ranks(method):
    A = gaussian(60, 25)
    assert every_rank(Spectrum.of(A, method=method)) == pytest.approx(every_rank(Spectrum.of(A)), rel=1e-6)


@pytest.mark.parametrize(("shape", "rank"), [((10, 10), 4), ((768, 768), 383), ((3072, 768), 614), ((1, 9), 0)])
def test_break_even_rank_is_the_last_that_saves(shape, rank):
    m, n = shape
    found = Spectrum.of(torch.ones(shape)).break_even_rank
    assert found == rank
    assert found * (m + n) < m * n <= (found + 1) * (m + n)


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        ([2.0, 1.0], (5, 3), r"2 values do not belong to a matrix of shape \(5, 3\): 3 are needed"),
        ([1.0, 2.0], (2, 2), "descending"),
        ([1.0, -1.0], (2, 2), "non-negative"),
        ([math.nan, 1.0], (2, 2), "finite"),
        ([math.inf, 1.0], (2, 2), "finite"),
    ],
)
def test_values_that_are_no_spectrum(values, shape, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(torch.tensor(values), shape)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_entry_is_named(bad):
    A = torch.ones(4, 3)
    A[2, 1] = bad
    with pytest.raises(ValueError, match=r"at \(2, 1\) \(1 of its 12 entries"):
        Spectrum.of(A)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_bad_shares(share):
    with pytest.raises(ValueError, match=rf"energy={share} is not a share"):
        Spectrum.of(torch.eye(3)).energy_rank(share)


@pytest.mark.parametrize("error", [-0.1, 1.0])
def test_bad_errors(error):
    with pytest.raises(ValueError, match=rf"error={error} is not a relative error"):
        Spectrum.of(torch.eye(3)).error_rank(error)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [(torch.ones(4), "at least two axes"), (torch.ones(4, 4).long(), "a floating dtype is needed")],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_matrix(matrix, message, center):
    with pytest.raises(ValueError, match=message):
        Spectrum.of(matrix, center=center)
