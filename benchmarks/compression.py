"""What compressed layers and their making cost, each beside a peer in the same run.

    python benchmarks/compression.py                    everything
    python benchmarks/compression.py packed_matmul      one comparison

A comparison is a function here that prints its table; `COMPARISONS` names them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from _timing import alternate, show
from fullrank.compress import Grid, QuantizedLinear, lorc_factors, unpack
from fullrank.compress.lorc import compensate
from fullrank.linalg import svd

Peers = dict[str, Callable[[Tensor], object]]


def packed_matmul() -> None:
    """A packed 4-bit layer against torchao's and optimum-quanto's where they are installed, and the plain ways.

    Target: at least 0.8 times as fast as either library; 1.05 times the bare layer's time with a compensation of rank
    8, for one token of a 4096 x 4096 layer.
    """
    rows = []
    for size, tokens in ((4096, 1), (4096, 64), (1024, 1)):
        torch.manual_seed(0)
        linear = nn.Linear(size, size, bias=False).requires_grad_(False)
        made = compensate(linear.weight, Grid(4, 128).quantize, 8)
        bare = QuantizedLinear.from_linear(linear, made.quantized)
        full = QuantizedLinear.from_linear(linear, made.quantized, made.factors)
        x = torch.randn(tokens, size)
        for name, peer in _peers(linear, bare, full).items():
            # torchao's layer for CPUs takes bfloat16 alone
            tokens_of = x.bfloat16() if "bfloat16" in name else x
            pairs = alternate(partial(bare, tokens_of), partial(peer, tokens_of), pairs=9)
            rows.append([f"{size} x {size}, {tokens} tokens, {name}", *pairs.cells()])
    threads = torch.get_num_threads()
    show(
        f"packed int4, groups of 128, {threads} threads (target 0.8x of a library, 1.05x with rank 8)",
        ["peer", "ours, bare", "peer", "faster", "min-max"],
        rows,
    )
    missing = [name for name in ("torchao", "optimum.quanto") if not _installed(name)]
    if missing:
        print(f"not installed, not compared: {', '.join(missing)}\n")


def _peers(linear: nn.Linear, bare: QuantizedLinear, full: QuantizedLinear) -> Peers:
    weight, half = linear.weight, linear.weight.bfloat16()

    def dequantise_whole(x: Tensor) -> Tensor:
        codes = unpack(bare.qweight, bare.bits, bare.in_features)
        assert bare.zeros is not None
        groups = codes.float().unflatten(1, (bare.groups, -1))
        return x @ ((groups - bare.zeros.float().unsqueeze(-1)) * bare.scales.float().unsqueeze(-1)).flatten(1).mT

    peers: Peers = {
        "this layer with rank 8": full,
        "unpack whole, then multiply": dequantise_whole,
        "dense float32": lambda x: x @ weight.mT,
        "this layer with rank 8, bfloat16": full,
        "dense bfloat16": lambda x: x @ half.mT,
    }
    if _installed("torchao"):
        peers["torchao int4, bfloat16"] = _torchao(linear)
    if _installed("optimum.quanto"):
        peers["optimum-quanto qint4"] = _quanto(linear)
    return peers


def _torchao(linear: nn.Linear) -> Callable[[Tensor], object]:
    from torchao.prototype.quantization.int4 import (  # pyright: ignore[reportMissingImports]
        PrototypeInt4WeightOnlyConfig,
    )
    from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports]

    layer = nn.Sequential(nn.Linear(linear.in_features, linear.out_features, bias=False, dtype=torch.bfloat16))
    layer.load_state_dict({"0.weight": linear.weight})
    quantize_(layer, PrototypeInt4WeightOnlyConfig(group_size=128, set_inductor_config=False))  # the one for CPUs
    return torch.no_grad()(layer)


def _quanto(linear: nn.Linear) -> Callable[[Tensor], object]:
    from optimum import quanto  # pyright: ignore[reportMissingImports]

    layer = nn.Sequential(nn.Linear(linear.in_features, linear.out_features, bias=False))
    layer.load_state_dict({"0.weight": linear.weight})
    quanto.quantize(layer, weights=quanto.qint4)
    quanto.freeze(layer)
    return torch.no_grad()(layer)


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def compensation() -> None:
    """The leading 8 directions of a rounding error, randomised against the full SVD, and the energy that they hold.

    Target: at least 10 times as fast at 0.99 of the energy.
    """
    rows = []
    for shape in ((1024, 1024), (2048, 2048), (1024, 4096)):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(shape, generator=generator)
        quantised = Grid(4).quantize(weight).dequantize()
        E = weight - quantised
        exact = float(torch.linalg.svdvals(E)[:8].square().sum())
        A, B = lorc_factors(weight, quantised, 8)
        held = float(E.square().sum() - (E - B @ A).square().sum())
        pairs = alternate(
            lambda weight=weight, quantised=quantised: lorc_factors(weight, quantised, 8),
            lambda E=E: svd(E, 8, "exact"),
            pairs=3,
        )
        rows.append([str(shape), *pairs.cells(), f"{held / exact:.4f}"])
    show(
        "rank 8 of a 4-bit rounding error (target 10x at 0.99 of the energy)",
        ["weight", "randomised", "full SVD", "faster", "min-max", "energy"],
        rows,
    )


COMPARISONS: dict[str, Callable[[], None]] = {"packed_matmul": packed_matmul, "compensation": compensation}


def main() -> None:
    chosen = sys.argv[1:] or list(COMPARISONS)
    unknown = [name for name in chosen if name not in COMPARISONS]
    if unknown:
        sys.exit(f"no comparison {unknown[0]!r}: there are {', '.join(COMPARISONS)}")
    for name in chosen:
        COMPARISONS[name]()


if __name__ == "__main__":
    main()
