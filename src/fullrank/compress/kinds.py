"""Kinds of compressed layers: how each is described in a file, and built anew from its description.

A compressor that makes a layer of its own registers its kind once; saving, loading and resuming then know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fullrank.compress.layers import replace_module
from fullrank.nn import LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankEmbedding, LowRankLinear

Description = dict[str, Any]


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer.

    Attributes:
        name: in files.
        type: class of the layer; subclasses are other kinds.
        describe: what `build` needs, as JSON.
        build: a layer without values, from its description; its state dict is loaded afterwards. The module that stands
            in its place in the skeleton is given too, for its device and dtype.
        recognises: whether a module is of this kind, where its class alone does not say so.
    """

    name: str
    type: type[nn.Module]
    describe: Callable[[Any], Description]
    build: Callable[[Description, nn.Module], nn.Module]
    recognises: Callable[[nn.Module], bool] | None = None


KINDS: dict[str, LayerKind] = {}


def register_kind(kind: LayerKind) -> LayerKind:
    """Make a kind known.

    Raises:
        ValueError: another class has that name already.
    """
    known = KINDS.get(kind.name)
    if known is not None and known.type is not kind.type:
        raise ValueError(f"the kind {kind.name!r} is {known.type.__name__} already: choose another name")
    KINDS[kind.name] = kind
    return kind


def describe(module: nn.Module) -> Description | None:
    """The description of a compressed layer, with its kind; None for any other module."""
    for kind in KINDS.values():
        if kind.recognises(module) if kind.recognises else type(module) is kind.type:
            return {"kind": kind.name, **kind.describe(module)}
    return None


def describe_layers(model: nn.Module) -> dict[str, Description]:
    """Every compressed layer of a model, by name."""
    found = ((name, describe(module)) for name, module in model.named_modules())
    return {name: description for name, description in found if description is not None}


def build(description: Mapping[str, Any], place: nn.Module) -> nn.Module:
    """A layer without values.

    Raises:
        ValueError: a kind that is not known here.
    """
    options = dict(description)
    name = options.pop("kind")
    if name not in KINDS:
        raise ValueError(
            f"a layer of kind {name!r} is not known; known are {', '.join(KINDS)}: import the module that defines it, "
            "or use a newer Fullrank"
        )
    return KINDS[name].build(options, place)


def rebuild_layers(model: nn.Module, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Put compressed layers without values where a skeleton has dense ones; first those that have others inside.

    Raises:
        ValueError: a kind that is not known, or a layer that the skeleton does not have.
    """
    for name in sorted(layers):
        try:
            place = model.get_submodule(name)
        except AttributeError as error:
            raise ValueError(
                f"{type(model).__name__} has no layer {name!r}: it is not the model that was compressed"
            ) from error
        replace_module(model, name, build(layers[name], place))


def place_of(module: nn.Module) -> dict[str, Any]:
    """Device and dtype of a layer's floating-point parameters, as keyword arguments."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return {"device": parameter.device, "dtype": parameter.dtype}
    return {"device": torch.device("cpu"), "dtype": torch.get_default_dtype()}


def _describe_linear(layer: LowRankLinear) -> Description:
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "rank": layer.rank,
        "bias": layer.bias is not None,
    }


def _describe_embedding(layer: LowRankEmbedding) -> Description:
    return {
        "num_embeddings": layer.num_embeddings,
        "embedding_dim": layer.embedding_dim,
        "rank": layer.rank,
        "padding_idx": layer.padding_idx,
        "scale_grad_by_freq": layer.first.scale_grad_by_freq,
        "sparse": layer.first.sparse,
    }


def _describe_convolution(layer: Any) -> Description:
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "rank": layer.rank,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": layer.padding if isinstance(layer.padding, str) else list(layer.padding),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": layer.padding_mode,
    }


def _build_convolution(kind: type[nn.Module]) -> Callable[[Description, nn.Module], nn.Module]:
    def build(options: Description, place: nn.Module) -> nn.Module:
        sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return kind(**sizes, **place_of(place))

    return build


register_kind(
    LayerKind(
        "low-rank-linear",
        LowRankLinear,
        _describe_linear,
        lambda options, place: LowRankLinear(**options, **place_of(place)),
    )
)
register_kind(
    LayerKind(
        "low-rank-embedding",
        LowRankEmbedding,
        _describe_embedding,
        lambda options, place: LowRankEmbedding(**options, **place_of(place)),
    )
)
for _kind in (LowRankConv1d, LowRankConv2d, LowRankConv3d):
    register_kind(LayerKind(f"low-rank-conv{_kind.axes}d", _kind, _describe_convolution, _build_convolution(_kind)))
