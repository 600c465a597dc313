"""The base as a user meets it: an adapter of one's own, and each hook of `Delta`."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import dataclass
from typing import ClassVar

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import fullrank.adapt.tuner
from fullrank.adapt import (
    Delta,
    DeltaConfig,
    DeltaModel,
    FrozenLayer,
    HydraConfig,
    HydraModel,
    LamdaConfig,
    LocaConfig,
    LoLDUConfig,
    OWLoRAConfig,
    WaraConfig,
    register,
)
from fullrank.adapt._peft import add_peft_type
from fullrank.adapt.hydra import FEED_FORWARD_OUTPUTS, HydraDelta

from .conformance import Conformance
from .models import TARGETS, build, output

# --- an adapter of one's own: one trained gain per output ------------------------------------------------------------


@dataclass
class GainConfig(DeltaConfig):
    """Configuration of one trained gain per output."""

    method: ClassVar[str] = "gain"


class GainDelta(Delta):
    """y = y0 + g y0."""

    def __init__(self, base: FrozenLayer, config: GainConfig) -> None:
        super().__init__(base, config)
        self.random = config.init_weights is False
        self.gain = nn.Parameter(torch.empty(base.out_features))

    def reset(self) -> None:
        nn.init.normal_(self.gain) if self.random else nn.init.zeros_(self.gain)

    def weight(self) -> Tensor:
        return self.gain[:, None] * self.base.weight.to(self.dtype)

    def bias_change(self) -> Tensor | None:
        return None if self.base.bias is None else self.gain * self.base.bias.to(self.dtype)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.gain * y


register(GainConfig, GainDelta, targets={"llama": ["down_proj"]})

# ----------------------------------------------------------------------------------------------------------------------


class TestGain(Conformance):
    lora_rank = 16

    def config(self, **options):
        return GainConfig(**options)

    def test_conversion_to_lora(self):
        model = self.adapted("mlp", target_modules=["0"])
        with pytest.warns(UserWarning, match="LoRA carries no bias"):
            _, state = peft.convert_to_lora(model, rank=10)
        factors = [state[f"base_model.model.0.lora_{letter}.weight"] for letter in "BA"]
        self.close(factors[0] @ factors[1], model.base_model.model[0].get_delta_weight("default").detach())


def test_an_own_adapter_trains_saves_and_loads(tmp_path):
    model = get_peft_model(build("llama"), GainConfig())
    assert len(model.targeted_module_names) == 2
    TestGain().train(model, "llama")
    expected = output(model, "llama")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build("llama"), tmp_path).eval()
    assert isinstance(loaded.peft_config["default"], GainConfig)
    assert torch.equal(output(loaded, "llama"), expected)
    torch.testing.assert_close(output(loaded.merge_and_unload(), "llama"), expected)


# --- every hook: frozen factors, other layers, dtypes ----------------------------------------------------------------


@dataclass
class SketchConfig(DeltaConfig):
    """A trained factor on a frozen random one, saved, and the size of the weight, derived again."""

    method: ClassVar[str] = "sketch"
    patterns: ClassVar[dict[str, str]] = {"rank_pattern": "r"}

    r: int = 3
    merging: bool = True
    rank_pattern: dict[str, int] | None = None

    def __post_init__(self) -> None:
        self.rank_pattern = self.rank_pattern or {}
        super().__post_init__()


class SketchDelta(Delta):
    supports = (nn.Linear, Conv1D, nn.Embedding, nn.Conv2d)
    fixed_dtype = ("size", "place")

    def __init__(self, base: FrozenLayer, config: SketchConfig) -> None:
        super().__init__(base, config)
        self.random, self.merging, self.holding = config.init_weights is False, config.merging, False
        self.B = nn.Parameter(torch.empty(base.out_features, config.r))
        self.place = nn.Parameter(torch.empty(config.r, dtype=torch.float64))
        self.register_buffer("A", torch.empty(config.r, base.in_features))
        self.register_buffer("size", torch.empty((), dtype=torch.float64), persistent=False)

    def reset(self) -> None:
        nn.init.normal_(self.A, std=1 / math.sqrt(self.base.in_features))
        nn.init.constant_(self.place, 1 + 2**-30)
        nn.init.normal_(self.B) if self.random else nn.init.zeros_(self.B)
        self.size.copy_(self.base.weight.double().norm())

    def loaded(self) -> None:
        if not torch.isclose(self.size, self.base.weight.double().norm()) or self.A.isnan().any():
            raise ValueError(f"{self.base.name} is not the weight that this adapter was made for")

    @property
    def factor(self) -> Tensor:
        return self.place.to(self.dtype) * self.size.to(self.dtype) / 10 * self.B

    def weight(self) -> Float[Tensor, "out in"]:
        return self.factor @ self.A.to(self.dtype)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.A), self.factor)

    @property
    def unmergeable(self) -> str | None:
        return None if self.merging else "it was told not to"

    def held(self) -> tuple[str, ...]:
        return ("place",) if self.holding else ()


class SketchTuner(DeltaModel):
    def hold(self) -> None:
        for delta in self.deltas():
            delta.holding = True


SketchModel = register(SketchConfig, SketchDelta, model=SketchTuner)


def sketched(module, **options):
    torch.manual_seed(0)
    config = SketchConfig(**({"target_modules": ["0"], "init_weights": False} | options))
    return get_peft_model(nn.Sequential(module), config).eval()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=20, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, (2, 3)]), stride=st.integers(1, 2), dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (0, 2), "same"]), mode=st.sampled_from(["zeros", "reflect", "circular"]),
)  # fmt: skip
def test_convolutions_are_linear_maps_of_their_patches(kernel, stride, dilation, padding, mode):
    stride = 1 if padding == "same" else stride
    conv = nn.Conv2d(3, 5, kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=mode)
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    before = conv(x)
    model = sketched(conv)
    expected = model(x)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(model(x[0]), expected[0])
    model.merge_adapter()
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), before)


def test_grouped_convolutions_are_refused():
    with pytest.raises(TypeError, match="sketch cannot adapt '0': its 2 groups make it no single matrix"):
        sketched(nn.Conv2d(4, 4, 1, groups=2))


class ScaledEmbedding(nn.Embedding):
    embed_scale = 3.0

    def forward(self, input: Tensor) -> Tensor:
        return self.embed_scale * super().forward(input)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3), nn.Embedding(7, 5)])
def test_only_linear_layers_become_lora(layer):
    model = sketched(layer)
    assert not model.supports_lora_conversion()
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        peft.convert_to_lora(model, rank=2)


@pytest.mark.parametrize("embedding", [nn.Embedding, ScaledEmbedding])
def test_embeddings(embedding):
    module, ids = embedding(11, 6), torch.tensor([[1, 2, 10], [0, 0, 3]])
    before = module(ids)
    model = sketched(module)
    expected = model(ids)
    assert (expected - before).abs().max() > 1e-3
    model.merge_adapter()
    torch.testing.assert_close(model(ids), expected)
    model.unmerge_adapter()
    found = model(ids, adapter_names=["default", "__base__"])
    assert torch.equal(found[1], before[1])
    torch.testing.assert_close(found[0], expected[0])


def test_frozen_buffers_are_saved_or_derived_again(tmp_path):
    torch.manual_seed(0)
    config = SketchConfig(target_modules=TARGETS["llama"], init_weights=False)
    model = get_peft_model(build("llama"), config).eval()
    state = peft.get_peft_model_state_dict(model)
    assert {key.rpartition(".")[2] for key in state} == {"A", "B", "place"}
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(build("llama"), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
        assert torch.equal(output(loaded, "llama"), output(model, "llama"))
    plain = build("llama")
    plain.load_adapter(tmp_path)
    assert torch.equal(output(plain, "llama"), output(model, "llama"))


def test_a_loaded_delta_is_asked(tmp_path):
    config = SketchConfig(target_modules=["0"])
    model = get_peft_model(build("mlp"), config)
    next(model.base_model.deltas()).A.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="0 is not the weight that this adapter was made for"):
        PeftModel.from_pretrained(build("mlp"), tmp_path)


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_dtypes_of_parameters_and_buffers(autocast_adapter_dtype):
    model = build("mlp").to(torch.bfloat16)
    options = {"target_modules": ["0"], "init_weights": False}
    model = get_peft_model(model, SketchConfig(**options), autocast_adapter_dtype=autocast_adapter_dtype)
    delta = next(model.base_model.deltas("default"))
    cast = torch.float32 if autocast_adapter_dtype else torch.bfloat16
    assert (delta.A.dtype, delta.B.dtype, delta.dtype) == (cast, cast, cast)
    model.half()
    assert (delta.A.dtype, delta.B.dtype) == (torch.float16, torch.float16)
    assert delta.size.dtype == delta.place.dtype == torch.float64
    assert torch.equal(delta.place.data, torch.full((3,), 1 + 2**-30, dtype=torch.float64))


def test_held_parameters_stay_held():
    model = sketched(nn.Linear(4, 5))
    delta = next(model.base_model.deltas())

    def trained():
        return {name for name, parameter in delta.named_parameters() if parameter.requires_grad}

    assert trained() == {"B", "place"}
    model.base_model.hold()
    model.set_adapter("default")
    assert trained() == {"B"}
    model.set_requires_grad("default")
    assert trained() == {"B"}
    with model.disable_adapter():
        assert trained() == set()
    assert trained() == {"B"}


def test_a_change_that_is_no_matrix():
    model = sketched(nn.Linear(4, 5), merging=False)
    before = model.base_model.model[0].base_layer.weight.clone()
    with pytest.raises(ValueError, match="adapter 'default' cannot be merged into '0': it was told not to"):
        model.merge_and_unload()
    assert torch.equal(model.base_model.model[0].base_layer.weight, before)
    assert not model.supports_lora_conversion()


def test_casting_while_merged():
    model = sketched(nn.Linear(4, 5))
    before = model.base_model.model[0].base_layer.weight.clone()
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    assert torch.equal(model.base_model.model[0].base_layer.weight, before.to(torch.bfloat16))


def test_merging_for_good_keeps_no_second_weight():
    model = sketched(nn.Linear(4, 5))
    layer = model.base_model.model[0]
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged[0].weight.data, expected.detach())
    assert layer._pristine is None


def test_fan_in_fan_out_of_a_linear_layer_is_questioned():
    with pytest.warns(UserWarning, match="fan_in_fan_out=True has no effect on '0'"):
        sketched(nn.Linear(4, 5), fan_in_fan_out=True)


def test_layer_indices_narrow_a_default_that_is_an_expression(tmp_path):
    model = get_peft_model(build("bert"), HydraConfig(r=2, layers_to_transform=[1], init_weights=False)).eval()
    assert model.targeted_module_names == ["bert.encoder.layer.1.output.dense"]
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build("bert"), tmp_path).eval()
    assert loaded.targeted_module_names == model.targeted_module_names
    assert torch.equal(output(loaded, "bert"), output(model, "bert"))


def test_pattern_values_are_validated_like_the_field():
    model = get_peft_model(build("mlp"), SketchConfig(target_modules=["0", "2"], rank_pattern={"2": 5}))
    assert [delta.A.shape[0] for delta in model.base_model.deltas()] == [3, 5]


# --- quantised layers ------------------------------------------------------------------------------------------------


class Rounded(QuantizationBackend):
    """Weights held as 16ths."""

    layer_type = "linear"
    supports_merge = True
    backend_name = "sixteenths"

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        return base_layer.weight.data / 16

    def set_base_weight(self, peft_layer: nn.Module, weight_data: Tensor) -> None:
        peft_layer.get_base_layer().weight.data = (weight_data * 16).round()


class RoundedLinear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 4)
        self.weight.data = (self.weight.data * 16).round()

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight / 16, self.bias)


@pytest.mark.parametrize("supports_merge", [True, False])
def test_quantised_layers(monkeypatch, supports_merge):
    backend = Rounded()
    backend.supports_merge = supports_merge
    monkeypatch.setattr(
        fullrank.adapt.tuner,
        "resolve_quantization_backend",
        lambda layer: backend if isinstance(layer, RoundedLinear) else None,
    )
    torch.manual_seed(0)
    layer = RoundedLinear()
    x, stored = torch.randn(3, 6), layer.weight.data.clone()
    model = get_peft_model(nn.Sequential(layer), HydraConfig(r=2, target_modules=["0"], init_weights=False))
    expected = model(x)
    if not supports_merge:
        with pytest.raises(TypeError, match=r"'0' is quantised by sixteenths, .* use unmerged inference"):
            model.merge_adapter()
        return
    delta = next(model.base_model.deltas())
    assert torch.equal(delta.base.weight, stored / 16)
    model.merge_adapter()
    assert torch.equal(delta.base.weight, stored / 16)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=6 * 3 / 32)  # one rounding of every weight
    model.unmerge_adapter()
    assert torch.equal(layer.weight.data, stored)


# --- registration ----------------------------------------------------------------------------------------------------


def test_the_methods_of_peft_are_extended_soundly():
    member = PeftType.GAIN
    assert PeftType("GAIN") is PeftType["GAIN"] is member is add_peft_type("GAIN")
    assert member in PeftType
    assert list(PeftType).count(member) == 1
    assert len(set(PeftType)) == len(PeftType)
    assert (member == "GAIN", hash(member) == hash("GAIN"), member.value) == (True, True, "GAIN")
    assert json.dumps(member) == '"GAIN"'
    assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is member


def test_registering_again_returns_the_same():
    assert register(HydraConfig, HydraDelta, targets=FEED_FORWARD_OUTPUTS) is HydraModel
    assert HydraModel.__module__ == "fullrank.adapt.hydra"
    assert peft.PEFT_TYPE_TO_CONFIG_MAPPING["HYDRA"] is HydraConfig


def config_called(name):
    return dataclass(type("OtherConfig", (DeltaConfig,), {"method": name, "__annotations__": {}}))


@pytest.mark.parametrize("name", ["", "Other", "other_", "two words", None])
def test_names_that_cannot_be(name):
    with pytest.raises(ValueError, match=r"OtherConfig.method=.*: use a lower-case name that does not end in '_'"):
        register(config_called(name), GainDelta)


@pytest.mark.parametrize(("name", "holder"), [("lora", "peft.*LoraConfig"), ("hydra", "fullrank.*HydraConfig")])
def test_names_that_are_taken(name, holder):
    with pytest.raises(ValueError, match=f"method='{name}' is already the name of a PEFT method, .*{holder}"):
        register(config_called(name), GainDelta)


def test_layer_types_that_no_layer_exists_for():
    class OtherDelta(GainDelta):
        supports = (nn.Linear, nn.LSTM)

    with pytest.raises(
        ValueError, match=r"OtherDelta\.supports names LSTM: use some of Linear, Conv1D, Embedding, Conv2d"
    ):
        register(config_called("other"), OtherDelta)
    assert "OTHER" not in PeftType.__members__


def test_configurations_of_unknown_methods_name_themselves(tmp_path):
    GainConfig(target_modules=["0"]).save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).peft_type is PeftType.GAIN


# --- values of the wrong kind ----------------------------------------------------------------------------------------

CONFIGS = (HydraConfig, WaraConfig, LoLDUConfig, LocaConfig, LamdaConfig, OWLoRAConfig)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (HydraConfig, {"scaling": "1"}, "scaling='1': use a number"),
        (HydraConfig, {"rank_pattern": [4]}, r"rank_pattern=\[4\]: use a dictionary"),
        (LoLDUConfig, {"alpha": "8"}, "alpha='8': use a number or None"),
        (LocaConfig, {"location_grad_clip": "1"}, "location_grad_clip='1': use a number or None"),
        (LamdaConfig, {"freeze_fraction": "0.3"}, "freeze_fraction='0.3': use a number or None"),
        (LamdaConfig, {"rank_candidates": 8}, "rank_candidates=8: use a list of ranks, or None"),
        (OWLoRAConfig, {"energy": None}, "energy=None: use a number"),
        (WaraConfig, {"wara_dropout": "0"}, "wara_dropout='0': use a number"),
        (WaraConfig, {"band_ranks": [1]}, r"band_ranks=\[1\]: use a dictionary"),
    ],
)
def test_numbers_and_dictionaries_are_asked_for(unchecked, config, options, message):
    with pytest.raises(TypeError, match=message):
        config(**options)


def test_sizes_and_names_are_asked_for(unchecked):
    with pytest.raises(ValueError, match=r"grid_size=4: use \(height, width\)"):
        WaraConfig(mode="grid", grid_size=4)
    with pytest.raises(ValueError, match="wavelet=3 is not known; accepted are orthogonal ones, such as haar"):
        WaraConfig(wavelet=3)


@pytest.mark.parametrize("config", CONFIGS)
def test_no_pattern_is_an_empty_one(unchecked, config):
    assert config(**dict.fromkeys(config.patterns)) == config()
