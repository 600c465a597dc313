"""What scoring the filters of a network costs: Beta-Rank against its official loop, HRank against `matrix_rank`.

The official code calls NumPy's deviation for every filter and output position, and runs the network once for every
layer; its loop is timed on a few filters of each layer's size and taken times their number. Targets: ResNet-56 on 16
images of 256 x 256 in less than 10 s on two CPU cores, 1 s on a GPU, at least 500 times faster than the loop. The slim
network is timed beside the dense one: multiply-adds that are gone should be time that is gone.

    python benchmarks/pruning.py [--side 256] [--device cuda]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from _timing import alternate, seconds, show, timed
from fullrank.compress import CifarResNet, FilterPruner, beta_rank, map_ranks

_IMAGES = 16
_POSITIONS = 200  # of the official loop that are timed in each kind of layer


def loop(x: Any, y: Any, weight: Any, stride: int, positions: int) -> None:
    """The official computation at some positions of one filter, on arrays."""
    size, columns, done = weight.shape[-1], y.shape[3], 0
    for row in range(y.shape[2]):
        for column in range(columns):
            patch = x[:, row * stride : row * stride + size, column * stride : column * stride + size, :]
            if patch.size:
                np.divide(np.std(y[:, 0, row, column]), np.std(patch))
            done += 1
            if done == positions:
                return


def loop_seconds(model: nn.Module, x: Tensor) -> float:
    """The official loop over all filters and positions of all layers, extrapolated; without its forward passes."""
    found: list[tuple[Any, Any, Any, int]] = []

    def keep(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        arrays = (inputs[0].cpu().numpy(), output.cpu().numpy(), module.weight.detach().cpu().numpy())
        shapes = {(a.shape, b.shape) for a, b, *_ in found}
        counts[arrays[0].shape, arrays[1].shape] = counts.get((arrays[0].shape, arrays[1].shape), 0) + 1
        if (arrays[0].shape, arrays[1].shape) not in shapes:
            found.append((*arrays, module.stride[0]))

    counts: dict[Any, int] = {}
    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    total = 0.0
    for inputs, outputs, weight, stride in found:
        took = timed(lambda a=inputs, b=outputs, w=weight, s=stride: loop(a, b, w, s, _POSITIONS))
        total += counts[inputs.shape, outputs.shape] * took * outputs[0].size / min(_POSITIONS, outputs[0, 0].size)
    return total


def scoring(side: int, device: str) -> list[list[str]]:
    model, x = CifarResNet(56, 3).to(device).eval(), torch.randn(_IMAGES, 3, side, side, device=device)

    def forward() -> None:
        with torch.no_grad():
            model(x).sum().item()

    pairs = alternate(lambda: beta_rank(model, x), forward, pairs=3)
    official = loop_seconds(model, x)
    ours, once = sorted(pairs.ours)[1], sorted(pairs.peer)[1]
    layers = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    return [
        ["one forward pass", seconds(once), ""],
        ["beta_rank", seconds(ours), f"{min(pairs.ours):.2f}-{max(pairs.ours):.2f} s"],
        ["official loop, extrapolated", seconds(official), f"{official / (ours - once):.0f}x of beta_rank's scoring"],
        ["and a forward pass a layer", seconds(official + layers * once), f"{(official + layers * once) / ours:.0f}x"],
    ]


def ranks(device: str) -> list[list[str]]:
    rows = []
    for maps, side in ((512, 8), (256, 32), (32, 128)):
        x = torch.randn(1, maps, side, side, device=device).clamp_min(0)
        pairs = alternate(lambda x=x: map_ranks(x), lambda x=x: torch.linalg.matrix_rank(x))
        rows.append([f"{maps} maps of {side} x {side}", *pairs.cells()])
    return rows


def latency(device: str) -> list[list[str]]:
    dense, x = CifarResNet(56).to(device).eval(), torch.randn(64, 3, 32, 32, device=device)
    rows = []
    for round_to in (None, 8):
        pruner = FilterPruner(dense, x[:1], "l1", pruning_ratio=0.6, round_to=round_to)
        pruner.score(x)
        slim, report = pruner.prune(), pruner.report()

        def run(network: nn.Module) -> None:
            with torch.no_grad():
                network(x).sum().item()

        pairs = alternate(lambda slim=slim, run=run: run(slim), lambda run=run: run(dense))
        name = "40 % of each block's middle" + (f", round_to={round_to}" if round_to else "")
        rows.append([name, f"{100 * report.macs_after / report.macs_before:.0f} %", *pairs.cells()])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    threads = torch.get_num_threads()
    title = (
        f"ResNet-56, {_IMAGES} images of {given.side} x {given.side}, {given.device}, {threads} threads (target 10 s)"
    )
    show(title, ["", "time", ""], scoring(given.side, given.device))
    show("ranks of feature maps", ["", "map_ranks", "matrix_rank", "faster", "min-max"], ranks(given.device))
    columns = ["ResNet-56, batch 64", "MACs left", "slim", "dense", "faster", "min-max"]
    show("latency of the slim network", columns, latency(given.device))


if __name__ == "__main__":
    main()
