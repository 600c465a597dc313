"""X-LoRA's mathematics: the authors' numbers, the formula beside the fused layers, the gate, every kind of model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

from fullrank.adapt import XLoraGate, XLoraGateConfig, add_xlora
from fullrank.adapt.x_lora_gate import keep_top_k
from fullrank.adapt.x_lora_layer import Scalings

from .mixtures import NAMES, lora, mixture
from .models import build, inputs, output

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


# --- the formula beside the fused layers ------------------------------------------------------------------------------


def formula(layer, x, base, experts, scalings, weight):
    """y = W0 x + b0 + g sum_k a_k B_k A_k (lambda_k x), expert by expert; an embedding's vectors are scaled."""
    y = base(x)
    for index, expert in enumerate(experts):
        if expert not in layer.scaling:
            continue
        share = weight * layer.scaling[expert] * scalings[..., index, None]
        if expert in layer.lora_embedding_A:
            y = y + share * (layer.lora_embedding_A[expert].T[x] @ layer.lora_embedding_B[expert].T)
        else:
            y = y + layer.lora_B[expert](layer.lora_A[expert](share * x))
    return y


def mixed_layer(model, number):
    layer = model.get_base_model().get_submodule(model.layer_names[number])
    return layer, model._layers[number]


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["llama", "gpt2", "bert"]), number=st.integers(0, 3), by_layer=st.booleans(),
    weight=st.sampled_from([1.0, -0.7]), learning=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_layers_are_the_formula_in_value_and_gradient(name, number, by_layer, weight, learning, seed):
    model = mixture(name, use_trainable_adapters=learning)
    layer, _ = mixed_layer(model, number)
    torch.manual_seed(seed)
    shape = (2, 5, len(model.layer_names), 3) if by_layer else (2, 5, 3)
    scalings, x = torch.randn(shape, requires_grad=True), torch.randn(2, 5, layer.in_features, requires_grad=True)
    experts = [weight for weight in (p for n, p in layer.named_parameters() if "lora_" in n) if weight.requires_grad]
    assert bool(experts) == learning
    own = scalings[:, :, number] if by_layer else scalings
    expected = formula(layer, x, layer.base_layer, model.expert_names, own, weight)
    with model._pass.use(Scalings(scalings * weight)):
        found = layer(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=3e-6, atol=3e-6 * float(expected.detach().abs().max()))
    gy = torch.randn_like(found)
    inputs = [scalings, x, *experts]
    pairs = zip(*(torch.autograd.grad((y * gy).sum(), inputs) for y in (found, expected)), strict=True)
    for mine, reference in pairs:
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))


def test_embeddings_scale_what_is_looked_up():
    configs = {"a": lora("gpt2", 2, target_modules=["wte", "wpe"]), "b": lora("gpt2", 3, target_modules=["wte"])}
    model = mixture("gpt2", configs)
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    positions = torch.arange(3)[None]
    for number, indices in enumerate((ids, positions)):
        layer, _ = mixed_layer(model, number)
        scalings = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
        expected = formula(layer, indices, layer.base_layer, ["a", "b"], scalings, 1.0)
        with model._pass.use(Scalings(scalings)):
            torch.testing.assert_close(layer(indices), expected)
    assert model(**inputs("gpt2")).logits.shape == (4, 6, 40)


def test_frozen_experts_are_stacked_once_and_again_when_they_change():
    model = mixture("llama")
    given = inputs("llama")
    before = model(**given).logits
    layer, mixed = mixed_layer(model, 0)
    stack = mixed.stack()
    assert mixed.stack() is stack
    with torch.no_grad():
        layer.lora_B["math"].weight.mul_(2)
    assert mixed.stack() is not stack
    changed = model(**given).logits
    assert not torch.allclose(changed, before)
    layer.scaling["math"] /= 2
    torch.testing.assert_close(model(**given).logits, before)


def test_dropout_acts_before_the_experts_with_the_probability_of_each():
    configs = {"a": lora("llama", 2, lora_dropout=0.5), "b": lora("llama", 2, lora_dropout=0.0)}
    model = mixture("llama", configs)
    layer, _ = mixed_layer(model, 0)
    layer.lora_A["a"].weight.data.zero_()[0, 0] = 1.0  # expert a sees the first feature alone
    layer.lora_B["b"].weight.data.zero_()
    model.train()
    x = torch.ones(1, 400, layer.in_features)
    with model._pass.use(Scalings(torch.ones(1, 400, 2))), torch.no_grad():
        change = (layer(x) - layer.base_layer(x))[0]
        expected = layer.scaling["a"] * layer.lora_B["a"].weight[:, 0]
    kept = change.norm(dim=-1) > 1e-6
    assert 0.35 < float(kept.float().mean()) < 0.65
    torch.testing.assert_close(change[kept], (2 * expected).expand(int(kept.sum()), -1), rtol=1e-4, atol=1e-5)


