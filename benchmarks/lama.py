"""LAMA pooling against a plain formulation and against `torch.nn.MultiheadAttention`, and its time against the length.

The plain formulation is that of the known PyTorch port, formula by formula: the mean of masked inputs as context, the
two products, tanh, the norm over the heads, a softmax with -1e9 at padding, the weighted sum. Targets: at most 0.8
times its time on (64, 200, 256) with 16 heads and the same options; at most 0.25 times that of multi-head attention
with as many heads at 512 words; at most 2.1 times as long for twice as many words.

    python benchmarks/lama.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from _timing import alternate, show, timed
from fullrank.nn import LAMA

LENGTHS = (128, 256, 512, 1024, 2048)


def plain(H: Tensor, mask: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    """The peer: the formulas as the port has them."""
    weights = mask.unsqueeze(-1).to(H.dtype)
    c = (H * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    g = torch.tanh((c @ P).unsqueeze(1) * (H @ Q))
    f = g / g.norm(dim=-1, keepdim=True)
    A = f.transpose(1, 2).masked_fill(~mask.unsqueeze(1), -1e9).softmax(-1)
    return A @ H


def states(batch: int, tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """States, and a mask of texts between half and the full length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=generator)
    return torch.randn(batch, tokens, dim, generator=generator), torch.arange(tokens) < lengths


def step(call: Callable[[Tensor], Tensor], H: Tensor) -> Callable[[], object]:
    """Forward and backward."""
    states = H.clone().requires_grad_()

    def run() -> None:
        states.grad = None
        call(states).square().mean().backward()

    return run


def inference(call: Callable[[Tensor], Tensor], H: Tensor) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.no_grad():
            return call(H)

    return run


def in_a_row(run: Callable[[], object], calls: int = 10) -> Callable[[], object]:
    """Several calls as one: alone, a call would begin with the caches that the other side left."""

    def runs() -> None:
        for _ in range(calls):
            run()

    return runs


def against_plain() -> list[list[str]]:
    rows = []
    H, mask = states(64, 200, 256)
    layer = LAMA(256, 16, project=False, context="mean", on_empty="zeros")
    peer = lambda H: plain(H, mask, layer.P, layer.Q)  # noqa: E731
    difference = float((layer(H, mask) - peer(H)).detach().abs().max())
    for name, form in (("forward", inference), ("forward and backward", step)):
        ours, theirs = (in_a_row(form(call, H)) for call in (lambda H: layer(H, mask), peer))
        pairs = alternate(ours, theirs, pairs=21)
        share = statistics.median(1 / ratio for ratio in pairs.ratios)
        rows.append([name, *pairs.cells(), f"{share:.2f}", f"{difference:.0e}"])
    return rows


def against_multi_head() -> list[list[str]]:
    rows = []
    H, mask = states(16, 512, 256)
    attention = nn.MultiheadAttention(256, 16, batch_first=True)
    peer = lambda H: attention(H, H, H, key_padding_mask=~mask, need_weights=False)[0].mean(1)  # noqa: E731
    for option, layer in (
        ("LAMA", LAMA(256, 16)),
        ("without token network", LAMA(256, 16, project=False)),
    ):
        for name, form in (("forward", inference), ("forward and backward", step)):
            pairs = alternate(form(lambda H, layer=layer: layer(H, mask), H), form(peer, H), pairs=9)
            share = statistics.median(1 / ratio for ratio in pairs.ratios)
            rows.append([f"{option}, {name}", *pairs.cells(), f"{share:.2f}"])
    return rows


def against_length() -> list[list[str]]:
    """Milliseconds of a forward pass by length, the least of nine, and the exponent of a power law through them."""
    layer, milliseconds = LAMA(128, 8), []
    for tokens in LENGTHS:
        H, mask = states(16, tokens, 128)
        run = inference(lambda H, mask=mask: layer(H, mask), H)
        run()
        milliseconds.append(1000 * min(timed(run) for _ in range(9)))
    growth = ["", *(f"{b / a:.2f}x" for a, b in pairwise(milliseconds))]
    exponent = float(np.polyfit(np.log(LENGTHS), np.log(milliseconds), 1)[0])
    rows = [[str(T), f"{ms:.3g} ms", more] for T, ms, more in zip(LENGTHS, milliseconds, growth, strict=True)]
    return [*rows, ["exponent", f"{exponent:.2f}", ""]]


def main() -> None:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    columns = ["", "ours", "peer", "faster", "min-max", "share of the peer's time"]
    title = f"against the plain formulation, (64, 200, 256), 16 heads, {threads} threads, ten calls (target 0.8)"
    show(title, [*columns, "difference"], against_plain())
    show("against nn.MultiheadAttention, (16, 512, 256), 16 heads (target 0.25)", columns, against_multi_head())
    show("words (target 2.1x)", ["forward pass", "time", "growth"], against_length())


if __name__ == "__main__":
    main()
