from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from fullrank.adapt import METHODS, adapter_method, size_for_budget, trainable_parameters

from .models import build, output

every_method = pytest.mark.parametrize("name", list(METHODS))


def options(name):
    """PEFT's VeRA wants layers of one shape, FourierFT no transposed ones."""
    return {"target_modules": ["query", "value"]}


@every_method
def test_counting_agrees_with_the_model_and_leaves_it_alone(name):
    model = build("bert")
    before = output(model, "bert")
    config = METHODS[name].configure(3, **options(name))
    counted = trainable_parameters(model, config)
    assert torch.equal(output(model, "bert"), before)
    adapted = get_peft_model(model, config)
    assert counted == sum(p.numel() for p in adapted.parameters() if p.requires_grad) > 0


@every_method
def test_the_size_nearest_to_a_budget(name):
    model, method = build("bert"), METHODS[name]

    def count(size):
        return trainable_parameters(model, method.configure(size, **options(name)))

    budget = count(1) * 2 + 1
    size = size_for_budget(model, method, budget, **options(name))
    gap = abs(count(size) - budget)
    for other in {max(1, size - 1), size + 1}:
        try:
            assert gap <= abs(count(other) - budget)
        except ValueError:  # larger than the layers
            assert other > size


def test_budgets_that_cannot_be_met():
    model = build("bert")
    with pytest.raises(ValueError, match=r"budget=10: lora trains at least \d+ parameters in BertFor"):
        size_for_budget(model, METHODS["lora"], 10, target_modules=["query"])
    with pytest.raises(ValueError, match="budget=0: a positive number"):
        size_for_budget(model, METHODS["lora"], 0, target_modules=["query"])
    # LoLDU has no more than one pivot a row: the largest size is the nearest
    assert size_for_budget(model, METHODS["loldu"], 10**6, target_modules=["query"]) == 16


def test_lora_keeps_its_scale_with_its_rank():
    for rank in (1, 8):
        config = METHODS["lora"].configure(rank)
        assert config.lora_alpha / config.r == 2
    assert METHODS["lora"].configure(4, lora_alpha=4).lora_alpha == 4


def test_unknown_methods():
    with pytest.raises(LookupError, match=r"no adapter method 'lorca'; did you mean 'lo.*accepted: lora, dora"):
        adapter_method("lorca")