# --- the gate ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(experts=st.integers(1, 6), k=st.integers(1, 6), softmax=st.booleans(), seed=st.integers(0, 99))
def test_top_k_keeps_the_largest(experts, k, softmax, seed):
    k = min(k, experts)
    scalings = torch.randn(2, 3, experts, generator=torch.Generator().manual_seed(seed))
    kept = keep_top_k(scalings, k, softmax)
    assert torch.equal((kept != 0).sum(-1), torch.full((2, 3), k))
    smallest_kept = scalings.where(kept != 0, torch.inf).amin(-1)
    largest_left = scalings.where(kept == 0, -torch.inf).amax(-1)
    assert bool((smallest_kept >= largest_left).all())
    if softmax:
        torch.testing.assert_close(kept.sum(-1), torch.ones(2, 3))
    else:
        assert torch.equal(kept[kept != 0], scalings[kept != 0])
    assert keep_top_k(scalings, None) is scalings


@pytest.mark.parametrize(("depth", "layerwise"), [(1, False), (2, True), (4, False)])
def test_the_gate_has_the_papers_number_of_parameters(depth, layerwise):
    gate = XLoraGate(XLoraGateConfig(16, xlora_depth=depth, xlora_size=8, layerwise_scalings=layerwise), 3, 5)
    outputs, hidden = 3 * (5 if layerwise else 1), depth - 1
    expected = (16 + 1) * outputs if depth == 1 else (16 + 1) * 8 + (hidden - 1) * 9 * 8 + 9 * outputs
    assert sum(parameter.numel() for parameter in gate.parameters()) == expected
    assert all(not part.isdigit() for name in gate.state_dict() for part in name.split("."))
    scalings = gate(torch.randn(2, 4, 16))
    assert scalings.shape == ((2, 4, 5, 3) if layerwise else (2, 4, 3))
    torch.testing.assert_close(scalings.sum(-1), torch.ones(scalings.shape[:-1]))


def test_a_gate_of_its_own_needs_a_width():
    with pytest.raises(ValueError, match="hidden_size=None: a gate of its own needs the width"):
        XLoraGate(XLoraGateConfig(), 3, 5)


def test_the_gate_stays_in_float32():
    model = mixture("llama", base=build("llama").bfloat16())
    assert {parameter.dtype for parameter in model.gate.parameters()} == {torch.float32}
    logits = model(**inputs("llama")).logits
    assert logits.dtype == torch.bfloat16
    assert model.get_latest_scalings().dtype == torch.float32
    model.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**inputs("llama")).logits.float().sum().backward()
    assert model.get_latest_scalings().dtype == torch.float32
    assert model.gate.output.weight.grad.isfinite().all()


def fix(model, weights):
    """Make the gate answer the same for every token."""
    model.gate.output.weight.data.zero_()
    model.gate.output.bias.data.copy_(torch.tensor(weights).flatten())


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("layerwise", [False, True])
def test_fixed_scalings_are_a_merged_model(name, layerwise):
    model = mixture(name, enable_softmax=False, layerwise_scalings=layerwise, global_scaling_weight=0.5)
    rows = torch.randn(len(model.layer_names), 3, generator=torch.Generator().manual_seed(0))
    weights = rows if layerwise else rows[0]
    fix(model, weights.tolist())
    expected = output(model, name)
    static = model.to_static(weights)
    assert type(static) is type(build(name))
    assert not any("lora" in key for key in static.state_dict())
    torch.testing.assert_close(output(static, name), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output(model, name), expected)
    if not layerwise:
        by_name = model.to_static({"0": float(weights[1]), "math": float(weights[0])})
        fix(model, [*weights[:2].tolist(), 0.0])
        torch.testing.assert_close(output(by_name, name), output(model, name), rtol=1e-4, atol=1e-5)


