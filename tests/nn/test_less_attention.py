from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullrank.nn import ContinuousPositionChannelEmbedding, LESSAttention, LESSBlock, perception_field_mask
from fullrank.nn.less_attention import AttentionPool, admissible_channel_head_dims
from fullrank.nn.less_positions import rotate, sincos, spatial_rotation, spectral_rotation


def attention(dim=24, heads=2, **options):
    torch.manual_seed(0)
    layer = LESSAttention(dim, heads, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def random_grid(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def attention_maps(branch, tokens):
    """softmax(q kᵀ / √d), (batch, rank, heads, tokens, tokens), and v."""
    q, k, v = branch.query_key_value(tokens)
    return (q @ k.mT / branch.head_dim**0.5).softmax(-1), v.expand_as(q)


# --- the attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("value_per_rank", [False, True])
@pytest.mark.parametrize("rank_reduce", ["sum", "mean"])
def test_it_is_the_joint_attention_of_a_sum_of_kronecker_products(rank, value_per_rank, rank_reduce):
    """On a 3 x 4 grid, with the (C N) x (C N) matrix written out: A_c ⊗ A_s applied to v_c ⊗ v_s."""
    layer = attention(rank=rank, value_per_rank=value_per_rank, rank_reduce=rank_reduce).double()
    grid = random_grid(2, 3, 4, 24).double()
    z_c, z_s = layer.pooling(grid)
    A_c, v_c = attention_maps(layer.channel_branch, z_c)
    A_s, v_s = attention_maps(layer.spatial_branch, z_s)
    joint = torch.einsum("zrhcd,zrhnm->zrhcndm", A_c, A_s).reshape(2, rank, 2, 12, 12)
    values = torch.einsum("zrhca,zrhnb->zrhcnab", v_c, v_s).reshape(2, rank, 2, 12, -1)
    O = (joint @ values).sum(1) / (rank if rank_reduce == "mean" else 1)  # noqa: E741
    O = O.permute(0, 2, 1, 3).reshape(2, 3, 4, 24)  # noqa: E741
    torch.testing.assert_close(layer(grid), layer.output(O))


def test_pooling_is_multi_head_attention_of_the_first_token():
    torch.manual_seed(0)
    pool = AttentionPool(12, 3).double()
    reference = nn.MultiheadAttention(12, 3, batch_first=True).double()
    for parameter in pool.parameters():
        nn.init.normal_(parameter)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([pool.query.weight, pool.key_value.weight]),
            "in_proj_bias": torch.cat([pool.query.bias, pool.key_value.bias]),
            "out_proj.weight": pool.output.weight,
            "out_proj.bias": pool.output.bias,
        }
    )
    rows = random_grid(2, 4, 5, 12).double()
    flat = rows.flatten(0, 1)
    expected = reference(flat[:, :1], flat, flat, need_weights=False)[0]
    torch.testing.assert_close(pool(rows), expected.reshape(2, 4, 12))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 5),
    patches=st.integers(1, 5),
    heads=st.sampled_from([1, 2, 3]),
    channel_head_dim=st.sampled_from([1, 2, 4]),
    rank=st.integers(1, 3),
    qk_norm=st.booleans(),
    qkv_bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_shapes_dtypes_and_gradients(channels, patches, heads, channel_head_dim, rank, qk_norm, qkv_bias, dtype):
    block = LESSBlock(
        24 if heads != 3 else 12,
        heads,
        channel_head_dim,
        rank=rank,
        qk_norm=qk_norm,
        qkv_bias=qkv_bias,
        layer_scale=None if rank == 2 else 0.5,
    ).to(dtype)
    grid = random_grid(2, channels, patches, block.norm1.normalized_shape[0]).to(dtype).requires_grad_()
    out = block(grid)
    assert (out.shape, out.dtype) == (grid.shape, dtype)
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert bool(grid.grad.isfinite().all())


def test_permuting_channels_permutes_the_rows():
    layer, order = attention(rank=2), torch.tensor([0, 3, 1, 2])
    grid = random_grid(2, 4, 5, 24)
    torch.testing.assert_close(layer(grid[:, order]), layer(grid)[:, order])


def test_dropout_and_drop_path_act_in_training_only():
    block = LESSBlock(24, 2, dropout=0.5, drop_path=0.5, attention_dropout=0.5)
    grid = random_grid(8, 3, 4, 24)
    assert not torch.equal(block(grid), block(grid))
    block.eval()
    assert torch.equal(block(grid), block(grid))
    everything = LESSBlock(24, 2, drop_path=1 - 1e-9).train()
    assert torch.equal(everything(grid), grid)


def test_autocast():
    block, grid = LESSBlock(24, 2), random_grid(2, 3, 4, 24)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(grid)
    torch.testing.assert_close(out.float(), block(grid), rtol=0.1, atol=0.2)


