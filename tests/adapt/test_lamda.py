from __future__ import annotations

import copy
import re

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fullrank.adapt import (
    LamdaCallback,
    LamdaConfig,
    allocate_ranks,
    captured_energy,
    freeze_step,
    frozen_columns,
    lamda_parameter_groups,
    lamda_parameter_table,
    lamda_rank_report,
)

from .conformance import Conformance
from .models import TARGETS, build, output


class TestLamda(Conformance):
    def config(self, **options):
        return LamdaConfig(**({"r": 3} | options))


class TestOfficialStart(Conformance):
    def config(self, **options):
        return LamdaConfig(**({"r": 3, "init": "official", "lamda_alpha": 3} | options))


# --- the authors' numbers, and the derivation ------------------------------------------------------------------------


@pytest.mark.golden("lamda")
def test_golden(case):
    if "y" in case.tensors:
        check_forward(case.spec, case.tensors)
    else:
        check_start_and_ranks(case.spec, case.tensors)


def check_forward(spec, tensors):
    known = {"in_features", "hidden", "out_features", "r", "lora_alpha", "scaling"}
    known |= {"dropout", "activation", "seed", "batch"}
    config = spec["config"]
    assert set(config) <= known
    assert config["activation"] == "tanh between fc1 and fc2"
    assert config["dropout"] == 0
    sizes = config["in_features"], config["hidden"], config["out_features"]
    network = nn.Sequential()
    network.add_module("fc1", nn.Linear(*sizes[:2]))
    network.add_module("tanh", nn.Tanh())
    network.add_module("fc2", nn.Linear(*sizes[1:]))
    network.load_state_dict({key[5:]: value for key, value in tensors.items() if key.startswith("base.")})
    adapter = LamdaConfig(
        r=config["r"], lamda_alpha=config["lora_alpha"], init="official", target_modules=["fc1", "fc2"]
    )
    model = get_peft_model(network, adapter)
    trained = {key.replace("lamda_delta.default.", "") for key, p in model.named_parameters() if p.requires_grad}
    renamed = {"lora_B.default.weight": "B", "sigma.default.weight": "S"}
    expected = set(spec["trainable_after_official_call"])
    for theirs, ours in renamed.items():
        expected = {key.replace(theirs, ours) for key in expected}
    assert trained == expected

    deltas = {delta.base.name: delta for delta in model.base_model.deltas()}
    for name, delta in deltas.items():
        assert delta.scaling == config["scaling"]
        for factor in ("A", "S", "B"):
            getattr(delta, factor).data = tensors[f"{name}.{factor}"].clone()
    x = tensors["x"].clone().requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, tensors["y"], rtol=0, atol=1e-5)
    (y * tensors["grad_output"]).sum().backward()
    torch.testing.assert_close(x.grad, tensors["grad_x"], rtol=1e-4, atol=1e-5)
    for name, delta in deltas.items():
        torch.testing.assert_close(delta.weight(), tensors[f"{name}.delta_weight"], rtol=1e-4, atol=1e-5)
        for factor in ("S", "B"):
            gradient = getattr(delta, factor).grad
            torch.testing.assert_close(gradient, tensors[f"{name}.grad_{factor}"], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        few = model.eval()(tensors["x"])
        torch.testing.assert_close(few, tensors["y"], rtol=0, atol=1e-5)
        torch.testing.assert_close(model.merge_and_unload()(tensors["x"]), tensors["y"], rtol=0, atol=1e-5)


def check_start_and_ranks(spec, tensors):
    config = spec["config"]
    assert set(config) <= {"seed", "shapes", "target_rank", "candidates", "scaling"}
    r, s = config["target_rank"], config["scaling"]
    names = [f"m{index}" for index in range(len(config["shapes"]))]
    spectra = {name: tensors[f"{name}.singular_values"] for name in names}
    for allocation in ("waterfill", "groups"):
        assert allocate_ranks(spectra, r, config["candidates"], allocation) == spec[f"rank_{allocation}"]
    for key, tables in spec["freeze_tables"].items():
        rank, steps, eta, accumulation = map(float, re.fullmatch(r"r(.+)_T(.+)_eta(.+)_ga(.+)", key).groups())
        linear = [frozen_columns(t, int(rank), eta * steps) for t in range(int(steps))]
        assert linear == tables["linear_columns_frozen_at_optimizer_step"]
        micro = range(int(steps * accumulation))
        official = [frozen_columns(t, int(rank), eta * steps * accumulation, "official") for t in micro]
        assert official == tables["official_code_columns_frozen_at_micro_step"]

    base = nn.ModuleDict()
    for name in names:
        rows, columns = tensors[f"{name}.weight"].shape
        base[name] = nn.Linear(columns, rows, bias=False)
        base[name].weight.data = tensors[f"{name}.weight"].clone()
    model = get_peft_model(base, LamdaConfig(r=r, lamda_alpha=s * r, target_modules=names))
    close = {"rtol": 0, "atol": float(spec["tolerance"]["float64"])}
    for delta in model.base_model.deltas():
        name = delta.base.name
        W0, A, B = tensors[f"{name}.weight"], delta.A, delta.B
        energy = captured_energy(spectra[name])
        torch.testing.assert_close(energy, tensors[f"{name}.energy"], **close)
        torch.testing.assert_close(float(energy[r]), spec["group_energy_at_target"][name])
        torch.testing.assert_close(A.mT @ A, tensors[f"{name}.PA"], **close)
        torch.testing.assert_close(B @ B.mT, tensors[f"{name}.PB"], **close)
        torch.testing.assert_close(s * B @ delta.S @ A, tensors[f"{name}.principal"], **close)
        torch.testing.assert_close(W0 - s * B @ delta.S @ A, tensors[f"{name}.residual"], **close)
        x = tensors[f"{name}.x"]
        torch.testing.assert_close(model.base_model.model[name](x), x @ W0.mT, **close)


# --- starts ----------------------------------------------------------------------------------------------------------


def layer(rows=12, columns=10, dtype=torch.float32, **options):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(columns, rows)).to(dtype)
    return get_peft_model(base, LamdaConfig(**({"r": 4, "target_modules": ["0"]} | options)))


