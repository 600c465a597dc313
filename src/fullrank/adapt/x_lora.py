"""X-LoRA: frozen LoRA experts, mixed anew for every token (Buehler and Buehler 2024, arXiv 2402.07148).

    y = W0 x + b0 + g sum_k a_k lambda_k B_k A_k x,    lambda = softmax(gate(H) / temperature)

H is the last hidden state of a first pass through the base model, the scaling pass; y is computed in a second, the
mixed pass. Only the gate learns, and only from the model's own loss.
"""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Float
from peft import PeftModel, PeftType
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel

from fullrank.adapt.x_lora_cache import XLoraCache
from fullrank.adapt.x_lora_checkpoint import read_checkpoint, write_expert, write_gate
from fullrank.adapt.x_lora_controls import ScalingControls
from fullrank.adapt.x_lora_experts import Experts, check_experts, load_expert, load_experts
from fullrank.adapt.x_lora_gate import XLoraGate, XLoraGateConfig, keep_top_k
from fullrank.adapt.x_lora_layer import CurrentPass, MixedLayer, Scalings
from fullrank.adapt.x_lora_recomputing import embeddings_carry, keep_scalings, recomputing, without_recomputing

_FIXED = "the experts of an X-LoRA model are fixed, because its gate has one output for each: "


def add_xlora(peft_model: PeftModel, config: XLoraGateConfig | None = None) -> XLoraModel:
    """Mix the LoRA adapters that a model holds already, under any names. The model is changed and taken over.

    Args:
        peft_model: a transformers model with LoRA adapters; encoder-decoder models are not supported.
        config: the gate. Default `XLoraGateConfig()`. Its `adapters` may choose some of the model's.

    Raises:
        TypeError: the model is no PeftModel of a transformers model, or an expert is no plain LoRA.
        ValueError: an option does not fit the model.
    """
    if not isinstance(peft_model, PeftModel):
        raise TypeError(f"peft_model is a {type(peft_model).__name__}: pass a PeftModel, or use from_experts")
    if isinstance(peft_model, XLoraModel):
        raise TypeError("peft_model is an X-LoRA model already: pass the PeftModel that holds the experts")
    return XLoraModel(peft_model, config or XLoraGateConfig())


def from_experts(
    base_model: PreTrainedModel,
    experts: Experts,
    config: XLoraGateConfig | None = None,
    *,
    check_base: bool = True,
) -> XLoraModel:
    """Load LoRA experts onto a base model and mix them. The base model is changed and taken over.

    Args:
        base_model: a transformers model.
        experts: name -> folder or hub id of a LoRA checkpoint, in the order of the gate's outputs.
        config: the gate. Default `XLoraGateConfig()`.
        check_base: compare the name of the base model that each expert was trained on.

    Raises:
        TypeError: an expert is no plain LoRA.
        ValueError: an expert was trained on another base model, or an option does not fit the model.
    """
    model = load_experts(base_model, experts, check_base)
    return XLoraModel(model, replace(config or XLoraGateConfig(), adapters={k: str(v) for k, v in experts.items()}))


