import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.linalg import svd, weighted_svd


def _matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _weights(size, seed):
    return _matrix(1, size, seed)[0].abs() + 0.1


def test_without_weights_it_is_the_truncated_svd():
    matrix = _matrix(7, 5)
    torch.testing.assert_close(weighted_svd(matrix, 3).reconstruct(), svd(matrix, 3).reconstruct())


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 9), columns=st.integers(2, 9), seed=st.integers(0, 99))
def test_no_other_matrix_of_that_rank_is_nearer_in_the_weights(rows, columns, seed):
    matrix, left, right = _matrix(rows, columns, seed), _weights(rows, seed + 1), _weights(columns, seed + 2)
    rank = min(rows, columns) - 1
    factors = weighted_svd(matrix, rank, left=left, right=right)

    def error(candidate):
        return float((left[:, None] * (matrix - candidate) * right).square().sum())

    lost = weighted_svd(matrix, left=left, right=right).S[rank:].square().sum()
    assert error(factors.reconstruct()) == pytest.approx(float(lost), rel=1e-6, abs=1e-12)
    assert error(factors.reconstruct()) <= error(svd(matrix, rank).reconstruct()) + 1e-12


def test_a_diagonal_matrix_and_its_vector_are_the_same_weights():
    matrix, left, right = _matrix(6, 4), _weights(6, 1), _weights(4, 2)
    vectors = weighted_svd(matrix, 2, left=left, right=right)
    matrices = weighted_svd(matrix, 2, left=left.diag(), right=right.diag())
    torch.testing.assert_close(vectors.reconstruct(), matrices.reconstruct())


def test_full_rank_gives_the_matrix_back_whatever_the_weights():
    matrix = _matrix(5, 8)
    right = _matrix(8, 8, 3)
    torch.testing.assert_close(weighted_svd(matrix, left=_weights(5, 1), right=right).reconstruct(), matrix)


def test_a_column_of_weight_zero_becomes_zero():
    matrix, right = _matrix(5, 4), torch.tensor([1.0, 0.0, 2.0, 1.0])
    product = weighted_svd(matrix, 3, right=right).reconstruct()
    assert product[:, 1].abs().max() == 0
    torch.testing.assert_close(product[:, [0, 2, 3]], matrix[:, [0, 2, 3]])


def test_both_routes_agree_and_keep_the_dtype():
    matrix = _matrix(40, 12).float()
    auto, exact = (weighted_svd(matrix, 5, right=_weights(12, 1), method=method) for method in ("auto", "exact"))
    torch.testing.assert_close(auto.reconstruct(), exact.reconstruct(), rtol=1e-5, atol=1e-6)
    assert auto.U.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 5}, "rank=5 does not fit a matrix of shape \\(6, 4\\)"),
        ({"left": torch.ones(4)}, "left has shape \\(4,\\): \\(6,\\) or \\(6, 6\\) fits the matrix.*go to right"),
        ({"right": torch.tensor([1.0, -1.0, 1.0, 1.0])}, "right has a negative weight"),
        ({"right": torch.tensor([1.0, float("nan"), 1.0, 1.0])}, "right"),
        ({"left": torch.zeros(6, 6)}, "left is a singular matrix"),
    ],
)
def test_weights_that_do_not_fit_are_refused(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        weighted_svd(_matrix(6, 4), **options)
