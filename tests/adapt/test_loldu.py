from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fullrank.adapt import LoLDUConfig

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
