"""X-LoRA at one layer: all experts in two matrix products.

    y = W0 x + b0 + g sum_k a_k lambda_k B_k A_k x  =  W0 x + b0 + ((A x) * (g lambda E)) B^T

A stacks the A_k, B the B_k; E is n x sum r, with a_k in the columns of expert k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, linear

from fullrank.linalg import State, state_of


class Scalings:
    """lambda of one pass through the model, times g.

    Args:
        values: (batch, tokens, experts), or (batch, tokens, layers, experts).
        constant: the same for every token, (1, 1, experts).
    """

    def __init__(self, values: Tensor, constant: bool = False) -> None:
        self.values = values
        self.constant = constant
        self._factors: dict[tuple, Tensor] = {}

    def afresh(self, values: Tensor | None = None) -> Scalings:
        """The same, or other values in their place, with nothing computed from them yet."""
        return Scalings(self.values if values is None else values, self.constant)

    def factors(self, layer: int, stack: Stack, inner: Tensor, name: str) -> Tensor:
        """lambda E: the factor of every row of the layer's stacked A, in the shape of its inner vectors."""
        if self.values.dim() == 4:
            return self.align(self.values[:, :, layer].to(stack.E.device, stack.E.dtype) @ stack.E, inner, name)
        # Layers whose experts have the same ranks and scales, and that see the same tokens, share the product.
        key = (stack.kind, inner.shape)
        factors = self._factors.get(key)
        if factors is None:
            product = self.values.to(stack.E.device, stack.E.dtype) @ stack.E
            factors = self._factors[key] = self.align(product, inner, name)
        return factors

    def align(self, factors: Tensor, inner: Tensor, name: str) -> Tensor:
        """The factors in the shape of the layer's inner vectors, (batch, tokens, sum r) or (batch tokens, sum r)."""
        if self.constant:
            return factors[0] if inner.dim() == 2 else factors
        batch, seen = factors.shape[:2]
        if inner.dim() == 2 and len(inner) == batch * seen:
            return factors.flatten(0, 1)
        if inner.dim() == 3 and len(inner) in (1, batch) and inner.shape[1] <= seen:
            # A layer before the model prepends tokens sees only the last ones.
            return factors[:, seen - inner.shape[1] :]
        raise ValueError(
            f"X-LoRA scales tokens, and layer {name!r} does not see the {batch} x {seen} tokens of the last hidden "
            f"state: its input has the shape {tuple(inner.shape[:-1])} without features. Leave the layer out of the "
            "experts' target_modules"
        )


class CurrentPass:
    """What the layers of a model apply now.

    Attributes:
        scalings: None is the base model.
        compiling: whether the model is being compiled; asking costs more than a small layer does.
        steady: names a span of time in which no expert changes; None outside one.
    """

    def __init__(self) -> None:
        self.scalings: Scalings | None = None
        self.compiling = False
        self.steady: object | None = None

    @contextmanager
    def keep_steady(self) -> Iterator[None]:
        """Promise that no expert changes inside the context: looking for changes costs more than a small layer does."""
        before, self.steady = self.steady, object()
        try:
            yield
        finally:
            self.steady = before

    @contextmanager
    def use(self, scalings: Scalings | None) -> Iterator[None]:
        """Apply these scalings inside the context."""
        before, self.scalings = self.scalings, scalings
        try:
            yield
        finally:
            self.scalings = before


class Stack(NamedTuple):
    """The experts of one layer, side by side.

    Attributes:
        A: (sum r, in); of a convolution (sum r, in, height, width).
        B: (out, sum r).
        E: (experts, sum r).
        experts: (index, rank, scale) of those that the layer has.
        kind: experts, device and dtype; stacks of the same kind have the same E.
    """

    A: Tensor
    B: Tensor
    E: Tensor
    experts: tuple[tuple[int, int, float], ...]
    kind: tuple


