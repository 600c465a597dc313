"""Which layers of a model are compressed, and each of them as a matrix."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

Targets = str | Sequence[str]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)
CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Why layers stay dense, where their place says so.
IN_ATTENTION = "nn.MultiheadAttention reads its weight without calling it"
TIED = "its weight is shared with another layer"
_TRANSPOSED = (Conv1D, nn.Embedding)
_ALL = {"all-linear": LINEAR, "all": LINEAR + CONVOLUTIONS}


@dataclass(frozen=True)
class Layer:
    """One dense layer of a model.

    Attributes:
        name: its qualified name.
        module: an `nn.Linear`, a transformers `Conv1D`, an `nn.Embedding`, or a convolution.
    """

    name: str
    module: Any

    @property
    def matrix(self) -> Float[Tensor, "out in"]:
        """The weight as (out, in), of a convolution (out, in * kernel), without gradient.

        An embedding is a map of one-hot vectors: (dim, rows of the table).
        """
        return self.as_matrix(self.module.weight.detach())

    def as_matrix(self, weight: Tensor) -> Float[Tensor, "out in"]:
        """A tensor of the weight's shape, such as its gradient, as (out, in)."""
        return weight.mT if isinstance(self.module, _TRANSPOSED) else weight.flatten(1)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the matrix."""
        weight = self.module.weight
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        return (columns, rows) if isinstance(self.module, _TRANSPOSED) else (rows, columns)

    @property
    def parameters(self) -> int:
        """Entries of weight and bias."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def as_linear(self) -> nn.Linear:
        """A linear map as `nn.Linear`: itself, or a transposed view of a `Conv1D`."""
        if isinstance(self.module, nn.Linear):
            return self.module
        weight, bias = self.module.weight, self.module.bias
        linear = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.detach().mT, requires_grad=weight.requires_grad)
        if bias is not None:
            linear.bias = bias
        return linear.train(self.module.training)


@dataclass(frozen=True)
class Selection:
    """The layers to compress.

    Attributes:
        layers: in the model's order.
        left: why other layers that were asked for stay as they are, by name.
    """

    layers: tuple[Layer, ...]
    left: dict[str, str]


def select_layers(
    model: nn.Module,
    target_modules: Targets = "all-linear",
    exclude_modules: Targets = (),
    kinds: tuple[type[nn.Module], ...] = LINEAR,
    grouped: bool = False,
) -> Selection:
    """The layers that a compressor may change.

    Args:
        model: the model.
        target_modules: "all-linear" (every linear layer but the output layer of a language model and the last layer of
            a classifier), "all" (convolutions too), a regular expression for whole names, or names, of which a last
            part is enough, as in PEFT.
        exclude_modules: a regular expression or names that stay as they are.
        kinds: types that the compressor can treat.
        grouped: whether it can treat convolutions with groups.

    Raises:
        ValueError: nothing is left to compress, with the reasons; or weights on the meta device.
    """
    tied = shared_weights(model)
    heads = _heads(model) if isinstance(target_modules, str) and target_modules in _ALL else set()
    layers: list[Layer] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not name or name in heads or matches(name, exclude_modules) or not _asked(name, module, target_modules):
            continue
        reason = _refusal(model, name, module, tied, kinds, grouped)
        if reason:
            left[name] = reason
        else:
            layers.append(Layer(name, module))
    if not layers:
        raise ValueError(_nothing(model, target_modules, exclude_modules, left))
    return Selection(tuple(layers), left)


def patterned(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first key that a layer's name ends with or matches, as in PEFT."""
    return next((value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", name)), default)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, everywhere the model holds that one.

    The fused paths of torch's transformer encoders read the weights of dense layers inside: they are switched off.
    """
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child in [child for child, held in parent._modules.items() if held is old]:
            setattr(parent, child, module)
            if isinstance(parent, nn.TransformerEncoderLayer):
                _unfuse(model, parent)


def _unfuse(model: nn.Module, layer: nn.TransformerEncoderLayer) -> None:
    layer.activation_relu_or_gelu = 0
    for stack in model.modules():
        if isinstance(stack, nn.TransformerEncoder) and any(part is layer for part in stack.layers):
            stack.use_nested_tensor = False


def _asked(name: str, module: nn.Module, targets: Targets) -> bool:
    if isinstance(targets, str) and targets in _ALL:
        return isinstance(module, _ALL[targets])
    return matches(name, targets) and not any(True for _ in module.children())


def matches(name: str, patterns: Targets) -> bool:
    """Whether a qualified name is meant: by a regular expression for all of it, or by a name of which it is the end."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def _refusal(
    model: nn.Module, name: str, module: Any, tied: set[int], kinds: tuple[type[nn.Module], ...], grouped: bool
) -> str | None:
    """Why a layer that was asked for cannot be changed."""
    if type(module) not in kinds:
        return f"its type is {type(module).__name__}: {', '.join(kind.__name__ for kind in kinds)} can be treated"
    if in_attention(model, name):
        return IN_ATTENTION
    if reparametrised(module):
        return "it is parametrised: remove the parametrisation first"
    if not module.weight.is_floating_point():
        return f"its weight is {str(module.weight.dtype).removeprefix('torch.')}: dequantise it first"
    if quantised(module):
        return f"it is quantised, its weight a {type(module.weight).__name__}: dequantise it first"
    if module.weight.is_meta:
        raise ValueError(f"{name} is on the meta device: load the model's weights first")
    if id(module.weight) in tied:
        return TIED
    if getattr(module, "max_norm", None) is not None:
        return f"it rescales its rows to max_norm={module.max_norm}"
    if getattr(module, "groups", 1) > 1 and not grouped:
        return f"it has groups={module.groups}"
    return None


def in_attention(model: nn.Module, name: str) -> bool:
    """Whether a layer is the output map inside an `nn.MultiheadAttention`."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)


def reparametrised(module: nn.Module) -> bool:
    """Whether a layer makes its weight from other tensors: a parametrisation, or a hook such as old `weight_norm`'s."""
    return parametrize.is_parametrized(module) or module._parameters.get("weight") is None


def quantised(module: nn.Module) -> bool:
    """Whether a linear layer holds its weight in integers or in a tensor of its quantiser: ours, or of others."""
    weight = getattr(module, "weight", None)
    plain = isinstance(weight, Tensor) and weight.is_floating_point() and type(weight) in (Tensor, nn.Parameter)
    foreign = isinstance(weight, Tensor) and isinstance(module, LINEAR) and not plain
    packed = any(isinstance(getattr(module, other, None), Tensor) for other in ("qweight", "weight_packed", "W_q"))
    return foreign or packed or hasattr(module, "_packed_params")  # the last of torch.ao


def shared_weights(model: nn.Module) -> set[int]:
    """Parameters that several modules hold."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    return {parameter for parameter, count in owners.items() if count > 1}


def _heads(model: nn.Module) -> set[str]:
    """Names of the output layer of a language model and of a classifier's last layer."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    names = {name for name, module in model.named_modules() if output is not None and module is output}
    return names | {name for name in ("classifier", "score", "qa_outputs") if name in dict(model.named_children())}


def _nothing(model: nn.Module, targets: Targets, excluded: Targets, left: dict[str, str]) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3])
    types = Counter(type(module).__name__ for module in model.modules() if not any(True for _ in module.children()))
    seen = ", ".join(f"{count} {kind}" for kind, count in types.most_common(6))
    said = f"target_modules={targets!r}" + (f", exclude_modules={excluded!r}" if excluded else "")
    return f"there is no layer to compress for {said} ({reasons or f'the model has {seen}'})"
