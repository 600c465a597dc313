"""X-LoRA's files: nothing is lost on the way, under any names of experts; the layouts of others; bad input."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, XLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from fullrank.adapt import XLoraGateConfig, XLoraModel, add_xlora, from_experts

from .mixtures import NAMES, loaded, lora, mixture, with_experts, write_experts
from .models import TARGETS, build, inputs, output


def load(folder, name="llama", **options):
    torch.manual_seed(99)
    return XLoraModel.from_pretrained(build(name), folder, **options)


# --- there and back ---------------------------------------------------------------------------------------------------


def test_experts_are_loaded_whole_under_any_name(tmp_path):
    model = loaded(tmp_path)
    parameters = dict(model.named_parameters())
    for name in NAMES:
        stored = load_file(tmp_path / name / "adapter_model.safetensors")
        assert len(stored) == 8
        for key, tensor in stored.items():
            assert torch.equal(parameters[key.replace(".weight", f".{name}.weight")], tensor)


@pytest.mark.parametrize("save_experts", ["copy", "reference"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_saved_model_is_the_same_again(name, save_experts, tmp_path):
    options = {"xlora_depth": 3, "xlora_size": 5, "layerwise_scalings": True, "top_k_lora": 2}
    model = loaded(tmp_path / "experts", name, **options)
    model.set_global_scaling_weight(0.7)
    expected = output(model, name)
    model.save_pretrained(tmp_path / "saved", save_experts=save_experts)
    assert (tmp_path / "saved" / "experts").exists() == (save_experts == "copy")
    again = load(tmp_path / "saved", name)
    assert torch.equal(output(again, name), expected)
    assert (again.expert_names, again.layer_names) == (model.expert_names, model.layer_names)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    trainable = load(tmp_path / "saved", name, is_trainable=True)
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == {
        f"gate.{n}" for n in model.gate.state_dict()
    }


@pytest.mark.usefixtures("unchecked")
def test_adapters_that_were_never_files_are_copied(tmp_path):
    model = mixture("llama", use_trainable_adapters=True)
    expected = output(model, "llama")
    with pytest.raises(ValueError, match="would lose what the experts have learned: use 'copy'"):
        model.save_pretrained(tmp_path, save_experts="reference")
    with pytest.raises(ValueError, match=r"'math'.* were not loaded by from_experts: use 'copy'"):
        mixture("llama").save_pretrained(tmp_path, save_experts="reference")
    with pytest.raises(ValueError, match="save_experts='none': use 'copy' or 'reference'"):
        model.save_pretrained(tmp_path, save_experts="none")
    model.save_pretrained(tmp_path)
    assert torch.equal(output(load(tmp_path), "llama"), expected)


def test_experts_that_moved_are_found_where_one_says(tmp_path):
    model = loaded(tmp_path / "before")
    expected = output(model, "llama")
    model.save_pretrained(tmp_path / "saved", save_experts="reference")
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(ValueError, match=r"expert 'math': no LoRA checkpoint is found at .*before/math"):
        load(tmp_path / "saved")
    places = {name: tmp_path / "after" / name for name in NAMES}
    assert torch.equal(output(load(tmp_path / "saved", experts=places), "llama"), expected)
    with pytest.raises(ValueError, match=r"give a path for each of .*'math', '0', 'layers'"):
        load(tmp_path / "saved", experts={"math": places["math"]})


# --- other layouts ----------------------------------------------------------------------------------------------------


def gate_of(model):
    return [layer for layer in model.gate.children() if isinstance(layer, torch.nn.Linear)]


def test_the_official_layout(tmp_path):
    model = loaded(tmp_path / "experts", xlora_depth=3, xlora_size=5, layerwise_scalings=True, softmax_temperature=0.5)
    *hidden, last = gate_of(model)
    stored = {f"inner.{3 * number}": layer for number, layer in enumerate(hidden)} | {"last": last}
    tensors = {
        f"{key}.{part}": getattr(layer, part).data for key, layer in stored.items() for part in ("weight", "bias")
    }
    save_file(tensors, tmp_path / "xlora_classifier.safetensors")
    config = {
        "hidden_size": 16, "base_model_id": "", "device": "cpu", "adapters": model.gate_config.adapters,
        "enable_softmax": True, "softmax_temperature": 0.5, "layerwise_scalings": True, "xlora_depth": 3,
        "xlora_size": 5, "enable_relu_and_dropout": True, "use_bias": True, "xlora_dropout_p": 0.2, "top_k_lora": None,
    }  # fmt: skip
    (tmp_path / "xlora_config.json").write_text(json.dumps(config))
    assert torch.equal(output(load(tmp_path), "llama"), output(model, "llama"))
    del config["enable_relu_and_dropout"]  # off by default there
    (tmp_path / "xlora_config.json").write_text(json.dumps(config))
    model.gate_config.enable_relu_and_dropout = False
    assert torch.equal(output(load(tmp_path), "llama"), output(model, "llama"))
    del tensors["inner.3.weight"], tensors["inner.3.bias"]
    save_file(tensors, tmp_path / "xlora_classifier.safetensors")
    with pytest.raises(ValueError, match=r"gate weights are missing from this file: .* 2 linear layers"):
        load(tmp_path)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_layout_of_peft_and_its_lost_gates(depth, tmp_path):
    """PEFT's own object, saved by PEFT: the gate is gone. With the gate in its place, the outputs are PEFT's."""
    places = write_experts(tmp_path / "experts", experts=("0", "1", "2"))
    base = build("llama")
    base.config.use_cache = False
    options = {"xlora_depth": depth, "xlora_size": 5, "layerwise_scalings": True, "top_k_lora": 2}
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=16, adapters=places, **options)
    theirs = get_peft_model(base, config)
    theirs.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="gate weights are missing from this file"):
        load(tmp_path / "saved")
    gate = theirs.base_model.internal_xlora_classifier.state_dict()
    save_file(
        {f"base_model.internal_xlora_classifier.{key}": tensor for key, tensor in gate.items()},
        tmp_path / "saved" / "adapter_model.safetensors",
    )
    ours = load(tmp_path / "saved")
    given = inputs("llama")
    torch.testing.assert_close(ours(**given).logits, theirs(**given).logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.get_latest_scalings(), theirs.get_latest_scalings())


def test_what_is_no_checkpoint_of_this_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no X-LoRA checkpoint"):
        load(tmp_path)
    places = write_experts(tmp_path / "experts")
    with pytest.raises(ValueError, match="is a checkpoint of LORA, not of XLORA"):
        load(places["math"])
    model = loaded(tmp_path / "experts", layerwise_scalings=True)
    model.save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "adapter_model.safetensors"
    gate = load_file(weights)
    save_file({"output.weight": gate["output.weight"]}, weights)
    with pytest.raises(ValueError, match=r"gate weights are missing from this file: .* has no output.bias"):
        load(tmp_path / "saved")
    save_file(gate | {"output.weight": gate["output.weight"][:3]}, weights)
    with pytest.raises(ValueError, match=r"output.weight of shape \(3, 16\), this model's needs \(12, 16\)"):
        load(tmp_path / "saved")
    save_file(gate | {"more": torch.ones(1)}, weights)
    with pytest.raises(ValueError, match="holds more, which its configuration does not speak of"):
        load(tmp_path / "saved")
    save_file(gate, weights)
    config = tmp_path / "saved" / "xlora_gate_config.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps(stored | {"layer_names": [*stored["layer_names"][1:], "other"]}))
    with pytest.raises(ValueError, match=r"the model's adapted layers are others: .*other"):
        load(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"mixes \['math', '0', 'layers'\], not \['a'\]"):
        mixture("llama", {"a": lora("llama")}, enable_softmax=False).load_adapter(tmp_path / "saved")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k_lora": 0}, "top_k_lora=0: use an integer of at least 1"),
        ({"top_k_lora": 4}, "top_k_lora=4: there are 3 experts, use 1..3"),
        ({"xlora_depth": 0}, "xlora_depth=0: use an integer of at least 1"),
        ({"xlora_depth": 2, "xlora_size": -1}, "xlora_size=-1"),
        ({"xlora_dropout_p": 1.0}, r"xlora_dropout_p=1.0: use a probability in \[0, 1\)"),
        ({"softmax_temperature": 0.0}, "softmax_temperature=0.0: use a positive number"),
        ({"global_scaling_weight": float("nan")}, "global_scaling_weight=nan: use a finite number"),
        ({"enable_softmax_topk": True, "top_k_lora": 2}, "would normalise twice: switch one of them off"),
        ({"enable_softmax": False, "enable_softmax_topk": True}, "needs top_k_lora, got None"),
        ({"hidden_size": 32}, "hidden_size=32: the hidden states of LlamaForCausalLM have 16"),
        ({"adapters": {"physics": None}}, "adapters names 'physics', the model holds 'math', '0', 'layers'"),
        ({"adapters": {}}, "adapters is empty"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        mixture("llama", **options)


@pytest.mark.filterwarnings("ignore:Adapter.*was active:UserWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "expert 'odd' is DoRA"),
        ({"modules_to_save": ["lm_head"]}, "expert 'odd' has modules_to_save=.*'lm_head'.*: it replaces whole modules"),
        ({"bias": "lora_only"}, "expert 'odd' has bias='lora_only'"),
        ({"init_lora_weights": "pissa"}, "expert 'odd' starts from 'pissa', which changes the base weight"),
        (
            {"init_lora_weights": True, "lora_bias": True, "target_modules": ["c_attn"]},
            "'odd' has lora_bias=True",
        ),
        ({"trainable_token_indices": [1]}, "expert 'odd' has trainable_token_indices"),
    ],
)
def test_experts_that_are_more_than_lora(options, message):
    name = "gpt2" if "lora_bias" in options else "llama"
    model = with_experts(build(name), {"plain": lora(name), "odd": lora(name, **options)})
    with pytest.raises(TypeError, match=message):
        add_xlora(model)
    chosen = add_xlora(model, XLoraGateConfig(adapters={"plain": None}, enable_softmax=False))
    assert chosen.expert_names == ["plain"]


def test_experts_of_another_kind_or_base(tmp_path):
    get_peft_model(build("llama"), LoHaConfig(r=2, target_modules=TARGETS["llama"])).save_pretrained(tmp_path / "loha")
    with pytest.raises(TypeError, match="expert 'b' is LOHA, not LoRA"):
        from_experts(build("llama"), {"b": tmp_path / "loha"})
    places = write_experts(tmp_path)
    with pytest.raises(
        ValueError, match=r"expert 'math' does not fit the base model '.*BertForSequenceClassification'"
    ):
        from_experts(build("bert"), places)
    wide = LoraConfig(r=2, target_modules=["down_proj", "gate_proj"], init_lora_weights=False)
    odd = with_experts(build("llama"), {"default": wide})
    for layer in odd.modules():
        if hasattr(layer, "lora_A"):
            layer.lora_A["default"].weight.data = torch.ones(2, 7)
    odd.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"expert 'wide' does not fit the base model (?s:.*)size mismatch"):
        from_experts(build("llama"), {"math": places["math"], "wide": tmp_path / "wide"})
    config = json.loads((tmp_path / "math" / "adapter_config.json").read_text())
    (tmp_path / "math" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/a"}))
    base = build("llama")
    base.name_or_path = "/somewhere/b"
    with pytest.raises(ValueError, match="expert 'math' was trained on 'org/a', the base model is '/somewhere/b'"):
        from_experts(base, places)
    base.name_or_path = "/somewhere/a"
    assert from_experts(base, places).expert_names == list(places)
    with pytest.raises(ValueError, match="experts is empty"):
        from_experts(build("llama"), {})


@pytest.mark.usefixtures("unchecked")
def test_models_that_cannot_be_mixed():
    with pytest.raises(TypeError, match="peft_model is a LlamaForCausalLM: pass a PeftModel, or use from_experts"):
        add_xlora(build("llama"))
    with pytest.raises(TypeError, match="is an X-LoRA model already"):
        add_xlora(mixture("llama"))
    with pytest.raises(TypeError, match="the base model is a Sequential"):
        add_xlora(with_experts(build("mlp"), {"a": lora("mlp"), "b": lora("mlp")}))
    merged = with_experts(build("llama"), {"a": lora("llama"), "b": lora("llama")})
    merged.merge_adapter(["b"])
    with pytest.raises(TypeError, match=r"expert 'b' is merged into the base weight at 'model.layers.0"):
        add_xlora(merged)
    config = T5Config(vocab_size=40, d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2)
    t5 = PeftModel(T5ForConditionalGeneration(config), LoraConfig(target_modules=["q"]), "a")
    with pytest.raises(TypeError, match="T5ForConditionalGeneration is an encoder-decoder"):
        add_xlora(t5)


def test_one_expert_is_allowed_with_a_warning():
    with pytest.warns(UserWarning, match="'only' is the only expert: its softmax is 1"):
        model = mixture("llama", {"only": lora("llama")})
    alone = with_experts(build("llama"), {"only": lora("llama")}).eval()
    torch.testing.assert_close(output(model, "llama"), output(alone, "llama"))


def test_what_a_mixture_refuses():
    model = mixture("llama")
    with pytest.raises(ValueError, match="cannot be merged, because its scalings depend on the token: use to_static"):
        model.merge_and_unload()
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_adapter()
    with pytest.raises(ValueError, match="the experts of an X-LoRA model are fixed"):
        model.add_adapter("new", lora("llama"))
    with pytest.raises(ValueError, match="adapter_names chooses one adapter a sample"):
        model(**inputs("llama"), adapter_names=["math"] * 4)
    with pytest.raises(ValueError, match=r"weights names \['art'\], the experts are \['math', '0', 'layers'\]"):
        model.to_static({"art": 1.0})
    with pytest.raises(ValueError, match=r"shape \(2,\): use \(3,\) or \(layers, experts\) = \(4, 3\)"):
        model.to_static(torch.ones(2))
    with pytest.raises(ValueError, match="top_k_lora=4: there are 3 experts"):
        model.set_topk_lora(4)
    with pytest.raises(ValueError, match="value=inf: use a finite number"):
        model.set_scaling_pass_value(float("inf"))


def test_layers_without_tokens_are_named():
    model = mixture("bert", {name: lora("bert", target_modules=["pooler.dense"]) for name in "ab"})
    with pytest.raises(ValueError, match=r"layer 'bert.pooler.dense' does not see the 4 x 6 tokens"):
        model(**inputs("bert"))
    with model.disable_adapter():
        assert torch.equal(output(model, "bert"), output(build("bert"), "bert"))


@pytest.mark.parametrize("name", ["xlora_dropout_p", "softmax_temperature", "scaling_pass_value"])
def test_a_number_is_asked_for(unchecked, name):
    with pytest.raises(TypeError, match=f"{name}='1': use a number"):
        XLoraGateConfig(**{name: "1"})
