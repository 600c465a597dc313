"""`VQConv2d` and `VQLinear`: layers whose weight is a codebook, codes and a shared projection.

A weight is cut into n subvectors of m entries, the rows of S. Every one is a map of a low-rank representation (LRR) of
d entries, S = Z P^T, and only Z is clustered: S' = C[codes] P^T. With d = m and no projection this is plain product
quantisation, or DKM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fullrank.compress.kinds import Description, LayerKind, place_of, register_kind
from fullrank.compress.packed_codes import code_bits, pack_codes, packed_bytes, unpack_codes
from fullrank.compress.quantization import wide
from fullrank.compress.subvectors import Axis, SubvectorLayout
from fullrank.compress.vector_quantization import kmeans, nearest, soft_kmeans
from fullrank.linalg import require_finite, svd

Assign = Literal["dkm", "fixed", "ste"]
Projection = Literal["layer", "group", "none"]
Mode = Literal["lowrank", "soft", "hard"]

#: Parameters and buffers of a layer, by what it is doing.
_TENSORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lowrank": (("lrr", "projection"), ()),
    "fixed": (("codebook", "projection"), ("indices",)),
    "dkm": (("lrr", "projection"), ("codebook", "distance")),
    "ste": (("lrr", "codebook", "projection"), ()),
    "hard": ((), ("packed", "codebook", "projection")),
}
_NAMES = ("lrr", "codebook", "projection", "indices", "distance", "packed")


@dataclass(frozen=True)
class VQSettings:
    """How one weight is quantised.

    Attributes:
        m: entries of a subvector.
        d: entries of its low-rank representation, 1 to m.
        k: codewords.
        axis: see `SubvectorLayout`.
        pad: see `SubvectorLayout`.
        projection: "layer" has one P for the layer, "group" one for each group of a convolution's channels; "none" has
            none, and d = m.
        assign: how codes are found while training: "dkm", "fixed" or "ste".
        tau: temperature of "dkm", in medians of the distance to the nearest centre.
        dkm_iters: its rounds in one step of training.
        codebook_dtype: of codebook and projection when codes are hard.
    """

    m: int
    d: int
    k: int
    axis: Axis = "in"
    pad: bool = False
    projection: Projection = "layer"
    assign: Assign = "dkm"
    tau: float = 0.5
    dkm_iters: int = 5
    codebook_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not 1 <= self.d <= self.m:
            raise ValueError(f"d={self.d}: from 1 to m={self.m} dimensions are accepted")
        if self.projection == "none" and self.d != self.m:
            raise ValueError(f'd={self.d}: without a projection (projection="none") d is m={self.m}')
        if self.k < 2:
            raise ValueError(f"k={self.k}: at least 2 codewords are needed")
        if self.assign not in get_args(Assign):
            raise ValueError(f"assign={self.assign!r} is not known; accepted: 'dkm', 'fixed', 'ste'")

    @property
    def projected(self) -> bool:
        """Whether there is a P."""
        return self.projection != "none"

    def maps(self, groups: int) -> int:
        """How many P a layer of so many groups has."""
        return {"layer": 1, "group": groups, "none": 0}[self.projection]

    def bits(self, count: int, groups: int = 1) -> dict[str, int]:
        """Bits of so many subvectors: "codes", "codebook" and "projection"."""
        width = 8 * getattr(torch, self.codebook_dtype).itemsize
        return {
            "codes": count * code_bits(self.k),
            "codebook": self.k * self.d * width,
            "projection": self.m * self.d * width * self.maps(groups),
        }


class VQLayer(nn.Module):
    """What both layers share: the weight, and how it goes from low rank over soft codes to hard ones.

    Attributes:
        mode: "lowrank" (Z and P train), "soft" (quantised, training) or "hard" (packed codes, nothing trains).
        settings: see `VQSettings`.
        layout: how the weight is cut.
        tau: temperature of "dkm" now, see `VQSettings`.
        dtype: of the bias and of what trains, which codebooks of hard codes do not tell.
        lrr: Z, (n, d), in modes "lowrank" and "soft", but for fixed codes.
        codebook: C, (k, d), in modes "soft" and "hard".
        projection: P, (m, d), or (groups, m, d) where every group has its own; None without one.
    """

    bias: nn.Parameter | None
    lrr: Tensor
    codebook: Tensor
    projection: Tensor
    distance: Tensor
    indices: Tensor
    packed: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.layout.shape

    @property
    def m(self) -> int:
        """Entries of a subvector."""
        return self.settings.m

    @property
    def d(self) -> int:
        """Entries of its low-rank representation."""
        return self.settings.d

    @property
    def k(self) -> int:
        """Codewords."""
        return self.settings.k

    def _begin(self, layout: SubvectorLayout, settings: VQSettings, mode: Mode, place: Mapping[str, Any]) -> None:
        self.layout, self.settings, self.mode, self.tau = layout, settings, mode, settings.tau
        self.dtype = place["dtype"] or torch.get_default_dtype()
        self._decoded: Tensor | None = None
        self._hold(mode, self._blank(mode, **place))

    def _blank(self, mode: Mode, device: Any, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """The tensors of a mode, without values."""
        n, (m, d, k) = self.layout.count, (self.m, self.d, self.k)
        maps = self.settings.maps(self.layout.groups)
        shapes = {
            "lrr": (n, d),
            "codebook": (k, d),
            "projection": (maps, m, d) if maps > 1 else (m, d),
            "indices": (n,),
            "distance": (),
            "packed": (packed_bytes(n, code_bits(k)),),
        }
        floating = getattr(torch, self.settings.codebook_dtype) if mode == "hard" else dtype
        kinds = {"indices": torch.int32, "packed": torch.uint8}
        names = [name for part in self._roles(mode) for name in part]
        return {name: torch.zeros(shapes[name], dtype=kinds.get(name, floating), device=device) for name in names}

    def _roles(self, mode: Mode) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Parameters and buffers of a mode."""
        return _TENSORS[mode if mode != "soft" else self.settings.assign]

    def _hold(self, mode: Mode, tensors: Mapping[str, Tensor]) -> None:
        """Become a layer of this mode, with these tensors."""
        self.mode, self._decoded = mode, None
        parameters, buffers = self._roles(mode)
        for name in _NAMES:
            self._parameters.pop(name, None)
            self._buffers.pop(name, None)
        for name in parameters + buffers:
            if name == "projection" and not self.settings.projected:
                self.register_buffer(name, None)
            elif name in parameters:
                self.register_parameter(name, nn.Parameter(tensors[name]))
            else:
                self.register_buffer(name, tensors[name])

    def _start(self, weight: Tensor) -> None:
        """Z and P of a dense weight: P = V_d of S = U Sigma V^T, and Z = S P."""
        S = self.layout.cut(wide(weight.detach()))
        maps = self.settings.maps(self.layout.groups)
        P = torch.stack([_leading(part, self.d) for part in S.chunk(maps)]).squeeze(0) if maps else None
        Z = S if P is None else _times(S, P)
        self._hold("lowrank", _cast(weight.dtype, lrr=Z, projection=P))

    @property
    def weight(self) -> Float[Tensor, "out *rest"]:
        """The weight that the layer stands for, differentiable in what trains; float32 or wider for hard codes."""
        P = self.projection
        if self.mode == "hard":
            kind = torch.promote_types(self.codebook.dtype, torch.float32)
            words = self.codebook.to(kind)
            words = words if P is None else words @ P.to(kind).mT  # k rows, where Z has n
            codes = self.codes
            if words.ndim == 3:
                first = len(words[0]) * torch.arange(len(words), device=codes.device)
                words, codes = words.flatten(0, 1), (codes.unflatten(0, (len(words), -1)) + first[:, None]).flatten()
            return self.layout.join(words.index_select(0, codes))
        Z = self._representations()
        return self.layout.join(Z if P is None else _times(Z, P.mT))

    @property
    def codes(self) -> Int[Tensor, "n"]:
        """The codeword of every subvector now, int64.

        Raises:
            RuntimeError: the layer is not clustered.
        """
        if self.mode == "lowrank":
            raise RuntimeError("a layer of low rank has no codes: call cluster() first")
        if self.mode == "hard":
            return unpack_codes(self.packed, code_bits(self.settings.k), self.layout.count)
        if self.settings.assign == "fixed":
            return self.indices.to(torch.int64)
        return nearest(wide(self.lrr.detach()), wide(self.codebook.detach())).codes

    def _representations(self) -> Tensor:
        """Z, or what stands for it."""
        if self.mode == "lowrank":
            return self.lrr
        assign = self.settings.assign
        if self.mode == "soft" and assign == "dkm" and self.training:
            start, temperature = wide(self.codebook.clone()), self.tau * wide(self.distance)
            soft = soft_kmeans(wide(self.lrr), start, temperature, self.settings.dkm_iters)
            self.codebook.copy_(soft.codebook.detach())
            return soft.vectors.to(self.lrr.dtype)
        # The gradient of a selection is the sum over members.
        chosen = self.codebook.index_select(0, self.codes)
        if self.mode == "soft" and assign == "ste":
            return chosen + (self.lrr - self.lrr.detach())
        return chosen

    @torch.no_grad()
    def cluster(self, generator: torch.Generator, steps: int = 50, starts: int = 1) -> VQLayer:
        """Make P orthonormal without changing the weight, and cluster Z: from low rank to soft.

        Raises:
            RuntimeError: the layer is clustered already.
            ValueError: entries of Z that are not finite.
        """
        if self.mode != "lowrank":
            raise RuntimeError(f"the layer is in mode {self.mode!r}: only a layer of low rank can be clustered")
        kind = self.lrr.dtype
        Z, P = _orthonormal(self.lrr, self.projection)
        found = kmeans(Z, self.settings.k, steps, starts, generator, self.layout.name)
        distances = nearest(Z, found.codebook).distances.sqrt()
        self._hold(
            "soft",
            _cast(kind, lrr=Z, projection=P, codebook=found.codebook, distance=_typical(distances))
            | {"indices": found.codes.to(torch.int32)},
        )
        return self

    @torch.no_grad()
    def freeze_codes(self) -> VQLayer:
        """Keep the codes as they are now; codebook and projection go on training.

        Raises:
            RuntimeError: the layer is not in training with codes.
        """
        if self.mode != "soft":
            raise RuntimeError(f"the layer is in mode {self.mode!r}: call cluster() before its codes can be frozen")
        tensors = {"indices": self.codes.to(torch.int32), "codebook": self.codebook.detach()}
        if self.projection is not None:
            tensors["projection"] = self.projection.detach()
        self.settings = replace(self.settings, assign="fixed")
        self._hold("soft", tensors)
        return self

    @torch.no_grad()
    def harden(self) -> VQLayer:
        """Snap to codes, packed, with codebook and projection in the dtype that they are stored in.

        Raises:
            RuntimeError: the layer is not clustered.
        """
        if self.mode != "soft":
            raise RuntimeError(f"the layer is in mode {self.mode!r}: call cluster() before finalize()")
        packed = pack_codes(self.codes, code_bits(self.settings.k))
        C, P = _orthonormal(self.codebook, self.projection)
        kind = getattr(torch, self.settings.codebook_dtype)
        self._hold("hard", _cast(kind, codebook=C, projection=P) | {"packed": packed})
        return self

    def _weight_for(self, x: Tensor) -> Tensor:
        """The weight in the dtype of x; of hard codes in eval mode it is decoded once."""
        if self.mode != "hard" or self.training:
            return self.weight.to(x.dtype)
        kept = self._decoded
        if kept is None or kept.dtype != x.dtype:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._decoded = self.weight.to(x.dtype)
        return kept

    def train(self, mode: bool = True) -> VQLayer:
        """As of any module; the decoded weight is kept in eval mode only."""
        self._decoded = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> VQLayer:
        self._decoded = None
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load a layer of any mode, and go on in that mode."""
        stored = {name for name in _NAMES if f"{prefix}{name}" in state_dict}
        role = next((role for role in _TENSORS if stored == self._stored(role)), None)
        if role is not None and role != (self.mode if self.mode != "soft" else self.settings.assign):
            mode: Any = role if role in ("lowrank", "hard") else "soft"
            if mode == "soft":
                self.settings = replace(self.settings, assign=role)
            own = self.lrr if self.mode == "lowrank" else self.codebook
            self._hold(mode, self._blank(mode, own.device, self.dtype))
        self._decoded = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _stored(self, role: str) -> set[str]:
        """Names in a state dict of a mode, or of a way to find codes."""
        names = {name for part in _TENSORS[role] for name in part}
        return names if self.settings.projected else names - {"projection"}

    def _facts(self) -> str:
        s = self.settings
        return f"m={s.m}, d={s.d}, k={s.k}, axis={s.axis!r}, mode={self.mode!r}"


class VQLinear(VQLayer):
    """y = x W'^T + b with a vector-quantised W'.

    Args:
        in_features: size of x.
        out_features: size of y.
        settings: see `VQSettings`.
        bias: whether there is a b.
        mode: see `VQLayer`.
        device: of everything.
        dtype: of b, and of what trains.
        name: how errors call the layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        settings: VQSettings,
        bias: bool = True,
        mode: Mode = "lowrank",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        name: str = "weight",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        layout = SubvectorLayout((out_features, in_features), settings.m, settings.axis, 1, settings.pad, name)
        self._begin(layout, settings, mode, {"device": device, "dtype": dtype})
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, settings: VQSettings, name: str = "weight") -> VQLinear:
        """A layer of low rank whose Z and P are the truncated SVD of a linear layer's subvectors.

        Raises:
            ValueError: a weight that is not finite, or an m that does not divide it.
        """
        require_finite(linear.weight, name)
        made = cls(
            linear.in_features, linear.out_features, settings, linear.bias is not None, name=name, **place_of(linear)
        )
        _take_bias(made, linear)
        made._start(linear.weight)
        made.train(linear.training)
        return made

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """W' x + b over any leading shape."""
        return functional.linear(x, self._weight_for(x), self.bias)

    def decode(self) -> nn.Linear:
        """A dense layer with this weight."""
        weight = self.weight.detach()
        place: dict[str, Any] = {"device": weight.device, "dtype": self.dtype}
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, **place)
        return _filled(dense, weight, self.bias).train(self.training)

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._facts()}"


