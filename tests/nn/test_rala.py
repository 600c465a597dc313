from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from fullrank._optional import MissingExtra
from fullrank.nn import (
    GatedAttention,
    GatedSoftmaxAttention,
    RankAugmentedLinearAttention,
    axial_frequencies,
    axial_rotation,
    feature_rank,
    kv_buffer,
    kv_buffer_rank,
    rala_attention,
    rotate,
    token_weights,
)
from fullrank.nn.rala_triton import rala_attention_triton
from fullrank.spectra import Spectrum

LAYERS = {"linear": RankAugmentedLinearAttention, "softmax": GatedSoftmaxAttention}


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(kind="linear", dim=16, heads=2, seed=0, dtype=torch.float32, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LAYERS[kind](dim, heads, **options).to(dtype)


# --- the method, formula by formula -----------------------------------------------------------------------------------


def rotation_matrices(rows, columns, d, dtype):
    """R_j as a d x d matrix by token: the definition, one rotation of two axes at a time."""
    theta = [10_000 ** (-m / max(d // 4 - 1, 1)) for m in range(d // 4)]
    matrices = torch.zeros(rows * columns, d, d, dtype=dtype)
    for token, (y, x) in enumerate((y, x) for y in range(rows) for x in range(columns)):
        for pair, angle in enumerate([y * t for t in theta] + [x * t for t in theta]):
            cos, sin = math.cos(angle), math.sin(angle)
            turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=dtype)
            matrices[token, 2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = turn
    return matrices


def quadratic(q, k, v, R=None, *, reweight=True, normalize=True, eps=1e-6):
    """z_i (R_i q_i) . (R_j alpha_j k_j) / N as an N x N matrix, times v."""
    N, d = q.shape[-2:]
    q, k = torch.where(q > 0, q + 1, q.exp()), torch.where(k > 0, k + 1, k.exp())
    logits = torch.einsum("bnd,bnjd->bnj", q.mean(-2), k) / math.sqrt(d)
    alpha = N * torch.softmax(logits, -1) if reweight else torch.ones_like(logits)
    k = alpha[..., None] * k
    z = 1 / (torch.einsum("bnid,bnd->bni", q, k.mean(-2)) + eps) if normalize else torch.ones_like(logits)
    if R is not None:
        q, k = torch.einsum("ief,bnif->bnie", R, q), torch.einsum("jef,bnjf->bnje", R, k)
    return (z[..., None] * (q @ k.mT) / N) @ v


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 3), rows=st.integers(1, 5), columns=st.integers(1, 6),
    d=st.sampled_from([4, 8, 16]), rope=st.booleans(), reweight=st.booleans(), normalize=st.booleans(),
)  # fmt: skip
def test_linear_cost_computes_the_quadratic_formula(batch, heads, rows, columns, d, rope, reweight, normalize):
    q, k, v = (random(batch, heads, rows * columns, d, seed=seed, dtype=torch.float64) for seed in range(3))
    position = axial_rotation((rows, columns), d, dtype=torch.float64) if rope else None
    R = rotation_matrices(rows, columns, d, torch.float64) if rope else None
    found = rala_attention(q, k, v, q_pos=position, k_pos=position, reweight=reweight, normalize=normalize)
    torch.testing.assert_close(found, quadratic(q, k, v, R, reweight=reweight, normalize=normalize))


@pytest.mark.parametrize("rope", [False, True])
def test_gradients(rope):
    q, k, v = (random(1, 2, 6, 4, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(3))
    position = axial_rotation((2, 3), 4, dtype=torch.float64) if rope else None
    assert torch.autograd.gradcheck(lambda q, k, v: rala_attention(q, k, v, q_pos=position, k_pos=position), (q, k, v))


def test_queries_and_keys_of_different_number():
    q, k, v = random(2, 1, 7, 8), random(2, 1, 5, 8, seed=1), random(2, 1, 5, 3, seed=2)
    found = rala_attention(q, k, v)
    assert found.shape == (2, 1, 7, 3)
    kappa = functional.elu(q) + 1
    alpha = token_weights(q, k)
    key = alpha[..., None] * (functional.elu(k) + 1)
    expected = kappa @ (key.mT @ v / 5) / (kappa @ key.mean(-2).unsqueeze(-1) + 1e-6)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(kv_buffer(q, k, v), key.mT @ v / 5)


def test_any_memory_layout():
    q, k, v = (random(2, 3, 12, 8, seed=seed) for seed in range(3))
    position = axial_rotation((3, 4), 8)
    expected = rala_attention(q, k, v, q_pos=position, k_pos=position)
    for axes in ((0, 1, 3, 2), (0, 2, 1, 3), (3, 2, 1, 0)):
        back = [axes.index(axis) for axis in range(4)]
        strided = [x.permute(*axes).contiguous().permute(*back) for x in (q, k, v)]
        torch.testing.assert_close(rala_attention(*strided, q_pos=position, k_pos=position), expected)


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def state_of(layer, tensors, prefix="param."):
    """Parameters of the authors' convolutions in the shapes of ours."""
    expected = layer.state_dict()
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    assert set(given) == set(expected)
    return {name: tensor.reshape(expected[name].shape) for name, tensor in given.items()}


@pytest.mark.golden("rala")
def test_golden_block(case):
    """Output, rotations and every gradient of one attention block."""
    spec, tensors = case.spec, case.tensors
    if "output" not in tensors:
        assert "logits" in tensors  # a whole backbone: tests/nn/test_ravlt.py
        return
    config = spec["config"]
    assert set(config) <= {"dim", "num_heads", "head_dim", "height", "width", "batch", "seed"}
    layers = {
        "GateLinearAttentionNoSilu": RankAugmentedLinearAttention,
        "VanillaSelfAttention": GatedSoftmaxAttention,
    }
    layer = layers[spec["upstream_class"]](config["dim"], config["num_heads"])
    assert layer.head_dim == config["head_dim"]
    layer.load_state_dict(state_of(layer, tensors))
    output, gradient = (
        {key: spec["tolerance"][name][key] for key in ("rtol", "atol")} for name in ("output", "gradients")
    )

    x = tensors["input"].clone().requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, tensors["output"], **output)
    (y * tensors["cotangent"]).sum().backward()
    torch.testing.assert_close(x.grad, tensors["grad.input"], **gradient)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, tensors[f"grad.{name}"].reshape(parameter.shape), **gradient)

    grid = (config["height"], config["width"])
    table = axial_rotation(grid, config["head_dim"])
    for index, name in enumerate(("rope.cos", "rope.sin")):
        torch.testing.assert_close(table[..., index].repeat_interleave(2, dim=-1), tensors[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(axial_frequencies(config["head_dim"]).repeat_interleave(2), tensors["rope.angle"])

    tokens = tensors["input"].flatten(2).mT
    torch.testing.assert_close(layer(tokens, grid).mT.reshape(y.shape), tensors["output"], **output)
    with torch.no_grad():  # one image at a time where the map is large, the whole batch here
        torch.testing.assert_close(layer(tensors["input"]), tensors["output"], **output)
    exact = layer.double()(tensors["input"].double())
    torch.testing.assert_close(exact.to(tensors["output_f64"].dtype), tensors["output_f64"], rtol=1e-5, atol=1e-6)


# --- token weights ----------------------------------------------------------------------------------------------------


def test_weights_are_one_on_average_and_ones_give_plain_linear_attention():
    q, k, v = (random(2, 3, 20, 8, seed=seed) for seed in range(3))
    alpha = token_weights(q, k)
    torch.testing.assert_close(alpha.mean(-1), torch.ones(2, 3))
    assert float(alpha.std()) > 0.05
    plain = rala_attention(q, k, v, reweight=False)
    alike = rala_attention(q, k[:, :, :1].expand_as(k), v)  # equal keys have equal weights
    torch.testing.assert_close(alike, rala_attention(q, k[:, :, :1].expand_as(k), v, reweight=False))
    kappa_q, kappa_k = functional.elu(q) + 1, functional.elu(k) + 1
    by_hand = kappa_q @ (kappa_k.mT @ v) / (kappa_q @ kappa_k.sum(-2).unsqueeze(-1))
    torch.testing.assert_close(plain, by_hand, rtol=1e-4, atol=1e-5)


def test_larger_logits_sharpen_the_weights():
    q, k = random(1, 2, 30, 8).abs(), random(1, 2, 30, 8, seed=1).abs()

    def entropy(alpha):
        return torch.special.entr(alpha / alpha.shape[-1]).sum(-1)

    doubled = token_weights(2 * q + 1, k)  # kappa(q) = q + 1 for positive q: the mean query doubles
    assert bool((entropy(doubled) < entropy(token_weights(q, k))).all())
    torch.testing.assert_close(token_weights(q[:, :, :1], k[:, :, :1]), torch.ones(1, 2, 1))


def test_weights_multiply_the_keys_before_the_normaliser():
    """One key far ahead of the others: the output is its value, which it is not if z counts all keys alike."""
    q, k, v = random(1, 1, 9, 8), random(1, 1, 9, 8, seed=1), random(1, 1, 9, 8, seed=2)
    k[..., 4, :] = 50
    torch.testing.assert_close(rala_attention(q, k, v), v[..., 4:5, :].expand(1, 1, 9, 8), rtol=1e-3, atol=1e-4)


# --- the layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (14, 14)])
def test_layouts_agree(kind, grid):
    layer, x = build(kind), random(2, 16, *grid)
    y = layer(x)
    assert y.shape == x.shape
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), y)
    tokens = layer(x.flatten(2).mT, grid)
    assert tokens.shape == (2, grid[0] * grid[1], 16)
    torch.testing.assert_close(tokens.mT.reshape(y.shape), y)


@pytest.mark.parametrize("kind", LAYERS)
def test_permuted_tokens_give_permuted_outputs_without_positions(kind):
    layer, x = build(kind, rope=False, lepe_kernel=None), random(2, 12, 16)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x[:, order], (3, 4)), layer(x, (4, 3))[:, order])
    placed = build(kind)
    assert not torch.allclose(placed(x[:, order], (3, 4)), placed(x, (3, 4))[:, order], atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reweight": False, "gate": False},
        {"gate_act": "silu"},
        {"gate_act": "sigmoid", "rope": False},
        {"lepe_kernel": None, "normalize": False},
        {"lepe_kernel": 3, "qkv_bias": False},
        {"eps": 0.1},
    ],
)
def test_options_do_what_they_say(options):
    """The layer with each option against the formulas."""
    layer, x = build(dtype=torch.float64, **options), random(2, 15, 16, dtype=torch.float64)
    q, k, v, *o = functional.linear(x, layer.qkvo.weight, layer.qkvo.bias).chunk(4 if layer.gate else 3, dim=-1)
    assert (layer.qkvo.bias is None) == (options.get("qkv_bias") is False)
    q, k, v = (t.reshape(2, 15, 2, 8).transpose(1, 2) for t in (q, k, v))
    R = rotation_matrices(3, 5, 8, torch.float64) if options.get("rope", True) else None
    kept = {key: value for key, value in options.items() if key in ("reweight", "normalize", "eps")}
    y = quadratic(q, k, v, R, **kept).transpose(1, 2).reshape(2, 15, 16)
    if layer.lepe is not None:
        image = v.transpose(1, 2).reshape(2, 3, 5, 16).permute(0, 3, 1, 2)
        y = y + layer.lepe(image).flatten(2).mT
    act = {"silu": functional.silu, "sigmoid": torch.sigmoid, None: lambda t: t}[options.get("gate_act")]
    y = y * act(o[0]) if o else y
    torch.testing.assert_close(layer(x, (3, 5)), functional.linear(y, layer.proj.weight, layer.proj.bias))


