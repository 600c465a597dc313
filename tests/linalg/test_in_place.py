import pytest
import torch

from fullrank import linalg


@pytest.mark.parametrize("shape", [(40, 40), (60, 20), (20, 60), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_are_lapacks_and_the_matrix_is_used_up(shape, dtype):
    matrix = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    kept = matrix.clone()
    values = linalg.singular_values_in_place(matrix)
    assert values.dtype == dtype
    torch.testing.assert_close(values, torch.linalg.svdvals(kept), rtol=1e-5, atol=1e-5)
    assert not torch.equal(matrix, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_are_lapacks(dtype):
    matrix = torch.randn(30, 30, dtype=dtype, generator=torch.Generator().manual_seed(0))
    symmetric = matrix + matrix.mT
    expected = torch.linalg.eigvalsh(symmetric)
    torch.testing.assert_close(linalg.eigenvalues_in_place(symmetric), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("matrix", [torch.ones(4, 3).mT, torch.ones(3, 4).half(), torch.ones(3, 4, requires_grad=True)])
def test_a_matrix_that_cannot_be_overwritten_is_refused(matrix):
    with pytest.raises(ValueError, match=r"weights\.q .* cannot be overwritten"):
        linalg.singular_values_in_place(matrix, "weights.q")


def test_non_finite_entries_are_refused_before_they_are_lost():
    matrix = torch.ones(3, 4)
    matrix[1, 2] = float("inf")
    with pytest.raises(ValueError, match=r"inf at \(1, 2\)"):
        linalg.singular_values_in_place(matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("deficient", [False, True])
def test_blocks_of_rows_have_the_singular_values_of_the_whole(dtype, deficient):
    matrix = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    if deficient:
        matrix[:, 20:] = matrix[:, :20]
    matrix = matrix.to(dtype)
    values = linalg.singular_values_of_rows(lambda: iter(matrix.split(70)))
    expected = torch.linalg.svdvals(matrix.double())
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6 * float(expected[0]))


def test_a_bad_entry_in_a_block_is_named_by_its_row_in_the_whole():
    matrix = torch.ones(30, 4)
    matrix[25, 3] = float("nan")
    with pytest.raises(ValueError, match=r"nan at \(25, 3\)"):
        linalg.singular_values_of_rows(lambda: iter(matrix.split(10)))
    with pytest.raises(ValueError, match="no rows"):
        linalg.singular_values_of_rows(lambda: iter(()))
