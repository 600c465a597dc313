from __future__ import annotations

import re

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fullrank.adapt import (
    LamdaConfig,
    allocate_ranks,
    captured_energy,
    frozen_columns,
)

from .conformance import Conformance


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
    model = get_peft_model(base, LamdaConfig(r=r, lamda_alpha=s * r, target_modules=names)).double()
    close = {"rtol": 0, "atol": float(spec["tolerance"]["float32"])}
    for delta in model.base_model.deltas():
        name = delta.base.name
        W0, A, B = tensors[f"{name}.weight"], delta.A, delta.B
        energy = captured_energy(spectra[name])
        torch.testing.assert_close(energy, tensors[f"{name}.energy"], rtol=0, atol=float(spec["tolerance"]["float64"]))
        torch.testing.assert_close(float(energy[r]), spec["group_energy_at_target"][name])
        torch.testing.assert_close(A.mT @ A, tensors[f"{name}.PA"], **close)
        torch.testing.assert_close(B @ B.mT, tensors[f"{name}.PB"], **close)
        torch.testing.assert_close(s * B @ delta.S @ A, tensors[f"{name}.principal"], **close)
        torch.testing.assert_close(W0 - s * B @ delta.S @ A, tensors[f"{name}.residual"], **close)
        x = tensors[f"{name}.x"]
        torch.testing.assert_close(model.base_model.model[name](x), x @ W0.mT, **close)
