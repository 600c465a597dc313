"""The weights of a model, live or stored: which of them act as matrices, and how to get one, or a part of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.spectra.checkpoint import Checkpoint, StoredTensor

# model types whose projections are transformers' Conv1D, stored (in, out)
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D_NAMES = ("c_attn", "c_proj", "c_fc", "q_attn")
_INDICES = ("I64", "U64", "BOOL")  # positions and masks, not weights
_DEQUANTISE = "not floating point: dequantise the model first"
_EMBEDDING_NAMES = ("embed", "wte", "wpe", "shared.weight", "relative_attention_bias")


@dataclass(frozen=True)
class Weight:
    """A parameter that acts as a matrix.

    Attributes:
        name: of the parameter; of one matrix in a stack of them, with its number: "experts.up_proj[3]".
        kind: "linear", "conv1d" (transformers' transposed linear map), "conv" (as out x (in * kernel)) or "embedding".
        shape: as stored.
        dtype: as stored; None where it is not floating point.
        refusal: why it cannot be measured, or "".
        source: gives the entries `start` to `stop` along an axis, 0 or 1, as stored.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    refusal: str
    source: Callable[[int, int, int], Tensor]

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the matrix: of a convolution, inputs times kernel."""
        return torch.Size(self.shape[1:]).numel()

    @property
    def entries(self) -> int:
        """Rows times columns."""
        return self.rows * self.columns

    def read(self) -> Float[Tensor, "rows columns"]:
        """The matrix, in its dtype; 8-bit floating point as float32."""
        return self.part(0, 0, self.rows)

    def part(self, axis: int, start: int, stop: int) -> Float[Tensor, "rows columns"]:
        """The matrix of the entries `start` to `stop` along a stored axis, 0 or 1."""
        matrix = self.source(axis, start, stop).flatten(1)
        return matrix.to(torch.float32) if matrix.dtype.itemsize == 1 else matrix

    def blocks(self, axis: int, entries: int) -> Iterator[Float[Tensor, "rows columns"]]:
        """The matrix in blocks of rows (axis 0) or columns (axis 1) of about so many entries."""
        length = self.shape[axis]
        step = max(1, entries * length // self.entries)
        for start in range(0, length, step):
            yield self.part(axis, start, min(start + step, length))


@dataclass(frozen=True)
class Weights:
    """What a model holds.

    Attributes:
        label: the module's class, or the path.
        config: the model's configuration, empty where there is none.
        parameters: all floating-point entries, in matrices or not; tied ones once.
        matrices: every parameter with two axes or more.
    """

    label: str
    config: Mapping[str, Any]
    parameters: int
    matrices: tuple[Weight, ...]


def weights_of(model: nn.Module | str | Path) -> Weights:
    """The weights of a live module or a checkpoint; nothing is read yet.

    Args:
        model: a live module, a Hugging Face folder, a `.safetensors` file, or a `.safetensors.index.json`.

    Raises:
        CheckpointError: nothing to read at the path, a damaged file, a pickle, a model name instead of a folder.
        TypeError: `model` is neither a module nor a path.
    """
    if isinstance(model, nn.Module):
        return _of_module(model)
    if isinstance(model, str | Path):
        return _of_checkpoint(Checkpoint.open(model))
    raise TypeError(f"model is a {type(model).__name__}: a torch.nn.Module or a path to a checkpoint is accepted")


def _of_module(model: nn.Module) -> Weights:
    owners: dict[int, str] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), type(module).__name__)
    seen: set[tuple[int, torch.Size]] = set()
    found: list[Weight] = []
    parameters = 0
    for name, parameter in model.named_parameters():  # the same parameter is named once
        place = (parameter.data_ptr(), parameter.shape)
        if parameter.numel() and not parameter.is_meta and place in seen:  # another one on the same memory
            continue
        seen.add(place)
        if parameter.is_floating_point():
            parameters += parameter.numel()
        found += _matrices(_live(name, parameter.detach(), owners[id(parameter)]))
    to_dict = getattr(getattr(model, "config", None), "to_dict", dict)
    return Weights(type(model).__name__, to_dict(), parameters, tuple(found))


def _live(name: str, tensor: Tensor, owner: str) -> Weight:
    def source(axis: int, start: int, stop: int) -> Tensor:
        return tensor.narrow(axis, start, stop - start)

    if not tensor.is_floating_point():
        refusal = f"its entries are {str(tensor.dtype).removeprefix('torch.')}, {_DEQUANTISE}"
        return Weight(name, "linear", tuple(tensor.shape), None, refusal, source)
    refusal = "it is on the meta device: load the model's weights first" if tensor.is_meta else ""
    return Weight(name, _kind_by_owner(owner), tuple(tensor.shape), tensor.dtype, refusal, source)


def _kind_by_owner(owner: str) -> str:
    if owner == "Conv1D":  # transformers', a linear map
        return "conv1d"
    return "conv" if "Conv" in owner else "embedding" if "Embed" in owner else "linear"


def _of_checkpoint(checkpoint: Checkpoint) -> Weights:
    transposed = checkpoint.config.get("model_type") in _CONV1D_MODELS
    parameters = sum(torch.Size(stored.shape).numel() for stored in checkpoint.tensors if stored.dtype is not None)
    stored_weights = [stored for stored in checkpoint.tensors if stored.stored_as not in _INDICES]
    tensors = sorted(stored_weights, key=lambda stored: _reading_order(stored.name))
    found = [matrix for stored in tensors for matrix in _matrices(_stored(stored, transposed))]
    return Weights(str(checkpoint.path), checkpoint.config, parameters, tuple(found))


def _reading_order(name: str) -> list[tuple[int, str]]:
    """Layer 10 after layer 9; files sort their names as text."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _stored(stored: StoredTensor, transposed: bool) -> Weight:
    refusal = "" if stored.dtype else f"its entries are stored as {stored.stored_as}, {_DEQUANTISE}"
    kind = _kind_by_name(stored.name, stored.shape, transposed)
    return Weight(stored.name, kind, stored.shape, stored.dtype, refusal, stored.part)


def _kind_by_name(name: str, shape: tuple[int, ...], transposed: bool) -> str:
    flat = len(shape) == 2
    if (flat or shape[:1] == (1,)) and any(part in name.lower() for part in _EMBEDDING_NAMES):
        return "embedding"
    if transposed and flat and any(part in name for part in _CONV1D_NAMES):
        return "conv1d"
    return "linear" if flat or "expert" in name else "conv"


def _matrices(weight: Weight) -> list[Weight]:
    """The matrices in a parameter: none in a vector, several in a stack of experts."""
    if weight.kind != "conv":
        weight = _without_leading_ones(weight)
    if len(weight.shape) < 2:
        return []
    if 0 in weight.shape:
        return [replace(weight, refusal="it is empty")]
    if weight.kind == "conv" or len(weight.shape) == 2:
        return [weight]
    return [matrix for number in range(weight.shape[0]) for matrix in _matrices(_member(weight, number))]


def _without_leading_ones(weight: Weight) -> Weight:
    """Position embeddings are often stored as (1, positions, width), and vectors as (1, 1, width)."""
    if len(weight.shape) < 3:
        return weight
    while len(weight.shape) > 1 and weight.shape[0] == 1:
        weight = replace(_member(weight, 0), name=weight.name)
    return weight


def _member(weight: Weight, number: int) -> Weight:
    """One part of a stack."""

    def source(axis: int, start: int, stop: int) -> Tensor:
        part = weight.source(0, number, number + 1)[0]
        return part.narrow(axis, start, stop - start)

    return replace(weight, name=f"{weight.name}[{number}]", shape=weight.shape[1:], source=source)
