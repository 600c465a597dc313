"""Compiles layers of ordered components once for all widths; a process of its own, without checks in every function."""

from __future__ import annotations

import torch
from torch._dynamo.testing import CompileCounter

from fullrank.compress import MaestroConv2d, MaestroLinear


def main() -> None:
    torch.manual_seed(0)
    for kind, shape, x in (
        (MaestroLinear, (12, 16), torch.randn(4, 12)),
        (MaestroConv2d, (3, 8, 3), torch.randn(2, 3, 6, 6)),
    ):
        layer, counter = kind(*shape, compile_friendly=True), CompileCounter()
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for width in (1, 5, None, 3):
            layer.width = width
            torch.testing.assert_close(compiled(x), layer(x))
        assert counter.frame_count == 1, counter.frame_count


if __name__ == "__main__":
    main()
