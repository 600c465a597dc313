"""Assigning and clustering subvectors against torch.cdist and scikit-learn, and what decoding a weight costs.

The largest layer of ResNet-18 with m = 18 has 131,072 subvectors; k = 256, d = 9, float32, one thread. Targets: 25
Lloyd steps in less than 5 s; decoding a weight less than 5 % of its convolution at a batch of 32.

    python benchmarks/lr2vq.py
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import nn

from _timing import alternate, seconds, show
from fullrank.compress.packed_codes import pack_codes, unpack_codes
from fullrank.compress.vector_quantization import lloyd, nearest
from fullrank.compress.vq_layers import VQConv2d, VQSettings

N, K, STEPS = 131_072, 256, 25


def clustering() -> list[list[str]]:
    rows = []
    for d in (4, 9):
        vectors = torch.randn(N, d, generator=torch.Generator().manual_seed(0))
        centres = vectors[:K].clone()
        pairs = alternate(lambda: nearest(vectors, centres), lambda: torch.cdist(vectors, centres).argmin(1))  # noqa: B023
        rows.append([f"assign, d = {d}, against cdist", *pairs.cells()])
        start: Any = centres.numpy()
        runs: Any = 1
        peer = KMeans(K, init=start, n_init=runs, max_iter=STEPS, tol=0, algorithm="lloyd")
        pairs = alternate(lambda: lloyd(vectors, centres, STEPS), lambda: peer.fit(vectors.numpy()), 3)  # noqa: B023
        rows.append([f"{STEPS} steps, d = {d}, against scikit-learn", *pairs.cells()])
    return rows


def decoding() -> list[list[str]]:
    """A hard layer's weight from its packed codes, against the convolution itself."""
    rows = []
    for channels, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layer = VQConv2d.from_conv(conv, VQSettings(18, 9, K, assign="fixed"))
        with torch.no_grad():
            layer.cluster(torch.Generator().manual_seed(0), steps=1).harden()
            x = torch.randn(32, channels, side, side)
            pairs = alternate(lambda: layer.weight, lambda: conv(x), 3)  # noqa: B023
        share = statistics.median(ours / peer for ours, peer in zip(pairs.ours, pairs.peer, strict=True))
        rows.append([f"{channels} channels, {side} x {side}", *pairs.cells()[:2], f"{share:.2%}"])
    return rows


def unpacking() -> list[list[str]]:
    rows = []
    for bits in (4, 8, 11):
        codes = torch.randint(2**bits, (N,), generator=torch.Generator().manual_seed(0))
        packed = pack_codes(codes, bits)
        pairs = alternate(lambda: unpack_codes(packed, bits, N), lambda: pack_codes(codes, bits))  # noqa: B023
        rows.append([f"{bits} bits", *(seconds(statistics.median(side)) for side in (pairs.ours, pairs.peer))])
    return rows


def main() -> None:
    warnings.filterwarnings("ignore")  # scikit-learn: 25 steps do not converge
    torch.set_num_threads(1)
    columns = ["", "ours", "peer", "faster", "min-max"]
    show(f"{N:,} vectors, {K} centres, one thread (target 5 s for {STEPS} steps)", columns, clustering())
    show("decoding, batch 32 (target 5 %)", ["", "decode", "convolution", "share"], decoding())
    show(f"{N:,} codes", ["", "unpack", "pack"], unpacking())


if __name__ == "__main__":
    main()
