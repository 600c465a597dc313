"""`LR2VQConfig`: which layers are vector-quantised, and how; what that leaves of a model's size."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from fullrank.compress.layers import LINEAR, Layer, select_layers
from fullrank.compress.plain_numbers import Number, is_whole, make_plain
from fullrank.compress.subvectors import Axis, SubvectorLayout
from fullrank.compress.vq_layers import Assign, Projection, VQLayer, VQSettings

log = logging.getLogger("fullrank.compress.lr2vq")

QUANTISED: tuple[type[nn.Module], ...] = (*LINEAR, nn.Conv2d)
_SIZES = {"conv3x3": 9, "conv1x1": 4, "linear": 4}


@dataclass(frozen=True)
class LR2VQConfig:
    """How a model is quantised.

    Args:
        subvector_size: m by kind of layer, "linear" or "conv3x3" and the like; kinds that are not named stay dense. A
            number is for all kinds.
        k: codewords of a layer; at most n / 4, a quarter of its subvectors.
        dim: d, or a share of m between 0 and 1. "auto" is found by training runs, see `lr2vq.choose_dim`; where none
            can be made it is half of m.
        axis: see `SubvectorLayout`.
        assign: how codes are found while training: "dkm" (soft k-means on Z), "fixed", or "ste" (nearest codeword in
            every step, its gradient passed straight through).
        tau: temperature of "dkm" at the start, in medians of the distance to the nearest centre.
        tau_final: at the end; see `lr2vq.anneal`.
        dkm_iters: rounds of soft k-means in one step of training.
        projection: "layer" has one P for each layer, "group" one for each group of a convolution's channels (the same
            where there are no groups); "none" has none: plain product quantisation, d = m.
        skip_modules: regular expressions, or one, for whole names of layers that stay dense; default the first
            convolution of a ResNet.
        k_pattern: k by regular expression for a name.
        codebook_dtype: in which codebooks and projections are stored.
        pad: fill up with zeros where m does not divide a layer.
        clamp: False allows codebooks up to k = n.
        depthwise: True quantises depthwise convolutions too.
        seed: of the clustering.

    Raises:
        ValueError: a number outside its range, or an unknown name.
    """

    subvector_size: Mapping[str, int] | int = field(default_factory=lambda: dict(_SIZES))
    k: int = 256
    dim: Number | Literal["auto"] = "auto"
    axis: Axis = "in"
    assign: Assign = "dkm"
    tau: float = 0.5
    tau_final: float = 0.05
    dkm_iters: int = 5
    projection: Projection = "layer"
    skip_modules: Sequence[str] | str = ("conv1",)
    k_pattern: Mapping[str, int] = field(default_factory=dict)
    codebook_dtype: str = "float16"
    pad: bool = False
    clamp: bool = True
    depthwise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        for name, k in {"k": self.k, **self.k_pattern}.items():
            if not is_whole(k, 2):
                raise ValueError(f"{name}={k!r}: at least 2 codewords are needed, a whole number")
        sizes = self.subvector_size if isinstance(self.subvector_size, Mapping) else {"": self.subvector_size}
        for kind, m in sizes.items():
            if not is_whole(m, 1):
                raise ValueError(f"subvector_size={m!r}{' for ' * bool(kind)}{kind}: 1 entry or more is accepted")
        if not is_whole(self.dkm_iters, 1):
            raise ValueError(f"dkm_iters={self.dkm_iters!r}: 1 round or more is accepted")
        for name, values in (("axis", Axis), ("assign", Assign), ("projection", Projection)):
            if getattr(self, name) not in get_args(values):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known; accepted: {', '.join(map(repr, get_args(values)))}"
                )
        if isinstance(self.dim, str) and self.dim != "auto":
            raise ValueError(f"dim={self.dim!r}: a number of dimensions, a share of m such as 0.5, or 'auto'")
        share = isinstance(self.dim, float) and 0 < self.dim <= 1
        if not isinstance(self.dim, str) and not share and not is_whole(self.dim, 1):
            raise ValueError(f"dim={self.dim}: d >= 1, or a share of m above 0.0 and up to 1.0 is accepted")
        if not 0 < self.tau_final <= self.tau:
            raise ValueError(f"tau={self.tau}, tau_final={self.tau_final}: tau >= tau_final > 0 is needed")
        if not getattr(getattr(torch, self.codebook_dtype, None), "is_floating_point", False):
            raise ValueError(f"codebook_dtype={self.codebook_dtype!r} is no floating-point dtype of torch")

    def settings_of(self, layer: Layer) -> VQSettings | str:
        """How a layer is quantised, or why it stays dense.

        Raises:
            ValueError: an m that does not divide the layer, or a d above m, with the layer's name.
        """
        module, shape = layer.module, _shape(layer)
        kind = _kind(module)
        m = self.subvector_size if isinstance(self.subvector_size, int) else self.subvector_size.get(kind)
        if m is None:
            return f"subvector_size has no m for {kind}"
        groups = getattr(module, "groups", 1)
        if groups > 1 and groups == module.in_channels and not self.depthwise:
            return "it is a depthwise convolution; depthwise=True quantises those too"
        layout = SubvectorLayout(shape, m, self.axis, groups, self.pad, layer.name)
        k = self._codewords(layer.name, layout.count)
        if k < 2:
            return f"its {layout.count} subvectors are too few for a codebook"
        try:
            settings = VQSettings(m, self._dimensions(m), k, self.axis, self.pad, self.projection, self.assign,
                                  self.tau, self.dkm_iters, self.codebook_dtype)  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{layer.name}: {error}; give dim as a share of m for layers of different m") from error
        dense = 8 * module.weight.element_size() * math.prod(shape)
        bits = sum(settings.bits(layout.count, layout.groups).values())
        if bits >= dense:
            return f"codes, codebook and projection would take {bits:,} bits, its weight takes {dense:,}"
        return settings

    def _dimensions(self, m: int) -> int:
        if self.projection == "none":
            return m
        share = 0.5 if self.dim == "auto" else self.dim
        return max(1, int(share * m)) if isinstance(share, float) else int(share)

    def _codewords(self, name: str, count: int) -> int:
        asked = next((k for pattern, k in self.k_pattern.items() if re.fullmatch(pattern, name)), self.k)
        most = 2 ** int(math.log2(count / 4)) if count >= 8 else 1
        if self.clamp and asked > most:
            log.info("%s: k=%d becomes %d, at most a quarter of its %d subvectors", name, asked, most, count)
            asked = most
        if asked > count:
            raise ValueError(f"{name}: k={asked} codewords for {count} subvectors: at most as many are accepted")
        if asked & (asked - 1):
            log.info("%s: k=%d is no power of two: sizes count ceil(log2 k) bits for a code", name, asked)
        return asked


@dataclass(frozen=True)
class Plan:
    """What becomes of every layer.

    Attributes:
        layers: those that are quantised, with their settings.
        left: why others stay dense, by name.
    """

    layers: tuple[tuple[Layer, VQSettings], ...]
    left: dict[str, str]


def plan_model(model: nn.Module, config: LR2VQConfig) -> Plan:
    """Which layers of a model are quantised, and how.

    Raises:
        ValueError: no layer can be, or one has an m that does not divide it.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, QUANTISED)]
    patterns = [config.skip_modules] if isinstance(config.skip_modules, str) else config.skip_modules
    skipped = {name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)}
    asked = "|".join(re.escape(name) for name in names if name not in skipped)
    selection = select_layers(model, asked, kinds=QUANTISED, grouped=True)
    left = {name: "skip_modules names it" for name in names if name in skipped} | selection.left
    layers = []
    for layer in selection.layers:
        settings = config.settings_of(layer)
        if isinstance(settings, str):
            left[layer.name] = settings
        else:
            layers.append((layer, settings))
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} can be quantised: {left}")
    return Plan(tuple(layers), left)