class XLoraModel(ScalingControls, PeftModel):
    """A model whose LoRA experts are mixed by a gate; made by `add_xlora`, `from_experts` or `from_pretrained`.

    It is called, trained, generates and is saved like the model that it wraps.

    Attributes:
        gate: the trainable part, in float32.
        gate_config: its configuration; changed by the `set_` methods.
        expert_names: in the order of the scalings.
        layer_names: adapted layers of the base model, in the order of the scalings.
    """

    def __init__(self, peft_model: PeftModel, config: XLoraGateConfig) -> None:
        nn.Module.__init__(self)  # the tuner exists already, PeftModel would build another
        inner = peft_model.get_base_model()
        if not isinstance(inner, PreTrainedModel):
            raise TypeError(f"the base model is a {type(inner).__name__}: X-LoRA reads hidden states of transformers'")
        if getattr(inner.config, "is_encoder_decoder", False):
            raise TypeError(f"{type(inner).__name__} is an encoder-decoder: X-LoRA reads one sequence of hidden states")
        adapters = dict.fromkeys(peft_model.peft_config) if config.adapters is None else dict(config.adapters)
        if not adapters:
            raise ValueError("adapters is empty: name the LoRA adapters to mix, or leave None for all of the model's")
        check_experts(peft_model, list(adapters))
        config.check_top_k(config.top_k_lora, len(adapters))
        if len(adapters) == 1 and config.enable_softmax:
            warnings.warn(
                f"{next(iter(adapters))!r} is the only expert: its softmax is 1 for every token", stacklevel=3
            )
        self.base_model = peft_model.base_model
        self.active_adapter, self.peft_type = next(iter(adapters)), PeftType.LORA
        self.special_peft_forward_args = {"adapter_names"}
        self._is_prompt_learning = self._adapters_disabled = False
        self._peft_config = None
        self.gate_config = replace(config, adapters=adapters, hidden_size=_hidden_size(inner, config.hidden_size))
        self.expert_names = list(adapters)
        self._take_over(inner)
        device = next(inner.parameters()).device
        self.gate = XLoraGate(self.gate_config, len(self.expert_names), len(self.layer_names)).to(device)
        self.gate.train(inner.training)
        self._set_trainable(True)

    def _take_over(self, inner: PreTrainedModel) -> None:
        self._pass, self._open = CurrentPass(), ExitStack()
        self._log: list[Tensor] = []
        self.layer_names: list[str] = []
        self._layers: list[MixedLayer] = []
        for name, layer in inner.named_modules():
            if isinstance(layer, lora.LoraLayer) and any(expert in layer.scaling for expert in self.expert_names):
                mixed = MixedLayer(layer, self.expert_names, len(self._layers), name, self._pass)
                mixed.layer.forward = mixed.forward
                self._layers.append(mixed)
                self.layer_names.append(name)
        backbone = inner.base_model
        self._names = list(inspect.signature(inner.forward).parameters)
        accepted = inspect.signature(backbone.forward).parameters
        self._accepted = set(accepted) | {"output_hidden_states", "return_dict"}
        self._accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        self._caches = "use_cache" in self._names and inner.can_generate()
        self._last_is_final = False
        self._hooks = [
            inner.register_forward_pre_hook(self._before, with_kwargs=True),
            inner.register_forward_hook(self._after, always_call=True),
        ]

    # --- the two passes ----------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped model's output, with the experts mixed; its arguments are the wrapped model's."""
        if kwargs.pop("adapter_names", None) is not None:
            raise ValueError("adapter_names chooses one adapter a sample, and X-LoRA's gate chooses: leave it out")
        return self.get_base_model()(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped model's `generate`, with the keys and values of both passes cached."""
        inner: Any = self.get_base_model()
        settings = kwargs.get("generation_config") or inner.generation_config
        cached = kwargs.get("use_cache", settings.use_cache) is not False
        if cached and kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = XLoraCache(inner.config)
        with torch.no_grad(), self._pass.keep_steady():
            return inner.generate(*args, **kwargs)

    def _before(self, inner: PreTrainedModel, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The scaling pass, and everything set for the mixed pass to follow."""
        given = dict(zip(self._names, args, strict=False)) | kwargs
        if self._adapters_disabled:
            return (), given
        cache = self._cache(inner, given)
        self._pass.compiling = torch.compiler.is_compiling()
        scalings = self.gate(self._look(inner, given, cache))
        self._remember(scalings, given.get("attention_mask"))
        config = self.gate_config
        chosen = keep_top_k(scalings, config.top_k_lora, config.enable_softmax_topk) * config.global_scaling_weight
        if cache is not None:
            given["past_key_values"] = cache
        self._open.enter_context(self._pass.use(Scalings(chosen)))
        if self.training and (blocks := recomputing(inner)):
            leaf = self._open.enter_context(keep_scalings(blocks, self._pass))
            if leaf is not None:
                given = self._open.enter_context(embeddings_carry(inner, given, chosen, leaf))
        return (), given

    def _after(self, inner: nn.Module, args: tuple, output: Any) -> None:
        self._open.close()

    def _look(
        self, inner: PreTrainedModel, given: Mapping[str, Any], cache: XLoraCache | None
    ) -> Float[Tensor, "batch tokens hidden"]:
        """H, the last hidden state of the scaling pass: no gradient, no head, and no experts where their value is 0."""
        backbone = inner.base_model
        inputs = {name: value for name, value in given.items() if self._is_backbones(name)}
        inputs |= {"output_hidden_states": not self._last_is_final, "return_dict": True}
        if "use_cache" in self._accepted:
            inputs["use_cache"] = cache is not None
        if cache is not None:
            inputs["past_key_values"] = cache.scaling_pass
        # The hooks of a model that is its own backbone must not run again.
        run = backbone.forward if backbone is inner else backbone
        with torch.no_grad(), self._pass.use(self._constant()), without_recomputing(inner):
            seen = run(**inputs)
        if self._last_is_final:
            return seen.last_hidden_state
        # Where both are one tensor, the hidden states of the other layers need not be kept from now on.
        self._last_is_final = seen.hidden_states[-1] is seen.last_hidden_state
        return seen.hidden_states[-1]

    def _is_backbones(self, name: str) -> bool:
        if name in ("output_attentions", "num_items_in_batch"):
            return False
        return name in self._accepted or (self._accepts_any and name not in self._names)

    def _constant(self) -> Scalings | None:
        config = self.gate_config
        if not config.scaling_pass_value:
            return None
        value = config.scaling_pass_value * config.global_scaling_weight
        return Scalings(torch.full((1, 1, len(self.expert_names)), value), constant=True)

    def _cache(self, inner: Any, given: dict[str, Any]) -> XLoraCache | None:
        cache = given.get("past_key_values")
        if isinstance(cache, XLoraCache):
            return cache
        if cache is not None:
            raise TypeError(
                f"past_key_values is a {type(cache).__name__}: X-LoRA runs the model twice and keeps an XLoraCache; "
                "pass that, or none, and generate with the X-LoRA model's own generate"
            )
        if not self._caches:
            return None
        if given.get("use_cache") is None:
            given["use_cache"] = not self.training and bool(getattr(inner.config, "use_cache", True))
        return XLoraCache(inner.config) if given["use_cache"] else None

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside the context, the model is exactly its base model."""
        before, self._adapters_disabled = self._adapters_disabled, True
        try:
            yield
        finally:
            self._adapters_disabled = before

    # --- files -------------------------------------------------------------------------------------------------------

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | os.PathLike,
        save_experts: Literal["copy", "reference"] = "copy",
        state_dict: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the gate, and the experts beside it or by name.

        Args:
            save_directory: folder, made where it is missing.
            save_experts: "copy" writes them into the folder; "reference" writes down where they were loaded from.
            state_dict: the whole model's state, where it has been gathered from several processes.
            kwargs: `is_main_process=False` writes nothing; other options of PEFT's have no effect.

        Raises:
            ValueError: a reference to experts that were trained here, or that were never loaded from a file.
        """
        folder, adapters = Path(save_directory), dict(self.gate_config.adapters or {})
        if save_experts not in ("copy", "reference"):
            raise ValueError(f"save_experts={save_experts!r}: use 'copy' or 'reference'")
        if save_experts == "reference":
            self._check_referable(adapters)
        if not kwargs.get("is_main_process", True):
            return
        state = self.state_dict() if state_dict is None else state_dict
        if save_experts == "copy":
            adapters = {name: write_expert(self.peft_config[name], name, folder, state) for name in adapters}
        gate = {name: state[f"gate.{name}"] for name in self.gate.state_dict()}
        base = str(self.get_base_model().name_or_path) or None
        write_gate(folder, replace(self.gate_config, adapters=adapters), gate, self.layer_names, base)

    def _check_referable(self, adapters: Mapping[str, str | None]) -> None:
        if self.gate_config.use_trainable_adapters:
            raise ValueError("save_experts='reference' would lose what the experts have learned: use 'copy'")
        if homeless := [name for name, path in adapters.items() if path is None]:
            raise ValueError(f"save_experts='reference': {homeless} were not loaded by from_experts: use 'copy'")

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        model: PreTrainedModel,
        model_id: str | os.PathLike,
        experts: Experts | None = None,
        is_trainable: bool = False,
        *,
        check_base: bool = True,
    ) -> XLoraModel:
        """Load a checkpoint: one of ours, of the official repository, or of PEFT.

        Args:
            model: the base model; it is changed and taken over.
            model_id: the checkpoint's folder.
            experts: name -> path, where the experts are no longer where the checkpoint says.
            is_trainable: go on training the gate. Default: everything is frozen, in evaluation mode.
            check_base: compare the name of the base model that each expert was trained on.

        Raises:
            FileNotFoundError: the folder holds no X-LoRA checkpoint.
            ValueError: gate weights are missing from the file, experts are other ones than the gate was trained with,
                or the model has other layers.
        """
        found = read_checkpoint(model_id)
        stored = found.config.adapters or {}
        places = {name: path if experts is None else experts.get(name) for name, path in stored.items()}
        if None in places.values() or (experts is not None and set(experts) != set(stored)):
            raise ValueError(f"experts={experts!r}: give a path for each of {list(stored)}, which the gate knows")
        made = from_experts(model, {k: v for k, v in places.items() if v}, found.config, check_base=check_base)
        if found.config.layerwise_scalings and found.layer_names not in (None, made.layer_names):
            odd = set(found.layer_names or ()) ^ set(made.layer_names) or "the same in another order"
            raise ValueError(f"the gate has scalings by layer, and the model's adapted layers are others: {odd}")
        made._load_gate(found.gate)
        made._set_trainable(is_trainable)
        return made.train(is_trainable)

    def load_adapter(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_id: str | os.PathLike, adapter_name: str | None = None, is_trainable: bool = False, **kwargs: Any
    ) -> Any:
        """Take the gate's weights from a checkpoint of this model, and the experts' if they are trained.

        transformers' trainer resumes by this method, and passes an adapter's name that has no meaning here.
        """
        found = read_checkpoint(model_id)
        if list(found.config.adapters or ()) != self.expert_names:
            raise ValueError(f"{str(model_id)!r} mixes {list(found.config.adapters or ())}, not {self.expert_names}")
        if self.gate_config.use_trainable_adapters:
            for name, path in (found.config.adapters or {}).items():
                load_expert(self, name, str(path))
        result = self._load_gate(found.gate)
        self._set_trainable(is_trainable)
        return result

    def _load_gate(self, gate: Mapping[str, Tensor]) -> Any:
        own = self.gate.state_dict()
        for name, tensor in gate.items():
            if name not in own or own[name].shape != tensor.shape:
                raise ValueError(
                    f"the checkpoint's gate has {name} of shape {tuple(tensor.shape)}, this model's needs "
                    f"{tuple(own[name].shape) if name in own else 'no such tensor'}: n = {len(self.expert_names)} "
                    f"experts, L = {len(self.layer_names)} layers, hidden_size = {self.gate_config.hidden_size}"
                )
        return self.gate.load_state_dict(gate)

    # --- the experts -------------------------------------------------------------------------------------------------

    def _set_trainable(self, trainable: bool) -> None:
        self.requires_grad_(False)
        self.gate.requires_grad_(trainable)
        if self.gate_config.use_trainable_adapters:
            for layer in self._layers:
                layer.requires_grad_(trainable)

    def to_static(
        self, weights: Mapping[str, float] | Float[Tensor, "experts"] | Float[Tensor, "layers experts"]
    ) -> PreTrainedModel:
        """A plain model with the experts merged at fixed scalings; this one stays as it is.

        Args:
            weights: by expert, in the order of `expert_names` where they are no mapping, or one row a layer in the
                order of `layer_names`. `global_scaling_weight` multiplies them; experts left out get 0.

        Raises:
            ValueError: another expert or another shape.
        """
        scalings = self._static(weights) * self.gate_config.global_scaling_weight
        copied: Any = copy.deepcopy(self)
        copied._let_go()
        for mixed, row in zip(copied._layers, scalings.tolist(), strict=True):
            for number, expert in mixed.experts:
                mixed.layer.scaling[expert] *= row[number]
        return copied.base_model.merge_and_unload(adapter_names=self.expert_names)

    def _static(self, weights: Any) -> Tensor:
        n, L = len(self.expert_names), len(self.layer_names)
        if isinstance(weights, Mapping):
            if unknown := set(weights) - set(self.expert_names):
                raise ValueError(f"weights names {sorted(unknown)}, the experts are {self.expert_names}")
            weights = [weights.get(name, 0.0) for name in self.expert_names]
        scalings = torch.as_tensor(weights, dtype=torch.float64)
        if scalings.shape not in ((n,), (L, n)):
            raise ValueError(f"weights has shape {tuple(scalings.shape)}: use ({n},) or (layers, experts) = ({L}, {n})")
        return scalings.expand(L, n)

    def _let_go(self) -> None:
        """Give the layers and the base model back their own forward pass."""
        for hook in self._hooks:
            hook.remove()
        for mixed in self._layers:
            del mixed.layer.forward

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: scalings depend on the token."""
        raise ValueError(
            "X-LoRA cannot be merged, because its scalings depend on the token: use to_static(weights) for a model "
            "with fixed scalings, or disable_adapter() for the base model"
        )

    merge_adapter = merge_and_unload

    def add_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the gate has one output an expert."""
        raise ValueError(f"{_FIXED}add the adapter to the PeftModel, and call add_xlora on it")

    delete_adapter = set_adapter = unload = add_adapter


def _hidden_size(model: PreTrainedModel, given: int | None) -> int:
    size = model.config.get_text_config().hidden_size
    if given not in (None, size):
        raise ValueError(f"hidden_size={given}: the hidden states of {type(model).__name__} have {size}; leave it None")
    return size
