"""Layers whose components are ordered by training (Maestro, arXiv 2308.14929): W = U V^T, used up to any width.

    y = U[:, :b] (V^T[:b] x) + bias

Component 1 is in every width, component R in the full one only. A group lasso over the suffixes b..R drives the last
components to zero, and `shrink` drops what is small for good.
"""

from __future__ import annotations

import logging
import math
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fullrank.compress.layers import Layer
from fullrank.compress.low_rank import low_rank_layer
from fullrank.linalg import SVD, svd

_log = logging.getLogger(__name__)


class MaestroLayer(nn.Module, ABC):
    """A factorised layer of full inner size.

    Attributes:
        U: (out, R), applied second.
        Vt: (R, in), of a convolution (R, in * kernel), applied first.
        bias: (out,), or None.
        rank: components in use; those behind it are dropped.
        width: components of the next forward pass, or None for all in use.
        compile_friendly: mask the other components instead of slicing them off, so that one graph of `torch.compile`
            serves every width; a step then costs as much as at full width.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        rank: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        compile_friendly: bool = False,
    ) -> None:
        super().__init__()
        largest = min(inputs, outputs)
        if rank is not None and not 1 <= rank <= largest:
            raise ValueError(f"rank={rank}: 1 to {largest} is accepted for {inputs} inputs and {outputs} outputs")
        size = rank or largest
        place = {"device": device, "dtype": dtype}
        self.U = nn.Parameter(torch.empty(outputs, size, **place))
        self.Vt = nn.Parameter(torch.empty(size, inputs, **place))
        self.bias = nn.Parameter(torch.zeros(outputs, **place)) if bias else None
        self.register_buffer("rank_in_use", torch.tensor(size))
        self.register_buffer("_mask", torch.ones(size, **place), persistent=False)
        self.compile_friendly = compile_friendly
        self.rank = size
        self.width = None
        self.positions = 0  # of the last forward pass, per sample

    @property
    def max_rank(self) -> int:
        """Components that are stored."""
        return self.Vt.shape[0]

    @property
    def width(self) -> int | None:
        """See the class."""
        return self._width

    @width.setter
    def width(self, width: int | None) -> None:
        self._width = width
        self._remask()

    @property
    def inputs(self) -> int:
        """Columns of the matrix."""
        return self.Vt.shape[1]

    @property
    def outputs(self) -> int:
        """Rows of the matrix."""
        return self.U.shape[0]

    def reset_parameters(self) -> None:
        """The SVD of a dense layer's usual initialisation, half of the singular values on each side."""
        bound = 1 / math.sqrt(self.inputs)
        dense = torch.empty(self.outputs, self.inputs, device=self.U.device, dtype=self.U.dtype)
        self._set(nn.init.uniform_(dense, -bound, bound))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def weight(self, width: int | None = None) -> Float[Tensor, "out in"]:
        """U[:, :b] V^T[:b], b the given width, or all components in use."""
        b = self.rank if width is None else self._checked(width)
        return self.U[:, :b] @ self.Vt[:b]

    def penalties(self, hierarchical: bool = True) -> Float[Tensor, "rank"]:
        """||U_g||_F + ||V^T_g||_F of every group g: the suffix b..R, or component b alone.

        Suffixes that are zero have a penalty and a gradient of zero.
        """
        u, v = (_group_norms(squares, hierarchical) for squares in self._squares())
        return u + v

    def group_lasso(self, hierarchical: bool = True) -> Float[Tensor, ""]:
        """The sum of the penalties, in float32 at least."""
        return self.penalties(hierarchical).sum()

    def importance(self, hierarchical: bool = True) -> Float[Tensor, "rank"]:
        """||U_g||_F ||V^T_g||_F of every group; of components, their singular values right after the SVD."""
        u, v = (_group_norms(squares, hierarchical) for squares in self._squares())
        return (u * v).detach()

    def shrink(self, threshold: float, relative: bool = False, hierarchical: bool = True, min_rank: int = 1) -> int:
        """Drop the components whose importance is below a threshold; their values stay until `prune`.

        Args:
            threshold: smallest importance that is kept.
            relative: times that of the first component.
            hierarchical: importance of suffixes, of which a prefix is kept; otherwise of single components, and those
                that are kept move to the front.
            min_rank: components that stay at least.

        Returns:
            The rank.

        Raises:
            ValueError: a negative threshold.
            RuntimeError: the weights are not finite.
        """
        if not threshold >= 0:
            raise ValueError(f"threshold={threshold}: at least 0 is needed")
        importance = self.importance(hierarchical)
        if not bool(importance.isfinite().all()):
            raise RuntimeError("the weights are not finite: training diverged, lower the learning rate")
        if not self.rank:
            return 0
        limit = threshold * float(importance[0]) if relative else threshold
        keep = importance >= limit
        if int(keep.sum()) < min_rank:
            warnings.warn(f"every component is below the threshold {limit:.3g}: {min_rank} are kept", stacklevel=2)
            keep = torch.arange(self.rank, device=keep.device) < min_rank
        order = torch.cat([keep.nonzero().flatten(), (~keep).nonzero().flatten()])
        if not torch.equal(order, torch.arange(self.rank, device=order.device)):
            with torch.no_grad():
                self.U[:, : self.rank] = self.U[:, order].clone()
                self.Vt[: self.rank] = self.Vt[order].clone()
        self._use(int(keep.sum()))
        return self.rank

    def truncate(self, rank: int) -> None:
        """Use the first components only.

        Raises:
            ValueError: more than are in use, or fewer than 1.
        """
        self._use(self._checked(rank))

    def prune(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Drop the values of components that are not in use: new, smaller parameters U and V^T."""
        self.U = nn.Parameter(self.U.detach()[:, : self.rank].clone(), self.U.requires_grad)
        self.Vt = nn.Parameter(self.Vt.detach()[: self.rank].clone(), self.Vt.requires_grad)
        self._mask = self._mask[: self.rank].clone()
        return self.U, self.Vt

    def smaller_dense(self) -> bool:
        """Whether the product has fewer entries than the factors in use, or is all that is left of none."""
        return self.rank == 0 or self.rank * (self.inputs + self.outputs) > self.inputs * self.outputs

    def to_low_rank(self) -> nn.Module:
        """The components in use as a `LowRankLinear` or `LowRankConv2d`."""
        scale = self.U.new_ones(self.rank)
        factors = SVD(self.U.detach()[:, : self.rank], scale, self.Vt.detach()[: self.rank])
        return low_rank_layer(Layer("", self.to_dense()), factors)

    @abstractmethod
    def to_dense(self) -> nn.Module:
        """The product of the components in use as a dense layer."""

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.inputs}, {self.outputs}, rank={self.rank} of {self.max_rank}"

    def _set(self, matrix: Float[Tensor, "out in"]) -> None:
        """Factors of a matrix."""
        U, S, Vh = svd(matrix.detach(), self.max_rank, method="exact")
        root = S.sqrt()
        with torch.no_grad():
            self.U.copy_(U * root)
            self.Vt.copy_(root.unsqueeze(-1) * Vh)

    def _current(self) -> int:
        return self.rank if self.width is None else self._checked(self.width)

    def _checked(self, width: int) -> int:
        if not 1 <= width <= self.rank:
            raise ValueError(f"width={width}: 1 to {self.rank}, the components in use, is accepted")
        return width

    def _use(self, rank: int) -> None:
        self.rank = rank
        self.get_buffer("rank_in_use").fill_(rank)
        self._remask()

    def _remask(self) -> None:
        used = self._current() if self.compile_friendly else self.rank if self.width is None else self.width
        self._mask.copy_(torch.arange(len(self._mask), device=self._mask.device) < used)

    def _squares(self) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(self.U.dtype, torch.float32)
        return (
            self.U[:, : self.rank].to(wide).square().sum(0),
            self.Vt[: self.rank].to(wide).square().sum(1),
        )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **options: Any) -> None:
        """Take over the sizes of a checkpoint whose components were pruned."""
        stored = state_dict.get(f"{prefix}Vt")
        if stored is not None and stored.shape[0] != self.max_rank and stored.shape[1:] == self.Vt.shape[1:]:
            self.U = nn.Parameter(self.U.new_empty(self.outputs, len(stored)), self.U.requires_grad)
            self.Vt = nn.Parameter(self.Vt.new_empty(stored.shape), self.Vt.requires_grad)
            self._mask = self._mask.new_ones(len(stored))
            _log.info("%s takes the %d components of the checkpoint", prefix.removesuffix(".") or "layer", len(stored))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        self.rank = int(self.get_buffer("rank_in_use"))
        self._remask()


class MaestroLinear(MaestroLayer):
    """A linear map as ordered components.

    Args:
        in_features: size of the input.
        out_features: size of the output.
        bias: whether there is one.
        rank: components; default min(in, out).
        device: of the parameters.
        dtype: of the parameters.
        compile_friendly: see `MaestroLayer`.

    Raises:
        ValueError: `rank` outside 1..min(in, out).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rank: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        compile_friendly: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, rank, device, dtype, compile_friendly)
        self.reset_parameters()

    @classmethod
    def from_dense(cls, layer: Any, compile_friendly: bool = False) -> MaestroLinear:
        """The same map as an `nn.Linear` or a transformers `Conv1D`."""
        dense = Layer("", layer)
        outputs, inputs = dense.shape
        weight = layer.weight
        place = {"device": weight.device, "dtype": weight.dtype}
        made = cls(inputs, outputs, layer.bias is not None, **place, compile_friendly=compile_friendly)
        made._set(dense.matrix)
        if layer.bias is not None:
            with torch.no_grad():
                made.bias.copy_(layer.bias)  # pyright: ignore[reportOptionalMemberAccess]
        return made.requires_grad_(weight.requires_grad).train(layer.training)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """U[:, :b] (V^T[:b] x) + bias; by the product where that has fewer entries."""
        self.positions = math.prod(x.shape[1:-1])
        if self.compile_friendly:
            hidden = functional.linear(x, self.Vt)
            return functional.linear(hidden * self._mask.to(hidden.dtype), self.U, self.bias)
        b = self._current()
        if b * (self.inputs + self.outputs) > self.inputs * self.outputs:
            return functional.linear(x, self.weight(b), self.bias)
        return functional.linear(functional.linear(x, self.Vt[:b]), self.U[:, :b], self.bias)

    def to_dense(self) -> nn.Linear:
        """The product as an `nn.Linear`."""
        dense = nn.Linear(self.inputs, self.outputs, self.bias is not None, device=self.U.device, dtype=self.U.dtype)
        with torch.no_grad():
            dense.weight.copy_(self.weight())
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.requires_grad_(self.U.requires_grad).train(self.training)


