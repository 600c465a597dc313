"""Attention over a map, with rotary positions, a local position term and a multiplicative gate; and its softmax form.

Source: arXiv 2411.07635 and its official code.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fullrank.nn.axial_rotation import Rotation, axial_rotation, rotate

GateActivation = Literal["silu", "sigmoid"]
_GATES = {"silu": functional.silu, "sigmoid": torch.sigmoid}

_NUMBERS_IN_CACHE = 2**18  # float32, one of a dozen temporaries, per thread


class Heads(NamedTuple):
    """What the first projection gives, split; gate is None where there is none."""

    q: Float[Tensor, "batch heads tokens dim"]
    k: Float[Tensor, "batch heads tokens dim"]
    v: Float[Tensor, "batch heads tokens dim"]
    gate: Float[Tensor, "batch tokens channels"] | None


class Prepared(NamedTuple):
    """An input of the layer as tokens with their places."""

    tokens: Float[Tensor, "batch tokens channels"]
    grid: tuple[int, int]
    rotation: Rotation | None


class GatedAttention(nn.Module):
    """What RALA and its softmax sibling share: projections, rotary positions, a local position term and a gate.

    y = proj((attend(q, k, v) + LePE(v)) * o), where q, k, v and o come from one linear map of the input. Subclasses say
    how tokens attend.

    Args:
        dim: channels C.
        num_heads: heads of C / num_heads channels.
        qkv_bias: bias in the first projection.
        rope: turn queries and keys by their place on the grid (`axial_rotation`).
        lepe_kernel: odd size of the depthwise convolution on the values that is added to the attention's output (LePE);
            None for none.
        gate: multiply the output by a linear image o of the input. Without it the projection has C^2 + C fewer
            parameters.
        gate_act: activation of the gate; None for a linear gate, as in the official code.
        num_prefix_tokens: tokens before the grid (class, registers). They attend and are attended to, are not rotated,
            and take no part in LePE.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`; the width of a head is not a multiple of 4 with `rope`;
            `lepe_kernel` is even; `gate_act` is unknown or has no gate to act on.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        rope: bool = True,
        lepe_kernel: int | None = 5,
        gate: bool = True,
        gate_act: GateActivation | None = None,
        num_prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        _check_options(dim, num_heads, rope, lepe_kernel, gate, gate_act, num_prefix_tokens)
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.rope, self.gate, self.gate_act = rope, gate, gate_act
        self.num_prefix_tokens = num_prefix_tokens
        self.qkvo = nn.Linear(dim, (4 if gate else 3) * dim, bias=qkv_bias)
        self.lepe = (
            nn.Conv2d(dim, dim, lepe_kernel, padding=lepe_kernel // 2, groups=dim) if lepe_kernel is not None else None
        )
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "..."], grid: tuple[int, int] | None = None, *, rotation: Rotation | None = None
    ) -> Float[Tensor, "..."]:
        """Attend over a map.

        Args:
            x: (batch, tokens, dim), tokens in row-major order after the prefix tokens; or (batch, dim, rows, columns)
                in any memory format.
            grid: rows and columns; needed for (batch, tokens, dim).
            rotation: the table that `rotation` gives, where several layers share one; computed when None.

        Returns:
            The shape of `x`; a four-axis output is in channels_last memory.

        Raises:
            ValueError: the shape of `x` is neither, its batch is empty, the grid is missing, not two numbers, or does
                not have as many places as there are tokens.
        """
        tokens, grid, rotation = self.prepare(x, grid, rotation)
        parts = [self._mix(part, grid, rotation) for part in tokens.split(_images_at_once(tokens))]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.unflatten(1, grid).permute(0, 3, 1, 2) if x.ndim == 4 else y

    def _mix(self, tokens: Tensor, grid: tuple[int, int], rotation: Rotation | None) -> Tensor:
        heads = self.heads(tokens)
        return self.proj(self.combine(self.attend(heads, rotation), heads, grid))

    def prepare(
        self, x: Float[Tensor, "..."], grid: tuple[int, int] | None = None, rotation: Rotation | None = None
    ) -> Prepared:
        """Tokens, grid and rotations of an input of `forward`."""
        tokens, grid = self._tokens(x, grid)
        return Prepared(tokens, grid, self.rotation(grid, tokens) if rotation is None else rotation)

    def attend(self, heads: Heads, rotation: Rotation | None) -> Float[Tensor, "batch heads tokens dim"]:
        """How tokens attend to each other: what a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__} does not define how its tokens attend")

    def rotation(self, grid: tuple[int, int], like: Tensor) -> Rotation | None:
        """Rotations of all tokens on a grid, on the device of `like`; None without `rope`."""
        if not self.rope:
            return None
        dtype = torch.promote_types(like.dtype, torch.float32)
        return axial_rotation(
            grid, self.head_dim, num_prefix_tokens=self.num_prefix_tokens, device=like.device, dtype=dtype
        )

    def heads(self, tokens: Float[Tensor, "batch tokens channels"]) -> Heads:
        """Queries, keys, values and gate of tokens."""
        q, k, v, *gate = self.qkvo(tokens).split(self.dim, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        return Heads(q, k, v, gate[0] if gate else None)

    def combine(
        self, attended: Float[Tensor, "batch heads tokens dim"], heads: Heads, grid: tuple[int, int]
    ) -> Float[Tensor, "batch tokens channels"]:
        """(r + LePE(v)) * o, what the last projection reads."""
        y = attended.transpose(1, 2).flatten(2)
        if self.lepe is not None:
            y = y + self._local(self.lepe, heads.v.transpose(1, 2).flatten(2), grid)
        if heads.gate is None:
            return y
        return y * (heads.gate if self.gate_act is None else _GATES[self.gate_act](heads.gate))

    def _local(self, lepe: nn.Conv2d, v: Tensor, grid: tuple[int, int]) -> Tensor:
        prefix = self.num_prefix_tokens
        image = v[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        local = lepe(image).permute(0, 2, 3, 1).flatten(1, 2)
        return functional.pad(local, (0, 0, prefix, 0)) if prefix else local

    def _tokens(self, x: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, tuple[int, int]]:
        if x.ndim not in (3, 4):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: (batch, tokens, {self.dim}) with a grid, or (batch, {self.dim}, rows, "
                "columns) is accepted"
            )
        if x.shape[0] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}, an empty batch: give at least one image")
        channels = x.shape[1 if x.ndim == 4 else 2]
        if channels != self.dim:
            raise ValueError(f"x has {channels} channels (shape {tuple(x.shape)}), but the layer has dim={self.dim}")
        if x.ndim == 4:
            return self._tokens_of_map(x, grid)
        if grid is None:
            raise ValueError(
                f"x has {x.shape[1]} tokens and no grid: pass grid=(rows, columns), which is never guessed"
            )
        self._check_grid(x.shape[1], grid)
        return x, grid

    def _tokens_of_map(self, x: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, tuple[int, int]]:
        rows, columns = x.shape[2:]
        if self.num_prefix_tokens:
            raise ValueError(
                f"x is a map of {rows} x {columns}, which has no place for the num_prefix_tokens="
                f"{self.num_prefix_tokens} that this layer expects: give (batch, tokens, {self.dim}) and a grid"
            )
        if grid is not None and tuple(grid) != (rows, columns):
            raise ValueError(f"grid={tuple(grid)}, but x is a map of {rows} x {columns}: leave grid out for a map")
        return x.permute(0, 2, 3, 1).flatten(1, 2), (rows, columns)

    def _check_grid(self, tokens: int, grid: tuple[int, int]) -> None:
        if not isinstance(grid, tuple | list) or len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid={grid!r}: (rows, columns) is accepted, two whole numbers of at least 1")
        rows, columns = grid
        prefix = self.num_prefix_tokens
        if prefix + rows * columns == tokens:
            return
        places = f"{rows} x {columns} = {rows * columns} places"
        expected = f"{places} and num_prefix_tokens={prefix}" if prefix else places
        raise ValueError(
            f"x has {tokens} tokens, but grid=({rows}, {columns}) has {expected}: tokens must lie on the grid. "
            "For class or register tokens before the grid build the layer with num_prefix_tokens"
        )


class GatedSoftmaxAttention(GatedAttention):
    """The softmax sibling of RALA that the released networks use in their last two stages; cost grows with N^2.

    Source: `VanillaSelfAttention` of the official code.
    """

    def attend(self, heads: Heads, rotation: Rotation | None) -> Float[Tensor, "batch heads tokens dim"]:
        """softmax(d^-1/2 (R q)(R k)^T) v."""
        q, k, v = heads.q, heads.k, heads.v
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return functional.scaled_dot_product_attention(q, k, v)


def _images_at_once(tokens: Tensor) -> int:
    """As many images as keep a processor's temporaries in its cache, where nothing is kept for a backward pass."""
    images = tokens.shape[0]
    if tokens.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return images
    return max(1, _NUMBERS_IN_CACHE * torch.get_num_threads() // tokens[0].numel())


def _check_options(
    dim: int,
    num_heads: int,
    rope: bool,
    lepe_kernel: int | None,
    gate: bool,
    gate_act: str | None,
    num_prefix_tokens: int,
) -> None:
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}: every head gets the same width")
    if rope and (dim // num_heads) % 4:
        raise ValueError(
            f"dim={dim} with num_heads={num_heads} gives heads of {dim // num_heads} channels, but rotary positions "
            "need a multiple of 4: change one of them, or pass rope=False"
        )
    if lepe_kernel is not None and (lepe_kernel < 1 or lepe_kernel % 2 == 0):
        raise ValueError(f"lepe_kernel={lepe_kernel}: use an odd size, or None for no local position term")
    if gate_act is not None and gate_act not in _GATES:
        raise ValueError(f"gate_act={gate_act!r}: use one of {', '.join(map(repr, _GATES))}, or None for a linear gate")
    if gate_act is not None and not gate:
        raise ValueError(f"gate_act={gate_act!r} has nothing to act on with gate=False: leave one of them out")
    if num_prefix_tokens < 0:
        raise ValueError(f"num_prefix_tokens={num_prefix_tokens}: use a number of at least 0")
