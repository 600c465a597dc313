from __future__ import annotations

import copy
import math

import peft
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_model_status, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fullrank.adapt import (
    FrozenLayer,
    LoLDUConfig,
    LoLDULinear,
    loldu_delta,
    loldu_factors,
    loldu_parameter_groups,
)
from fullrank.adapt.loldu import INIT_METHODS, LoLDUDelta

from .conformance import Conformance
from .models import TARGETS, build, inputs, output


class TestLoLDU(Conformance):
    """Factors derived again on load; onto a base in another dtype they cannot be, so those cases save them."""

    def config(self, **options):
        return LoLDUConfig(**({"r": 4} | options))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_half_precision(self, dtype, autocast_adapter_dtype, low_cpu_mem_usage, tmp_path):
        WithFactors().test_half_precision(dtype, autocast_adapter_dtype, low_cpu_mem_usage, tmp_path)


class WithFactors(Conformance):
    """Every pivot, factors multiplied first and saved."""

    tolerance = 3e-5

    def config(self, **options):
        return LoLDUConfig(**({"r": "full", "save_factors": True, "form": "weight", "init_method": "lu"} | options))


@pytest.mark.parametrize("name", list(TARGETS))
def test_every_pivot_with_saved_factors(name, tmp_path):
    suite = WithFactors()
    suite.test_starts_as_the_base_model(name)
    suite.test_merging_and_unmerging(name)
    model = suite.adapted(name)
    model.save_pretrained(tmp_path)
    other = build(name, seed=1)
    for module, source in zip(other.modules(), build(name).modules(), strict=True):
        if isinstance(module, nn.Linear):
            module.load_state_dict(source.state_dict())  # the rest of the model differs; so do Conv1D layers
    again = PeftModel.from_pretrained(other, tmp_path)
    changes = [[delta.weight() for delta in m.base_model.deltas()] for m in (model, again)]
    assert all(torch.equal(*pair) for pair in zip(*changes, strict=True))


# --- the authors' numbers ---------------------------------------------------------------------------------------------


@pytest.mark.golden("loldu")
def test_golden(case):
    """Factors, start, forward, effective weight and every gradient."""
    t, config = case.tensors, case.spec["config"]
    factors, outputs, grads = (
        {key: case.spec["tolerance_float32"][name][key] for key in ("atol", "rtol")}
        for name in ("factors", "outputs", "grads")
    )
    assert set(config) == {"out", "in", "rank_asked", "rank_effective", "alpha", "init_method"}
    linear = nn.Linear(config["in"], config["out"])
    linear.weight.data, linear.bias.data = t["W0"].clone(), t["b0"].clone()
    made = LoLDUConfig(
        r=config["rank_effective"],
        # the authors divide by the rank that was asked for, also where the layer has fewer pivots
        alpha=config["alpha"] * config["rank_effective"] / config["rank_asked"],
        init_method=config["init_method"],
        target_modules=["0"],
    )
    model = get_peft_model(nn.Sequential(linear), made)
    delta = model.base_model.model[0].deltas["default"]
    torch.testing.assert_close(delta.B, t["PL_r"], **factors)
    torch.testing.assert_close(delta.A, t["U_r"], **factors)
    assert torch.equal(torch.eye(config["out"])[delta.perm.long()].mT, t["P"])
    torch.testing.assert_close(delta.sigma0[0], t["sigma0"])
    d = t["D"][: config["rank_effective"]]
    match config["init_method"]:
        case "lu":
            torch.testing.assert_close(delta.z0, t["z0"], **factors)
        case "constant":
            torch.testing.assert_close(delta.z0, d.mean().expand_as(d), **factors)
        case "uniform":
            for z0 in (t["z0"], delta.z0):
                assert z0.abs().max() <= d.mean().abs() / 2
        case "normal" | "ones" | "zeros" | "s_uniform" | "s_normal":
            pass
        case other:
            raise AssertionError(f"the init_method {other!r} is unknown to this test")
    torch.testing.assert_close(model(t["x"]), t["y_base"], **outputs)

    delta.z0.copy_(t["z0"])
    delta.z.data.copy_(t["z"])
    delta.sigma.data.fill_(t["sigma"])
    consistent = torch.allclose(t["y_init"], t["y_base"], **outputs)
    assert consistent or config["init_method"] in ("ones", "zeros", "s_uniform", "s_normal")
    if not consistent:  # their residual was made with the pivots: so are the z0 that it corresponds to
        delta.z0.copy_(d)
    for delta.config.form in ("activation", "weight"):
        model.zero_grad()
        x = t["x"].clone().requires_grad_()
        y = model(x)
        torch.testing.assert_close(y, t["y"], **outputs)
        (y * t["gy"]).sum().backward()
        torch.testing.assert_close(delta.z.grad, t["grad_z"], **grads)
        torch.testing.assert_close(delta.sigma.grad[0], t["grad_sigma"], **grads)
        torch.testing.assert_close(x.grad, t["grad_x"], **grads)
    torch.testing.assert_close(model.merge_and_unload()[0].weight.data, t["W_eff"], **outputs)