def test_a_mask_for_every_image():
    layer, grid = attention(), random_grid(2, 3, 5, 24)
    masks = torch.rand(2, 5, 5) < 0.5
    masks |= torch.eye(5, dtype=torch.bool)
    single = torch.cat([layer(grid[i : i + 1], masks[i]) for i in range(2)])
    torch.testing.assert_close(layer(grid, masks), single)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 25}, "no multiple of num_heads"),
        ({"channel_head_dim": 5}, r"use one of \[1, 2, 3, 4, 6, 12\]"),
        ({"rank": 0}, "rank=0"),
        ({"rank_reduce": "max"}, "'sum' or 'mean'"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        LESSAttention(**({"dim": 24, "num_heads": 2} | options))


def test_admissible_splits_are_accepted():
    for d_c in admissible_channel_head_dims(24, 2):
        assert LESSAttention(24, 2, d_c).split == (2, d_c, 12 // d_c)


# --- positions --------------------------------------------------------------------------------------------------------


def test_the_embedding_is_the_mean_of_place_and_wavelength():
    λ = torch.tensor([442.7, 2202.4])
    E = ContinuousPositionChannelEmbedding(16)(λ, (2, 3), 10, 4, torch.float64)
    assert E.shape == (3, 7, 16)
    assert not E[0, 0].any()
    torch.testing.assert_close(E[1:, 0], sincos(λ, 16) / 2)
    column, row = 2, 1
    place = torch.cat([sincos(torch.tensor(10.0 * column), 8), sincos(torch.tensor(10.0 * row), 8)])
    torch.testing.assert_close(E[0, 1 + row * 3 + column], place / 2)
    torch.testing.assert_close(E[2, 6], (place + sincos(λ[1], 16)) / 2)


def test_the_table_is_exact_in_float32():
    λ = torch.tensor([2202.4], dtype=torch.float64)
    E = ContinuousPositionChannelEmbedding(64)(λ, (1, 1), 10, 4)
    assert float((E[1, 0].double() - sincos(λ, 64)[0] / 2).abs().max()) < 1e-7


def test_positions_by_patch_are_metres():
    λ = torch.tensor([500.0])
    by_patch = ContinuousPositionChannelEmbedding(16, scale_by_patch=True)(λ, (3, 2), 10, 4)
    assert torch.equal(by_patch, ContinuousPositionChannelEmbedding(16)(λ, (3, 2), 40, 4))


def test_wavelengths_of_every_image():
    λ = torch.tensor([[500.0, 600.0], [700.0, 800.0]])
    embedding = ContinuousPositionChannelEmbedding(16)
    E = embedding(λ, (2, 2), 10, 4)
    assert torch.equal(E, torch.stack([embedding(each, (2, 2), 10, 4) for each in λ]))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), radius=st.floats(40, 300))
def test_perception_field(rows, columns, radius):
    mask = perception_field_mask((rows, columns), 4, 10, radius)
    assert mask.shape == (rows * columns + 1,) * 2
    assert bool(mask[0].all())
    assert bool(mask[:, 0].all())
    assert torch.equal(mask, mask.T)
    for i in range(rows * columns):
        for j in range(rows * columns):
            apart = 40 * ((i // columns - j // columns) ** 2 + (i % columns - j % columns) ** 2) ** 0.5
            if abs(apart - radius) > 1e-6:
                assert bool(mask[i + 1, j + 1]) == (apart <= radius)
    assert torch.equal(perception_field_mask((rows, columns), 4, 10, radius, cls=False), mask[1:, 1:])


def test_a_huge_radius_is_no_mask_and_the_mask_is_kept():
    layer, grid = attention(), random_grid(2, 3, 5, 24)
    mask = perception_field_mask((2, 2), 4, 10, 1e6)
    torch.testing.assert_close(layer(grid, mask), layer(grid))
    assert perception_field_mask((2, 2), 4, 10, 1e6) is mask


def test_a_radius_below_a_patch():
    with pytest.warns(UserWarning, match="shorter than a patch of 40"):
        mask = perception_field_mask((2, 2), 4, 10, 30, cls=False)
    assert torch.equal(mask, torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("name", ["patch_size", "resolution", "radius"])
def test_a_field_of_no_extent(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        perception_field_mask(**({"grid": (2, 2), "patch_size": 4, "resolution": 10, "radius": 60} | {name: 0}))


def test_odd_widths():
    with pytest.raises(ValueError, match="multiple of 4"):
        ContinuousPositionChannelEmbedding(18)
    with pytest.raises(ValueError, match="even width"):
        sincos(torch.zeros(2), 3)
    with pytest.raises(ValueError, match="multiple of 4"):
        spatial_rotation((2, 2), 6)
    with pytest.raises(ValueError, match="even number"):
        spectral_rotation(torch.tensor([500.0]), 3)


def test_rotations_keep_norms_and_the_cls_token_and_depend_on_differences():
    rotation = spectral_rotation(torch.tensor([500.0, 600.0, 700.0]), 4)
    x, y = random_grid(4, 4), random_grid(1, 4).expand(4, -1)
    turned = rotate(x, rotation)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])
    products = rotate(y, rotation) @ rotate(y, rotation).T
    torch.testing.assert_close(products[1, 2], products[2, 3])
    tall, wide = spatial_rotation((3, 2), 8), spatial_rotation((2, 3), 8)
    assert tall[0].shape == wide[0].shape == (7, 8)
    assert not torch.equal(tall[0], wide[0])
