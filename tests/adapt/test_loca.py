from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from scipy.fft import idctn
from torch import nn
from transformers import Trainer, TrainingArguments

from fullrank.adapt import LocaCallback, LocaConfig, loca_delta, loca_param_groups, locate, update_schedule

from .conformance import Conformance
from .models import build

TRANSFORMS = ["auto", "fft", "gemm", "sparse", "factored"]
ADDED = {"n_frequency": 8, "init_locations": "distinct", "learn_location_steps": 0}


class TestLoca(Conformance):
    lora_rank = 16

    def config(self, **options):
        return LocaConfig(**(ADDED | options))


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def layer(shape, k, weight=None, bias=None, **options):
    """One adapted linear layer, its tuner and its delta."""
    out, width = shape
    linear = nn.Linear(width, out, bias=bias is not None)
    if weight is not None:
        linear.weight.data = weight.clone()
    if bias is not None:
        linear.bias.data = bias.clone()
    options = {"learn_location_steps": 100, "init_locations": "distinct"} | options
    model = get_peft_model(nn.Sequential(linear), LocaConfig(n_frequency=k, target_modules=["0"], **options))
    return model, next(model.base_model.deltas())


@pytest.mark.golden("loca")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_golden(case, transform):
    config, t = dict(case.spec["config"]), case.tensors
    shape = config.pop("out_features"), config.pop("in_features")
    k, scale = config.pop("n_frequency"), config.pop("scale")
    config.pop("seed")  # of the inputs, which are given
    run = golden_training if "steps" in config else golden_layer
    run(config, t, shape, k, scale, transform)