def test_the_scaling_pass_sees_its_value_without_top_k():
    model = mixture("llama", scaling_pass_value=0.5, top_k_lora=1, global_scaling_weight=2.0)
    seen = model.to_static(dict.fromkeys(NAMES, 0.5)).model(**inputs("llama")).last_hidden_state
    model(**inputs("llama"))
    torch.testing.assert_close(model.get_latest_scalings()[:, :, 0], model.gate(seen), rtol=1e-4, atol=1e-5)
    model.set_scaling_pass_value(None)
    assert model.gate_config.scaling_pass_value == 1 / 3
    model.set_scaling_pass_value(0.0)
    model(**inputs("llama"))
    seen = build("llama").model(**inputs("llama")).last_hidden_state
    torch.testing.assert_close(model.get_latest_scalings()[:, :, 0], model.gate(seen))


# --- as the wrapped model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_without_adapter_it_is_exactly_the_base_model(name):
    model = mixture(name)
    mixed = output(model, name)
    with model.disable_adapter():
        assert torch.equal(output(model, name), output(build(name), name))
        with model.disable_adapter():
            pass
        assert torch.equal(output(model, name), output(build(name), name))
    assert torch.equal(output(model, name), mixed)
    assert not torch.allclose(mixed, output(build(name), name))


def test_every_way_of_passing_the_inputs():
    model, given = mixture("llama"), inputs("llama")
    ids, expected = given["input_ids"], output(model, "llama")
    assert torch.equal(model(ids).logits, expected)
    assert torch.equal(model(ids, torch.ones_like(ids), labels=ids).logits, expected)
    embedded = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embedded).logits, expected)
    assert torch.equal(model(ids, return_dict=False)[0], expected)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, expected[:, -2:])
    assert torch.equal(model.get_base_model()(ids).logits, expected)


def vision_transformer(**config):
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(**small, image_size=8, patch_size=4, **config)).eval()


def test_vision_transformers_have_the_tokens_of_their_hidden_state():
    torch.manual_seed(0)
    base = vision_transformer()
    pixels = torch.randn(2, 3, 8, 8)
    expected = base(pixel_values=pixels).logits
    configs = {name: lora("vit", rank, target_modules=["q_proj", "fc2"]) for name, rank in (("a", 2), ("b", 3))}
    configs["patches"] = lora("vit", 2, target_modules=["patch_embeddings.projection"])
    model = mixture("vit", configs, base=base, enable_softmax=False)
    with model.disable_adapter():
        assert torch.equal(model(pixel_values=pixels).logits, expected)
    model(pixel_values=pixels)
    assert model.get_latest_scalings().shape == (2, 5, len(model.layer_names), 3)
    weights = {"a": 0.5, "b": -1.0, "patches": 0.7}
    fix(model, list(weights.values()))
    found = model(pixel_values=pixels).logits
    static = model.to_static(weights)
    torch.testing.assert_close(static(pixel_values=pixels).logits, found, rtol=1e-4, atol=1e-5)


def test_scalings_are_logged_without_padding():
    model, ids = mixture("llama"), inputs("llama")["input_ids"]
    assert model.get_latest_scalings() is None
    model(ids)
    model.enable_scalings_logging()
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    for length in (6, 3):
        model(ids[:, :length], attention_mask=mask[:, :length])
    model.disable_scalings_logging()
    model(ids)
    log = model.get_scalings_log()
    assert [tuple(scalings.shape) for scalings in log] == [(4, 6, 4, 3), (4, 3, 4, 3)]
    assert torch.equal(log[0].isnan().any(-1).any(-1), mask == 0)
    assert model.get_latest_scalings().isfinite().all()
    buckets = model.get_bucketed_scalings_log()
    assert {length: positions for length, (positions, _) in buckets.items()} == {6: [0], 3: [1]}
    torch.testing.assert_close(buckets[3][1][0], log[1], equal_nan=True)
    model.clear_scalings_log()
    assert model.get_scalings_log() == []


def test_top_k_and_weight_can_be_set():
    model = mixture("llama")
    dense = output(model, "llama")
    model.set_topk_lora(1)
    sparse = output(model, "llama")
    assert not torch.allclose(sparse, dense)
    assert (model.get_latest_scalings() > 0).all()  # before top-k
    model.set_topk_lora(3)
    torch.testing.assert_close(output(model, "llama"), dense)
    model.set_topk_lora(None)
    model.set_global_scaling_weight(0.0)
    assert model.get_global_scaling_weight() == 0
    torch.testing.assert_close(output(model, "llama"), output(build("llama"), "llama"))
