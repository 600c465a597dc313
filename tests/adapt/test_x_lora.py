"""X-LoRA's mathematics: the authors' numbers, the formula beside the fused layers, the gate, every kind of model."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from fullrank.adapt import XLoraGateConfig, add_xlora

GATE = {
    "xlora_depth", "xlora_size", "layerwise_scalings", "top_k_lora", "enable_softmax", "enable_softmax_topk",
    "softmax_temperature", "global_scaling_weight", "scaling_pass_value",
}  # fmt: skip


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def golden_model(config, tensors):
    known = GATE | {"llama", "expert_ranks", "expert_alpha", "expert_targets", "eval_mode"}
    assert set(config) <= known
    assert config["eval_mode"]
    base = LlamaForCausalLM(LlamaConfig(**config["llama"]))
    base.load_state_dict({key[5:]: value for key, value in tensors.items() if key.startswith("base.")})
    model = None
    for number, (rank, targets) in enumerate(zip(config["expert_ranks"], config["expert_targets"], strict=True)):
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
        if model is None:
            model = PeftModel(base, lora, f"expert{number}")
        else:
            model.add_adapter(f"expert{number}", lora)
    options = {key: config[key] for key in GATE & set(config)}
    if options["xlora_depth"] == 1:
        del options["xlora_size"]
    return add_xlora(model, XLoraGateConfig(**options)).eval()


def set_experts_and_gate(model, tensors):
    """Copy the experts' weights and the gate's; return the gate's parameters by the names of the file."""
    parameters = dict(model.get_base_model().named_parameters())
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        if name.startswith("expert"):
            parameters[rest.replace(".weight", f".{name}.weight")].data.copy_(value)
    linears = [layer for layer in model.gate.children() if isinstance(layer, torch.nn.Linear)]
    found = {
        f"classifier.{number}.{part}": getattr(layer, part)
        for number, layer in enumerate(linears)
        for part in ("weight", "bias")
    }
    assert set(found) == {key for key in tensors if key.startswith("classifier.")}
    for key, parameter in found.items():
        parameter.data.copy_(tensors[key])
    return found


@pytest.mark.golden("x-lora")
def test_golden(case):
    """Base, scalings, mixed logits, and the gate's gradients."""
    tensors, spec = case.tensors, case.spec
    model = golden_model(spec["config"], tensors)
    gate = set_experts_and_gate(model, tensors)
    assert [name.partition(".model.model.")[2] for name in spec["adapted_layer_order"]] == [
        name.removeprefix("model.") for name in model.layer_names
    ]
    inputs = {key: tensors[key] for key in ("input_ids", "attention_mask")}
    close = {
        name: {key: spec["tolerance_float32"][name][key] for key in ("atol", "rtol")}
        for name in spec["tolerance_float32"]
    }
    with model.disable_adapter():
        torch.testing.assert_close(model(**inputs).logits, tensors["logits_base"], **close["logits"])
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, tensors["logits"], **close["logits"])
    torch.testing.assert_close(model.get_latest_scalings(), tensors["scalings"], **close["scalings"])
    (logits * tensors["gy"]).sum().backward()
    assert {f"grad_{name}" for name in gate} == {name for name in tensors if name.startswith("grad_")}
    for name, parameter in gate.items():
        torch.testing.assert_close(parameter.grad, tensors[f"grad_{name}"], **close["grads"])
