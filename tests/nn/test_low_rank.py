import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fullrank.linalg import singular_values
from fullrank.nn import LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankLinear


def _conv(axes, **options):
    torch.manual_seed(0)
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    return kind(4, 6, 3, **options)


LOW_RANK = {1: LowRankConv1d, 2: LowRankConv2d, 3: LowRankConv3d}


@settings(max_examples=20, deadline=None)
@given(
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    bias=st.booleans(),
    split=st.sampled_from(["left", "right", "balanced"]),
)
def test_full_rank_reproduces_the_dense_layer(inputs, outputs, bias, split):
    dense = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(2, 3, inputs)
    low_rank = LowRankLinear.from_linear(dense, min(inputs, outputs), split=split)
    torch.testing.assert_close(low_rank(x), dense(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(low_rank.to_linear()(x), low_rank(x), rtol=1e-4, atol=1e-5)


def test_what_truncation_loses_is_the_tail_of_the_spectrum():
    dense = nn.Linear(9, 7)
    low_rank = LowRankLinear.from_linear(dense, 3)
    lost = singular_values(dense.weight.detach())[3:].square().sum().sqrt()
    torch.testing.assert_close(low_rank.delta(dense).norm(), lost)
    assert (low_rank.in_features, low_rank.out_features, low_rank.rank) == (9, 7, 3)


def test_balanced_factors_have_equal_norms():
    low_rank = LowRankLinear.from_linear(nn.Linear(9, 7), 3, split="balanced")
    torch.testing.assert_close(low_rank.first.weight.norm(), low_rank.second.weight.norm())


def test_weights_move_the_error_to_the_inputs_that_matter_less():
    torch.manual_seed(0)
    dense = nn.Linear(8, 8)
    weights = torch.tensor([100.0] * 4 + [0.01] * 4)
    error = LowRankLinear.from_linear(dense, 4, in_weight=weights).delta(dense).norm(dim=0)
    assert error[:4].max() < 0.01 * error[4:].min()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_mode_and_training_of_the_layer_are_kept(dtype):
    dense = nn.Linear(6, 5).to(dtype).eval().requires_grad_(False)
    low_rank = LowRankLinear.from_linear(dense, 2)
    assert {p.dtype for p in low_rank.parameters()} == {dtype}
    assert not low_rank.training
    assert not any(p.requires_grad for p in low_rank.parameters())
    assert low_rank.bias is not dense.bias


def test_a_layer_is_saved_and_differentiated(tmp_path):
    low_rank = LowRankLinear.from_linear(nn.Linear(6, 5), 2)
    save_file(low_rank.state_dict(), tmp_path / "layer.safetensors")
    other = LowRankLinear(6, 5, 2)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    x = torch.randn(4, 6, requires_grad=True)
    torch.testing.assert_close(other(x), low_rank(x))
    low_rank(x).sum().backward()
    assert all(p.grad is not None for p in low_rank.parameters())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": "same", "bias": False}]
)
def test_a_convolution_of_full_rank_is_the_dense_one(axes, options):
    conv = _conv(axes, **options)
    x = torch.randn(2, 4, *[9, 8, 7][:axes])
    low_rank = LOW_RANK[axes].from_conv(conv, 6)
    torch.testing.assert_close(low_rank(x), conv(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(low_rank.to_conv()(x), conv(x), rtol=1e-4, atol=1e-5)


def test_a_truncated_convolution_is_its_own_product():
    conv = _conv(2, padding=1, padding_mode="reflect")
    low_rank = LowRankConv2d.from_conv(conv, 2, split="balanced")
    x = torch.randn(1, 4, 6, 5)
    torch.testing.assert_close(low_rank.to_conv()(x), low_rank(x), rtol=1e-4, atol=1e-5)
    lost = singular_values(conv.weight.detach().flatten(1))[2:].norm()
    torch.testing.assert_close((conv.weight - low_rank.weight()).norm(), lost)
    assert (low_rank.in_channels, low_rank.out_channels, low_rank.rank) == (4, 6, 2)


def test_bad_ranks_groups_and_layers_are_refused():
    with pytest.raises(ValueError, match="rank=0"):
        LowRankLinear(3, 3, 0)
    with pytest.raises(ValueError, match="rank=9 does not fit a matrix of shape \\(5, 6\\)"):
        LowRankLinear.from_linear(nn.Linear(6, 5), 9)
    with pytest.raises(ValueError, match="rank=3 is no multiple of groups=2: use 4"):
        LowRankConv2d(4, 4, 3, 3, groups=2)
    with pytest.raises(ValueError, match="groups=2"):
        LowRankConv2d.from_conv(nn.Conv2d(4, 4, 3, groups=2), 2)
    with pytest.raises(ValueError, match="groups=2"):
        LowRankConv2d(4, 4, 2, 3, groups=2).to_conv()
    with pytest.raises(ValueError, match="compare it with the layer it came from"):
        LowRankLinear(3, 4, 2).delta(nn.Linear(4, 3))


def test_an_unknown_split_is_refused(unchecked):
    with pytest.raises(ValueError, match="split='middle' is not known"):
        LowRankLinear.from_linear(nn.Linear(3, 3), 1, split="middle")


def test_ranks_that_are_no_whole_numbers_and_other_layers_are_refused(unchecked):
    for make in (lambda rank: LowRankLinear(3, 3, rank), lambda rank: LowRankLinear.from_linear(nn.Linear(3, 3), rank)):
        for rank in (2.5, True, "2"):
            with pytest.raises(ValueError, match=f"rank={rank!r}: a layer needs a whole rank"):
                make(rank)
    with pytest.raises(TypeError, match=r"conv is a Conv1d: an nn.Conv2d is accepted"):
        LowRankConv2d.from_conv(nn.Conv1d(4, 4, 3), 2)
    with pytest.raises(TypeError, match="linear is a Conv1d"):
        LowRankLinear.from_linear(nn.Conv1d(4, 4, 3), 2)


def test_a_matrix_of_input_weights_has_a_name_of_its_own():
    linear, matrix = nn.Linear(6, 5), torch.randn(6, 6)
    expected = LowRankLinear.from_linear(linear, 2, matrix).weight()
    torch.testing.assert_close(LowRankLinear.from_linear(linear, 2, in_matrix=matrix).weight(), expected)
    with pytest.raises(ValueError, match="give one of them"):
        LowRankLinear.from_linear(linear, 2, torch.ones(6), in_matrix=matrix)
