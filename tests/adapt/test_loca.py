from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fullrank.adapt import LocaConfig, loca_param_groups, update_schedule

from .conformance import Conformance

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
    model(torch.zeros(1, shape[1]))  # as every training does, before the first step
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