class VQConv2d(VQLayer):
    """A two-dimensional convolution with a vector-quantised kernel.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the kernel.
        settings: see `VQSettings`.
        stride, padding, dilation, groups, bias, padding_mode: as of `nn.Conv2d`.
        mode: see `VQLayer`.
        device: of everything.
        dtype: of the bias, and of what trains.
        name: how errors call the layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        settings: VQSettings,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        mode: Mode = "lowrank",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        name: str = "weight",
    ) -> None:
        super().__init__()
        like = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode, "meta"
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = like.kernel_size, like.stride, like.dilation
        self.padding, self.padding_mode = like.padding, padding_mode
        self._edges = list(like._reversed_padding_repeated_twice)
        shape = (out_channels, in_channels // groups, *like.kernel_size)
        layout = SubvectorLayout(shape, settings.m, settings.axis, groups, settings.pad, name)
        self._begin(layout, settings, mode, {"device": device, "dtype": dtype})
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, settings: VQSettings, name: str = "weight") -> VQConv2d:
        """A layer of low rank whose Z and P are the truncated SVD of a convolution's subvectors.

        Raises:
            ValueError: a weight that is not finite, or an m that does not divide it.
        """
        require_finite(conv.weight, name)
        made = cls(
            conv.in_channels, conv.out_channels, _pair(conv.kernel_size), settings, bias=conv.bias is not None,
            name=name, **_options(conv), **place_of(conv),
        )  # fmt: skip
        _take_bias(made, conv)
        made._start(conv.weight)
        made.train(conv.training)
        return made

    def forward(self, x: Float[Tensor, "*batch in height width"]) -> Float[Tensor, "*batch out rows columns"]:
        """The convolution with the weight."""
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = functional.pad(x, self._edges, mode=self.padding_mode), 0
        weight = self._weight_for(x)
        return functional.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def decode(self) -> nn.Conv2d:
        """A dense convolution with this weight."""
        weight = self.weight.detach()
        dense = nn.Conv2d(
            self.in_channels, self.out_channels, _pair(self.kernel_size), bias=self.bias is not None,
            **_options(self), device=weight.device, dtype=self.dtype,
        )  # fmt: skip
        return _filled(dense, weight, self.bias).train(self.training)

    def to_convolutions(self) -> nn.Sequential:
        """Two convolutions with the same output, for axis="out": d / m of the output channels with a quantised kernel,
        and a grouped 1 x 1 convolution of P.

        Raises:
            ValueError: another axis, a weight that is filled up, or a layer without projection.
        """
        s, P = self.settings, self.projection
        if s.axis != "out" or self.layout.length % s.m or P is None:
            raise ValueError(
                "two convolutions need subvectors along the output channels (axis='out'), an m that divides them, and "
                f"a projection; this layer has axis={s.axis!r}, m={s.m}, {self.out_channels} output channels, "
                f"projection={s.projection!r}"
            )
        Z = self._representations().detach()
        groups, rest = self.groups, math.prod(self.layout.shape[1:])
        kernel = Z.reshape(groups, -1, rest, s.d).transpose(2, 3).reshape(-1, *self.layout.shape[1:])
        place: dict[str, Any] = {"device": Z.device, "dtype": self.dtype}
        narrow = nn.Conv2d(
            self.in_channels, len(kernel), _pair(self.kernel_size), bias=False, **_options(self), **place
        )
        runs = self.out_channels // s.m
        maps = P.detach().expand(runs, -1, -1) if P.ndim == 2 else P.detach().repeat_interleave(runs // len(P), 0)
        spread = nn.Conv2d(len(kernel), self.out_channels, 1, groups=runs, bias=self.bias is not None, **place)
        _filled(narrow, kernel, None)
        _filled(spread, maps.flatten(0, 1).unflatten(1, (s.d, 1, 1)), self.bias)
        return nn.Sequential(narrow, spread).train(self.training)

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"{self._facts()}"
        )


def _times(rows: Tensor, maps: Tensor) -> Tensor:
    """The rows times a matrix; or those of each group, which lie together, times its own."""
    if maps.ndim == 2:
        return rows @ maps
    return (rows.unflatten(0, (len(maps), -1)) @ maps).flatten(0, 1)


def _leading(S: Tensor, d: int) -> Tensor:
    """The d leading directions of the rows of S; beyond the rank that S can have, any that are orthogonal to these."""
    V = svd(S, min(d, *S.shape)).Vh.mT
    if V.shape[1] == d:
        return V
    rest = torch.linalg.qr(torch.cat([V, torch.eye(len(V), dtype=V.dtype, device=V.device)], 1)).Q
    return torch.cat([V, rest[:, V.shape[1] : d]], 1)


def _typical(distances: Tensor) -> Tensor:
    """The median distance to the nearest centre; the smallest above 0 where most vectors are centres."""
    median = distances.median()
    positive = distances[distances > 0]
    return median if median > 0 else positive.min() if len(positive) else torch.ones_like(median)


def _orthonormal(Z: Tensor, P: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Z R^T and Q of P = Q R: the same product, and errors of Z are errors of the weight."""
    Z = wide(Z.detach())
    if P is None:
        return Z, None
    Q, R = torch.linalg.qr(wide(P.detach()))
    return _times(Z, R.mT), Q


