"""The change and the frozen weight in one product: the same as beside each other, and only where nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fullrank.adapt import LocaConfig, LoLDUConfig
from fullrank.adapt.delta import Delta

CONFIGS: dict[str, Callable[..., Any]] = {
    "loca": lambda **options: LocaConfig(n_frequency=60, init_locations="distinct", learn_location_steps=0, **options),
    "loldu": lambda **options: LoLDUConfig(r="full", form="weight", **options),
}


@pytest.fixture(params=CONFIGS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def adapted(method: str, **options: Any) -> tuple[nn.Module, list[nn.Parameter]]:
    torch.manual_seed(0)
    config = CONFIGS[method](target_modules=["0"], init_weights=False, **options)
    model = get_peft_model(nn.Sequential(nn.Linear(14, 10)), config)
    return model, [p for p in model.parameters() if p.requires_grad]


def calls(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> list[bool]:
    """Whether each pass that follows took one product."""
    delta, taken = next(model.base_model.deltas()), []
    forward = type(delta).in_one_product

    def noted(self: Delta, *given: Any) -> Any:
        y = forward(self, *given)
        taken.append(y is not None)
        return y

    monkeypatch.setattr(type(delta), "in_one_product", noted)
    return taken


def gradients(model: nn.Module, trained: list[nn.Parameter]) -> list[torch.Tensor]:
    x = torch.randn(3, 40, 14, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *trained])]


def test_value_and_gradients_are_those_of_the_change_beside_the_layer(method, monkeypatch):
    model, trained = adapted(method)
    taken = calls(monkeypatch, model)
    found = gradients(model, trained)
    model.base_model.model[0].base_layer.register_forward_hook(lambda *_: None)
    apart = gradients(model, trained)
    assert taken == [True]
    torch.testing.assert_close(found, apart, atol=1e-4, rtol=1e-4)


def test_a_hook_of_the_layer_sees_every_pass(method):
    model, _ = adapted(method)
    seen = []
    model.base_model.model[0].base_layer.register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(40, 14))
    assert seen == [1]


@pytest.mark.parametrize("why", ["half precision", "autocast", "dropout", "a trained bias", "merged", "two adapters"])
def test_what_one_product_would_lose_is_computed_apart(method, why, monkeypatch):
    options = {"dropout": {f"{method}_dropout": 0.5}, "a trained bias": {"bias": "all"}}.get(why, {})
    model, _ = adapted(method, **options)
    taken = calls(monkeypatch, model)
    x = torch.randn(40, 14)
    if why == "half precision":
        model.bfloat16()
        x = x.bfloat16()
    if why == "merged":
        model.merge_adapter()
    if why == "two adapters":
        model.add_adapter("other", CONFIGS[method](target_modules=["0"]))
        model.base_model.set_adapter(["default", "other"])
    with torch.autocast("cpu", enabled=why == "autocast"):
        model(x)
    assert not any(taken)


def test_thin_products_stay_where_they_are_cheaper(monkeypatch):
    torch.manual_seed(0)
    config = LoLDUConfig(r=2, target_modules=["0"], init_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), config)
    taken = calls(monkeypatch, model)
    model(torch.randn(40, 64))
    assert taken == [False]


def test_a_trained_bias_is_none_without_gradients(method, monkeypatch):
    frozen, trained = (adapted(method, bias=bias)[0].eval() for bias in ("none", "all"))
    taken = calls(monkeypatch, frozen)
    x = torch.randn(40, 14)
    with torch.no_grad():
        assert torch.equal(frozen(x), trained(x))
    assert taken == [True, True]
