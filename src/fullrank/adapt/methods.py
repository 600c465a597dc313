"""The methods that `fine_tune` and `compare_adapters` know by name, and how large each may be within a budget."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from peft import FourierFTConfig, LoraConfig, PeftConfig, VeraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback

from fullrank.adapt._peft import BaseTunerLayer
from fullrank.adapt.hydra import HydraConfig
from fullrank.adapt.lamda import LamdaConfig
from fullrank.adapt.lamda_callback import LamdaCallback
from fullrank.adapt.loca import LocaConfig
from fullrank.adapt.loca_schedule import LocaCallback
from fullrank.adapt.loldu import LoLDUConfig
from fullrank.adapt.wara import WaraConfig


@dataclass(frozen=True)
class AdapterMethod:
    """How a method is configured by one number.

    Attributes:
        name: as users name it.
        summary: how it changes a weight, in a line.
        config: the PEFT configuration.
        size: the field of the configuration that sets the number of parameters.
        default: its default here.
        learning_rate: of the adapter's parameters; those of the papers' small studies.
        options: other fields that the method is compared with.
        callback: makes the Trainer callback that drives its schedule, where it has one.
    """

    name: str
    summary: str
    config: type[PeftConfig]
    size: str
    default: int
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)
    callback: Callable[[], TrainerCallback] | None = None

    def configure(self, size: int | None = None, **options: Any) -> PeftConfig:
        """The configuration for a size (default: the method's), with more fields or other ones."""
        fields: dict[str, Any] = {self.size: self.default if size is None else size} | self.options | options
        if self.config is LoraConfig:
            fields = {"lora_alpha": 2 * fields["r"]} | fields
        return self.config(**fields)

    @property
    def callbacks(self) -> list[TrainerCallback]:
        """What a Trainer has to be given."""
        return [self.callback()] if self.callback else []


# fmt: off
METHODS: dict[str, AdapterMethod] = {
    method.name: method
    for method in (
        AdapterMethod("lora", "a product of two thin matrices is added to the weight",
                      LoraConfig, "r", 8, 2e-3),
        AdapterMethod("dora", "LoRA for the direction of the weight, a vector for its lengths",
                      LoraConfig, "r", 8, 2e-3, {"use_dora": True}),
        AdapterMethod("vera", "vectors between two fixed random matrices that all layers share",
                      VeraConfig, "r", 256, 1e-2),
        AdapterMethod("fourierft", "a few Fourier coefficients of the change, at fixed random places",
                      FourierFTConfig, "n_frequency", 1000, 1e-1, {"scaling": 150.0}),
        AdapterMethod("hydra", "one low-rank branch beside the layer and one after it",
                      HydraConfig, "r", 4, 3e-3),
        AdapterMethod("wara", "low-rank factors of the wavelet bands of the change",
                      WaraConfig, "r", 2, 3e-3),
        AdapterMethod("loldu", "the diagonal between the weight's own triangular factors, and a scale",
                      LoLDUConfig, "r", 64, 3e-3),
        AdapterMethod("loca", "a few cosine coefficients of the change, and where in the spectrum they sit",
                      LocaConfig, "n_frequency", 1000, 1e-2, {"scale": 8.0}, LocaCallback),
        AdapterMethod("lamda", "a small square matrix between two projections from the weight's SVD",
                      LamdaConfig, "r", 32, 2e-3, callback=LamdaCallback),
    )
}
# fmt: on


def adapter_method(name: str) -> AdapterMethod:
    """The method of that name.

    Raises:
        LookupError: there is none; the message suggests the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise LookupError(f"there is no adapter method {name!r}; {hint}accepted: {', '.join(METHODS)}")


def trainable_parameters(model: nn.Module, config: PeftConfig) -> int:
    """Parameters that an adapter would train in a model, without the model's own head; nothing is computed.

    Places that are learned are counted as well as amplitudes, and factors that are frozen later as well as those that
    stay: it is the number at the first step.

    Raises:
        ValueError: the configuration does not fit the model.
    """
    skeleton = _skeleton(model)
    config = copy.deepcopy(config)
    config.task_type = cast(Any, config).modules_to_save = None  # no head beside the adapter
    adapted = get_peft_model(skeleton, config, low_cpu_mem_usage=True)  # pyright: ignore[reportArgumentType]
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def adapter_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of every adapter in a model, whatever its method, and not of its head."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            for name in module.adapter_layer_names:
                yield from getattr(module, name).parameters()


def size_for_budget(model: nn.Module, method: AdapterMethod, budget: int, **options: Any) -> int:
    """The size of a method whose number of trainable parameters in a model is nearest to a budget.

    Args:
        model: the model, without adapter.
        method: one of `METHODS`.
        budget: trainable parameters, without the head.
        options: fields of the configuration, such as `target_modules`.

    Raises:
        ValueError: the budget is not positive, or the smallest size trains more than twice as many.
    """
    if budget < 1:
        raise ValueError(f"budget={budget}: a positive number of trainable parameters is needed")

    @cache
    def count(size: int) -> int | float:
        try:
            return trainable_parameters(model, method.configure(size, **options))
        except ValueError:
            if size == 1:
                raise
            return math.inf  # larger than a layer

    if count(1) > 2 * budget:
        raise ValueError(
            f"budget={budget}: {method.name} trains at least {count(1)} parameters in {type(model).__name__}; raise "
            "the budget, or name fewer target_modules"
        )
    low, high = 1, 2  # until high is over the budget
    while count(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return low if budget - count(low) <= count(high) - budget else high


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model with shapes and no values."""
    memo: dict[int, Tensor] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)