def _cast(kind: torch.dtype, **tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor.to(kind).contiguous() for name, tensor in tensors.items() if tensor is not None}


def _take_bias(made: Any, dense: Any) -> None:
    if dense.bias is not None:
        made.bias.data.copy_(dense.bias.detach())
        made.bias.requires_grad_(dense.bias.requires_grad)


def _filled(dense: Any, weight: Tensor, bias: Tensor | None) -> Any:
    with torch.no_grad():
        dense.weight.copy_(weight)
        if bias is not None:
            dense.bias.copy_(bias)
    return dense


def _pair(size: Any) -> tuple[int, int]:
    return size[0], size[1]


def _options(conv: Any) -> dict[str, Any]:
    """What a convolution does beside its kernel."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names}


def _describe_linear(layer: VQLinear) -> Description:
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "mode": layer.mode,
        "settings": asdict(layer.settings),
    }


def _describe_convolution(layer: VQConv2d) -> Description:
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in _options(layer).items()}
    return options | {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "bias": layer.bias is not None,
        "mode": layer.mode,
        "settings": asdict(layer.settings),
    }


def _build(kind: type[Any]) -> Any:
    def build(options: Description, place: nn.Module) -> nn.Module:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return kind(**values | {"settings": VQSettings(**options["settings"])}, **place_of(place))

    return build


register_kind(LayerKind("vq-linear", VQLinear, _describe_linear, _build(VQLinear)))
register_kind(LayerKind("vq-conv2d", VQConv2d, _describe_convolution, _build(VQConv2d)))
