"""What factorising costs and saves: decomposition, the Fisher pass, and the factorised layer, each beside its peer.

Decomposition: the weighted SVD by way of the Gram matrix against a full `torch.linalg.svd` in float64, at equal
weighted error (target 3 to 5 times faster); a randomised SVD against `torch.svd_lowrank` as the library Greenformers
calls it, by its error. The Fisher pass: per-sample sums of squared gradients of every linear layer against a plain
backward pass over the same examples (target at most 1.3 times the time). The layer: two factors at half of the
parameters against the dense layer, 768 x 3072 (target 1.6 times faster from 2048 rows on).

    python benchmarks/factorisation.py
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from _timing import alternate, show
from fullrank.compress import collect_statistics, select_layers
from fullrank.linalg import svd, weighted_svd
from fullrank.nn import LowRankLinear

SHAPES = ((384, 384), (768, 768), (3072, 768))
Method = Literal["randomized", "krylov"]
METHODS: tuple[Method, ...] = ("randomized", "krylov")
COLUMNS = ["", "ours", "peer", "faster", "min-max"]


def weight(rows: int, columns: int) -> Tensor:
    """A random weight whose spectrum decays like that of a trained one."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q
    return left * torch.arange(1, columns + 1) ** -0.5 @ right


def decomposition() -> list[list[str]]:
    rows = []
    for shape in SHAPES:
        W, scale = weight(*shape), torch.rand(shape[1], generator=torch.Generator().manual_seed(1)) + 0.1
        rank = shape[0] * shape[1] // (2 * sum(shape))

        def full(W: Tensor = W, scale: Tensor = scale, rank: int = rank) -> Tensor:
            U, S, Vh = torch.linalg.svd(W.double() * scale, full_matrices=False)
            return (U[:, :rank] * S[:rank]) @ (Vh[:rank] / scale)

        def gram(W: Tensor = W, scale: Tensor = scale, rank: int = rank) -> Tensor:
            return weighted_svd(W, rank, right=scale).reconstruct()

        lost = [float(((W - product()) * scale).norm()) for product in (gram, full)]
        pairs = alternate(gram, full, pairs=3)
        rows.append([f"{shape[0]} x {shape[1]}", *pairs.cells(), f"{lost[0] / lost[1] - 1:.1e}"])
    return rows


def random_directions() -> list[list[str]]:
    rows = []
    for shape, method in product(SHAPES[1:], METHODS):
        W, rank = weight(*shape), 64

        def ours(W: Tensor = W, rank: int = rank, method: Method = method) -> Tensor:
            return svd(W, rank, method).reconstruct()

        def library(W: Tensor = W, rank: int = rank) -> Tensor:
            U, S, V = torch.svd_lowrank(W, rank, niter=10)
            return (U * S) @ V.mT

        best = float(torch.linalg.svdvals(W)[rank:].norm())
        excess = [f"{float((W - found()).norm()) / best - 1:.1e}" for found in (ours, library)]
        name = f"{shape[0]} x {shape[1]}, rank {rank}, {method}"
        rows.append([name, *alternate(ours, library, pairs=3).cells(), *excess])
    return rows


def fisher_pass() -> list[str]:
    config = BertConfig(
        vocab_size=2000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = BertForSequenceClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(2000, (8, 128), generator=generator),
            "labels": torch.randint(2, (8,), generator=generator),
        }
        for _ in range(2)
    ]
    layers = select_layers(model, exclude_modules=["classifier"]).layers

    def ours() -> None:
        collect_statistics(model, batches, layers, ("fisher_in",))

    def plain() -> None:
        for batch in batches:
            model(**batch).loss.backward()
        model.zero_grad()

    return ["MiniLM shape, 8 x 128 tokens", *alternate(ours, plain, pairs=3).cells()]


@torch.no_grad()
def layer() -> list[list[str]]:
    rows = []
    dense = nn.Linear(768, 3072)
    half = LowRankLinear.from_linear(dense, 307)
    for count in (1, 64, 2048, 4096):
        x = torch.randn(count, 768)
        pairs = alternate(lambda x=x: half(x), lambda x=x: dense(x), pairs=15)
        rows.append([f"{count} rows", *pairs.cells()])
    return rows


def main() -> None:
    threads = torch.get_num_threads()
    show(
        f"weighted SVD against a full one in float64, {threads} threads (target 3x)",
        [*COLUMNS, "weighted error above"],
        decomposition(),
    )
    show(
        "SVD from random directions against torch.svd_lowrank, niter=10, no oversampling",
        [*COLUMNS, "error above best", "peer's"],
        random_directions(),
    )
    show("Fisher pass against a plain backward pass (target 0.77x)", COLUMNS, [fisher_pass()])
    show("768 to 3072 at half of the parameters against dense (target 1.6x from 2048 rows)", COLUMNS, layer())


if __name__ == "__main__":
    main()
