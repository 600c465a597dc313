"""Robust PCA against a plain inexact ALM, and RPCANet++ against the published formulation of the same network.

The plain solver takes `torch.linalg.svd` of every iterate. The published formulation convolves 17 x 17 directly and
calls every gate's convolution by itself; both sides hold the same weights. Targets, float32 on two threads, one image
of 200 x 200, six stages of 32 channels: at most 0.6 times its time in eval, at most 0.8 times in a training step, and
never slower with the frequency domain off.

    python benchmarks/robust_pca.py
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from _timing import Pairs, alternate, seconds, show
from fullrank.linalg import robust_pca
from fullrank.nn import ConvolutionalLSTM, LargeKernelConv2d, Memory, RPCALoss, RPCANetPP

SIZES = ((200, 10), (400, 20), (800, 20))
IMAGE = 200
TOLERANCE = 1e-6


def plain_ialm(M: Tensor) -> Tensor:
    """The peer: the algorithm as it is written, with the whole SVD of every iterate."""
    lam = max(M.shape) ** -0.5
    norm = torch.linalg.svd(M, full_matrices=False).S[0]
    Y = M / torch.maximum(norm, M.abs().max() / lam)
    mu, S = 1.25 / norm, torch.zeros_like(M)
    ceiling = 1e7 * mu
    while True:
        U, values, Vh = torch.linalg.svd(M - S + Y / mu, full_matrices=False)
        L = (U * (values - 1 / mu).clamp_min(0)) @ Vh
        rest = M - L + Y / mu
        S = rest.sign() * (rest.abs() - lam / mu).clamp_min(0)
        rest = M - L - S
        if rest.norm() <= TOLERANCE * M.norm():
            return L
        Y = Y + mu * rest
        mu = torch.minimum(1.5 * mu, ceiling)


def solvers() -> list[list[str]]:
    rows = []
    for size, rank in SIZES:
        generator = torch.Generator().manual_seed(0)
        L = torch.randn(size, rank, generator=generator) @ torch.randn(rank, size, generator=generator)
        errors = 10 * torch.randn(size, size, generator=generator)
        M = L + errors * (torch.rand(size, size, generator=generator) < 0.05)
        for method in ("ialm", "randomized"):
            pairs = alternate(
                lambda method=method, M=M: robust_pca(M, method=method, tolerance=TOLERANCE),  # pyright: ignore[reportArgumentType]
                lambda M=M: plain_ialm(M),
                pairs=3,
            )
            found = robust_pca(M, method=method, tolerance=TOLERANCE).low_rank  # pyright: ignore[reportArgumentType]
            rows.append(
                [f"{method}, {size}, rank {rank}", *pairs.cells(), f"{float((found - L).norm() / L.norm()):.0e}"]
            )
    return rows


class SingleGates(nn.Module):
    """The LSTM with a convolution for every gate."""

    def __init__(self, fused: ConvolutionalLSTM) -> None:
        super().__init__()
        self.features = nn.ModuleList(_split(fused.features))
        self.memory = nn.ModuleList(_split(fused.memory) if fused.memory is not None else [])

    def forward(self, f: Tensor, memory: Memory | None) -> Memory:
        """The new memory."""
        if memory is None:
            i, o, j = (conv(f) for conv in self.features)
            s = torch.sigmoid(i) * torch.tanh(j)
            return Memory(torch.sigmoid(o) * s, s)
        i, o, j, forget = (x(f) + h(memory.h) for x, h in zip(self.features, self.memory, strict=True))
        s = torch.sigmoid(forget) * memory.s + torch.sigmoid(i) * torch.tanh(j)
        return Memory(torch.sigmoid(o) * torch.tanh(s), s)


def _split(fused: nn.Conv2d) -> list[nn.Conv2d]:
    size = fused.in_channels
    assert fused.bias is not None
    convolutions = []
    for weight, bias in zip(fused.weight.split(size), fused.bias.split(size), strict=True):
        conv = nn.Conv2d(size, size, 3, padding=1)
        conv.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        convolutions.append(conv)
    return convolutions


def published(model: RPCANetPP) -> RPCANetPP:
    """The same network in the published formulation."""
    peer = direct(model)
    for stage in peer.stages:
        stage.background.lstm = SingleGates(stage.background.lstm)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    return peer


def direct(model: RPCANetPP) -> RPCANetPP:
    """Ours without the frequency domain."""
    peer = copy.deepcopy(model)
    for module in peer.modules():
        if isinstance(module, LargeKernelConv2d):
            module.method = "direct"
    return peer


def networks() -> list[list[str]]:
    torch.manual_seed(0)
    ours = RPCANetPP(freeze_squeeze_bn=True).eval()
    peer = published(ours)
    plain = direct(ours)
    x = torch.rand(1, 1, IMAGE, IMAGE)
    with torch.no_grad():
        difference = float((ours(x).object_logits - peer(x).object_logits).abs().max())
        eval_pairs = alternate(lambda: ours(x), lambda: peer(x), pairs=3)
        direct_pairs = alternate(lambda: plain(x), lambda: peer(x), pairs=3)
    rows = [_row("eval", eval_pairs, difference), _row("eval, frequency domain off", direct_pairs, 0.0)]
    pairs = alternate(_training_step(ours, x), _training_step(peer, x), pairs=3)
    return [*rows, _row("training step", pairs, difference)]


def _training_step(model: RPCANetPP, x: Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    loss, mask = RPCALoss(), (x > 0.9).float()

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), x, mask).backward()
        optimizer.step()

    return step


def _row(name: str, pairs: Pairs, difference: float) -> list[str]:
    shares = [ours / peer for ours, peer in zip(pairs.ours, pairs.peer, strict=True)]
    times = (seconds(statistics.median(side)) for side in (pairs.ours, pairs.peer))
    span = f"{min(shares):.2f}-{max(shares):.2f}"
    return [name, *times, f"{statistics.median(shares):.2f}", span, f"{difference:.0e}"]


def main() -> None:
    columns = ["matrix", "ours", "plain IALM", "faster", "min-max", "error of L"]
    show(f"robust PCA, {torch.get_num_threads()} threads", columns, solvers())
    columns = [f"1 x {IMAGE} x {IMAGE}, 6 stages", "ours", "published", "share", "min-max", "difference"]
    show("RPCANet++ (targets: eval 0.6, training 0.8, off 1.0)", columns, networks())


if __name__ == "__main__":
    main()