def test_parameter_counts():
    count = {gate: sum(p.numel() for p in build(dim=64, gate=gate).parameters()) for gate in (True, False)}
    assert count[True] == (4 * 64**2 + 4 * 64) + 26 * 64 + (64**2 + 64)
    assert count[True] - count[False] == 64**2 + 64


@pytest.mark.parametrize("kind", LAYERS)
def test_prefix_tokens_attend_but_have_no_place(kind):
    layer, x = build(kind, num_prefix_tokens=2), random(1, 14, 16)
    y = layer(x, (3, 4))
    swapped = torch.cat([x[:, [1, 0]], x[:, 2:]], dim=1)
    torch.testing.assert_close(layer(swapped, (3, 4)), torch.cat([y[:, [1, 0]], y[:, 2:]], dim=1))
    assert not torch.allclose(layer(torch.cat([x[:, :1] + 1, x[:, 1:]], 1), (3, 4))[:, 2:], y[:, 2:], atol=1e-4)
    table = axial_rotation((3, 4), 8, num_prefix_tokens=2)
    torch.testing.assert_close(table[:2], torch.tensor([1.0, 0.0]).expand(2, 4, 2))
    torch.testing.assert_close(table[2:], axial_rotation((3, 4), 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_sums_in_float32(dtype):
    """One dominant key among 80,000: N a_j overflows float16, and the mean of ones would stop growing."""
    N = 80_000
    q, k = torch.ones(1, 1, N, 4, dtype=dtype), torch.zeros(1, 1, N, 4, dtype=dtype)
    k[0, 0, 7] = 40
    v = random(1, 1, N, 4).to(dtype)
    found = rala_attention(q, k, v)
    assert found.dtype == dtype
    torch.testing.assert_close(found[0, 0, :2], v[0, 0, 7].expand(2, 4), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast(kind):
    layer, x = build(kind, dim=32), random(2, 20, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x, (4, 5))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x, (4, 5)), rtol=0.05, atol=0.02)
    y.float().sum().backward()
    assert layer.qkvo.weight.grad.isfinite().all()


def test_very_negative_inputs_are_finite():
    layer = build(dim=16)
    with torch.no_grad():
        layer.qkvo.bias[:32] = -40  # kappa of q and k is 0 in float32
    assert layer(random(1, 9, 16), (3, 3)).isfinite().all()


@pytest.mark.parametrize("kind", LAYERS)
def test_large_maps_are_mixed_image_by_image_where_no_gradient_is_kept(kind, monkeypatch):
    layer, x = build(kind), random(5, 12, 16)
    expected = layer(x, (3, 4))
    seen = []
    attend = layer.attend
    monkeypatch.setattr(layer, "attend", lambda heads, rotation: seen.append(len(heads.q)) or attend(heads, rotation))
    monkeypatch.setattr("fullrank.nn.gated_attention._NUMBERS_IN_CACHE", 2 * 12 * 16 // torch.get_num_threads())
    with torch.no_grad():
        torch.testing.assert_close(layer(x, (3, 4)), expected)
    assert seen == [2, 2, 1]


def test_no_matrix_of_tokens_by_tokens():
    """Memory is linear in N: no tensor of the forward and backward pass has N^2 numbers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor)]
            self.numbers = max([self.numbers, *(t.numel() for t in tensors)])
            return out

    layer, x = build(dim=8, heads=1), random(1, 900, 8)
    with Largest() as seen:
        layer(x, (30, 30)).sum().backward()
    assert 0 < seen.numbers < 900 * 100


@pytest.mark.parametrize("kind", LAYERS)
def test_compiled(kind, unchecked):
    layer, x = build(kind), random(2, 12, 16)
    expected = layer(x, (3, 4))
    expected.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    found = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, (3, 4))
    found.square().mean().backward()
    torch.testing.assert_close(found, expected)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_state_travels(tmp_path):
    layer, x = build(), random(2, 16, 3, 4)
    save_file(layer.state_dict(), tmp_path / "rala.safetensors")
    other = build(seed=1)
    assert not torch.allclose(other(x), layer(x))
    other.load_state_dict(load_file(tmp_path / "rala.safetensors"))
    torch.testing.assert_close(other(x), layer(x))
    assert set(layer.state_dict()) == {f"{n}.{p}" for n in ("qkvo", "lepe", "proj") for p in ("weight", "bias")}


# --- rotations --------------------------------------------------------------------------------------------------------


def test_frequencies_end_at_the_inclusive_exponent():
    theta = axial_frequencies(64)
    assert float(theta[0]) == 1
    assert float(theta[-1]) == pytest.approx(1e-4, rel=1e-5)
    assert axial_frequencies(4).tolist() == [1.0]


def test_rotations_keep_lengths_and_depend_on_differences():
    table, x, y = (
        axial_rotation((4, 5), 8, dtype=torch.float64),
        *(random(8, seed=s, dtype=torch.float64) for s in (0, 1)),
    )
    turned_x, turned_y = (rotate(t.expand(20, 8), table).reshape(4, 5, 8) for t in (x, y))
    torch.testing.assert_close(turned_x.norm(dim=-1), x.norm().expand(4, 5))
    products = torch.einsum("abd,ced->abce", turned_x, turned_y)
    torch.testing.assert_close(products[0, 0, 2, 3], products[1, 1, 3, 4])
    assert rotate(x.half().expand(20, 8), table).dtype == torch.float16


def test_rotations_take_parts_of_other_tensors():
    table, whole = axial_rotation((2, 3), 8), random(2, 6, 9)
    for part in (whole[..., 1:], whole.flatten()[1:97].view(2, 6, 8), random(2, 8, 6).mT):
        torch.testing.assert_close(
            rotate(part, table), rotate(part.clone(memory_format=torch.contiguous_format), table)
        )


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_ranks_of_buffer_and_features():
    layer, x = build(dim=16, heads=2), random(3, 30, 16)
    found = kv_buffer_rank(layer, x, grid=(5, 6))
    assert list(found) == [""]
    q, k, v = (t.reshape(3, 30, 2, 8).transpose(1, 2) for t in layer.qkvo(x).split(16, -1)[:3])
    expected = Spectrum.of(kv_buffer(q, k, v, k_pos=axial_rotation((5, 6), 8)))
    torch.testing.assert_close(found[""].effective, expected.effective_rank)
    assert bool((found[""].numerical <= 8).all())

    nested = nn.Sequential(build(dim=16, gate=False, lepe_kernel=None), build("softmax", dim=16))
    image = random(2, 16, 5, 6)
    assert list(feature_rank(nested, image)) == ["0", "1"]
    assert list(kv_buffer_rank(nested, image)) == ["0"]
    before, after = (feature_rank(nested, image, gated=gated)["0"] for gated in (False, True))
    torch.testing.assert_close(before.effective, after.effective)  # nothing between attention and projection
    assert before.effective.shape == (2, 2)
    assert not nested[0]._forward_pre_hooks
    with pytest.raises(ValueError, match="Linear has no RankAugmentedLinearAttention layer"):
        kv_buffer_rank(nn.Linear(2, 2), random(1, 2))


def test_the_gate_restores_the_rank():
    x = random(2, 64, 14, 14)
    plain, gated = (build(dim=64, heads=1, rope=False, reweight=False, gate=g, lepe_kernel=None) for g in (False, True))
    for layer in (plain, gated):
        with torch.no_grad():
            layer.qkvo.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    low, full = (feature_rank(layer, x)[""] for layer in (plain, gated))
    assert bool((full.effective > 3 * low.effective).all())


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "dim=10 is not a multiple of num_heads=4"),
        ({"dim": 10, "heads": 0}, "dim=10 is not a multiple of num_heads=0"),
        ({"dim": 12, "heads": 2}, "dim=12 with num_heads=2 gives heads of 6 channels, .* multiple of 4"),
        ({"lepe_kernel": 4}, "lepe_kernel=4: use an odd size, or None"),
        ({"gate_act": "tanh"}, "gate_act='tanh': use one of 'silu', 'sigmoid', or None"),
        ({"gate_act": "silu", "gate": False}, "gate_act='silu' has nothing to act on with gate=False"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens=-1: use a number of at least 0"),
    ],
)
@pytest.mark.parametrize("kind", LAYERS)
def test_bad_options(kind, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        build(kind, **options)
    assert build(kind, dim=12, rope=False).head_dim == 6


@pytest.mark.parametrize(
    ("shape", "grid", "options", "message"),
    [
        ((2, 12, 16), None, {}, r"x has 12 tokens and no grid: pass grid=\(rows, columns\)"),
        (
            (2, 12, 16),
            (3, 3),
            {},
            r"x has 12 tokens, but grid=\(3, 3\) has 3 x 3 = 9 places: tokens must lie on the grid",
        ),
        ((2, 12, 16), 12, {}, r"grid=12: \(rows, columns\) is accepted"),
        ((2, 12, 16), (-3, -4), {}, r"grid=\(-3, -4\): \(rows, columns\) is accepted, two whole numbers of at least 1"),
        ((2, 13, 16), (3, 4), {}, "class or register tokens .* num_prefix_tokens"),
        ((2, 12, 16), (3, 4), {"num_prefix_tokens": 1}, "12 places and num_prefix_tokens=1"),
        ((2, 16, 3, 4), None, {"num_prefix_tokens": 1}, "no place for the num_prefix_tokens=1"),
        ((2, 16, 3, 4), (4, 3), {}, r"grid=\(4, 3\), but x is a map of 3 x 4"),
        ((0, 12, 16), (3, 4), {}, r"x has shape \(0, 12, 16\), an empty batch"),
        ((2, 12, 8), (3, 4), {}, r"x has 8 channels \(shape \(2, 12, 8\)\), but the layer has dim=16"),
        ((2, 16), None, {}, r"x has shape \(2, 16\): \(batch, tokens, 16\) with a grid"),
    ],
)
def test_bad_inputs(shape, grid, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        build(**options)(random(*shape), grid)


@pytest.mark.parametrize("shapes", [((1, 1, 9, 4), (1, 1, 9, 8)), ((1, 1, 9, 8), (1, 1, 8, 8)), ((1, 2, 9, 8),) * 2])
def test_tokens_that_do_not_fit(shapes, unchecked):
    k, v = (random(*shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"q has shape \(1, 1, 6, 8\), k .* and v .*: the same batch and heads"):
        rala_attention(random(1, 1, 6, 8), k, v)


def test_bad_positions(unchecked):
    q = random(1, 1, 6, 8)
    table = axial_rotation((2, 3), 8)
    with pytest.raises(ValueError, match="k_pos is given and q_pos is not"):
        rala_attention(q, q, q, k_pos=table)
    with pytest.raises(ValueError, match=r"q_pos has shape \(5, 4, 2\), but 6 tokens with heads of 8 need \(6, 4, 2\)"):
        rala_attention(q, q, q, q_pos=table[:5], k_pos=table)
    with pytest.raises(ValueError, match="head_dim=6: axial rotary positions"):
        axial_rotation((2, 3), 6)
    with pytest.raises(NotImplementedError, match="GatedAttention does not define how its tokens attend"):
        GatedAttention(8, 1)(random(1, 6, 8), (2, 3))


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "grid", "d"), [(1, (5, 7), 64), (2, (30, 41), 16), (3, (10, 13), 96), (1, (1, 1), 4)]
)
def test_kernels_compute_the_formula(dtype, heads, grid, d):
    pytest.importorskip("triton")
    N = grid[0] * grid[1]
    tokens = random(2, N, 3 * heads * d).to("cuda", dtype)
    q, k, v = (t.unflatten(-1, (heads, d)).transpose(1, 2) for t in tokens.chunk(3, -1))
    table = axial_rotation(grid, d, device="cuda")
    R = rotation_matrices(*grid, d, torch.float64).cuda()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for position, matrices in ((None, None), (table, R)):
        found = rala_attention_triton(q, k, v, q_pos=position, k_pos=position)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), quadratic(q.double(), k.double(), v.double(), matrices), **tolerance)
    inputs = [t.detach().requires_grad_() for t in (q, k, v)]
    outputs = [f(*inputs, q_pos=table, k_pos=table).float().sum() for f in (rala_attention_triton, rala_attention)]
    gradients = [torch.autograd.grad(output, inputs) for output in outputs]
    torch.testing.assert_close(*gradients)


def test_kernels_refuse_what_they_cannot_do(monkeypatch, unchecked):
    q = random(1, 1, 6, 8)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtra, match="triton is not installed"):
        rala_attention_triton(q, q, q)
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    with pytest.raises(ValueError, match="heads of 8 with values of 3: the kernels want one even width for both"):
        rala_attention_triton(q, q, q[..., :3])
    with pytest.raises(ValueError, match=r"q has dtype torch.float64: the kernels compute in float32"):
        rala_attention_triton(q.double(), q.double(), q.double())
    with pytest.raises(ValueError, match="k_pos is given and q_pos is not"):
        rala_attention_triton(q, q, q, k_pos=axial_rotation((2, 3), 8))
    with pytest.raises(ValueError, match="q is on 'cpu': the kernels run on a CUDA device"):
        rala_attention_triton(q, q, q)
