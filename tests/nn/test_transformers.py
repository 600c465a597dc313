import pytest
import torch
from torch import nn

from fullrank.nn import (
    LinformerEncoder,
    LinformerEncoderLayer,
    LinformerSelfAttention,
    LowRankTransformerEncoderLayer,
    SequenceProjection,
    crossover_length,
)

D, HEADS, TOKENS = 16, 4, 6


def _tokens(batch=2, tokens=TOKENS, dim=D):
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(0))


def _padding():
    padding = torch.zeros(2, TOKENS, dtype=torch.bool)
    padding[1, 4:] = True
    return padding


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mask", ["none", "causal", "padding", "both", "additive"])
def test_a_low_rank_layer_of_full_rank_is_torchs_layer(norm_first, batch_first, fused, mask):
    torch.manual_seed(0)
    dense = nn.TransformerEncoderLayer(
        D, HEADS, 32, 0.0, "gelu", batch_first=batch_first, norm_first=norm_first
    )  # in training mode, where torch takes no shortcut
    layer = LowRankTransformerEncoderLayer.from_layer(dense, D)
    layer.self_attn.fused = fused
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    options = {
        "none": {},
        "causal": {"src_mask": causal, "is_causal": True},
        "padding": {"src_key_padding_mask": _padding()},
        "both": {"src_mask": causal, "src_key_padding_mask": _padding()},
        "additive": {"src_mask": torch.randn(2 * HEADS, TOKENS, TOKENS)},
    }[mask]
    x = _tokens() if batch_first else _tokens().transpose(0, 1)
    torch.testing.assert_close(layer(x, **options), dense(x, **options), rtol=1e-4, atol=1e-4)


def test_a_layer_without_biases_is_taken_over():
    dense = nn.TransformerEncoderLayer(D, HEADS, 32, 0.0, batch_first=True, bias=False)
    layer = LowRankTransformerEncoderLayer.from_layer(dense, D)
    torch.testing.assert_close(layer(_tokens()), dense(_tokens()), rtol=1e-4, atol=1e-4)


def test_at_half_rank_a_layer_has_three_quarters_of_the_weights():
    layer = LowRankTransformerEncoderLayer(64, 4, 256, 32, bias=False)
    weights = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    assert weights == 18 * 32 * 64 == 0.75 * 12 * 64**2


def test_a_rank_of_its_own_for_the_feed_forward_network():
    layer = LowRankTransformerEncoderLayer(D, HEADS, 32, rank=2, rank_ffn=5)
    assert (layer.self_attn.q_proj.rank, layer.linear1.rank, layer.linear2.rank) == (2, 5, 5)


def test_causal_without_a_mask_sees_no_later_token():
    layer = LowRankTransformerEncoderLayer(D, HEADS, 32, 4, 0.0, batch_first=True).eval()
    x = _tokens()
    changed = x.clone()
    changed[:, -1] += 1
    first, second = layer(x, is_causal=True), layer(changed, is_causal=True)
    torch.testing.assert_close(first[:, :-1], second[:, :-1])


