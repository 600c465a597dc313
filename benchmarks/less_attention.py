"""LESS attention and block against the official formulation and against joint attention over all tokens.

The peer is the method as it is written: keys and values of every token for the pooling, the grid of Kronecker products,
then the output layer; with the same weights it gives the same numbers. Float32, D 192, 6 heads, N 64, C 32. Targets:
attention at most 0.6 times the peer's time, the whole block at most 0.9 times, joint attention at least 5 times ours,
peak memory not above the peer's, and at most 2.2 times the time for twice the channels (64 to 128).

    python benchmarks/less_attention.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from _timing import alternate, show
from fullrank.nn import LESSAttention, LESSBlock
from fullrank.nn.less_attention import AttentionPool

DIM, HEADS, PATCHES, CHANNELS = 192, 6, 64, 32


def written_pool(pool: AttentionPool, rows: Tensor) -> Tensor:
    """Keys and values of all tokens, one query a row."""
    batch, count, tokens, dim = rows.shape
    q = pool.query(rows[:, :, :1]).reshape(batch * count, 1, pool.num_heads, -1).transpose(1, 2)
    k, v = pool.key_value(rows).reshape(batch * count, tokens, 2, pool.num_heads, -1).permute(2, 0, 3, 1, 4)
    means = nn.functional.scaled_dot_product_attention(q, k, v)
    return pool.output(means.transpose(1, 2).reshape(batch, count, dim))


def written_attention(layer: LESSAttention, grid: Tensor) -> Tensor:
    """The formulas one by one, with the weights of ours."""
    pooling = layer.pooling
    weights, biases = (p.split(pooling.widths) for p in (pooling.project.weight, pooling.project.bias))
    Xc, Xs = (nn.functional.linear(grid, W, b) for W, b in zip(weights, biases, strict=True))
    Xs = Xs.transpose(1, 2)
    z_c = Xc[:, :, 0] + written_pool(pooling.channel_pool, pooling.channel_norm(Xc))
    z_s = Xs[:, :, 0] + written_pool(pooling.spatial_pool, pooling.spatial_norm(Xs))
    U_c, U_s = layer.channel_branch(z_c), layer.spatial_branch(z_s)
    kronecker = torch.einsum("zrhca,zrhnb->zcnhab", U_c, U_s).flatten(3)
    return layer.output(kronecker)


def written_block(block: LESSBlock, grid: Tensor) -> Tensor:
    assert block.scale1 is not None
    assert block.scale2 is not None
    grid = grid + block.scale1 * written_attention(block.attention, block.norm1(grid))
    return grid + block.scale2 * block.down(nn.functional.gelu(block.up(block.norm2(grid))))


def grid_of(channels: int) -> Tensor:
    return torch.randn(1, channels + 1, PATCHES + 1, DIM, generator=torch.Generator().manual_seed(0))


def peak(call: Callable[[], object]) -> int:
    """The most bytes that tensors of a call held at one time, from the profiler's record of what it allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = call()
    del kept
    held, most = 0, 0
    events = record.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        most = max(most, held)
    return most


def step(call: Callable[[Tensor], Tensor], grid: Tensor) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(call(grid).sum(), grid)


def rows() -> list[list[str]]:
    torch.manual_seed(0)
    block = LESSBlock(DIM, HEADS).eval().requires_grad_(False)
    attention, grid = block.attention, grid_of(CHANNELS)
    joint = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, 0.0, "gelu", batch_first=True, norm_first=True)
    joint.eval().requires_grad_(False)
    torch.testing.assert_close(block(grid), written_block(block, grid), rtol=1e-4, atol=1e-4)
    pairs: list[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str]] = [
        ("attention", attention, lambda x: written_attention(attention, x), "0.6"),
        ("block", block, lambda x: written_block(block, x), "0.9"),
        ("block, peer: joint attention", block, lambda x: joint(x.flatten(1, 2)), "0.2"),
    ]
    table = []
    for name, ours, peer, target in pairs:
        for mode in ("forward", "forward and backward"):
            x = grid.clone().requires_grad_(mode != "forward")
            calls = [(lambda f=f, x=x: f(x)) if mode == "forward" else step(f, x) for f in (ours, peer)]
            times = alternate(calls[0], calls[1], pairs=15)
            share = statistics.median(1 / ratio for ratio in times.ratios)
            memory = [peak(call) / 2**20 for call in calls]
            table.append([f"{name}, {mode}", *times.cells(), f"{share:.2f} ({target})", *(f"{m:.1f}" for m in memory)])
    return table


def growth() -> list[list[str]]:
    """Twice the channels."""
    block = LESSBlock(DIM, HEADS).eval().requires_grad_(False)
    small, large = grid_of(64), grid_of(128)
    times = alternate(lambda: block(small), lambda: block(large), pairs=15)
    return [["block, forward", *times.cells()]]


def main() -> None:
    threads = torch.get_num_threads()
    columns = ["", "ours", "peer", "faster", "min-max", "ours/peer (target)", "peak MiB", "peer MiB"]
    show(f"D {DIM}, N {PATCHES}, C {CHANNELS}, float32, {threads} threads", columns, rows())
    show("time for C = 64 and C = 128 (target 2.2)", ["", "C = 64", "C = 128", "ratio", "min-max"], growth())


if __name__ == "__main__":
    main()