def only_delta(model):
    (delta,) = model.base_model.deltas()
    return delta


@pytest.mark.parametrize("init", ["svd_residual", "svd_zero"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_spectral_starts_change_nothing(init, dtype, tolerance):
    model = layer(dtype=dtype, init=init, lamda_alpha=2)
    x = torch.randn(64, 10, dtype=dtype)
    for module in (model.train(), model.eval()):
        found = module(x)
        with model.disable_adapter():
            torch.testing.assert_close(found, model(x), rtol=tolerance, atol=tolerance)
    delta = only_delta(model)
    U, sigma, Vh = torch.linalg.svd(model.base_model.model[0].get_base_layer().weight.float())
    torch.testing.assert_close(delta.A.mT @ delta.A, Vh[:4].mT @ Vh[:4], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(delta.B @ delta.B.mT, U[:, :4] @ U[:, :4].mT, rtol=tolerance, atol=tolerance)
    expected = sigma[:4].diag() / delta.scaling if init == "svd_residual" else torch.zeros(4, 4)
    torch.testing.assert_close(delta.S.detach(), expected, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    rank=st.integers(1, 9),
    tokens=st.integers(1, 40),
    alpha=st.none() | st.floats(0.5, 4),
    init=st.sampled_from(["svd_residual", "svd_zero", "official"]),
)
def test_matrix_and_both_ways_of_applying_it_agree(rows, columns, rank, tokens, alpha, init):
    model = layer(rows, columns, r=min(rank, rows, columns), lamda_alpha=alpha, init=init)
    delta = only_delta(model)
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.add_(torch.randn_like(parameter))
    x, y = torch.randn(tokens, columns), torch.zeros(tokens, rows)
    expected = x @ delta.weight().mT
    torch.testing.assert_close(delta(x, y), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(delta(x, y), expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_the_short_backward_pass():
    delta = only_delta(layer(freeze_fraction=None).double())
    h = torch.randn(3, 5, 10, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        delta.B.add_(0.3)

    def applied(x, *_):
        return delta(x, x.new_zeros(3, 5, 12))

    assert torch.autograd.gradcheck(applied, (h, delta.S, delta.B))
    delta.B.requires_grad_(False)
    assert torch.autograd.gradcheck(applied, (h, delta.S))


def test_autocast_trains_in_the_parameters_own_precision():
    model = layer(freeze_fraction=None).train()
    delta, x = only_delta(model), torch.randn(40, 10)
    gradients = {}
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = model(x)
        y.float().square().mean().backward()
        gradients[enabled] = [parameter.grad for parameter in (delta.S, delta.B)]
    for exact, found in zip(gradients[False], gradients[True], strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.02 * exact.norm()


def saved_numbers(width, frozen):
    model = layer(width, width, r=4, freeze_fraction=0 if frozen else None)
    weights = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    counted = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: counted.append(0 if t.untyped_storage().data_ptr() in weights else t.numel()) or t, lambda t: t
    ):
        model(torch.randn(50, width))
    return sum(counted)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_backward_pass_keeps_does_not_grow_with_the_width(frozen):
    assert saved_numbers(16, frozen) == saved_numbers(64, frozen) == 50 * 4


def test_input_dropout_is_offered():
    torch.manual_seed(1)
    model = layer(lamda_dropout=0.5, dropout_position="input", init_weights=False).train()
    x = torch.ones(1, 10)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("noise", [0.1, 100])  # a spectrum that falls, and a flat one
def test_the_randomised_start_holds_the_energy_of_the_exact_one(noise):
    torch.manual_seed(0)
    linear = nn.Linear(1024, 1024)
    linear.weight.data = torch.randn(1024, 60) @ torch.randn(60, 1024) + noise * torch.randn(1024, 1024)
    energy = {}
    for kind in ("full", "randomized"):
        adapter = LamdaConfig(r=16, svd=kind, target_modules=["0"])
        energy[kind] = only_delta(get_peft_model(nn.Sequential(copy.deepcopy(linear)), adapter)).S.square().sum()
    assert energy["randomized"] > 0.99 * energy["full"]


# --- freezing --------------------------------------------------------------------------------------------------------


def train(model, optimizer, steps, total, start=0, guarded=True):
    """Trains, and gives B after every step."""
    delta, seen = only_delta(model), []
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        x, target = torch.randn(8, 10, generator=generator), torch.randn(8, 12, generator=generator)
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        freeze_step(model, start + step, total, optimizer if guarded else None)
        optimizer.step()
        seen.append(delta.B.detach().clone())
    return seen


def adamw(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_frozen_columns_stand_still_bit_for_bit(order):
    model = layer(freeze_fraction=0.5, freeze_order=order).train()
    delta, optimizer = only_delta(model), adamw(model)
    before = delta.B.detach().clone()
    for step, after in enumerate(train(model, optimizer, 20, 20)):
        count = frozen_columns(step, 4, 10)
        frozen = set(range(count)) if order == "descending" else set(range(4 - count, 4))
        still = {column for column in range(4) if torch.equal(before[:, column], after[:, column])}
        assert still == frozen, step
        before = after
    assert not delta.B.requires_grad
    assert delta.B.grad is None
    assert delta.B not in optimizer.state
    assert all(parameter is not delta.B for group in optimizer.param_groups for parameter in group["params"])
    assert delta.S in optimizer.state


def test_without_the_optimiser_the_next_call_puts_columns_back():
    model = layer(freeze_steps=8).train()
    seen = train(model, adamw(model), 12, None, guarded=False)
    assert not torch.equal(seen[2][:, 0], seen[1][:, 0])  # momentum
    freeze_step(model, 12)
    assert torch.equal(seen[8], seen[11])


def test_training_resumes_in_the_middle_of_freezing(tmp_path):
    model = layer(freeze_steps=8).train()
    train(model, adamw(model), 5, None)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(nn.Sequential(nn.Linear(10, 12)), tmp_path, is_trainable=True).train()
    delta = only_delta(again)
    assert (delta.steps, delta.frozen) == (5, 2)
    held = delta.B.detach()[:, :2].clone()
    optimizer = adamw(again)
    again(torch.randn(3, 10)).sum().backward()
    again.base_model.freeze_step(optimizer=optimizer)  # counts on from the checkpoint
    optimizer.step()
    assert (delta.steps, delta.frozen) == (6, 2)
    assert torch.equal(delta.B[:, :2], held)

    freeze_step(again, 8)
    again.save_pretrained(tmp_path)
    done = PeftModel.from_pretrained(nn.Sequential(nn.Linear(10, 12)), tmp_path, is_trainable=True)
    assert {key.split(".")[-1] for key, p in done.named_parameters() if p.requires_grad} == {"S"}


def test_fractions_at_the_ends():
    frozen = layer(freeze_fraction=0)
    assert {key.split(".")[-1] for key, p in frozen.named_parameters() if p.requires_grad} == {"S"}
    never = layer(freeze_fraction=None).train()
    seen = train(never, adamw(never), 12, None)
    assert not (seen[-1] == seen[-2]).any()


def test_a_forgotten_schedule_is_named_once():
    model = layer().train()
    for _ in range(9):
        model(torch.ones(1, 10))
    with pytest.warns(UserWarning, match="B of LaMDA stays trainable; pass LamdaCallback"):
        model(torch.ones(1, 10))
    for _ in range(15):
        model(torch.ones(1, 10))  # a second warning would be an error here


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_callback_in_a_trainer(tmp_path):
    model = layer(freeze_fraction=0.5)
    delta = only_delta(model)
    wrapped = Regression(model)
    arguments = TrainingArguments(
        tmp_path, max_steps=8, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no",
        gradient_accumulation_steps=2, weight_decay=0.3, learning_rate=0.1, disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": torch.randn(10), "labels": torch.randn(12)} for _ in range(8)]
    seen = BOverTime(delta)
    Trainer(wrapped, arguments, train_dataset=rows, callbacks=[LamdaCallback(), seen]).train()
    assert not delta.B.requires_grad
    assert delta.steps == 8
    for step in range(1, 8):
        still = {c for c in range(4) if torch.equal(seen.values[step][:, c], seen.values[step - 1][:, c])}
        assert still == set(range(frozen_columns(step, 4, 4))), step


class Regression(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels):
        return {"loss": (self.model(x) - labels).square().mean()}


class BOverTime(TrainerCallback):
    def __init__(self, delta):
        self.delta, self.values = delta, []

    def on_step_end(self, args, state, control, **kwargs):
        self.values.append(self.delta.B.detach().clone())


def test_callback_needs_to_know_the_number_of_steps():
    known = TrainingArguments(report_to=[], use_cpu=True), TrainerState(max_steps=-1), TrainerControl()
    with pytest.raises(ValueError, match=r"total_steps=-1: freeze_fraction=0\.3 is a share"):
        LamdaCallback().on_train_begin(*known, model=layer())
    LamdaCallback().on_train_begin(*known, model=layer(freeze_steps=3))


# --- LaMDA++ ---------------------------------------------------------------------------------------------------------


def stack():
    torch.manual_seed(2)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    for decay, linear in zip((0.05, 0.3, 0.8, 1.5), model, strict=True):
        U, _, Vh = torch.linalg.svd(linear.weight.data)
        linear.weight.data = U * torch.exp(-decay * torch.arange(16.0)) @ Vh
    return model


@pytest.mark.parametrize("allocation", ["waterfill", "groups"])
def test_allocation_writes_a_pattern_that_loads_again(allocation, tmp_path):
    names = ["0", "1", "2", "3"]
    base = stack()
    spectra = {name: torch.linalg.svdvals(base[int(name)].weight.detach()) for name in names}
    adapter = LamdaConfig(r=4, rank_allocation=allocation, target_modules=names)
    model = get_peft_model(base, adapter).eval()
    report = lamda_rank_report(model)
    assert {name: row.rank for name, row in report.items()} == allocate_ranks(spectra, 4, allocation=allocation)
    assert report["0"].rank > report["3"].rank
    for name, row in report.items():
        assert row.limit == 16
        assert row.energy == pytest.approx(float(captured_energy(spectra[name])[row.rank]), rel=1e-4)
    x = torch.randn(3, 16)
    for delta in model.base_model.deltas():
        nn.init.normal_(delta.S)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(stack(), tmp_path)
    assert again.peft_config["default"].rank_pattern == model.peft_config["default"].rank_pattern
    assert torch.equal(again(x), model(x))


def test_layers_that_are_named_keep_their_rank():
    adapter = LamdaConfig(r=4, rank_allocation="waterfill", rank_pattern={"3": 9}, target_modules=["0", "2", "3"])
    report = lamda_rank_report(get_peft_model(stack(), adapter))
    assert report["3"].rank == 9
    assert report["0"].rank + report["2"].rank <= 8


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(2, 30), min_size=1, max_size=8),
    rank=st.integers(2, 12),
    budget=st.sampled_from(["rank", "parameters"]),
    seed=st.integers(0, 99),
)
def test_water_stays_within_the_budget(sizes, rank, budget, seed):
    generator = torch.Generator().manual_seed(seed)
    spectra = {
        str(index): torch.rand(size, generator=generator).sort(descending=True).values
        for index, size in enumerate(sizes)
    }
    power = 1 if budget == "rank" else 2
    candidates = [1, *range(3, 2 * rank, 2)]
    found = allocate_ranks(spectra, rank, candidates, budget=budget)
    assert sum(r**power for r in found.values()) <= len(sizes) * rank**power
    assert all(r in candidates and r <= len(spectra[name]) for name, r in found.items())


# --- reports and conversion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "llama", "gpt2"])
def test_to_lora_is_the_same_function(name):
    model = get_peft_model(build(name), LamdaConfig(r=3, lamda_alpha=2, target_modules=TARGETS[name])).eval()
    with torch.no_grad():
        for delta in model.base_model.deltas():
            delta.S.add_(torch.randn_like(delta.S))
    config, tensors = model.to_lora()
    lora = get_peft_model(build(name), config).eval()
    loaded = peft.set_peft_model_state_dict(lora, tensors)
    assert not loaded.unexpected_keys
    torch.testing.assert_close(output(lora, name), output(model, name), rtol=1e-4, atol=1e-4)


def test_parameter_table_needs_no_weights(capsys):
    with torch.device("meta"):
        base = nn.Sequential(nn.Linear(4096, 4096, bias=False), nn.Linear(4096, 11008, bias=False))
    model = get_peft_model(base, LamdaConfig(r=64, target_modules=["0", "1"]), low_cpu_mem_usage=True)
    square, wide = lamda_parameter_table(model).values()
    assert square == (4096, 4096, 64, 64 * 64 + 64 * 4096, 64 * 64, 2 * 64 * 4096)
    assert square.lora / square.trained_at_end == 128
    assert (wide.in_features, wide.out_features) == (4096, 11008)
    model.base_model.print_trainable_parameters()
    start, end = square.trained_at_start + wide.trained_at_start, 2 * 64 * 64
    assert f"at the start: {start:,d} || at the end: {end:,d}" in capsys.readouterr().out


def test_only_the_rest_decays():
    model = layer(bias="all")
    ours, rest = lamda_parameter_groups(model, 0.1)
    delta = only_delta(model)
    assert {id(p) for p in ours["params"]} == {id(delta.S), id(delta.B)}
    assert (ours["weight_decay"], rest["weight_decay"]) == (0.0, 0.1)
    assert len(rest["params"]) == 1


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r=0: use an integer of at least 1"),
        ({"freeze_fraction": 1.5}, r"freeze_fraction=1.5: use a share in \[0, 1\]"),
        ({"freeze_fraction": -0.1}, r"freeze_fraction=-0.1: use a share in \[0, 1\]"),
        ({"freeze_steps": -1}, "freeze_steps=-1: use a number of optimiser steps"),
        ({"lamda_alpha": 0}, "lamda_alpha=0: use a finite number other than 0"),
        ({"lamda_dropout": 1.0}, r"lamda_dropout=1.0: use a probability in \[0, 1\)"),
        ({"rank_candidates": []}, "rank_candidates is empty"),
        ({"rank_candidates": [4, 0]}, r"rank_candidates\[1\]=0: use an integer of at least 1"),
        ({"init_weights": "gaussian"}, "init_weights='gaussian': use one of True, False"),
        ({"rank_pattern": {"0": 0}}, r"rank_pattern\['0'\]=0: r=0"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        LamdaConfig(**options)


@pytest.mark.usefixtures("unchecked")
def test_bad_layers():
    with pytest.raises(ValueError, match=r"r=11: '0' is 12 x 10, use 1\.\.10 there"):
        layer(r=11)
    broken = nn.Sequential(nn.Linear(10, 12))
    broken[0].weight.data[2, 3] = float("nan")
    for allocation in ("none", "waterfill"):
        with pytest.raises(ValueError, match=r"the weight of '0'.*(nan|NaN)"):
            get_peft_model(broken, LamdaConfig(r=4, rank_allocation=allocation, target_modules=["0"]))
    broken[0].weight = nn.Parameter(torch.ones(12, 10, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"the weight of '0' has dtype torch\.int8: a floating dtype is needed"):
        get_peft_model(broken, LamdaConfig(r=4, target_modules=["0"]))
    meta = nn.Sequential(nn.Linear(10, 12, device="meta"))
    with pytest.raises(RuntimeError, match=r"'0' is on the meta device.*materialise the base model first"):
        get_peft_model(meta, LamdaConfig(r=4, target_modules=["0"]))
    with pytest.raises(TypeError, match="lamda cannot adapt '0', a Embedding: it supports Linear, Conv1D"):
        get_peft_model(nn.Sequential(nn.Embedding(10, 12)), LamdaConfig(r=4, target_modules=["0"]))


def test_bad_allocation():
    spectra = {"a": torch.ones(3)}
    with pytest.raises(ValueError, match=r"candidates=\[4, 8\]: none fits 'a', whose smaller side is 3"):
        allocate_ranks(spectra, 4, [8, 4])
    with pytest.raises(ValueError, match="the smallest one costs more than the mean rank 1"):
        allocate_ranks(spectra, 1, [2])
    with pytest.raises(ValueError, match="spectra is empty"):
        allocate_ranks({}, 4)


def test_freeze_step_names_what_is_missing():
    with pytest.raises(ValueError, match=r"total_steps=None: freeze_fraction=0\.3"):
        freeze_step(layer(), 0)
    with pytest.raises(ValueError, match="step=-1"):
        freeze_step(layer(), -1, 10)
    with pytest.raises(ValueError, match="no layer of the model has an active LaMDA adapter"):
        freeze_step(nn.Linear(2, 2), 0, 10)
    with pytest.raises(ValueError, match="no layer of the model carries a LaMDA adapter 'other'"):
        lamda_rank_report(layer(), "other")