@dataclass(frozen=True)
class ModelSize:
    """Bits of a quantised model, part by part.

    Attributes:
        codes: ceil(log2 k) for every subvector.
        codebook: of all codebooks.
        projection: of all projections.
        rest: 32 for every other parameter; a batch normalisation counts as the two vectors that it folds into.
        dense: 32 for every parameter of the dense model.
    """

    codes: int
    codebook: int
    projection: int
    rest: int
    dense: int

    @property
    def total(self) -> int:
        """Bits of the quantised model."""
        return self.codes + self.codebook + self.projection + self.rest

    @property
    def ratio(self) -> float:
        """How many times smaller than the dense model it is."""
        return self.dense / self.total

    @property
    def mebibytes(self) -> float:
        """Of the quantised model."""
        return self.total / 2**23


def model_size(model: nn.Module, config: LR2VQConfig | None = None) -> ModelSize:
    """The size of a quantised model when its codes are packed, whatever its mode is now.

    Args:
        model: after `lr2vq.prepare`; or a dense one, with
        config: how it would be quantised.

    Raises:
        ValueError: a model without quantised layers, and no config.
    """
    if config is None:
        quantised = [module for module in model.modules() if isinstance(module, VQLayer)]
        blocks = [_Block(module, module.layout, module.settings) for module in quantised]
    else:
        blocks = [_Block(layer.module, _layout(layer, s), s) for layer, s in plan_model(model, config).layers]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no quantised layer: call lr2vq.prepare first, or give a config")
    parts = {"codes": 0, "codebook": 0, "projection": 0}
    for block in blocks:
        for part, bits in block.settings.bits(block.layout.count, block.layout.groups).items():
            parts[part] += bits
    inner = {id(p) for block in blocks for name, p in block.module.named_parameters() if name != "bias"}
    outer = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inner)
    weights = sum(math.prod(block.layout.shape) for block in blocks)
    return ModelSize(**parts, rest=32 * outer, dense=32 * (outer + weights))


class _Block(NamedTuple):
    """A weight that is quantised, or would be."""

    module: nn.Module
    layout: SubvectorLayout
    settings: VQSettings


def _layout(layer: Layer, settings: VQSettings) -> SubvectorLayout:
    groups = getattr(layer.module, "groups", 1)
    return SubvectorLayout(_shape(layer), settings.m, settings.axis, groups, settings.pad)


def _shape(layer: Layer) -> tuple[int, ...]:
    """(out, in / groups, *kernel)."""
    return tuple(layer.module.weight.shape) if isinstance(layer.module, nn.Conv2d) else layer.shape


def _kind(module: Any) -> str:
    if not isinstance(module, nn.Conv2d):
        return "linear"
    return f"conv{'x'.join(map(str, module.kernel_size))}"
