from __future__ import annotations

import math
import warnings

import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import DeiTConfig, DeiTModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from fullrank.adapt import WaraConfig, WaraLinear, analysis_matrix, expand_to_weight, is_degenerate
from fullrank.adapt.wara_grid import band_names, dwt2_grid, idwt2_grid

from .conformance import Conformance


class TestSubbands(Conformance):
    lora_rank = 14

    def config(self, **options):
        return WaraConfig(**({"r": 2, "levels": 2, "wavelet": "db2", "wara_alpha": 3.0} | options))


class TestTiny(Conformance):
    lora_rank = 12

    def config(self, **options):
        return WaraConfig(**({"mode": "tiny", "svd_rank": 2, "tiny_projections": 3} | options))


# --- the derivation in NumPy ------------------------------------------------------------------------------------------


def adapted(weight, bias=None, **options):
    """One adapted linear layer of the shape of `weight`, built as a user builds it, and its delta."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.weight.data = weight.clone()
    if bias is not None:
        linear.bias.data = bias.clone()
    layer = get_peft_model(nn.Sequential(linear), WaraConfig(target_modules=["0"], **options)).base_model.model[0]
    return layer, layer.deltas["default"]


def pack(tensors, letter):
    count = sum(name[0] == letter and name[1:].isdigit() for name in tensors)
    return torch.cat([tensors[f"{letter}{band}"].flatten() for band in range(count)])


@pytest.mark.golden("wara")
@pytest.mark.filterwarnings("ignore:this WaRA is algebraically")
def test_golden(case):
    tensors, config = case.tensors, dict(case.spec["config"])
    tolerance = {name: case.spec["tolerance_float32"][name] for name in ("atol", "rtol")}
    grid = "grid" in config
    options = {name: config.pop(name) for name in ("r", "wavelet", "levels")}
    options |= {"wara_alpha": config.pop("scale") * options["r"], "mode": "grid" if grid else config.pop("mode")}
    if grid:
        options |= {"grid_size": config.pop("grid"), "num_prefix_tokens": config.pop("prefix_tokens")}
        options |= {"activation": config.pop("activation"), "band_gates": "gamma" in tensors}
    shape = config.pop("out"), config.pop("in")
    assert set(config) <= {"tokens"}, "an option that this test does not know"
    assert tensors["W0"].shape == shape
    layer, delta = adapted(tensors["W0"], tensors.get("b0"), **options)
    x = tensors["x"].clone().requires_grad_()
    if grid:
        delta.A.data, delta.B.data = tensors["A"].flatten(), tensors["B"].flatten()
        if delta.gate is not None:
            gamma = tensors["gamma"]
            delta.gate.data.copy_(gamma[:, None] if gamma.ndim == 1 else gamma)
        torch.testing.assert_close(layer(x), tensors["y"], **tolerance)
        return
    delta.A.data, delta.B.data = pack(tensors, "A"), pack(tensors, "B")
    y = layer(x)
    torch.testing.assert_close(y, tensors["y"], **tolerance)
    torch.testing.assert_close(delta.weight(), tensors["delta_w"], **tolerance)
    for size, name in zip(shape, ("T_out", "T_in"), strict=True):
        T = analysis_matrix(size, options["wavelet"], options["levels"])
        torch.testing.assert_close(T.float(), tensors[name], **tolerance)

    (y * tensors["gy"]).sum().backward()
    grads = {"grad_x": x.grad, "A": delta.A.grad, "B": delta.B.grad}
    expected = {"grad_x": tensors["grad_x"]} | {
        letter: pack({name.removeprefix("grad_"): value for name, value in tensors.items() if "grad_" in name}, letter)
        for letter in "AB"
    }
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, expected[name], **case.spec["tolerance_float32"]["grads"])
    layer.merge()
    torch.testing.assert_close(layer.base_layer.weight, tensors["merged_w"], **tolerance)


# --- the transform ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Level value of")
@settings(deadline=None, max_examples=10)
@given(
    size=st.tuples(st.integers(4, 13), st.integers(4, 13)),
    wavelet=st.sampled_from(["haar", "db2", "sym4"]),
    levels=st.integers(1, 2),
)
def test_bands_of_an_image(size, wavelet, levels):
    x = torch.randn(3, *size, dtype=torch.float64)
    bands = dwt2_grid(x, wavelet, levels)
    assert len(bands) == len(band_names(levels)) == 3 * levels + 1
    torch.testing.assert_close(idwt2_grid(bands, *size, wavelet), x)
    T_o, T_i = (analysis_matrix(n, wavelet, levels) for n in size)
    torch.testing.assert_close(T_i.mT @ T_i, torch.eye(size[1], dtype=torch.float64))
    torch.testing.assert_close(bands[0], (T_o @ x @ T_i.mT)[:, : bands[0].shape[1], : bands[0].shape[2]])
    padded = nn.functional.pad(x, [n for m in reversed(size) for n in (0, -m % 2**levels)]).numpy()
    low, *details = pywt.wavedec2(padded, wavelet, mode="periodization", level=levels)
    for band, oracle in zip(bands, [low, *(part for level in details for part in level)], strict=True):
        torch.testing.assert_close(band, torch.from_numpy(oracle))


def test_bands_of_a_weight_that_do_not_fit():
    with pytest.raises(ValueError, match=r"bands=\['LH2'\]: levels=1 has LL, LH1, HL1, HH1"):
        expand_to_weight({"LH2": torch.ones(2, 2)}, 4, 4)
    with pytest.raises(ValueError, match="band HL1 is 2 x 3, but for 4 x 4 at levels=1 it is 2 x 2"):
        expand_to_weight({"HL1": torch.ones(2, 3)}, 4, 4)
    with pytest.raises(ValueError, match="5 bands: one level has 4"):
        idwt2_grid([torch.ones(2, 2)] * 5, 4, 4)


# --- forms of the update ----------------------------------------------------------------------------------------------


def coefficients(delta):
    """Band -> B_b A_b, from the packed parameters."""
    found, a, b = {}, 0, 0
    for pair in delta.pairs:
        A = delta.A[a : a + pair.rank * pair.width].view(pair.rank, pair.width)
        B = delta.B[b : b + pair.out * pair.rank].view(pair.out, pair.rank)
        a, b = a + A.numel(), b + B.numel()
        found |= dict.fromkeys(pair.bands, B @ A)
    return found


@settings(deadline=None, max_examples=12)
@given(
    size=st.tuples(st.integers(8, 13), st.integers(8, 13)),
    mode=st.sampled_from(["subband2d", "per_band", "shared", "tiny"]),
    wavelet=st.sampled_from(["db2", "coif1"]),
    levels=st.integers(1, 2),
    compute=st.sampled_from(["auto", "activation", "weight"]),
)
def test_forward_is_the_change_of_the_weight(size, mode, wavelet, levels, compute):
    levels = 1 if mode == "shared" else levels
    layer, delta = adapted(
        torch.randn(size, dtype=torch.float64), r=2, mode=mode, wavelet=wavelet, levels=levels, compute=compute,
        init_weights=False, wara_alpha=1.0,
    )  # fmt: skip
    x = torch.randn(2, 3, size[1], dtype=torch.float64)
    y = layer(x)
    torch.testing.assert_close(y, layer.base_layer(x) + x @ layer.get_delta_weight("default").mT)
    if mode != "tiny":
        dW = 0.5 * expand_to_weight(coefficients(delta), *size, wavelet, levels)
        torch.testing.assert_close(delta.weight(), dW)
    layer.merge()
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize(("mode", "share", "rank"), [("shared", 0.5, 4), ("per_band", 1, 4), ("subband2d", 2, 8)])
def test_parameters_and_rank(mode, share, rank):
    _, delta = adapted(torch.randn(24, 16), r=2, mode=mode, wavelet="db2", init_weights=False)
    assert sum(p.numel() for p in delta.parameters()) == share * 2 * (24 + 16)
    assert torch.linalg.matrix_rank(delta.weight()) == rank


def test_start():
    _, delta = adapted(torch.randn(64, 32), r=4, levels=2)
    assert not delta.B.any()
    first = 0
    for pair in delta.pairs:
        A = delta.A[first : first + pair.rank * pair.width]
        first += len(A)
        assert 0.7 / math.sqrt(pair.width) < A.abs().max() <= 1 / math.sqrt(pair.width)


def test_ranks_of_bands_and_layers():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    config = WaraConfig(
        target_modules=["0", "1", "2"], r=2, band_ranks={"HH1": 0, "LL": 3}, wara_alpha=4.0,
        rank_pattern={"1": {"LL": 1}, "2": 1},
    )  # fmt: skip
    deltas = list(get_peft_model(model, config).base_model.deltas())
    found = [{pair.bands[0]: pair.rank for pair in delta.pairs} for delta in deltas]
    assert found == [{"LL": 3, "LH1": 2, "HL1": 2}, {"LL": 1}, {"LL": 3, "LH1": 1, "HL1": 1}]
    assert [delta.scaling for delta in deltas] == [2, 4, 4]


# --- what is another adapter in disguise ------------------------------------------------------------------------------


def test_shared_haar_is_a_kronecker_product():
    with pytest.warns(UserWarning, match="algebraically a Kronecker product") as caught:
        _, delta = adapted(
            torch.zeros(9, 6, dtype=torch.float64), r=2, mode="shared", init_weights=False, rank_pattern={"0": 1}
        )
    assert len(caught) == 1
    product = torch.kron(coefficients(delta)["LL"], torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(delta.weight(), product[:9, :6])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "per_band"},
        {"mode": "shared", "wavelet": "db4"},
        {"mode": "grid"},
        {"mode": "grid", "band_gates": False, "activation": "relu"},
        {"mode": "grid", "band_gates": False, "band_ranks": {"HH1": 0}},
        {"mode": "tiny"},
        {"band_ranks": {"LH1": 0, "HL1": 0, "HH1": 0}},
    ],
)
def test_configurations_that_are_wavelet_adapters(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_degenerate(WaraConfig(**options)) is None


# --- the patch grid ---------------------------------------------------------------------------------------------------

GRID = {"mode": "grid", "r": 2, "num_prefix_tokens": 1, "init_weights": False}


def test_ungated_grid_is_lora():
    with pytest.warns(UserWarning, match="algebraically a LoRA"):
        layer, delta = adapted(torch.randn(6, 8), band_gates=False, wavelet="db2", grid_size=(5, 3), **GRID)
    x = torch.randn(2, 16, 8)
    A, B = delta.A.view(2, 8), delta.B.view(6, 2)
    y = layer(x)
    torch.testing.assert_close(y, layer.base_layer(x) + x @ A.mT @ B.mT)
    layer.merge()
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu", "tanh"])
@pytest.mark.parametrize("dropped", [None, {"HL1": 0}])
@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
def test_grid_is_its_definition(activation, dropped, grid):
    """z = DWT2(x), u = A z, activation, gate, B, inverse transform: in this order, in all channels."""
    layer, delta = adapted(
        torch.randn(6, 8, dtype=torch.float64), grid_size=grid, activation=activation, band_ranks=dropped,
        wavelet="db2", **GRID,
    )  # fmt: skip
    act = getattr(torch.nn.functional, activation) if activation else lambda u: u
    A, B, gate = delta.A.view(2, 8), delta.B.view(6, 2), delta.gate
    assert gate.shape == (3 if dropped else 4, 2)
    if dropped:
        gate = torch.cat([gate[:2], torch.zeros(1, 2), gate[2:]])
    x = torch.randn(2, 1 + grid[0] * grid[1], 8, dtype=torch.float64)
    image = x[:, 1:].mT.unflatten(-1, grid)
    bands = [
        (act(z.movedim(1, -1) @ A.mT) * gamma @ B.mT).movedim(-1, 1)
        for z, gamma in zip(dwt2_grid(image, "db2"), gate, strict=True)
    ]
    patches = idwt2_grid(bands, *grid, "db2").flatten(-2).mT
    change = torch.cat([act(x[:, :1] @ A.mT) @ B.mT, patches], 1)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + change)


def test_gated_grid_is_merged_only_while_its_gates_agree():
    layer, delta = adapted(torch.randn(6, 8), **GRID)
    with pytest.raises(ValueError, match="cannot be merged into '0': the gates of its bands differ"):
        layer.merge()
    with pytest.raises(ValueError, match="the change of '0' is no matrix: the gates"):
        layer.get_delta_weight("default")
    delta.gate.data.fill_(2)
    assert "gates" in delta.unmergeable, "tokens before the grid have gate 1"
    layer, delta = adapted(torch.randn(6, 8), **GRID | {"num_prefix_tokens": 0})
    delta.gate.data.copy_(torch.tensor([2.0, 3.0]).expand(4, 2))
    x = torch.randn(2, 16, 8)
    y = layer(x)
    layer.merge(safe_merge=True)
    torch.testing.assert_close(layer(x), y)
    for options, reason in (({"activation": "relu"}, "activation='relu'"), ({"band_ranks": {"LL": 0}}, "dropped")):
        layer, _ = adapted(torch.randn(6, 8), **GRID | options)
        with pytest.raises(ValueError, match=reason):
            layer.merge()


VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["deit", "registers"])
def test_vision_transformers(kind, tmp_path):
    def build():
        torch.manual_seed(0)
        if kind == "deit":
            return DeiTModel(DeiTConfig(**VISION)).eval()
        return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=3, **VISION)).eval()

    pixels = torch.randn(2, 3, 16, 16)
    model = get_peft_model(build(), WaraConfig(mode="grid", r=2, init_weights=False)).eval()
    assert model.peft_config["default"].num_prefix_tokens == (2 if kind == "deit" else 4)
    assert len(list(model.base_model.deltas())) == 2
    expected = model(pixel_values=pixels).last_hidden_state
    assert not torch.allclose(expected, build()(pixel_values=pixels).last_hidden_state)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build(), tmp_path, is_trainable=True).eval()
    assert torch.equal(again(pixel_values=pixels).last_hidden_state, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again(pixel_values=pixels).last_hidden_state.float().square().mean().backward()
    for delta in again.base_model.deltas():
        assert delta.gate.grad.dtype == torch.float32
    assert any(isinstance(module, WaraLinear) for module in again.modules())


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 8), {}, r"needs \(batch, tokens, features\), but '0' got an input of shape \(4, 8\)"),
        ((2, 16, 8), {}, "16 tokens, 15 after num_prefix_tokens=1, which is no square grid"),
        ((2, 17, 8), {"grid_size": [4, 3]}, r"16 after num_prefix_tokens=1, but grid_size=\(4, 3\) has 12"),
        ((2, 5, 8), {"levels": 2}, "levels=2 halves a grid more often than the 2 x 2 tokens of '0' allow: .* most 1"),
        ((2, 2, 8), {}, "levels=1 halves a grid more often than the 1 x 1 tokens of '0' allow: exclude the layer"),
    ],
)
def test_inputs_that_are_no_grid(shape, options, message):
    layer, _ = adapted(torch.randn(6, 8), **GRID | options)
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(shape))


def test_unknown_prefix():
    with pytest.raises(ValueError, match=r"num_prefix_tokens=None is known for vit, .* type 'custom': set num_prefix"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), WaraConfig(mode="grid", r=2, target_modules=["0"]))


# --- coefficients between frozen singular vectors ---------------------------------------------------------------------


@pytest.mark.parametrize("form", ["subband2d", "per_band", "grid"])
@pytest.mark.parametrize("roots", [False, True])
def test_tiny_is_its_definition(form, roots):
    W0 = torch.randn(10, 12, dtype=torch.float64)
    options = {"num_prefix_tokens": 0} if form == "grid" else {"wavelet": "db2"}
    _, delta = adapted(W0, mode="tiny", svd_rank=2, tiny_form=form, tiny_sqrt_singular_values=roots, **options)
    assert {name for name, _ in delta.named_parameters()} == {"c", "gate"} if form == "grid" else {"c"}
    assert not delta.c.any()
    delta.c.data = torch.randn_like(delta.c)
    bands = dict(zip(band_names(), dwt2_grid(W0, "db2"), strict=True))
    blocks = {"grid": {"": W0}, "per_band": {k: bands[k] for k in ("LL", "HH1")}, "subband2d": bands}[form]
    changed = {}
    for (name, block), c in zip(blocks.items(), delta.c.split(2), strict=True):
        U, S, Vh = torch.linalg.svd(block)
        changed[name] = U[:, :2] @ torch.diag(c * (S[:2] if roots else 1)) @ Vh[:2]
    dW = changed[""] if form == "grid" else expand_to_weight(changed, 10, 12, "db2")
    torch.testing.assert_close(delta.weight(), dW)


def test_tiny_projections_follow_the_seed():
    W0 = torch.randn(10, 12)
    options = {"mode": "tiny", "svd_rank": 3, "tiny_projections": 2, "init_weights": False}
    deltas = [adapted(W0, tiny_seed=seed, **options)[1] for seed in (0, 0, 1)]
    assert deltas[0].c.numel() == 4 * 2
    for delta in deltas:
        delta.c.data.fill_(1)
    assert torch.equal(deltas[0].weight(), deltas[1].weight())
    assert not torch.allclose(deltas[0].weight(), deltas[2].weight())


def test_tiny_belongs_to_its_weight(tmp_path):
    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 8))

    model = get_peft_model(build(0), WaraConfig(mode="tiny", r=2, target_modules=["0"], init_weights=False))
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 8)
    assert torch.equal(PeftModel.from_pretrained(build(0), tmp_path)(x), model(x))
    with pytest.raises(ValueError, match="the checkpoint belongs to another frozen weight: '0' has the singular"):
        PeftModel.from_pretrained(build(1), tmp_path)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r=0: use an integer of at least 1"),
        ({"mode": "2d"}, "mode='2d': use one of 'subband2d', 'per_band', 'shared', 'grid', 'tiny'"),
        ({"wavelet": "daub"}, "wavelet='daub' is not known; accepted are orthogonal ones, such as haar, db2"),
        ({"wavelet": "bior2.2"}, "wavelet='bior2.2' is not orthogonal"),
        ({"levels": 0}, "levels=0: use an integer of at least 1"),
        ({"mode": "shared", "levels": 2}, "levels=2: one pair is shared by bands of one size"),
        ({"band_ranks": dict.fromkeys(band_names(), 0)}, "drops every band: give one of LL, LH1, HL1, HH1 a rank"),
        ({"r": {"LL": 0}}, "drops every band"),
        ({"r": {}}, "drops every band"),
        ({"band_ranks": {"LH2": 1}}, "band_ranks names the band 'LH2': 'subband2d' has LL, LH1, HL1, HH1"),
        ({"mode": "per_band", "r": {"LH1": 1}}, "r names the band 'LH1': 'per_band' has LL, HH1"),
        ({"band_ranks": {"LL": -1}}, r"band_ranks\['LL'\]=-1: use an integer of at least 0"),
        ({"r": {"LL": 1}, "band_ranks": {"LL": 1}}, "names every band: leave out band_ranks"),
        ({"mode": "shared", "band_ranks": {"LL": 1}}, "the bands of 'shared' have one pair"),
        ({"mode": "grid", "band_ranks": {"LL": 1}}, "the bands of 'grid' have one pair of rank 8"),
        ({"activation": "relu"}, "activation='relu' belongs to mode='grid', not to 'subband2d'"),
        ({"mode": "grid", "activation": "step"}, "activation='step': use one of None, 'relu'"),
        ({"mode": "grid", "grid_size": [4]}, r"grid_size=\(4,\): use \(height, width\)"),
        ({"mode": "grid", "compute": "weight"}, "compute='weight' needs a change that is a matrix"),
        ({"svd_rank": 2}, "svd_rank=2 belongs to mode='tiny', not to 'subband2d'"),
        ({"wara_dropout": 1.0}, r"wara_dropout=1.0: use a probability in \[0, 1\)"),
        ({"wara_alpha": math.inf}, "wara_alpha=inf: use a finite number"),
        ({"rank_pattern": {"0": 0}}, r"rank_pattern\['0'\]=0: r=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_configurations(options, message):
    with pytest.raises(ValueError, match=message):
        WaraConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 4}, "rank 4 of band LL in '0' is more than its 3 x 4 allow at levels=1: use a rank of at most 3"),
        ({"r": 1, "levels": 3}, "levels=3 halves an axis more often than the 6 x 8 weight of '0' allows: .* most 2"),
        ({"r": 7, "mode": "grid", "num_prefix_tokens": 0}, "rank 7 of band LL in '0' is more than its 6 x 8 allow"),
    ],
)
def test_layers_that_are_too_small(options, message):
    with pytest.raises(ValueError, match=message):
        adapted(torch.randn(6, 8), **options)


def test_a_layer_that_has_no_levels():
    with pytest.raises(ValueError, match=r"the 1 x 8 weight of '0' allows: exclude it .* or use mode='grid'"):
        adapted(torch.randn(1, 8), r=1)
    adapted(torch.randn(1, 8), r=1, mode="grid", num_prefix_tokens=0)


def test_a_weight_that_is_not_finite():
    with pytest.raises(ValueError, match=r"band LL of the weight of '0' has nan at \(0, 0\)"):
        adapted(torch.full((6, 8), torch.nan), r=1, mode="tiny")