# --- factors ----------------------------------------------------------------------------------------------------------


def random_matrix(out, inside, dtype=torch.float32, seed=0):
    return torch.randn(out, inside, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(out=st.integers(1, 12), inside=st.integers(1, 12), seed=st.integers(0, 9))
def test_factors_are_those_of_scipy_and_nested(out, inside, seed):
    W0 = random_matrix(out, inside, torch.float64, seed)
    full = loldu_factors(W0)
    P, L, U = (torch.from_numpy(part) for part in scipy.linalg.lu(W0.numpy()))
    torch.testing.assert_close(full.B, P @ L)
    torch.testing.assert_close(full.d, U.diagonal())
    torch.testing.assert_close(full.d[:, None] * full.A, U)
    torch.testing.assert_close((full.B * full.d) @ full.A, W0)
    part = loldu_factors(W0, max(1, min(out, inside) // 2))
    r = len(part.d)
    assert torch.equal(part.B, full.B[:, :r])
    assert torch.equal(part.A, full.A[:r])
    assert torch.equal(part.d, full.d[:r])


def test_the_order_of_tied_pivots_can_be_given():
    W0 = torch.from_numpy(scipy.linalg.hadamard(8)).float()[:, :5]
    for first in range(8):
        factors = loldu_factors(W0, 1, order=torch.tensor([first]))
        assert factors.permutation[0] == first
        torch.testing.assert_close(factors.A[0] * factors.d[0], W0[first])
        torch.testing.assert_close(factors.B[first], torch.ones(1))
    usual = loldu_factors(W0)
    other = loldu_factors(W0, order=loldu_factors(W0.flip(0)).permutation[:5].mul(-1).add(7))
    assert not torch.equal(usual.permutation, other.permutation)
    for factors in (usual, other):
        torch.testing.assert_close((factors.B * factors.d) @ factors.A, W0)
    untied = random_matrix(8, 5)
    usual = loldu_factors(untied)
    again = loldu_factors(untied, order=usual.permutation[:5].int())
    for name in ("A", "B", "d"):
        torch.testing.assert_close(getattr(again, name), getattr(usual, name))
    with pytest.raises(ValueError, match="is no order in which partial pivoting eliminates W0"):
        loldu_factors(untied, order=usual.permutation[:5].flip(0))


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_weights_that_lack_rank_keep_their_rows(rank):
    W0 = random_matrix(9, rank) @ random_matrix(rank, 6, seed=1)
    linear = nn.Linear(6, 9)
    linear.weight.data = W0
    with pytest.warns(UserWarning, match=rf"{6 - rank} of the 6 pivots of '0' are smaller than pivot_floor=1e-06"):
        model = get_peft_model(
            nn.Sequential(linear), LoLDUConfig(r="full", init_method="lu", pivot_floor=1e-6, target_modules=["0"])
        )
    delta = model.base_model.model[0].deltas["default"]
    assert torch.equal(delta.z0[rank:], torch.ones(6 - rank))
    torch.testing.assert_close((delta.B * delta.z0) @ delta.A, W0, atol=1e-5, rtol=1e-5)
    assert delta.A.isfinite().all()


def test_factors_of_a_double_precision_weight_have_all_its_digits():
    linear = nn.Linear(20, 12, dtype=torch.float64)
    model = get_peft_model(nn.Sequential(linear), LoLDUConfig(r="full", init_method="lu", target_modules=["0"]))
    delta = model.base_model.model[0].deltas["default"]
    torch.testing.assert_close((delta.B * delta.z0) @ delta.A, linear.weight.data, rtol=1e-12, atol=1e-12)
    assert delta._pivots_of(linear.weight) is not None  # so that x passes the factors once, as in single precision


# --- the change -------------------------------------------------------------------------------------------------------


def random_delta(out, inside, seed=0, **options):
    W0, b0 = random_matrix(out, inside, seed=seed) / math.sqrt(inside), torch.ones(out)
    delta = LoLDUDelta(FrozenLayer("layer", out, inside, lambda: (W0, b0)), LoLDUConfig(**options))
    torch.manual_seed(seed)
    with torch.no_grad():
        delta.reset()
    return delta, W0


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 12), inside=st.integers(1, 12), r=st.integers(1, 12), tokens=st.integers(0, 40),
    form=st.sampled_from(["auto", "activation", "weight"]), method=st.sampled_from(INIT_METHODS),
)  # fmt: skip
def test_merged_is_unmerged(out, inside, r, tokens, form, method):
    delta, W0 = random_delta(out, inside, r=min(r, out, inside), form=form, init_method=method, init_weights=False)
    delta.sigma.data.add_(0.3)
    x = random_matrix(tokens, inside, seed=1)
    merged = x @ delta.weight().mT
    torch.testing.assert_close(
        delta(x, x @ W0.mT), merged, rtol=1e-4, atol=1e-4 * float(delta.weight().detach().abs().max())
    )
    assert delta.bias_change() is None


@pytest.mark.parametrize("method", INIT_METHODS)
def test_starts(method):
    delta, W0 = random_delta(300, 200, r=150, init_method=method, alpha=75.0)
    assert not delta.weight().any()
    assert delta.sigma.item() == delta.sigma0.item() == 0.5
    d, z = loldu_factors(W0, 150).d, delta.z.detach()
    mean, spread = float(d.mean()), float(d.std())
    expected = {  # mean, standard deviation
        "lu": (mean, spread), "uniform": (0, abs(mean) / math.sqrt(12)), "constant": (mean, 0),
        "normal": (mean, spread), "ones": (1, 0), "zeros": (0, 0), "s_uniform": (0, 1 / math.sqrt(3)),
        "s_normal": (0, 1),
    }[method]  # fmt: skip
    assert float(z.mean()) == pytest.approx(expected[0], abs=4 * expected[1] / math.sqrt(150) + 1e-6)
    assert float(z.std()) == pytest.approx(expected[1], rel=0.25, abs=1e-6)
    assert method != "lu" or torch.equal(z, d)
    assert method != "uniform" or float(z.abs().max()) <= abs(mean) / 2


def test_training_does_not_depend_on_the_start():
    """Without sigma and decay, every start gives the same trajectory of the weight."""
    x, target = random_matrix(20, 8, seed=1), random_matrix(20, 6, seed=2)
    reached = []
    for method in ("lu", "uniform", "ones"):
        delta, W0 = random_delta(6, 8, r=4, init_method=method, train_sigma=False)
        optimizer = torch.optim.SGD([delta.z], lr=0.05)
        for _ in range(5):
            y0 = x @ W0.mT
            loss = (y0 + delta(x, y0) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reached.append(delta.weight().detach())
    assert reached[0].abs().max() > 1e-3
    for other in reached[1:]:
        torch.testing.assert_close(other, reached[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 8, 64, 512])
@pytest.mark.parametrize("r", [4, "full"])
@pytest.mark.parametrize("training", [True, False])
def test_the_cheaper_form_is_chosen(tokens, r, training):
    def operations(form):
        delta, _ = random_delta(32, 48, r=r, form=form, init_weights=False)
        x = random_matrix(tokens, 48).requires_grad_(training)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            y = delta(x, x[:, :32])
            if training:
                y.sum().backward()
        return counter.get_total_flops()

    assert operations("auto") == min(operations("activation"), operations("weight"))


def test_dropout_of_the_input():
    delta, W0 = random_delta(6, 5, r=3, loldu_dropout=0.5, init_weights=False)
    x = random_matrix(200, 5)
    torch.manual_seed(0)
    changed = delta(x, x @ W0.mT)
    assert (changed == 0).all(1).any()  # all five inputs dropped: 1 in 32
    delta.eval()
    torch.testing.assert_close(delta(x, x @ W0.mT), x @ delta.weight().mT)


# --- PEFT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train_sigma", "count"), [(True, 2 * (4 + 1)), (False, 2 * 4)])
def test_trained_parameters(train_sigma, count):
    model = TestLoLDU().adapted(train_sigma=train_sigma)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    before = {key: p.clone() for key, p in model.named_parameters()}
    TestLoLDU().train(model)
    changed = {key.split(".")[-1] for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == ({"z", "sigma"} if train_sigma else {"z"})
    assert get_model_status(model).requires_grad == {"default": True}


def test_default_targets_are_those_of_lora():
    model = get_peft_model(build("bert"), LoLDUConfig(r=2))
    assert {name.split(".")[-1] for name in model.targeted_module_names} == {"query", "value"}
    assert isinstance(model.get_base_model().get_submodule(model.targeted_module_names[0]), LoLDULinear)


def test_rank_patterns():
    config = LoLDUConfig(r=2, target_modules=["0", "2", "4"], rank_pattern={"0": "full", "4": 3})
    model = get_peft_model(build("mlp"), config)
    assert [delta.rank for delta in model.base_model.deltas()] == [10, 2, 3]
    assert [delta.sigma.item() for delta in model.base_model.deltas()] == [1, 1, 1]


def test_checkpoints_are_small(tmp_path):
    model = get_peft_model(build("mlp"), LoLDUConfig(r=4, target_modules=["0"]))
    state = peft.get_peft_model_state_dict(model)
    assert {key.split(".")[-1] for key in state} == {"z", "sigma", "z0", "sigma0", "perm", "fingerprint"}
    assert sum(value.numel() for value in state.values()) == 2 * 4 + 20 + 5


def saved(folder, base, **options):
    torch.manual_seed(0)
    model = get_peft_model(base, LoLDUConfig(**({"r": 4, "init_weights": False, "target_modules": ["0"]} | options)))
    model.save_pretrained(folder)
    return model.eval()


def test_another_base_is_refused_unless_factors_were_saved(tmp_path):
    message = r"the weight of '0' \(norm .*\) is not the one that this LoLDU .* save_factors=True"
    expected = next(saved(tmp_path, build("mlp")).base_model.deltas()).weight()
    one_entry = build("mlp")
    one_entry[0].weight.data[3, 5] += 1e-4
    for other in (build("mlp", seed=1), build("mlp").bfloat16(), one_entry):
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(other, tmp_path)
    saved(tmp_path, build("mlp"), save_factors=True)
    model = PeftModel.from_pretrained(build("mlp", seed=1), tmp_path)
    assert torch.equal(next(model.base_model.deltas()).weight(), expected)


def test_a_checkpoint_decides_between_tied_pivots(tmp_path):
    base = nn.Sequential(nn.Linear(8, 8))
    base[0].weight.data = torch.from_numpy(scipy.linalg.hadamard(8)).float()
    model = saved(tmp_path, copy.deepcopy(base))
    state = load_file(tmp_path / "adapter_model.safetensors")
    (key,) = (key for key in state if key.endswith("perm"))
    order = 7 - loldu_factors(base[0].weight.detach().flip(0)).permutation
    save_file(state | {key: order.int()}, tmp_path / "adapter_model.safetensors")
    again = PeftModel.from_pretrained(base, tmp_path)
    before, after = (next(m.base_model.deltas()) for m in (model, again))
    assert not torch.equal(before.perm[:4], order[:4])
    factors = loldu_factors(base[0].weight.detach(), 4, order=order[:4])
    torch.testing.assert_close(after.weight(), loldu_delta(factors.B, factors.A, before.z, before.z0))


def test_loading_beside_a_merged_adapter(tmp_path):
    expected = output(saved(tmp_path, build("mlp")), "mlp")
    model = TestLoLDU().adapted()
    model.merge_adapter()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.load_adapter(tmp_path, adapter_name="loaded")
    model.set_adapter("loaded")
    assert torch.equal(output(model, "mlp"), expected)


@pytest.mark.parametrize("ranks", [(2, 5, 5), (5, 2, 1)])
def test_adapters_of_a_layer_share_their_factors(ranks):
    torch.manual_seed(0)
    config = {"target_modules": ["0"], "init_weights": False}
    model = get_peft_model(build("mlp"), LoLDUConfig(r=ranks[0], **config), "a")
    model.add_adapter("b", LoLDUConfig(r=ranks[1], **config))
    model.add_adapter("c", LoLDUConfig(r=ranks[2], **config))
    model.add_adapter("own", LoLDUConfig(r=2, save_factors=True, **config))
    deltas = dict(model.base_model.model[0].deltas)
    for factor in ("A", "B"):
        storages = {name: getattr(delta, factor).untyped_storage().data_ptr() for name, delta in deltas.items()}
        assert storages["a"] == storages["b"] == storages["c"] != storages["own"]
    alone = {name: delta.weight() for name, delta in deltas.items()}
    for name, rank in zip(("a", "b", "c"), ranks, strict=True):
        factors = loldu_factors(model.base_model.model[0].base_layer.weight.detach(), rank)
        expected = loldu_delta(factors.B, factors.A, deltas[name].z, deltas[name].z0)
        torch.testing.assert_close(alone[name], expected)
    model.delete_adapter("b")
    assert torch.equal(model.base_model.model[0].get_delta_weight("c"), alone["c"])


def test_decay_spares_the_diagonal():
    model = TestLoLDU().adapted(target_modules=["0"], modules_to_save=["4"])
    head, own = loldu_parameter_groups(model, weight_decay=0.1)
    assert (head["weight_decay"], own["weight_decay"]) == (0.1, 0)
    assert [tuple(p.shape) for p in own["params"]] == [(4,), (1,)]
    assert len(head["params"]) == 2
    torch.optim.AdamW([head, own])
    with pytest.raises(ValueError, match="Sequential has no LoLDU layer: adapt it with get_peft_model"):
        loldu_parameter_groups(build("mlp"), 0.1)


def test_compiled_training_step(unchecked):
    model = TestLoLDU().adapted("llama").train()
    copied = copy.deepcopy(model)
    expected = output(model, "llama")
    expected.square().mean().backward()
    found = output(torch.compile(copied, backend="aot_eager"), "llama")
    found.square().mean().backward()
    torch.testing.assert_close(found, expected)
    gradients = [{key: p.grad for key, p in m.named_parameters() if p.requires_grad} for m in (model, copied)]
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-5)


# --- bases that are not ready -----------------------------------------------------------------------------------------


def on_meta(**options):
    with pytest.warns(UserWarning, match="the weight of '0' is on the meta device: loldu will decompose it"):
        return get_peft_model(
            copy.deepcopy(build("mlp")).to("meta"), LoLDUConfig(r=4, target_modules=["0"], **options)
        ).eval()


def fill_base(model):
    layer = model.base_model.model
    base = build("mlp")
    layer[0].base_layer.load_state_dict(base[0].state_dict())
    for index in (2, 4):
        layer[index].load_state_dict(base[index].state_dict())


def test_weights_on_the_meta_device_are_decomposed_later(tmp_path):
    model = on_meta()
    x = torch.empty(4, 10, device="meta")
    assert next(model.base_model.deltas())(x, x.new_empty(4, 20)).shape == (4, 20)
    model.to_empty(device="cpu")
    fill_base(model)
    assert torch.equal(output(model, "mlp"), output(build("mlp"), "mlp"))
    TestLoLDU().train(model)
    assert not torch.allclose(output(model, "mlp"), output(build("mlp"), "mlp"))


@pytest.mark.parametrize("adapter_first", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_checkpoint_is_checked_when_both_are_there(adapter_first, seed, tmp_path):
    reference = saved(tmp_path, build("mlp"))
    prefix = "base_model.model.0.loldu_delta.default."
    adapter = {key: value.clone() for key, value in reference.state_dict().items() if key.startswith(prefix)}
    model, base = on_meta(), build("mlp", seed=seed)
    steps = [
        lambda: model.load_state_dict(adapter, strict=False, assign=True),
        lambda: model.base_model.model[0].base_layer.load_state_dict(base[0].state_dict(), assign=True),
    ]
    x = inputs("mlp")["input"]

    def load_and_call():
        for step in steps if adapter_first else reversed(steps):
            step()
        return model.base_model.model[0](x)

    if seed == 0:
        assert torch.equal(load_and_call(), reference.base_model.model[0](x))
        return
    with pytest.raises(ValueError, match="is not the one that this LoLDU checkpoint was made for"):
        load_and_call()


def test_an_adapter_left_on_the_meta_device():
    model = on_meta()
    model.base_model.model[0].base_layer.to_empty(device="cpu")
    with pytest.raises(ValueError, match="the weight of '0' has values by now, but its adapter is still on the meta"):
        model.base_model.model[0](torch.ones(1, 10))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite(bad):
    model = build("mlp")
    model[0].weight.data[1, 2] = bad
    with pytest.raises(ValueError, match=r"the weight of '0' has (nan|inf) at \(1, 2\)"):
        get_peft_model(model, LoLDUConfig(r=2, target_modules=["0"]))


def test_integer_weights(unchecked):
    model = build("mlp")
    model[0].weight = nn.Parameter(torch.ones(20, 10, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"the weight of '0' is torch\.int8, and loldu decomposes floating-point"):
        get_peft_model(model, LoLDUConfig(r=2, target_modules=["0"]))


def test_tied_weights():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 5), "head": nn.Linear(5, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    with pytest.raises(ValueError, match="'head' shares its weight with 'embed', and loldu would change only one"):
        get_peft_model(model, LoLDUConfig(r=2, target_modules=["head"]))


def test_ranks_beyond_the_layer(unchecked):
    with pytest.raises(ValueError, match=r"r=11: '0' is 20 x 10 and has 10 pivots; use at most 10, or 'full'"):
        get_peft_model(build("mlp"), LoLDUConfig(r=11, target_modules=["0"]))
    with pytest.raises(ValueError, match=r"r=4: 'W0' is 3 x 5 and has 3 pivots"):
        loldu_factors(torch.ones(3, 5), 4)
    with pytest.raises(ValueError, match=r"r=0: use a positive integer or 'full'"):
        loldu_factors(torch.ones(3, 5), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r=0: use a positive integer or 'full'"),
        ({"r": -3}, "r=-3: use a positive integer or 'full'"),
        ({"r": 2.0}, "r=2.0: use a positive integer or 'full'"),
        ({"r": True}, "r=True: use a positive integer or 'full'"),
        ({"r": "half"}, "r='half': use a positive integer or 'full'"),
        ({"alpha": 0}, "alpha=0: use a positive number, or None"),
        ({"alpha": math.inf}, "alpha=inf: use a positive number, or None"),
        ({"init_method": "xavier"}, "init_method='xavier': use one of 'uniform', 'lu', 'constant'"),
        ({"init_weights": "lu"}, "init_weights='lu': use True or False, and init_method"),
        ({"form": "dense"}, "form='dense': use one of 'auto', 'activation', 'weight'"),
        ({"decompose_dtype": "float16"}, "decompose_dtype='float16': use one of 'float32', 'float64'"),
        ({"pivot_floor": -1.0}, r"pivot_floor=-1.0: use a number in \[0, 1\)"),
        ({"decompose_device": "gpu0"}, "decompose_device='gpu0': use the name of a device of torch, .* or None"),
        ({"decompose_device": "meta"}, "decompose_device='meta': use the name of a device"),
        ({"decompose_device": 0}, "decompose_device=0: use the name of a device"),
        ({"loldu_dropout": 1.0}, r"loldu_dropout=1.0: use a probability in \[0, 1\)"),
        ({"rank_pattern": {"q": 0}}, r"rank_pattern\['q'\]=0: r=0: use a positive integer"),
    ],
)
def test_bad_configurations(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        LoLDUConfig(**options)


def every_pivot(outputs=12, width=20, **options):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(width, outputs))
    model = get_peft_model(base, LoLDUConfig(r="full", target_modules=["0"], init_weights=False, **options))
    layer = model.base_model.model[0]
    return model, layer, layer.deltas["default"]


@settings(max_examples=30, deadline=None)
@given(outputs=st.integers(1, 24), width=st.integers(1, 24), tokens=st.integers(0, 9))
def test_every_pivot_takes_the_weight_with_the_change(outputs, width, tokens):
    model, layer, delta = every_pivot(outputs, width, form="activation")
    x = torch.randn(tokens, width, requires_grad=True)
    assert delta._pivots_of(layer.weight) is delta.d
    y = model(x)
    expected = nn.functional.linear(x, layer.weight + delta.weight(), layer.bias)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    learned, probe = (x, delta.z, delta.sigma), torch.randn_like(y)
    found, wanted = (torch.autograd.grad(out, learned, probe) for out in (y, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_every_pivot_spares_the_products_with_the_weight():
    model, _, _ = every_pivot(32, 32)
    x = torch.randn(8, 32)
    model(x)  # compares factors and weight once
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(x)
    assert counted.get_total_flops() == 2 * 2 * 8 * 32 * 32


@pytest.mark.parametrize("edit", ["in place", "another tensor", "loaded"])
def test_a_weight_that_was_edited_later_is_the_one_that_is_used(edit):
    model, layer, delta = every_pivot()
    x = torch.randn(5, 20)
    before, other = model(x), torch.randn(12, 20)
    base = layer.get_base_layer()
    if edit == "in place":
        with torch.no_grad():
            base.weight.copy_(other)
    elif edit == "another tensor":
        base.weight.data = other
    else:
        base.load_state_dict({"weight": other, "bias": base.bias.clone()})
    assert delta._pivots_of(base.weight) is None
    expected = nn.functional.linear(x, other + delta.weight(), base.bias)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, expected)


def test_factors_that_are_rounder_than_the_weight_do_not_stand_for_it():
    model, layer, delta = every_pivot()
    model.double()
    with torch.no_grad():
        layer.weight.add_(1e-9 * torch.randn(12, 20, dtype=torch.float64))
    assert delta._pivots_of(layer.weight) is None
    x = torch.randn(5, 20, dtype=torch.float64)
    expected = nn.functional.linear(x, layer.weight + delta.weight(), layer.bias)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_merging_and_unmerging_every_pivot_gives_the_same_outputs():
    model, _, _ = every_pivot()
    x = torch.randn(5, 20)
    before = model(x)
    model.merge_adapter()
    merged = model(x)
    model.unmerge_adapter()
    torch.testing.assert_close(merged, before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_factors_that_were_loaded_from_elsewhere_do_not_stand_for_the_weight():
    model, layer, delta = every_pivot(save_factors=True)
    x = torch.randn(5, 20)
    model(x)  # compares factors and weight
    with torch.no_grad():
        other = loldu_factors(torch.randn(12, 20))
        delta.load_state_dict({"A": other.A, "B": other.B}, strict=False)
    expected = nn.functional.linear(x, layer.weight + delta.weight(), layer.bias)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_factors_derived_in_inference_mode():
    model, _, delta = every_pivot()
    expected = model(torch.ones(1, 20))
    with torch.inference_mode():
        delta._derive(delta.base.weight)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.ones(1, 20)), expected, rtol=1e-4, atol=1e-4)