def golden_layer(config, t, shape, k, scale, transform):
    assert config.pop("batch") == len(t["x"])
    assert config.pop("dct_mode") in ("default", "sparse")
    assert config.pop("locations_learnable") is True
    clip = config.pop("location_grad_clip", 1.0)
    assert not config, "an option that this test does not know"
    model, delta = layer(shape, k, t["weight"], t["bias"], scale=scale, transform=transform, location_grad_clip=clip)
    delta.spectrum.data = t["spectrum"].clone()
    delta.locations.data = t["spectrum_indices"].clone()
    exact = t["delta_weight_exact64"].float()
    assert torch.equal(delta.cells().long(), t["locations_rounded"])
    torch.testing.assert_close(delta.weight(), exact, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(delta.weight(), t["delta_weight"], atol=2e-5, rtol=0)
    for phase in ("coefficients", "locations"):
        update_schedule(model, 0 if phase == "coefficients" else 10)
        x = t["x"].clone().requires_grad_()
        y = model(x)
        torch.testing.assert_close(y, t["y"], atol=1e-4, rtol=1e-4)
        (y * t["grad_output"]).sum().backward()
        torch.testing.assert_close(x.grad, t["grad_x"], atol=1e-4, rtol=1e-4)
        learned, resting = delta.spectrum, delta.locations
        expected = t["grad_spectrum"]
        if phase == "locations":
            learned, resting, expected = delta.locations, delta.spectrum, t["grad_spectrum_indices"]
        torch.testing.assert_close(learned.grad, expected, atol=1e-4, rtol=1e-4)
        assert not resting.grad.any()


def golden_training(config, t, shape, k, scale, transform):
    steps = config.pop("steps")
    options = {
        "learn_location_steps": config.pop("learn_location_iter"),
        "coefficient_steps": config.pop("B_a"),
        "location_steps": config.pop("B_l"),
    }
    lr, location_lr, decay = (config.pop(f) for f in ("lr_coefficients", "lr_locations", "weight_decay"))
    assert decay == 0
    assert config.pop("spectrum_init") == "zeros"
    assert config.pop("optimizer") == "torch.optim.AdamW betas (0.9,0.999) eps 1e-8"
    assert config.pop("objective") == "0.5*||scale*idct2(S)-target||_F^2"
    config.pop("schedule")  # the text of the rule
    assert not config, "an option that this test does not know"
    model, delta = layer(shape, k, scale=scale, transform=transform, **options)
    delta.locations.data = t["spectrum_indices_init"].clone()
    optimizer = torch.optim.AdamW(loca_param_groups(model, lr, location_lr))
    losses, phases = [], []
    for step in range(steps):
        model.base_model.update_schedule(step)
        phases.append(int(delta.phase == "locations"))
        loss = 0.5 * (delta.weight() - t["target"]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert phases == t["phase"].tolist()
    torch.testing.assert_close(torch.tensor(losses), t["losses"].float(), rtol=2e-3, atol=0)
    torch.testing.assert_close(delta.spectrum.detach(), t["spectrum_final"], rtol=5e-3, atol=1e-3)
    positions = t["spectrum_indices_final"].clamp(0, 0.999) * (torch.tensor(shape)[:, None] - 1)
    clear = ((positions % 1) - 0.5).abs() > 1e-3
    assert torch.equal(delta.indices.long()[clear], t["locations_final"].long()[clear])
    assert model.base_model.phase() == "frozen"


# --- the series -------------------------------------------------------------------------------------------------------


def spectrum(a, theta, shape):
    u, v = locate(theta, shape).long()
    return torch.zeros(shape, dtype=a.dtype).index_put_((u, v), a, accumulate=True)


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(TRANSFORMS), st.integers(1, 40), st.integers(1, 23), st.integers(1, 30), st.integers(0, 99))
def test_change_is_the_inverse_transform(transform, p, q, k, seed):
    torch.manual_seed(seed)
    a, theta = torch.randn(k), torch.rand(2, k)  # coinciding cells add up
    expected = torch.from_numpy(3 * idctn(spectrum(a, theta, (p, q)).numpy(), norm="ortho"))
    torch.testing.assert_close(loca_delta(a, theta, (p, q), scale=3.0, transform=transform), expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("phase", ["coefficients", "locations"])
def test_layer_agrees_with_its_matrix(transform, phase):
    torch.manual_seed(0)
    model, delta = layer((7, 11), 9, transform=transform, init_weights=False, location_grad_clip=None)
    update_schedule(model, 0 if phase == "coefficients" else 10)
    x, g = torch.randn(2, 3, 11, requires_grad=True), torch.randn(2, 3, 7)
    (delta(x, g) * g).sum().backward()
    found = [x.grad.clone(), delta.spectrum.grad, delta.locations.grad]
    a, theta = (p.detach().clone().requires_grad_() for p in (delta.spectrum, delta.locations))
    x.grad = None
    (x @ loca_delta(a, theta, (7, 11), transform="gemm", location_grad_clip=None).mT * g).sum().backward()
    resting = (1, 0) if phase == "coefficients" else (0, 1)
    torch.testing.assert_close(found, [x.grad, a.grad * resting[0], theta.grad * resting[1]])


def test_place_gradient_is_half_the_difference_of_the_loss_beside_it():
    torch.manual_seed(0)
    shape, cells = (9, 8), torch.tensor([[3, 5, 7], [2, 6, 1]])
    steps = torch.tensor(shape)[:, None] - 1
    a, target = torch.randn(3), torch.randn(shape)
    theta = (cells / steps).requires_grad_()

    def loss(places):
        return 0.5 * (loca_delta(a, places, shape, location_grad_clip=None) - target).square().sum()

    loss(theta).backward()
    for axis in range(2):
        for i in range(3):
            beside = [cells.clone(), cells.clone()]
            beside[0][axis, i] += 1
            beside[1][axis, i] -= 1
            forth, back = (loss(moved / steps) for moved in beside)
            torch.testing.assert_close(theta.grad[axis, i], (forth - back) / 2 * steps[axis, 0], atol=1e-4, rtol=1e-4)


def test_last_cells_need_a_wider_clamp():
    assert locate(torch.ones(2, 1), (4096, 500)).flatten().tolist() == [4091, 499]
    assert locate(torch.ones(2, 1), (4096, 500), clamp_max=1.0).flatten().tolist() == [4095, 499]


@pytest.mark.parametrize("placement", ["distinct", "low_frequency", "grid"])
@pytest.mark.parametrize("k", [1, 7, 30, 77])
def test_placements_fill_different_cells(placement, k):
    model, delta = layer((7, 11), k, init_locations=placement)
    assert delta.cells().unique(dim=1).shape[1] == k
    if placement == "low_frequency" and k == 7:
        assert (delta.cells()[0] / 7).max() < 0.5
    if placement == "grid" and k == 30:
        assert delta.cells().amax(1).tolist() == [6, 10]
    assert model.base_model.loca_report()["0"].duplicates == 0


def test_seed_of_places():
    options = {"target_modules": ["0", "2"], "n_frequency": 5, "learn_location_steps": 50}
    first, second = (get_peft_model(build("mlp"), LocaConfig(**options)).base_model.deltas() for _ in range(2))
    places = [delta.locations for delta in first]
    assert all(torch.equal(delta.locations, place) for delta, place in zip(second, places, strict=True))
    assert not torch.equal(places[0], places[1])


@pytest.mark.parametrize("transform", ["fft", "factored"])
def test_half_precision(transform):
    torch.manual_seed(0)
    model, delta = layer((7, 11), 9, transform=transform, init_weights=False)
    x = torch.randn(4, 11)
    expected = model(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.05)
    model.bfloat16()
    assert (delta.spectrum.dtype, delta.locations.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(model(x.bfloat16()).float(), expected, atol=0.1, rtol=0.05)


# --- the schedule -----------------------------------------------------------------------------------------------------

CYCLE = {"learn_location_steps": 12, "coefficient_steps": 2, "location_steps": 3}


def train(model, optimizer, steps, drive=True, zero=True, seed=1):
    """Steps first..last of one fixed training; returns what every step trained."""
    delta, phases = next(model.base_model.deltas()), []
    model.train()
    for step in steps:
        if drive:
            model.base_model.update_schedule(step, 100)
        x = torch.randn(6, 11, generator=torch.Generator().manual_seed(seed + step))
        loss = (model(x) - x[:, :7].roll(1, 1)).square().sum()
        optimizer.zero_grad(set_to_none=zero)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 5.0)
        optimizer.step()
        phases.append(delta.phase)
    return phases


def adam(model):
    return torch.optim.AdamW(loca_param_groups(model, 0.1, 0.02, weight_decay=0.1))


def trained(**options):
    torch.manual_seed(0)
    model, delta = layer((7, 11), 9, **(CYCLE | options))
    return model, delta, adam(model)


def test_phases_and_what_they_change():
    model, delta, optimizer = trained()
    cycle = ["coefficients"] * 2 + ["locations"] * 3
    for step, phase in enumerate((cycle * 3)[:12] + ["frozen"] * 3):
        before = delta.spectrum.detach().clone(), delta.locations.detach().clone()
        assert train(model, optimizer, [step]) == [phase]
        changed = not torch.equal(before[0], delta.spectrum), not torch.equal(before[1], delta.locations)
        assert changed == (phase != "locations", phase == "locations")
    assert torch.equal(delta.indices, locate(delta.locations, (7, 11)))
    assert model.base_model.loca_report()["0"].moved > 0


@pytest.mark.parametrize("options", [{"schedule_mode": "requires_grad"}, {"learn_location_steps": 0.12}])
@pytest.mark.parametrize("zero", [True, False])
def test_other_ways_to_rest_are_the_same_training(options, zero):
    (one, delta, first), (other, changed, second) = trained(), trained(**options)
    train(one, first, range(16))
    train(other, second, range(16), zero=zero)
    assert torch.equal(delta.spectrum, changed.spectrum)
    assert torch.equal(delta.indices, changed.indices)


def test_counting_by_itself_is_the_same_training():
    (one, delta, first), (other, counted, second) = trained(), trained()
    train(one, first, range(16))
    with pytest.warns(UserWarning, match="nobody drives the schedule of '0'"):
        assert train(other, second, range(16), drive=False)[-1] == "frozen"
    assert torch.equal(delta.spectrum, counted.spectrum)
    assert torch.equal(delta.indices, counted.indices)


def test_counting_forward_passes():
    model, _, optimizer = trained(count="forward")
    phases = train(model, optimizer, range(13), drive=False)
    assert phases == (["coefficients"] * 2 + ["locations"] * 3) * 2 + ["coefficients"] * 2 + ["frozen"]


@pytest.mark.parametrize("stop", [1, 3, 8, 13])
@pytest.mark.parametrize("mode", ["mask", "requires_grad"])
def test_resumed_training_is_the_uninterrupted_one(stop, mode, tmp_path):
    whole, expected, optimizer = trained(schedule_mode=mode)
    train(whole, optimizer, range(18))
    part, delta, optimizer = trained(schedule_mode=mode)
    base = delta.base.weight.clone()
    train(part, optimizer, range(stop))
    part.save_pretrained(tmp_path)
    linear = nn.Linear(11, 7, bias=False)
    linear.weight.data = base
    again = PeftModel.from_pretrained(nn.Sequential(linear), tmp_path, is_trainable=True)
    resumed = adam(again)
    resumed.load_state_dict(optimizer.state_dict())
    train(again, resumed, range(stop, 18))
    found = next(again.base_model.deltas())
    assert torch.equal(found.spectrum, expected.spectrum)
    assert torch.equal(found.indices, expected.indices)


def test_checkpoint_holds_places_once(tmp_path):
    model, delta, optimizer = trained()
    train(model, optimizer, range(4))
    model.save_pretrained(tmp_path / "learning")
    train(model, optimizer, range(4, 14))
    model.save_pretrained(tmp_path / "frozen")
    names = [
        {key.rpartition(".")[2] for key in load_file(tmp_path / when / "adapter_model.safetensors")}
        for when in ("learning", "frozen")
    ]
    assert names == [{"spectrum", "locations", "step"}, {"spectrum", "indices"}]
    for low in (False, True):
        linear = nn.Linear(11, 7, bias=False)
        again = PeftModel.from_pretrained(nn.Sequential(linear), tmp_path / "frozen", low_cpu_mem_usage=low)
        assert again.base_model.phase() == "frozen"
        torch.testing.assert_close(next(again.base_model.deltas()).weight(), delta.weight())


class _Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(11, 7)

    def forward(self, x, labels):
        return {"loss": (self.linear(x) - labels).square().mean()}


def test_trainer_advances_once_per_step_of_the_optimiser(tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(
        _Square(), LocaConfig(n_frequency=7, target_modules=["linear"], **(CYCLE | {"learn_location_steps": 0.75}))
    )
    delta, phases = next(model.base_model.deltas()), []

    class Watch(LocaCallback):
        def on_step_end(self, args, state, control, **kwargs):
            phases.append(delta.phase)

    data = [{"x": torch.randn(11), "labels": torch.randn(7)} for _ in range(64)]
    arguments = TrainingArguments(
        tmp_path,
        max_steps=8,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    Trainer(model, arguments, train_dataset=data, callbacks=[Watch()]).train()
    assert phases == ["coefficients"] * 2 + ["locations"] * 3 + ["coefficients"] + ["frozen"] * 2


def test_distributed_training(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        alone, expected, optimizer = trained()
        train(alone, optimizer, range(16))
        model, delta, optimizer = trained()
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel.base_model = model.base_model
        train(parallel, optimizer, range(16))
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(delta.spectrum, expected.spectrum)
    assert torch.equal(delta.indices, expected.indices)


# --- inspection -------------------------------------------------------------------------------------------------------


def test_map_and_report():
    model, delta, optimizer = trained(n_frequency_pattern={"0": 12}, scale=2.0)
    train(model, optimizer, range(3))
    grid = model.base_model.loca_spectrum_map("0")
    torch.testing.assert_close(2 * torch.from_numpy(idctn(grid.numpy(), norm="ortho")), delta.weight().detach())
    report = model.base_model.loca_report()["0"]
    assert (report.n_frequency, report.n_optimized) == (12, 36)
    assert report.relative_norm == pytest.approx(float((delta.weight().norm() / delta.base.weight.norm()).detach()))
    with pytest.raises(ValueError, match="layer='1': the adapter changes 0"):
        model.base_model.loca_spectrum_map("1")


def test_groups():
    model, delta, _ = trained()
    model.base_model.model[0].base_layer.weight.requires_grad_()  # stands for a head
    amplitudes, places, head = loca_param_groups(model, 0.1, 0.02, head_lr=0.5, weight_decay=0.3)
    assert [group["lr"] for group in (amplitudes, places, head)] == [0.1, 0.02, 0.5]
    assert [group["weight_decay"] for group in (amplitudes, places, head)] == [0.3, 0.0, 0.3]
    assert amplitudes["params"][0] is delta.spectrum
    assert places["params"][0] is delta.locations
    with pytest.raises(ValueError, match="no layer of the model carries a trainable LoCA adapter"):
        loca_param_groups(build("mlp"), 0.1)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_frequency": 0}, "n_frequency=0: use an integer of at least 1"),
        ({"n_frequency_pattern": {"0": -1}}, r"n_frequency_pattern\['0'\]=-1: n_frequency=-1"),
        ({"learn_location_steps": 1.5}, "learn_location_steps=1.5: use a share of all steps"),
        ({"learn_location_steps": -1}, "learn_location_steps=-1: use an integer of at least 0"),
        ({"location_steps": 0}, "location_steps=0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"loca_dropout": 1.0}, "loca_dropout=1.0"),
        ({"location_grad_clip": 0.0}, "location_grad_clip=0.0: use a positive number, or None"),
        ({"clamp_max": 1.1}, "clamp_max=1.1"),
        ({"init_locations": "best"}, "init_locations='best': use one of 'uniform'"),
        ({"transform": "dft"}, "transform='dft': use one of 'auto'"),
        ({"schedule_mode": "both"}, "schedule_mode='both'"),
        ({"count": "epochs"}, "count='epochs'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_config(options, message):
    with pytest.raises(ValueError, match=message):
        LocaConfig(**options)


def test_more_amplitudes_than_cells():
    with pytest.raises(
        ValueError, match=r"n_frequency=78 cannot be placed 'distinct' in '0': of its 7 x 11 = 77 cells"
    ):
        layer((7, 11), 78)
    with pytest.warns(UserWarning, match="n_frequency=8 places, drawn independently, often coincide"):
        layer((7, 11), 8, init_locations="uniform")


def test_warnings_of_a_second_adapter():
    model = get_peft_model(nn.Sequential(nn.Linear(30, 40)), LocaConfig(n_frequency=4, target_modules=["0"]))
    with (
        pytest.warns(UserWarning, match="n_frequency=200 places, drawn independently, often coincide"),
        pytest.warns(UserWarning, match="the places will never be trained: learn_location_steps=3 freezes them"),
    ):
        model.add_adapter("second", LocaConfig(n_frequency=200, learn_location_steps=3, target_modules=["0"]))


def test_places_that_never_have_a_turn():
    with pytest.warns(UserWarning, match="the places will never be trained: learn_location_steps=10 freezes them"):
        layer((7, 11), 5, learn_location_steps=10)
    model, _ = layer((7, 11), 5, learn_location_steps=0.1)
    with pytest.warns(UserWarning, match="freezes them after 9 steps"):
        model.base_model.update_schedule(0, 94)


@pytest.mark.parametrize("count", ["steps", "forward"])
def test_share_of_an_unknown_number_of_steps(count):
    model, delta, optimizer = trained(learn_location_steps=0.1, count=count)
    before = delta.spectrum.detach().clone(), delta.locations.detach().clone()
    with pytest.warns(
        UserWarning, match="number is unknown, so the places stay where they are: add LocaCallback"
    ) as seen:
        train(model, optimizer, range(6), drive=False)
    assert len(seen) == 1
    assert not torch.equal(delta.spectrum, before[0])
    assert torch.equal(delta.locations, before[1])
    with pytest.raises(ValueError, match="pass total_steps as well"):
        model.base_model.update_schedule(0)
    assert train(model, optimizer, [7]) == ["locations" if count == "steps" else "coefficients"]


def test_bad_schedule_calls():
    model, _, _ = trained()
    with pytest.raises(ValueError, match="global_step=-1"):
        update_schedule(model, -1)
    with pytest.raises(ValueError, match="total_steps=0"):
        update_schedule(model, 0, 0)
    with pytest.raises(ValueError, match="no layer of the model carries a LoCA adapter 'other'"):
        update_schedule(model, 0, adapter_name="other")


def test_places_that_nobody_updates():
    model, delta, _ = trained()
    forgetful = torch.optim.SGD([delta.spectrum], 0.1)
    with pytest.warns(UserWarning, match="the places of '0' had their turn and no optimiser changed them"):
        train(model, forgetful, range(6))


def test_places_that_are_no_numbers():
    model, delta, optimizer = trained()
    train(model, optimizer, range(4))
    delta.locations.data[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="the places of '0' are not numbers any more after step 4"):
        train(model, optimizer, [4])
    assert model(torch.ones(delta.base.in_features)).isnan().all()
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        model.merge_and_unload(safe_merge=True)


def test_checkpoint_of_a_larger_layer(tmp_path):
    model, _ = layer((7, 11), 5, learn_location_steps=0)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith("indices"))
    tensors[name][0, 0] = 7
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"amplitudes of '0' at cells up to \[7, \d+\], and the layer is 7 x 11"):
        PeftModel.from_pretrained(nn.Sequential(nn.Linear(11, 7)), tmp_path)


def test_convolution_and_embedding():
    base, image = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)), torch.randn(2, 3, 6, 6)
    model = get_peft_model(base, LocaConfig(**ADDED, target_modules=["0"], init_weights=False)).eval()
    expected = model(image)
    assert not torch.allclose(expected, base[0].base_layer(image))
    torch.testing.assert_close(model.merge_and_unload()(image), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match="loca cannot adapt '0', a Embedding: it supports Linear, Conv1D, Conv2d"):
        get_peft_model(nn.Sequential(nn.Embedding(9, 4)), LocaConfig(**ADDED, target_modules=["0"]))
