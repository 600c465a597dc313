"""What PEFT promises of every method, as a suite to inherit.

class TestHydra(Conformance):
    def config(self, **options):
        return HydraConfig(**({"r": 2} | options))
"""

from __future__ import annotations

import copy
import json
import pickle

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM

from .models import TARGETS, build, inputs, output

every_model = pytest.mark.parametrize("name", list(TARGETS))


class Conformance:
    """Inherit it, and say how the method is configured.

    Attributes:
        mergeable: whether the change is a matrix.
        convertible: whether `peft.convert_to_lora` reproduces it at the rank `lora_rank`.
        tolerance: relative error of merged against unmerged, in float32.
    """

    mergeable = True
    convertible = True
    lora_rank = 8
    tolerance = 1e-5

    def config(self, **options) -> PeftConfig:
        """The method's configuration with these fields of `DeltaConfig`; small ranks that fit the tiny models."""
        raise NotImplementedError

    # --- building blocks ---------------------------------------------------------------------------------------------

    def adapted(self, name="mlp", seed=0, adapters=("default",), **options) -> PeftModel:
        """A tiny model with adapters that start from random changes."""
        options = {"target_modules": TARGETS[name], "init_weights": False} | options
        torch.manual_seed(seed)
        model = get_peft_model(build(name), self.config(**options), adapter_name=adapters[0])
        for adapter in adapters[1:]:
            model.add_adapter(adapter, self.config(**options))
        return model.eval()

    def close(self, found, expected):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=self.tolerance, atol=self.tolerance * scale)

    def train(self, model, name="mlp", steps=3):
        model.train()
        optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.5)
        for _ in range(steps):
            optimizer.zero_grad()
            output(model, name).log_softmax(-1)[..., 0].mean().neg().backward()
            optimizer.step()
        model.eval()

    @property
    def prefix(self) -> str:
        return f"{self.config().peft_type.value.lower()}_"

    def requires_merging(self):
        if not self.mergeable:
            pytest.skip("the change is no matrix")

    # --- start, training, switching off ------------------------------------------------------------------------------

    @every_model
    def test_starts_as_the_base_model(self, name):
        model = self.adapted(name, init_weights=True)
        self.close(output(model, name), output(build(name), name))

    @every_model
    def test_random_start_and_disabling(self, name):
        model, base = self.adapted(name), output(build(name), name)
        changed = output(model, name)
        assert changed.isfinite().all()
        assert (changed - base).abs().max() > 1e-5
        with model.disable_adapter():
            assert torch.equal(output(model, name), base)
        assert torch.equal(output(model, name), changed)

    @every_model
    def test_only_the_adapter_is_trained_and_all_of_it(self, name):
        model = self.adapted(name, init_weights=True)
        before = copy.deepcopy(dict(model.named_parameters()))
        self.train(model, name)
        trained = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
        assert trained == {key for key, parameter in before.items() if parameter.requires_grad}
        assert trained
        assert all(self.prefix in key and ".default." in key for key in trained)

    def test_modules_to_save_are_trained_saved_and_loaded(self, tmp_path):
        model = self.adapted(target_modules=["0"], modules_to_save=["4"])
        self.train(model)
        assert not torch.equal(model.base_model.model[4].weight, build("mlp")[4].weight)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(build("mlp"), tmp_path)
        assert torch.equal(output(again, "mlp"), output(model, "mlp"))

    @pytest.mark.parametrize("kind", ["all", "only"])
    def test_biases(self, kind, tmp_path):
        bias = "all" if kind == "all" else f"{self.prefix}only"
        model = self.adapted(bias=bias, target_modules=["0"])
        biases = {key for key, p in model.named_parameters() if key.endswith("bias") and p.requires_grad}
        layers = {key.split(".")[2] for key in biases if self.prefix not in key}
        assert layers == ({"0", "4"} if kind == "all" else {"0"})
        with pytest.warns(UserWarning, match="disabling adapter layers with bias"), model.disable_adapter():
            pass
        self.train(model)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(build("mlp"), tmp_path)
        assert torch.equal(output(again, "mlp"), output(model, "mlp"))
        with pytest.raises(ValueError, match="supports only 1 adapter with bias"):
            model.add_adapter("other", self.config(bias=bias, target_modules=["0"]))

    @pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing(self, use_reentrant):
        gradients = []
        for checkpointing in (False, True):
            model = self.adapted("llama").train()
            if checkpointing:
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            output(model, "llama").square().mean().backward()
            gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
        assert gradients[0]
        for key, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][key], gradient)

    def test_training_after_inference(self):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(22, 26))  # sizes of no other test, so that nothing of theirs was kept
        model = get_peft_model(base, self.config(target_modules=["0"], init_weights=False))
        with torch.inference_mode():
            expected = model(torch.ones(3, 22))
        found = model(torch.ones(3, 22))
        found.sum().backward()
        self.close(found, expected)

    def test_single_vectors_and_no_tokens(self):
        """A layer takes any leading shape, as nn.Linear does; an expert that no token is sent to gets none."""
        model = self.adapted().train()
        batch = inputs("mlp")["input"]
        gradients = []
        for given in (batch[0], batch[:1], batch[:0]):
            model.zero_grad()
            found = model(given)
            assert found.shape == (*given.shape[:-1], 3)
            found.square().sum().backward()
            gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        for one, of_batch, of_none in zip(*gradients, strict=True):
            torch.testing.assert_close(one, of_batch)
            assert not of_none.any()

    def test_gradients_of_every_sample_by_torch_func(self):
        model, batch = self.adapted(), inputs("mlp")["input"]
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}

        def loss(parameters, sample):
            return torch.func.functional_call(model, parameters, (sample,)).square().sum()

        found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(trained, batch)
        for row, sample in enumerate(batch):
            expected = torch.autograd.grad(loss(trained, sample), list(trained.values()))
            for key, gradient in zip(trained, expected, strict=True):
                torch.testing.assert_close(found[key][row], gradient)

    def test_a_model_of_shapes(self):
        model = self.adapted("llama").to("meta")
        found = model(input_ids=torch.zeros(2, 3, dtype=torch.int64, device="meta")).logits
        assert (found.shape, found.device.type) == ((2, 3, 40), "meta")

    def test_biases_of_modules_are_tensors(self):
        for module in self.adapted().modules():
            assert getattr(module, "bias", None) is None or isinstance(module.bias, torch.Tensor)

    # --- merging -----------------------------------------------------------------------------------------------------

    @every_model
    def test_merging_and_unmerging(self, name):
        self.requires_merging()
        model = self.adapted(name)
        expected, state = output(model, name), copy.deepcopy(model.state_dict())
        model.merge_adapter()
        self.close(output(model, name), expected)
        with pytest.warns(UserWarning, match="All adapters are already merged"):
            model.merge_adapter()
        self.close(output(model, name), expected)
        model.unmerge_adapter()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        with pytest.warns(UserWarning, match="Already unmerged. Nothing to do."):
            model.unmerge_adapter()

    @every_model
    def test_merging_for_good(self, name):
        self.requires_merging()
        model = self.adapted(name)
        expected = output(model, name)
        merged = model.merge_and_unload(safe_merge=True)
        assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
        assert {key: p.shape for key, p in merged.named_parameters()} == {
            key: p.shape for key, p in build(name).named_parameters()
        }
        self.close(output(pickle.loads(pickle.dumps(merged)), name), expected)

    @every_model
    def test_unloading(self, name):
        model = self.adapted(name)
        if self.mergeable:
            model.merge_adapter()
        base = model.unload()
        assert torch.equal(output(base, name), output(build(name), name))

    def test_disabling_while_merged(self):
        self.requires_merging()
        model = self.adapted()
        model.merge_adapter()
        with model.disable_adapter():
            assert torch.equal(output(model, "mlp"), output(build("mlp"), "mlp"))

    @pytest.mark.parametrize("poison", [torch.nan, torch.inf])
    def test_safe_merging_leaves_the_base_alone(self, poison):
        self.requires_merging()
        model = self.adapted(adapters=("fine", "broken"))
        for key, parameter in model.named_parameters():
            if ".broken" in key and self.prefix in key:
                parameter.data.fill_(poison)
        layer = model.base_model.model[0]
        before = layer.base_layer.weight.clone()
        with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter broken seems"):
            layer.merge(safe_merge=True, adapter_names=["fine", "broken"])
        assert torch.equal(layer.base_layer.weight, before)
        assert not layer.merged

    def test_merging_one_by_one_is_merging_together(self):
        self.requires_merging()
        one, both = (self.adapted(adapters=("first", "second")) for _ in range(2))
        one.merge_adapter(["first"])
        with pytest.warns(UserWarning, match="Already following adapters were merged first"):
            one.merge_adapter(["second"])
        both.merge_adapter(["first", "second"])
        assert torch.equal(output(one, "mlp"), output(both, "mlp"))
        one.unmerge_adapter()
        assert torch.equal(one.base_model.model[0].base_layer.weight, build("mlp")[0].weight)

    def test_conversion_to_lora(self):
        if not self.convertible:
            pytest.skip("LoRA cannot carry the change")
        model = self.adapted("llama")
        assert model.supports_lora_conversion()
        config, state = peft.convert_to_lora(model, rank=self.lora_rank)
        expected = output(model, "llama")
        lora = get_peft_model(build("llama"), config).eval()
        peft.set_peft_model_state_dict(lora, state)
        torch.testing.assert_close(
            output(lora, "llama"), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max())
        )

    # --- several adapters --------------------------------------------------------------------------------------------

    @every_model
    def test_several_adapters(self, name):
        model = self.adapted(name, adapters=("first", "second"))
        found = {}
        for adapter in ("first", "second"):
            model.set_adapter(adapter)
            found[adapter] = output(model, name)
        assert not torch.allclose(found["first"], found["second"])
        model.base_model.set_adapter(["first", "second"])
        both = output(model, name)
        assert all(not torch.allclose(both, single) for single in found.values())
        if self.mergeable:
            model.merge_adapter(["first", "second"])
            self.close(output(model, name), both)

    def test_adapters_on_different_layers(self):
        model = self.adapted(adapters=("first",), target_modules=["0"])
        a = output(model, "mlp")
        model.add_adapter("second", self.config(target_modules=["2"], init_weights=False))
        assert torch.equal(output(model, "mlp"), a)
        model.set_adapter("second")
        b = output(model, "mlp")
        assert not torch.allclose(a, b)
        model.set_adapter("first")
        assert torch.equal(output(model, "mlp"), a)

    def test_only_the_active_adapter_is_trained(self):
        model = self.adapted(adapters=("first", "second"))

        def trained():
            return {key.split(f"{self.prefix}delta.")[1].split(".")[0]
                    for key, p in model.named_parameters() if p.requires_grad}  # fmt: skip

        assert trained() == {"first"}
        model.set_adapter("second")
        assert trained() == {"second"}
        model.set_requires_grad("second", requires_grad=False)
        assert trained() == set()
        model.set_adapter("first", inference_mode=True)
        assert trained() == set()

    def test_deleting_adapters(self):
        model = self.adapted(adapters=("first", "second", "third"))
        model.set_adapter("first")
        expected = output(model, "mlp")
        model.delete_adapter("second")
        assert torch.equal(output(model, "mlp"), expected)
        with pytest.raises(ValueError, match="Adapter second does not exist"):
            model.delete_adapter("second")
        with pytest.warns(UserWarning, match="Adapter first was active which is now deleted"):
            model.delete_adapter("first")
        layer = model.base_model.model[0]
        for key, value in (vars(layer) | layer._modules).items():
            assert key.startswith("__") or not hasattr(value, "keys") or not {"first", "second"} & set(value.keys())
        if self.mergeable:
            model.merge_adapter()
            with pytest.raises(ValueError, match=r"Cannot delete adapter\(s\) \['third'\] while they are merged"):
                model.delete_adapter("third")
            model.unmerge_adapter()
        model.delete_adapter("third")
        assert torch.equal(output(model.base_model.model, "mlp"), output(build("mlp"), "mlp"))

    @every_model
    def test_mixed_batches(self, name):
        model = self.adapted(name, adapters=("first", "second"))
        expected = {"__base__": output(build(name), name)}
        for adapter in ("first", "second"):
            model.set_adapter(adapter)
            expected[adapter] = output(model, name)
        names = ["second", "__base__", "first", "second"]
        found = output(model, name, adapter_names=names)
        for row, adapter in enumerate(names):
            self.close(found[row], expected[adapter][row])
        assert torch.equal(output(model, name), expected["second"])

    def test_mixed_batches_that_cannot_be(self):
        model = self.adapted(adapters=("first", "second"))
        with pytest.raises(ValueError, match="should be the same as the number of inputs, but got 1 and 4"):
            output(model, "mlp", adapter_names=["first"])
        with pytest.raises(ValueError, match=r"non-existing adapter\(s\): other"):
            output(model, "mlp", adapter_names=["first", "other", "second", "first"])
        with pytest.raises(ValueError, match="when the model is in training mode"):
            output(model.train(), "mlp", adapter_names=["first"] * 4)
        if self.mergeable:
            model.eval().merge_adapter()
            with pytest.raises(ValueError, match="when there are merged adapters, please call `unmerge_adapter`"):
                output(model, "mlp", adapter_names=["first"] * 4)

    def test_mixed_methods_are_refused(self):
        with pytest.raises(ValueError, match=self.config().peft_type.value):
            get_peft_model(build("mlp"), self.config(target_modules=["0"]), mixed=True)
        lora = get_peft_model(build("mlp"), peft.LoraConfig(target_modules=["0"]))
        with (
            pytest.warns(UserWarning, match="modify a model with PEFT for a second time"),
            pytest.raises(TypeError, match=r"'0\.0' is already adapted by Linear"),
        ):
            get_peft_model(nn.Sequential(lora.base_model.model), self.config(target_modules=["0.0"]))

    def test_generation_of_a_mixed_batch_with_beams(self):
        model = self.adapted("llama", adapters=("first", "second"))
        options = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, **inputs("llama", batch=2)}
        expected = []
        for adapter in ("first", "second"):
            model.set_adapter(adapter)
            expected.append(model.generate(**options))
        found = model.generate(**options, adapter_names=["first", "second"])
        assert torch.equal(found[0], expected[0][0])
        assert torch.equal(found[1], expected[1][1])

    # --- saving and loading ------------------------------------------------------------------------------------------

    @every_model
    @pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
    def test_saving_and_loading(self, name, low_cpu_mem_usage, tmp_path):
        model = self.adapted(name)
        model.save_pretrained(tmp_path / "first")
        torch.manual_seed(1)
        again = PeftModel.from_pretrained(build(name), tmp_path / "first", low_cpu_mem_usage=low_cpu_mem_usage).eval()
        assert torch.equal(output(again, name), output(model, name))
        again.save_pretrained(tmp_path / "second")
        first, second = (tmp_path / run / "adapter_model.safetensors" for run in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        assert "library_name: peft" in (tmp_path / "first" / "README.md").read_text()

    def test_loading_with_the_base_model(self, tmp_path):
        build("llama").save_pretrained(tmp_path / "base")
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        config = self.config(target_modules=TARGETS["llama"], init_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(base, config).eval()
        model.save_pretrained(tmp_path / "adapter")
        again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        assert torch.equal(output(again, "llama"), output(model, "llama"))

    def test_saving_as_pickle(self, tmp_path):
        model = self.adapted()
        model.save_pretrained(tmp_path, safe_serialization=False)
        assert torch.equal(output(PeftModel.from_pretrained(build("mlp"), tmp_path), "mlp"), output(model, "mlp"))

    def test_names_that_resemble_each_other(self, tmp_path):
        names = ("default", "default2", "other_default", "foodefault_bar", "efaul")
        model = self.adapted(adapters=names)
        model.save_pretrained(tmp_path, selected_adapters=["default2", "efaul"])
        assert not (tmp_path / "adapter_model.safetensors").exists()
        for name in ("default2", "efaul"):
            model.set_adapter(name)
            again = PeftModel.from_pretrained(build("mlp"), tmp_path / name, adapter_name="x")
            assert torch.equal(output(again, "mlp"), output(model, "mlp"))

    @pytest.mark.parametrize("is_trainable", [False, True])
    def test_gradients_after_loading(self, is_trainable, tmp_path):
        self.adapted().save_pretrained(tmp_path)
        model = PeftModel.from_pretrained(build("mlp"), tmp_path, is_trainable=is_trainable)
        adapter = [p.requires_grad for key, p in model.named_parameters() if self.prefix in key]
        base = [p.requires_grad for key, p in model.named_parameters() if self.prefix not in key]
        assert set(adapter) == {is_trainable}
        assert set(base) == {False}

    def test_loading_beside_another_adapter(self, tmp_path):
        model = self.adapted(seed=3)
        expected = output(model, "mlp")
        model.save_pretrained(tmp_path)
        other = self.adapted(seed=4)
        kept = output(other, "mlp")
        other.load_adapter(tmp_path, adapter_name="loaded")
        assert torch.equal(output(other, "mlp"), kept)
        other.set_adapter("loaded")
        assert torch.equal(output(other, "mlp"), expected)

    def test_a_copy_is_independent(self):
        model = self.adapted()
        expected = output(model, "mlp")
        other = copy.deepcopy(model)
        assert torch.equal(output(other, "mlp"), expected)
        self.train(other)
        if self.mergeable:
            other.merge_adapter()
        assert torch.equal(output(model, "mlp"), expected)

    @every_model
    def test_a_pickled_model(self, name):
        model = self.adapted(name)
        assert torch.equal(output(pickle.loads(pickle.dumps(model)), name), output(model, name))

    def test_configuration_round_trips(self, tmp_path):
        config = self.config(target_modules=["0", "2"], exclude_modules=["4"], modules_to_save=["4"])
        assert config.target_modules == {"0", "2"}
        config.save_pretrained(tmp_path)
        same = [PeftConfig.from_pretrained(tmp_path), copy.deepcopy(config), pickle.loads(pickle.dumps(config))]
        assert all(other == config and type(other) is type(config) for other in same)
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"of_the_future": 1}))
        with pytest.warns(UserWarning, match="Unexpected keyword arguments .*of_the_future"):
            assert PeftConfig.from_pretrained(tmp_path) == config

    # --- which layers ------------------------------------------------------------------------------------------------

    def test_targets_have_to_be_known(self):
        with pytest.raises(ValueError, match="Please specify `target_modules` in `peft_config`"):
            get_peft_model(build("mlp"), self.config())

    @pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
    def test_all_linear_leaves_the_head_alone(self, name):
        model = self.adapted(name, target_modules="all-linear", task_type="SEQ_CLS" if name == "bert" else "CAUSAL_LM")
        adapted = {key for key, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
        assert len(adapted) == {"llama": 14, "gpt2": 8, "bert": 13}[name]
        assert not any(key.endswith(("lm_head", "classifier")) for key in adapted)
        model.add_adapter("other", self.config(target_modules="all-linear"))
        assert adapted == {key for key, module in model.named_modules() if isinstance(module, BaseTunerLayer)}

    def test_excluded_modules_and_layer_indices(self):
        model = self.adapted("llama", target_modules=["q_proj", "down_proj"], exclude_modules=["q_proj"])
        assert all(name.endswith("down_proj") for name in model.targeted_module_names)
        model = self.adapted("llama", layers_to_transform=[0], layers_pattern="layers")
        assert {name.split(".")[2] for name in model.targeted_module_names} == {"0"}
        model = self.adapted("llama", layers_to_transform=0)
        assert {name.split(".")[2] for name in model.targeted_module_names} == {"0"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target_modules": "a", "layers_to_transform": [0]}, "needs a list as target_modules, got the string 'a'"),
            ({"target_modules": "a", "layers_pattern": "h"}, "needs a list as target_modules, got the string 'a'"),
            ({"target_modules": ["a"], "layers_pattern": "h"}, "layers_pattern='h' needs layers_to_transform"),
            ({"bias": "some"}, "bias='some': use one of 'none', 'all', "),
        ],
    )
    def test_contradicting_configurations(self, options, message):
        with pytest.raises(ValueError, match=message):
            self.config(**options)

    def test_tensors_are_shown_by_adapter(self):
        model = self.adapted(adapters=("first", "second"))
        layer = model.base_model.model[0]
        for name in layer.delta_type.shown:
            tensors = getattr(layer, f"{self.prefix}{name}")
            owners = {adapter for adapter, delta in layer.deltas.items() if getattr(delta, name, None) is not None}
            assert set(tensors) == owners
            assert len(tensors) == len(owners)
            for adapter in owners:
                assert tensors[adapter] is getattr(layer.deltas[adapter], name)

    def test_layer_sizes_are_exposed(self):
        layer = self.adapted("gpt2").base_model.model.transformer.h[0].attn.c_attn
        assert (layer.in_features, layer.out_features) == (16, 48)

    def test_other_layers_are_named_and_refused(self):
        model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
        with pytest.raises(TypeError, match="cannot adapt '0', a LayerNorm: it supports Linear"):
            get_peft_model(model, self.config(target_modules=["0"]))
        model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)})
        with pytest.raises(TypeError, match=r"'attention\.out_proj' belongs to nn.MultiheadAttention"):
            get_peft_model(model, self.config(target_modules=["out_proj"]))

    # --- dtypes ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_half_precision(self, dtype, autocast_adapter_dtype, low_cpu_mem_usage, tmp_path):
        self.adapted("llama").save_pretrained(tmp_path)
        base = build("llama").to(dtype)
        options = {"autocast_adapter_dtype": autocast_adapter_dtype, "low_cpu_mem_usage": low_cpu_mem_usage}
        model = PeftModel.from_pretrained(base, tmp_path, **options).eval()
        adapter = {p.dtype for key, p in model.named_parameters() if self.prefix in key}
        assert (torch.float32 if autocast_adapter_dtype else dtype) in adapter
        expected = output(model, "llama")
        assert expected.dtype == dtype
        assert expected.isfinite().all()
        if not self.mergeable:
            return
        tolerance = {"rtol": 0, "atol": 30 * torch.finfo(dtype).eps * float(expected.detach().abs().max())}
        before = build("llama").to(dtype).state_dict()
        model.merge_adapter(safe_merge=True)
        torch.testing.assert_close(output(model, "llama"), expected, **tolerance)
        model.unmerge_adapter()
        for key, value in model.get_base_model().state_dict().items():
            if self.prefix not in key:
                assert torch.equal(value, before[key.replace("base_layer.", "")])
        torch.testing.assert_close(output(model.merge_and_unload(), "llama"), expected, **tolerance)

    def test_autocast(self):
        model = self.adapted("llama").train()
        expected = output(model, "llama")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = output(model, "llama")
            found.float().square().mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05 * float(expected.detach().abs().max()))

    def test_weights_that_are_cast_around_every_call(self):
        model = self.adapted().half()
        expected = output(copy.deepcopy(model).float(), "mlp")
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(lambda module, _: module.float() and None)
                module.register_forward_hook(lambda module, *_: module.half() and None)
        with disable_input_dtype_casting(model):
            found = output(model, "mlp")
        assert found.dtype == torch.float32
        self.close(found, expected)

    # --- other ways in -----------------------------------------------------------------------------------------------

    def test_injecting_without_a_wrapper(self, tmp_path):
        torch.manual_seed(0)
        config = self.config(target_modules=TARGETS["mlp"], init_weights=False)
        model = inject_adapter_in_model(config, build("mlp"))
        state = peft.get_peft_model_state_dict(model)
        assert state
        assert all(".default" not in key for key in state)
        torch.manual_seed(1)
        again = inject_adapter_in_model(copy.deepcopy(config), build("mlp"), state_dict=state)
        result = peft.set_peft_model_state_dict(again, state)
        assert not result.unexpected_keys
        assert torch.equal(output(again, "mlp"), output(model, "mlp"))

    def test_transformers_own_interface(self, tmp_path):
        expected_model = self.adapted("llama")
        expected_model.save_pretrained(tmp_path)
        model = build("llama")
        model.load_adapter(tmp_path, adapter_name="loaded")
        expected = output(expected_model, "llama")
        self.close(output(model, "llama"), expected)
        with pytest.warns(UserWarning, match="Already found a `peft_config` attribute"):
            model.add_adapter(self.config(target_modules=TARGETS["llama"], init_weights=False), adapter_name="fresh")
        model.set_adapter("fresh")
        assert not torch.allclose(output(model, "llama"), expected)
        model.set_adapter("loaded")
        self.close(output(model, "llama"), expected)
        model.disable_adapters()
        assert torch.equal(output(model, "llama"), output(build("llama"), "llama"))
        model.enable_adapters()
        model.delete_adapter("fresh")
        self.close(output(model, "llama"), expected)
