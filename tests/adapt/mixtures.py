"""Tiny models with several LoRA experts, to mix."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel

from fullrank.adapt import XLoraGateConfig, XLoraModel, add_xlora, from_experts

from .models import TARGETS, build

NAMES = ("math", "0", "layers")  # a word, a number and a part of the layers' own names


def lora(name, rank=2, **options):
    defaults = {"r": rank, "lora_alpha": 4, "target_modules": TARGETS.get(name), "init_lora_weights": False}
    return LoraConfig(**(defaults | {"fan_in_fan_out": name == "gpt2"} | options))


def with_experts(base, configs) -> PeftModel:
    """A PeftModel with one adapter for each of {name: LoraConfig}, from random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = None
        for name, config in configs.items():
            if model is None:
                model = PeftModel(base, config, name)
            else:
                model.add_adapter(name, config)
    return model


def mixture(name="llama", configs=None, base=None, **options) -> XLoraModel:
    """An X-LoRA model in evaluation mode; the second expert has another rank, the third fewer layers."""
    if configs is None:
        fewer = {"target_modules": TARGETS[name][:1]}
        configs = {expert: lora(name, 2 + index) for index, expert in enumerate(NAMES[:2])}
        configs[NAMES[2]] = lora(name, 1, **fewer)
    model = with_experts(base or build(name), configs)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        mixed = add_xlora(model, XLoraGateConfig(**options))
        for parameter in mixed.gate.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return mixed.eval()


def write_experts(folder, name="llama", experts=NAMES) -> dict[str, str]:
    """LoRA checkpoints, as PEFT writes them."""
    places = {}
    for index, expert in enumerate(experts):
        model = with_experts(build(name, seed=0), {"default": lora(name, 2 + index)})
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.mul_(1 + index)
        model.save_pretrained(folder / expert)
        places[expert] = str(folder / expert)
    return places


def loaded(folder, name="llama", experts=NAMES, **options) -> XLoraModel:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return from_experts(build(name), write_experts(folder, name, experts), XLoraGateConfig(**options)).eval()
