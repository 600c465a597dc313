"""Attention layers of low rank beside their peers, one function per comparison.

RALA: batch 8, float32, one thread, C = 64, one head, inference. The peers are the official formulation, written down
formula by formula, the same block with the N x N softmax written out, and with `scaled_dot_product_attention`. Targets
at N = 3136: at most 0.7 of the official formulation's time, 0.2 of the naive softmax block's, 0.5 of SDPA's; time must
grow with the number of tokens by an exponent of at most 1.15.

    python benchmarks/attention.py
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from _timing import alternate, seconds, show, timed
from fullrank.nn import GatedSoftmaxAttention, RankAugmentedLinearAttention

SIDES = (28, 42, 56, 84, 112)  # N = 784 .. 12,544
QUADRATIC_UP_TO = 56  # the naive block holds 8 N^2 numbers
BATCH, DIM = 8, 64


class OfficialRala(nn.Module):
    """Every step of the official block by itself, on maps: about twelve passes over tensors of the input's size."""

    def __init__(self, layer: RankAugmentedLinearAttention | GatedSoftmaxAttention) -> None:
        super().__init__()
        dim = layer.dim
        self.dim, self.d = dim, layer.head_dim
        self.qkvo, self.proj = nn.Conv2d(dim, 4 * dim, 1), nn.Conv2d(dim, dim, 1)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        for name, parameter in self.named_parameters():
            parameter.data.copy_(layer.get_parameter(name).data.reshape(parameter.shape))
        self.theta = (1 / 10_000 ** torch.linspace(0, 1, self.d // 4)).repeat_interleave(2)

    def table(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine by token and feature."""
        by_row = (torch.arange(rows)[:, None] * self.theta)[:, None].expand(rows, columns, -1)
        by_column = (torch.arange(columns)[:, None] * self.theta)[None].expand(rows, columns, -1)
        angle = torch.cat([by_row, by_column], -1).flatten(0, 1)
        return angle.cos(), angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        """The block on a map."""
        batch, C, rows, columns = x.shape
        qkv, o = self.qkvo(x).split([3 * C, C], dim=1)
        lepe = self.lepe(qkv[:, 2 * C :])
        q, k, v = (t.reshape(batch, C // self.d, self.d, rows * columns).mT for t in qkv.chunk(3, dim=1))
        r = self.attend(q, k, v, self.table(rows, columns))
        return self.proj((r.mT.reshape(batch, C, rows, columns) + lepe) * o)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Weights, normaliser, rotations and the two products."""
        N = q.shape[-2]
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        mean = q.mean(-2, keepdim=True)
        alpha = N * torch.softmax(mean @ k.mT * self.d**-0.5, dim=-1)
        k = k * alpha.mT
        z = 1 / (q @ k.mean(-2, keepdim=True).mT + 1e-6)
        KV = (turned(k, table) * N**-0.5).mT @ (v * N**-0.5)
        return turned(q, table) @ KV * z


class NaiveSoftmax(OfficialRala):
    """The softmax block with the matrix of tokens by tokens written out."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """softmax(q k^T) v."""
        return torch.softmax(turned(q, table) @ turned(k, table).mT * self.d**-0.5, dim=-1) @ v


def turned(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = table
    return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2) * sin


def rala_and_peers() -> tuple[nn.Module, dict[str, nn.Module]]:
    torch.manual_seed(0)
    rala, softmax = RankAugmentedLinearAttention(DIM, 1).eval(), GatedSoftmaxAttention(DIM, 1).eval()
    return rala, {"official": OfficialRala(rala), "naive softmax": NaiveSoftmax(softmax), "SDPA": softmax}


def rala_ratios() -> None:
    """RALA against every peer at 224 px of the first and second stage, the outputs compared where they should agree."""
    rala, peers = rala_and_peers()
    rows = []
    for side in (28, 56):
        x = torch.randn(BATCH, DIM, side, side)
        error = float((rala(x) - peers["official"](x)).abs().max())
        for name, peer in peers.items():
            pairs = alternate(lambda x=x: rala(x), lambda peer=peer, x=x: peer(x), pairs=7)
            share = statistics.median(ours / theirs for ours, theirs in zip(pairs.ours, pairs.peer, strict=True))
            agrees = f"{error:.0e}" if name == "official" else ""
            rows.append([f"N = {side**2}, {name}", *pairs.cells(), f"{share:.2f}", agrees])
    columns = ["", "RALA", "peer", "faster", "min-max", "ours / peer", "difference"]
    show("RALA block (targets at N = 3136: 0.7 official, 0.2 naive softmax, 0.5 SDPA)", columns, rows)


def rala_growth() -> None:
    """Time against the number of tokens: least of several runs, and the exponent fitted through them."""
    rala, peers = rala_and_peers()
    blocks = {"RALA": rala, **peers}
    rows = []
    for name, block in blocks.items():
        sides = [side for side in SIDES if name != "naive softmax" or side <= QUADRATIC_UP_TO]
        taken = [least(lambda block=block, side=side: block(torch.randn(1, DIM, side, side))) for side in sides]
        slope = exponent([side**2 for side in sides], taken)
        rows.append([name, *(seconds(value) for value in taken), *[""] * (len(SIDES) - len(taken)), f"{slope:.2f}"])
    columns = ["batch 1", *(f"N = {side**2}" for side in SIDES), "exponent"]
    show("growth with the number of tokens (target for RALA: at most 1.15)", columns, rows)


def least(call: Callable[[], object], runs: int = 5) -> float:
    call()
    return min(timed(call) for _ in range(runs))


def exponent(numbers: list[int], taken: list[float]) -> float:
    """Slope of log time over log number."""
    return statistics.linear_regression([math.log(n) for n in numbers], [math.log(t) for t in taken]).slope


def main() -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        rala_ratios()
        rala_growth()


if __name__ == "__main__":
    main()
