import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank import linalg
from fullrank.spectra import effective_rank


def matrix_with(values: torch.Tensor, rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, len(values), dtype=torch.float64, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), dtype=torch.float64, generator=generator)).Q
    return (left * values) @ right.mT


def decay(kind: str, count: int, condition: float) -> torch.Tensor:
    if kind == "geometric":
        return torch.logspace(0, -math.log10(condition), count, dtype=torch.float64)
    values = torch.full((count,), 1 / condition, dtype=torch.float64)
    values[: 1 if kind == "one large" else count // 2] = 1
    return values


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(20, 200),
    columns=st.integers(20, 200),
    kind=st.sampled_from(["geometric", "one large", "step"]),
    condition=st.sampled_from([1.0, 30.0, 1e3, 1e5, 1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_auto_keeps_the_effective_rank_of_a_float64_svd(rows, columns, kind, condition, dtype, seed):
    matrix = matrix_with(decay(kind, min(rows, columns), condition), rows, columns, seed).to(dtype)
    exact = effective_rank(torch.linalg.svdvals(matrix.double()))
    found = effective_rank(linalg.singular_values(matrix).double())
    assert abs(found / exact - 1) < 1e-4


@pytest.mark.parametrize("shape", [(400, 50), (50, 400), (64, 64), (1, 7), (7, 1), (3, 2, 20, 10)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["auto", "exact", "gram"])
def test_every_route_agrees_with_lapack(shape, dtype, method):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = linalg.singular_values(matrix, method=method)
    expected = torch.linalg.svdvals(matrix.double())
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_a_batch_falls_back_only_where_it_must():
    matrices = torch.randn(3, 60, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrices[1] = torch.outer(matrices[1, :, 0], matrices[1, 0])
    values = linalg.singular_values(matrices)
    torch.testing.assert_close(values, torch.linalg.svdvals(matrices), rtol=1e-9, atol=1e-12)


def test_scale_does_not_matter():
    matrix = torch.randn(80, 30, generator=torch.Generator().manual_seed(2))
    values = linalg.singular_values(matrix)
    for power in (-100, 100):
        scaled = linalg.singular_values(matrix.double() * 2.0**power) / 2.0**power
        torch.testing.assert_close(scaled.float(), values, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 70), (torch.float32, 110), (torch.float64, 600)])
@pytest.mark.parametrize("method", ["auto", "exact", "gram"])
def test_every_matrix_of_a_batch_has_a_scale_of_its_own(dtype, power, method):
    matrix = torch.randn(80, 30, generator=torch.Generator().manual_seed(2), dtype=dtype)
    scales = torch.exp2(torch.tensor([-power, 0, power], dtype=dtype))
    expected = torch.linalg.svdvals(matrix.double()).to(dtype)
    factors = linalg.svd(matrix * scales[:, None, None], 5, method)
    for values in (linalg.singular_values(matrix * scales[:, None, None], method), factors.S):
        for found, scale in zip(values, scales, strict=True):
            torch.testing.assert_close(found / scale, expected[: len(found)], rtol=1e-5, atol=0)
    for power_of_two in scales:
        weighted = linalg.weighted_svd(matrix * power_of_two, 5)
        torch.testing.assert_close(weighted.S / power_of_two, expected[:5], rtol=1e-5, atol=0)


@pytest.mark.parametrize("power", [-75, 70])
def test_blocks_of_rows_whose_squares_single_precision_loses(power):
    matrix = torch.randn(80, 30, generator=torch.Generator().manual_seed(2))
    values = linalg.singular_values_of_rows(lambda: (matrix * 2.0**power).split(16))
    torch.testing.assert_close(values / 2.0**power, torch.linalg.svdvals(matrix), rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["auto", "exact", "gram", "randomized", "krylov"])
@pytest.mark.parametrize("shape", [(90, 40), (40, 90), (2, 50, 50)])
def test_factors_are_a_decomposition(method, shape):
    generator = torch.Generator().manual_seed(3)
    low = torch.randn(*shape[:-1], 6, generator=generator) @ torch.randn(*shape[:-2], 6, shape[-1], generator=generator)
    U, S, Vh = factors = linalg.svd(low, rank=6, method=method)
    torch.testing.assert_close(factors.reconstruct(), low, rtol=1e-4, atol=1e-4)
    eye = torch.eye(6).expand(*shape[:-2], 6, 6)
    torch.testing.assert_close(U.mT @ U, eye, rtol=0, atol=1e-4)
    torch.testing.assert_close(Vh @ Vh.mT, eye, rtol=0, atol=1e-4)
    assert bool((S.diff(dim=-1) <= 0).all())
    assert bool((torch.take_along_dim(U, U.abs().argmax(-2, keepdim=True), dim=-2) > 0).all())


def test_a_rank_deficient_matrix_keeps_orthonormal_factors():
    low = torch.ones(30, 20)
    U, S, Vh = linalg.svd(low)
    torch.testing.assert_close(Vh @ Vh.mT, torch.eye(20), rtol=0, atol=1e-5)
    torch.testing.assert_close(U.mT @ U, torch.eye(20), rtol=0, atol=1e-5)
    assert S[0] == pytest.approx(math.sqrt(600), rel=1e-5)


@pytest.mark.parametrize("method", ["randomized", "krylov"])
def test_random_directions_are_reproducible_and_take_a_generator(method):
    matrix = torch.randn(200, 100, generator=torch.Generator().manual_seed(4))
    once, twice = (linalg.svd(matrix, 5, method).U for _ in range(2))
    assert torch.equal(once, twice)
    other = linalg.svd(matrix, 5, method, generator=torch.Generator().manual_seed(9)).U
    assert not torch.equal(once, other)


@pytest.mark.parametrize("method", ["auto", "krylov"])
@pytest.mark.parametrize("shape", [(1024, 1024), (1024, 2048), (3072, 1024)])
def test_the_leading_directions_of_a_flat_spectrum_are_found(method, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    found, exact = linalg.svd(matrix, 8, method).S, linalg.singular_values(matrix)[:8]
    assert found.square().sum() > 0.99 * exact.square().sum()
    assert bool((found <= exact * (1 + 1e-5)).all())


@pytest.mark.parametrize("rank", [30, 90, 100])
def test_blocks_that_fill_the_matrix_are_exact(rank):
    matrix = torch.randn(100, 120, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(linalg.svd(matrix, rank, "krylov").S, linalg.singular_values(matrix)[:rank])


@pytest.mark.parametrize("method", ["randomized", "krylov"])
def test_gradient_passes_through_random_directions(method):
    generator = torch.Generator().manual_seed(4)
    falling = torch.randn(40, 30, dtype=torch.float64, generator=generator) * 0.5 ** torch.arange(30)
    matrix = falling.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(linalg.svd(matrix, 3, method).S.square().sum(), matrix)
    torch.testing.assert_close(gradient, 2 * linalg.svd(falling, 3, "exact").reconstruct(), rtol=1e-6, atol=1e-6)


def test_gradient_reaches_the_matrix():
    matrix = torch.randn(8, 5, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(5))
    assert torch.autograd.gradcheck(linalg.singular_values, (matrix,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_entries_are_refused_with_their_position(bad):
    matrix = torch.zeros(4, 6)
    matrix[2, 5] = bad
    with pytest.raises(ValueError, match=r"at \(2, 5\) \(1 of its 24"):
        linalg.singular_values(matrix)
    with pytest.raises(ValueError, match=r"at \(2, 5\)"):
        linalg.svd(matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: linalg.svd(m, rank=0), "rank=0 does not fit"),
        (lambda m: linalg.svd(m, rank=5), "1 to 4 is accepted"),
        (lambda m: linalg.svd(m, method="randomized"), "needs `rank`"),
        (lambda m: linalg.svd(m, method="krylov"), "needs `rank`"),
        (lambda m: linalg.svd(m[0]), "at least two axes"),
        (lambda m: linalg.svd(m.long()), "floating dtype"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_say_what_is_accepted(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(torch.ones(6, 4))


def test_zero_and_empty_matrices():
    assert linalg.singular_values(torch.zeros(5, 3)).tolist() == [0, 0, 0]
    assert linalg.singular_values(torch.zeros(0, 3)).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(
    columns=st.integers(1, 30),
    extra=st.integers(0, 200),
    size=st.integers(1, 90),
    condition=st.sampled_from([1.0, 1e3, 1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_blocks_of_rows_agree_with_the_whole(columns, extra, size, condition, dtype):
    matrix = matrix_with(decay("geometric", columns, condition), columns + extra, columns, 0).to(dtype)
    values = linalg.singular_values_of_rows(lambda: matrix.split(size))
    expected = torch.linalg.svdvals(matrix.double())
    assert values.dtype == dtype
    assert abs(effective_rank(values.double()) / effective_rank(expected) - 1) < 1e-4
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=2e-6)


def test_blocks_may_be_generated_in_half_precision():
    """As a checkpoint's rows come: float16, each block made when it is asked for, twice where float32 does not do."""
    matrix = matrix_with(decay("step", 24, 1e5), 500, 24, 1).half()
    passes = []

    def blocks():
        passes.append(0)
        for start in range(0, 500, 64):
            passes[-1] += 1
            yield matrix[start : start + 64]

    values = linalg.singular_values_of_rows(blocks)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), torch.linalg.svdvals(matrix.double()), rtol=1e-4, atol=1e-6)
    assert passes == [8, 8]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (63, 5), (64, 0), (199, 5)])
def test_a_bad_entry_of_a_block_has_its_row_in_the_whole(dtype, row, column):
    matrix = torch.ones(200, 6, dtype=dtype)
    matrix[row, column] = float("nan")
    with pytest.raises(ValueError, match=rf"table has nan at \({row}, {column}\)"):
        linalg.singular_values_of_rows(lambda: matrix.split(64), "table")