@pytest.mark.parametrize("fused", [False, True])
def test_linformer_with_the_identity_is_full_attention(fused):
    torch.manual_seed(0)
    attention = LinformerSelfAttention(D, HEADS, TOKENS, TOKENS, fused=fused)
    for projection in (attention.E, attention.F):
        nn.init.eye_(projection.weight)
    dense = nn.MultiheadAttention(D, HEADS, batch_first=True)
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.no_grad():
        dense.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        dense.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        dense.out_proj.load_state_dict(attention.out_proj.state_dict())
    x = _tokens()
    torch.testing.assert_close(attention(x), dense(x, x, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", ["headwise", "kv", "none"])
def test_padding_does_not_change_a_linformer(share):
    layer = LinformerEncoderLayer(D, HEADS, TOKENS, 3, 32, 0.0, share=share)
    x, padding = _tokens(), _padding()
    changed = x.clone()
    changed[padding] = 7.0
    one, other = (layer(tokens, src_key_padding_mask=padding) for tokens in (x, changed))
    torch.testing.assert_close(one[~padding], other[~padding])
    torch.testing.assert_close(layer(x)[1:, :4], layer(x)[1:, :4])


@pytest.mark.parametrize(
    ("share", "matrices"),
    [("headwise", 2 * 3 * 8), ("kv", 3 * 8), ("none", 2 * HEADS * 3 * 8), ("layerwise", 3 * 8)],
)
def test_sharing_sets_the_number_of_projections(share, matrices):
    attention = LinformerSelfAttention(D, HEADS, 8, 3, share=share)
    assert sum(p.numel() for p in attention.parameters()) - 4 * (D * D + D) == matrices
    assert attention(_tokens()).shape == (2, TOKENS, D)


def test_layerwise_sharing_has_one_projection_in_all_layers():
    encoder = LinformerEncoder(3, D, HEADS, 8, 3, "layerwise", dim_feedforward=32)
    owners = {id(layer.self_attn.E.weight) for layer in encoder.layers} | {
        id(layer.self_attn.F.weight) for layer in encoder.layers
    }
    assert len(owners) == 1
    encoder(_tokens()).sum().backward()
    assert encoder.layers[0].self_attn.E.weight.grad.abs().sum() > 0


def test_layers_of_ones_own_share_the_projection_of_the_first():
    first = LinformerSelfAttention(D, HEADS, 8, 3, share="layerwise")
    second = LinformerSelfAttention(D, HEADS, 8, 3, share="layerwise", projection=first.E)
    assert first.E is first.F is second.E is second.F


def test_time_first_inputs_are_transposed():
    attention = LinformerSelfAttention(D, HEADS, 8, 3, batch_first=False)
    x = _tokens().transpose(0, 1)
    out = attention(x)
    attention.batch_first = True
    torch.testing.assert_close(out, attention(_tokens()).transpose(0, 1))


@pytest.mark.parametrize("init", ["uniform", "xavier"])
def test_projections_start_within_their_bound(init):
    projection = SequenceProjection(32, 4, init=init)
    bound = 0.5 if init == "uniform" else (6 / 36) ** 0.5 / 2**0.5
    assert 0.9 * bound < projection.weight.abs().max() <= bound


def test_both_layers_keep_bfloat16():
    for layer in (
        LowRankTransformerEncoderLayer(D, HEADS, 32, 4, 0.0, batch_first=True),
        LinformerEncoderLayer(D, HEADS, 8, 3, 32, 0.0),
    ):
        assert layer.bfloat16()(_tokens().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda **order: LowRankTransformerEncoderLayer(D, HEADS, 32, 4, 0.0, **order),
        lambda **order: LinformerEncoderLayer(D, HEADS, TOKENS, 3, 32, 0.0, **order),
    ],
    ids=["low rank", "linformer"],
)
def test_torchs_encoder_stacks_both_layers(make, batch_first):
    encoder = nn.TransformerEncoder(make(batch_first=batch_first), 2, enable_nested_tensor=False)
    x, padding = _tokens(), _padding()
    x = x if batch_first else x.transpose(0, 1)
    expected = x
    for layer in encoder.layers:
        expected = layer(expected, src_key_padding_mask=padding)
    torch.testing.assert_close(encoder(x, src_key_padding_mask=padding), expected)


def test_masks_that_say_something_else_are_refused(unchecked):
    low_rank = LowRankTransformerEncoderLayer(D, HEADS, 32, 4, batch_first=True)
    linformer = LinformerEncoderLayer(D, HEADS, TOKENS, 3, 32)
    for layer in (low_rank, linformer):
        with pytest.raises(TypeError, match=r"padding_mask has dtype torch.uint8.*convert zeros and ones with .bool"):
            layer(_tokens(), src_key_padding_mask=_padding().to(torch.uint8))
        with pytest.raises(ValueError, match=r"src has shape \(6, 16\): \(batch, tokens, dim\) is needed"):
            layer(_tokens()[0])
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(6, 2\): \(2, 6\) is needed"):
        linformer(_tokens(), src_key_padding_mask=_padding().T)
    with pytest.raises(ValueError, match="numbers other than 0 and minus infinity"):
        linformer(_tokens(), src_key_padding_mask=_padding().float())
    with pytest.raises(ValueError, match=r"src_mask has shape \(5, 5\): \(6, 6\) or \(8, 6, 6\) is needed"):
        low_rank(_tokens(), src_mask=torch.zeros(5, 5))


def test_the_crossover_is_where_the_counts_meet():
    assert crossover_length(256, 128, 64) == 512
    assert crossover_length(768, 256, 256) == 2816
    assert crossover_length(64, 64, 8) == 0
    assert crossover_length(64, 16, 8, metric="activation") == 8


def test_bad_options_are_refused(unchecked):
    with pytest.raises(ValueError, match="num_heads=3 does not divide the width 16"):
        LowRankTransformerEncoderLayer(D, 3)
    with pytest.raises(ValueError, match="activation='selu' is not known"):
        LowRankTransformerEncoderLayer(D, HEADS, activation="selu")
    with pytest.raises(ValueError, match="9 tokens, seq_len=8"):
        LinformerSelfAttention(D, HEADS, 8, 3)(_tokens(tokens=9))
    with pytest.raises(NotImplementedError, match="not causal"):
        LinformerSelfAttention(D, HEADS, 8, 3)(_tokens(), is_causal=True)
    with pytest.raises(ValueError, match="share='all' is not known"):
        LinformerSelfAttention(D, HEADS, 8, 3, share="all")
    with pytest.raises(ValueError, match="share='kv' with a projection"):
        LinformerSelfAttention(D, HEADS, 8, 3, share="kv", projection=SequenceProjection(8, 3))
    with pytest.warns(UserWarning, match="k=9 exceeds seq_len=8"):
        LinformerSelfAttention(D, HEADS, 8, 9)
    with pytest.raises(ValueError, match="init='zeros' is not known"):
        SequenceProjection(8, 3, init="zeros")
    with pytest.raises(ValueError, match="src_key_padding_mask has shape"):
        LowRankTransformerEncoderLayer(D, HEADS, batch_first=True)(_tokens(), src_key_padding_mask=_padding().T)
    with pytest.raises(ValueError, match="all are positive"):
        crossover_length(0, 1, 1)
    with pytest.raises(ValueError, match="metric='flops' is not known"):
        crossover_length(8, 1, 1, metric="flops")
