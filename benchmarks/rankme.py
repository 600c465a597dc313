"""RankMe of a matrix and of a stream against `torch.linalg.svdvals`, and what watching it costs.

Embeddings are float32 with a power-law spectrum. Targets: `rankme` at least twice as fast as svdvals on (25600, 512) at
a relative error of 1e-5 or less; an update of the metric at most 1.2 times the product Z^T Z alone, in float64 as the
metric takes it; memory that does not grow with the number of samples; at most 1 % of the time of a training step.

    python benchmarks/rankme.py
"""

from __future__ import annotations

import statistics
import warnings

import torch
from torch import Tensor, nn

from _timing import alternate, show
from fullrank.spectra import RankMe, rankme

SHAPES = ((8192, 256), (8192, 512), (25_600, 512))
BATCH = 1024


def embeddings(samples: int, dim: int) -> Tensor:
    """Gaussian rows with singular values like k^-1/2."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, dim + 1) ** -0.5
    return torch.randn(samples, dim, generator=generator) * scales


def svdvals_rankme(Z: Tensor) -> Tensor:
    """The peer: the definition, on the singular values in the embeddings' own precision."""
    values = torch.linalg.svdvals(Z)
    p = values / values.sum() + 1e-7
    return torch.special.entr(p).sum().exp()


def stream(Z: Tensor) -> Tensor:
    metric = RankMe(max_samples=None)
    for batch in Z.split(BATCH):
        metric.update(batch)
    return metric.compute()


def whole() -> list[list[str]]:
    rows = []
    for shape in SHAPES:
        Z = embeddings(*shape)
        exact = float(svdvals_rankme(Z.double()))
        for name, ours in (("rankme", rankme), (f"RankMe, batches of {BATCH}", stream)):
            pairs = alternate(lambda ours=ours, Z=Z: ours(Z), lambda Z=Z: svdvals_rankme(Z))
            error = abs(float(ours(Z)) / exact - 1)
            rows.append([f"{name} {shape}", *pairs.cells(), f"{error:.1e}"])
    return rows


def updates() -> list[list[str]]:
    """An update against the product that it cannot do without."""
    rows = []
    for dim in (512, 2048):
        Z = embeddings(4096, dim)
        wide, metric = Z.double(), RankMe(max_samples=None)
        pairs = alternate(lambda metric=metric, Z=Z: metric.update(Z), lambda wide=wide: wide.mT @ wide)
        cost = statistics.median(ours / peer for ours, peer in zip(pairs.ours, pairs.peer, strict=True))
        state = sum(t.numel() * t.element_size() for t in (metric.gram, metric.total, metric.count))
        rows.append([f"(4096, {dim})", *pairs.cells()[:2], f"{cost:.2f}x", f"{state / 2**20:.1f} MiB"])
    return rows


def step_overhead() -> list[list[str]]:
    """What adding every step's embeddings, and the value once in a hundred steps, cost beside a training step."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True)
    model, inputs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(32, 64, 384)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()

    with torch.no_grad():
        outputs = model(inputs).mean(1)
    metric = RankMe(max_samples=None, compute_with_cache=False)
    metric.update(embeddings(1024, 384))
    rows = []
    for name, ours, steps in (
        ("update, every step", lambda: metric.update(outputs), 1),
        ("value, every 100 steps", metric.compute, 100),
    ):
        pairs = alternate(ours, step)
        shares = [ours / peer / steps for ours, peer in zip(pairs.ours, pairs.peer, strict=True)]
        spread = f"{min(shares):.2%} to {max(shares):.2%}"
        rows.append([name, *pairs.cells()[:2], f"{statistics.median(shares):.2%}", spread])
    return rows


def main() -> None:
    warnings.filterwarnings("ignore", message=".*common offset")
    threads = torch.get_num_threads()
    columns = ["", "ours", "svdvals float32", "faster", "min-max", "error"]
    show(f"RankMe against svdvals, {threads} threads (target 2x, error 1e-5)", columns, whole())
    show("one update (target 1.2x)", ["batch", "update", "Z^T Z float64", "cost", "state"], updates())
    columns = ["32 rows of 384", "metric", "step", "share", "min to max"]
    show("beside a step of three transformer layers (target 1 %)", columns, step_overhead())


if __name__ == "__main__":
    main()
