"""The factorised layers: a linear map or a convolution of bounded rank as two thin ones.

Every compressor produces them, every adapter can adapt them, and a state dict carries them: `first` and `second` are
plain layers of torch.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.linalg import SVD, weighted_svd

Split = Literal["left", "right", "balanced"]
_CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


class LowRankLinear(nn.Module):
    """y = B (A x) + b with A of shape (rank, in) and B of shape (out, rank).

    Args:
        in_features: size of x.
        out_features: size of y.
        rank: at least 1.
        bias: whether there is a b.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        first: A, an `nn.Linear` without bias.
        second: B and b, an `nn.Linear`.

    Raises:
        ValueError: `rank` below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rank = check_rank(rank)
        self.first = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.second = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    @property
    def in_features(self) -> int:
        """Size of the input."""
        return self.first.in_features

    @property
    def out_features(self) -> int:
        """Size of the output."""
        return self.second.out_features

    @property
    def rank(self) -> int:
        """Size between the two maps."""
        return self.first.out_features

    @property
    def bias(self) -> Tensor | None:
        """b, or None."""
        return self.second.bias

    @property
    def led_unit(self) -> nn.Sequential:
        """Both maps, one behind the other, under the name that Greenformers gives them."""
        return nn.Sequential(self.first, self.second)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """B A x + b over any leading shape."""
        return self.second(self.first(x))

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        rank: int,
        in_weight: Tensor | None = None,
        out_weight: Tensor | None = None,
        in_matrix: Tensor | None = None,
        split: Split = "left",
    ) -> LowRankLinear:
        """The best approximation of a linear layer at this rank, in the dtype and on the device of the layer.

        Args:
            linear: the layer; it stays as it is.
            rank: 1 to min(in, out).
            in_weight: weights of errors by input, (in,) or (in, in); see `linalg.weighted_svd`.
            out_weight: weights of errors by output, (out,) or (out, out).
            in_matrix: the same as `in_weight`, for a matrix.
            split: which factor takes the singular values: "left" the first one (as FWSVD), "right" the second one,
                "balanced" both their roots.

        Raises:
            TypeError: another layer than an `nn.Linear`.
            ValueError: `rank` or weights do not fit the layer, both `in_weight` and `in_matrix`, or a weight that is
                not finite.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear is a {type(linear).__name__}: an nn.Linear is accepted")
        check_rank(rank)
        if in_weight is not None and in_matrix is not None:
            raise ValueError("in_weight and in_matrix both weigh the inputs: give one of them")
        right = in_weight if in_matrix is None else in_matrix
        factors = weighted_svd(linear.weight.detach(), rank, left=out_weight, right=right)
        return cls.from_factors(linear, factors, split)

    @classmethod
    def from_factors(cls, linear: nn.Linear, factors: SVD, split: Split = "left") -> LowRankLinear:
        """The layer with these factors of its weight (out, in) and a copy of its bias; dtype, device and whether it
        trains are those of the layer.
        """
        weight = linear.weight
        made = cls(
            linear.in_features,
            linear.out_features,
            factors.S.shape[-1],
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        A, B = split_factors(factors, split)
        with torch.no_grad():
            made.first.weight.copy_(A)
            made.second.weight.copy_(B)
            if linear.bias is not None:
                made.second.bias.copy_(linear.bias)
        made.requires_grad_(weight.requires_grad)
        return made.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """The product as one dense layer."""
        weight = self.weight().detach()
        dense = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device=weight.device, dtype=weight.dtype
        )
        with torch.no_grad():
            dense.weight.copy_(weight)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.requires_grad_(_trains(self)).train(self.training)

    def weight(self) -> Float[Tensor, "out in"]:
        """B A."""
        return _weight(self.second) @ _weight(self.first)

    def delta(self, dense: nn.Linear) -> Float[Tensor, "out in"]:
        """What this layer's weight lacks of a dense layer's: W - B A.

        Raises:
            ValueError: a layer of another size.
        """
        if dense.weight.shape != (self.out_features, self.in_features):
            raise ValueError(
                f"dense has a weight of shape {tuple(dense.weight.shape)}, this layer is "
                f"({self.out_features}, {self.in_features}): compare it with the layer it came from"
            )
        return dense.weight - self.weight()

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


class LowRankConvolution(nn.Module):
    """A convolution to `rank` channels with the whole kernel, and a 1 x 1 convolution to the output channels.

    The bottleneck is in the matrix out x (in * kernel); stride, padding and dilation belong to the first convolution.
    Use `LowRankConv1d`, `LowRankConv2d` or `LowRankConv3d`.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        rank: at least 1; with groups a multiple of them.
        kernel_size: as in torch, also the options that follow.
        bias: whether the second convolution has one.

    Raises:
        ValueError: `rank` below 1, or no multiple of `groups`.
    """

    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rank: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rank = check_rank(rank)
        if rank % groups:
            raise ValueError(f"rank={rank} is no multiple of groups={groups}: use {math.ceil(rank / groups) * groups}")
        convolution: Any = _CONVOLUTIONS[self.axes]
        place = {"device": device, "dtype": dtype}
        self.first = convolution(
            in_channels, rank, kernel_size, stride, padding, dilation, groups, False, padding_mode, **place
        )
        self.second = convolution(rank, out_channels, 1, bias=bias, **place)

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.first.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.second.out_channels

    @property
    def rank(self) -> int:
        """Channels between the two convolutions."""
        return self.first.out_channels

    @property
    def bias(self) -> Tensor | None:
        """Bias of the output channels, or None."""
        return self.second.bias

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Of the first convolution, like the options that follow."""
        return self.first.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        """Steps between positions."""
        return self.first.stride

    @property
    def padding(self) -> tuple[int, ...] | str:
        """Around the input."""
        return self.first.padding

    @property
    def dilation(self) -> tuple[int, ...]:
        """Steps between entries of the kernel."""
        return self.first.dilation

    @property
    def groups(self) -> int:
        """That do not mix in the first convolution."""
        return self.first.groups

    @property
    def padding_mode(self) -> str:
        """What the padding is filled with."""
        return self.first.padding_mode

    @property
    def ced_unit(self) -> nn.Sequential:
        """Both convolutions, one behind the other, under the name that Greenformers gives them."""
        return nn.Sequential(self.first, self.second)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution over (batch, in, ...)."""
        return self.second(self.first(x))

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        rank: int,
        *,
        out_weight: Tensor | None = None,
        in_weight: Tensor | None = None,
        split: Split = "left",
    ) -> LowRankConvolution:
        """The best approximation of a convolution's matrix (out, in * kernel) at this rank.

        Args:
            conv: the layer, without groups; it stays as it is.
            rank: 1 to min(out, in * kernel).
            out_weight: weights of errors by output channel; see `linalg.weighted_svd`.
            in_weight: weights of errors by entry of the input patch, (in * kernel,) or a square matrix.
            split: which factor takes the singular values.

        Raises:
            TypeError: a convolution over another number of axes, or another layer.
            ValueError: groups, or `rank` or weights that do not fit the layer.
        """
        if not isinstance(conv, _CONVOLUTIONS[cls.axes]):
            raise TypeError(f"conv is a {type(conv).__name__}: an nn.Conv{cls.axes}d is accepted")
        check_rank(rank)
        if conv.groups > 1:
            raise ValueError(
                f"conv has groups={conv.groups}: one factorisation of its matrix would mix them; leave it dense"
            )
        factors = weighted_svd(conv.weight.detach().flatten(1), rank, left=out_weight, right=in_weight)
        return cls.from_factors(conv, factors, split)

    @classmethod
    def from_factors(
        cls, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, factors: SVD, split: Split = "left"
    ) -> LowRankConvolution:
        """The layer with these factors of the convolution's matrix (out, in * kernel) and a copy of its bias."""
        weight = conv.weight
        made = cls(
            conv.in_channels,
            conv.out_channels,
            factors.S.shape[-1],
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device=weight.device,
            dtype=weight.dtype,
        )
        A, B = split_factors(factors, split)
        with torch.no_grad():
            made.first.weight.copy_(A.view_as(made.first.weight))
            made.second.weight.copy_(B.view_as(made.second.weight))
            if conv.bias is not None:
                made.second.bias.copy_(conv.bias)
        made.requires_grad_(weight.requires_grad)
        return made.train(conv.training)

    def to_conv(self) -> nn.Module:
        """The product as one dense convolution.

        Raises:
            ValueError: groups, whose product is no convolution in groups.
        """
        first = self.first
        if first.groups > 1:
            raise ValueError(f"groups={first.groups}: the second convolution mixes the groups, no dense one does both")
        weight = self.weight().detach()
        convolution: Any = _CONVOLUTIONS[self.axes]
        dense = convolution(
            self.in_channels,
            self.out_channels,
            first.kernel_size,
            first.stride,
            first.padding,
            first.dilation,
            bias=self.bias is not None,
            padding_mode=first.padding_mode,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(weight)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.requires_grad_(_trains(self)).train(self.training)

    def weight(self) -> Tensor:
        """The kernel of the product, (out, in, ...)."""
        first, second = _weight(self.first), _weight(self.second)
        return (second.flatten(1) @ first.flatten(1)).view(self.out_channels, *first.shape[1:])

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"{self.in_channels}, {self.out_channels}, rank={self.rank}"


class LowRankConv1d(LowRankConvolution):
    """`LowRankConvolution` over (batch, channels, length)."""

    axes = 1


class LowRankConv2d(LowRankConvolution):
    """`LowRankConvolution` over (batch, channels, height, width)."""

    axes = 2


class LowRankConv3d(LowRankConvolution):
    """`LowRankConvolution` over (batch, channels, depth, height, width)."""

    axes = 3


def _weight(factor: Any) -> Tensor:
    """The weight of a factor, which may be factorised in its turn."""
    return factor.weight() if isinstance(factor, LowRankLinear | LowRankConvolution) else factor.weight


def _trains(layer: nn.Module) -> bool:
    return next(layer.parameters()).requires_grad


def split_factors(factors: SVD, split: Split = "left") -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """A and B of W ≈ B A from the factors of W (out, in).

    Args:
        factors: of W.
        split: "left" gives the singular values to A, which acts first; "right" to B; "balanced" their roots to both.

    Raises:
        ValueError: another `split`.
    """
    U, S, Vh = factors
    if split == "left":
        return S.unsqueeze(-1) * Vh, U
    if split == "right":
        return Vh, U * S
    if split == "balanced":
        root = S.sqrt()
        return root.unsqueeze(-1) * Vh, U * root
    raise ValueError(f"split={split!r} is not known; accepted: 'left', 'right', 'balanced'")


def check_rank(rank: int) -> int:
    """The rank as an int; a ValueError for one that is no whole number, or below 1."""
    if isinstance(rank, bool) or not isinstance(rank, Integral) or rank < 1:
        raise ValueError(f"rank={rank!r}: a layer needs a whole rank of at least 1")
    return int(rank)