class MixedLayer:
    """Takes the place of a LoRA layer's forward pass: the base layer, then every expert in the measure of the token.

    The stack of frozen experts is kept, at the price of a second copy of them, and made again when one of them changes.

    Args:
        layer: the LoRA layer.
        experts: names of all experts, in the gate's order.
        index: number of the layer among the adapted ones.
        name: name of the layer in the base model.
        current: the model's current pass.
    """

    def __init__(
        self, layer: lora.LoraLayer, experts: Sequence[str], index: int, name: str, current: CurrentPass
    ) -> None:
        self.layer: Any = layer
        self.index, self.name, self.current = index, name, current
        self.count = len(experts)
        self.embedding = isinstance(layer, lora.Embedding)
        down = self.layer.lora_embedding_A if self.embedding else self.layer.lora_A
        self.experts = [(number, expert) for number, expert in enumerate(experts) if expert in down]
        self._factors = [] if self.embedding else [(down[e], self.layer.lora_B[e]) for _, e in self.experts]
        self._kept: tuple[tuple[State | None, list[float]], Stack] | None = None
        self._seen: object | None = None  # the steady span in which the stack was last looked at
        self._lean = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output in the current pass."""
        y = self.layer.base_layer(x, *args, **kwargs)
        scalings = self.current.scalings
        if scalings is None:
            return y
        stack = self.stack()
        if self._lean:
            return self._added(x, y, stack, scalings)
        if self.embedding:
            return self._embedding(x, y, stack, scalings)
        x = x if torch.is_autocast_enabled(x.device.type) else x.to(stack.A.dtype)
        if stack.A.dim() > 2:
            return self._convolution(x, y, stack, scalings)
        scaled = self._scale(self._down(linear, x, stack), stack, scalings)
        if scaled.dtype != y.dtype or stack.B.dtype != y.dtype:
            return y + linear(scaled, stack.B).to(y.dtype)
        return torch.addmm(y.flatten(0, -2), scaled.flatten(0, -2), stack.B.mT).view_as(y)

    def requires_grad_(self, requires_grad: bool) -> None:
        """Train the layer's experts, or freeze them."""
        for pair in self._pairs():
            for weight in pair:
                weight.requires_grad_(requires_grad)

    def stack(self) -> Stack:
        """The experts side by side; kept as long as none of them changes."""
        if self._kept is not None and self._seen is self.current.steady is not None and not self.current.compiling:
            return self._kept[1]
        self._lean = False
        pairs = self._pairs()
        scales = [self.layer.scaling[expert] for _, expert in self.experts]
        learning = torch.is_grad_enabled() and any(weight.requires_grad for pair in pairs for weight in pair)
        if learning or self.current.compiling:
            return self._stacked(pairs, scales)
        weights = state_of(*(weight for pair in pairs for weight in pair))
        made_from = (weights, scales)
        if weights is None or self._kept is None or self._kept[0] != made_from:
            with torch.no_grad(), torch.inference_mode(False):
                self._kept = (made_from, self._stacked(pairs, scales))
        self._seen = self.current.steady
        self._lean = self._seen is not None and self._is_plain(self._kept[1])
        return self._kept[1]

    def _is_plain(self, stack: Stack) -> bool:
        """Whether a steady span of evaluation can do without looking at types again."""
        base = self.layer.base_layer
        return (
            type(base) is nn.Linear
            and not (base._forward_hooks or base._forward_pre_hooks or self.layer.training or torch.is_grad_enabled())
            and not torch.is_autocast_enabled(stack.A.device.type)
            and base.weight.dtype == stack.A.dtype == stack.B.dtype
        )

    def _added(self, x: Tensor, y: Tensor, stack: Stack, scalings: Scalings) -> Tensor:
        """y, which nobody else has seen yet, plus the experts' part; a token at a time, every call counts."""
        inner = linear(x, stack.A)
        inner.mul_(scalings.factors(self.index, stack, inner, self.name))
        y.view(-1, y.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), stack.B.mT)
        return y

    def _scale(self, inner: Tensor, stack: Stack, scalings: Scalings) -> Tensor:
        return inner * scalings.factors(self.index, stack, inner, self.name)

    def _down(self, product: Callable[[Tensor, Tensor], Tensor], x: Tensor, stack: Stack) -> Tensor:
        """A x. Dropout acts on x, before A and before lambda, and is the same for experts with the same probability."""
        if not self.layer.training:
            return product(x, stack.A)
        rates = [getattr(self.layer.lora_dropout[expert], "p", 0.0) for _, expert in self.experts]
        if len(set(rates)) == 1:
            return product(dropout(x, rates[0]), stack.A)
        parts = stack.A.split([rank for _, rank, _ in stack.experts])
        return torch.cat([product(dropout(x, rate), A) for rate, A in zip(rates, parts, strict=True)], dim=-1)

    def _embedding(self, x: Tensor, y: Tensor, stack: Stack, scalings: Scalings) -> Tensor:
        """What was looked up is scaled, never the token's number."""
        looked_up = self.layer._embed(x, stack.A.mT)
        change = linear(self._scale(looked_up, stack, scalings), stack.B)
        factor = self.layer._get_embed_scale()  # Gemma scales its embeddings
        return y + (change if factor is None else change * factor).to(y.dtype)

    def _convolution(self, x: Tensor, y: Tensor, stack: Stack, scalings: Scalings) -> Tensor:
        """Positions of the output, row by row, are the tokens."""
        first = self.layer.lora_A[self.experts[0][1]]

        def product(x: Tensor, A: Tensor) -> Tensor:
            return conv2d(x, A, None, first.stride, first.padding).flatten(2).mT

        change = linear(self._scale(self._down(product, x, stack), stack, scalings), stack.B)
        return y + change.mT.unflatten(2, y.shape[2:]).to(y.dtype)

    def _stacked(self, pairs: list[tuple[Tensor, Tensor]], scales: list[float]) -> Stack:
        A = torch.cat([A for A, _ in pairs])
        B = torch.cat([B.flatten(1) for _, B in pairs], dim=1)
        experts = tuple(
            (number, len(A), float(scale))
            for (number, _), (A, _), scale in zip(self.experts, pairs, scales, strict=True)
        )
        E, start = torch.zeros(self.count, len(A)), 0
        for number, rank, scale in experts:
            E[number, start : start + rank] = scale
            start += rank
        return Stack(A, B, E.to(A.device, A.dtype), experts, (experts, A.device, A.dtype))

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(A_k, B_k) of every expert of the layer."""
        if not self.embedding:
            return [(A.weight, B.weight) for A, B in self._factors]
        down, up = self.layer.lora_embedding_A, self.layer.lora_embedding_B
        return [(down[expert], up[expert]) for _, expert in self.experts]