class MaestroConv2d(MaestroLayer):
    """A convolution without groups as ordered components: R filters, and a 1 x 1 convolution.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: as in torch, also stride, padding and dilation.
        bias: whether there is one.
        rank: components; default min(out, in * kernel).
        device: of the parameters.
        dtype: of the parameters.
        compile_friendly: see `MaestroLayer`.

    Raises:
        ValueError: `rank` outside 1..min(out, in * kernel).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        rank: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        compile_friendly: bool = False,
    ) -> None:
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        super().__init__(in_channels * rows * columns, out_channels, bias, rank, device, dtype, compile_friendly)
        self.in_channels, self.kernel = in_channels, (rows, columns)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.reset_parameters()

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, compile_friendly: bool = False) -> MaestroConv2d:
        """The same map as an `nn.Conv2d`.

        Raises:
            NotImplementedError: groups, or padding other than zeros.
        """
        if layer.groups > 1 or layer.padding_mode != "zeros":
            raise NotImplementedError(
                f"groups={layer.groups}, padding_mode={layer.padding_mode!r}: a convolution without groups, padded "
                "with zeros, can be decomposed; leave this one dense"
            )
        weight = layer.weight
        padding = layer.padding if isinstance(layer.padding, str) else _pair(layer.padding)
        made = cls(
            layer.in_channels, layer.out_channels, _pair(layer.kernel_size), _pair(layer.stride), padding,
            _pair(layer.dilation), layer.bias is not None, device=weight.device, dtype=weight.dtype,
            compile_friendly=compile_friendly,
        )  # fmt: skip
        made._set(weight.flatten(1))
        if layer.bias is not None:
            with torch.no_grad():
                made.bias.copy_(layer.bias)  # pyright: ignore[reportOptionalMemberAccess]
        return made.requires_grad_(weight.requires_grad).train(layer.training)

    def forward(self, x: Float[Tensor, "batch in rows columns"]) -> Float[Tensor, "batch out _ _"]:
        """Two convolutions, or one with their product where that has fewer entries."""
        options: Any = (self.stride, self.padding, self.dilation)
        if self.compile_friendly and len(self._mask):
            first = functional.conv2d(x, self._kernels(self.Vt), None, *options)
            masked = first * self._mask.to(first.dtype)[:, None, None]
            y = functional.conv2d(masked, self.U[:, :, None, None], self.bias)
            self.positions = math.prod(y.shape[2:])
            return y
        b = self._current()
        if b == 0 or b * (self.inputs + self.outputs) > self.inputs * self.outputs:  # no convolution has 0 filters
            y = functional.conv2d(x, self._kernels(self.weight(b or None)), self.bias, *options)
        else:
            first = functional.conv2d(x, self._kernels(self.Vt[:b]), None, *options)
            y = functional.conv2d(first, self.U[:, :b, None, None], self.bias)
        self.positions = math.prod(y.shape[2:])
        return y

    def to_dense(self) -> nn.Conv2d:
        """The product as an `nn.Conv2d`."""
        dense = nn.Conv2d(
            self.in_channels, self.outputs, self.kernel, self.stride, self.padding, self.dilation,
            bias=self.bias is not None, device=self.U.device, dtype=self.U.dtype,
        )  # fmt: skip
        with torch.no_grad():
            dense.weight.copy_(self._kernels(self.weight()))
            if self.bias is not None and dense.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.requires_grad_(self.U.requires_grad).train(self.training)

    def _kernels(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.in_channels, *self.kernel))


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = sizes
    return rows, columns


def _group_norms(squares: Float[Tensor, "rank"], hierarchical: bool) -> Float[Tensor, "rank"]:
    """Roots of the squares, or of their suffix sums; the gradient at zero is zero."""
    sums = squares.flip(0).cumsum(0).flip(0) if hierarchical else squares
    alive = ~(sums <= 0)  # NaN stays NaN, and is noticed
    return torch.where(alive, torch.where(alive, sums, 1.0).sqrt(), 0.0)
