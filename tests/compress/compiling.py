"""Compiles a quantised layer whole, and checks its operator; a process of its own, without checks in every function."""

from __future__ import annotations

import torch
from torch import nn

from fullrank.compress import LoRCConfig, quantize_lorc
from fullrank.compress import packed_matmul as packed


def main() -> None:
    torch.manual_seed(0)
    half = {"group_size": 32}  # multiplied by torch's own product
    for options in ({"sym": True}, {"activations": "int8"}, {"bits": 3, "lowrank_dtype": "float16"}, half):
        model = nn.Sequential(nn.Linear(96, 16))
        layer = quantize_lorc(model, LoRCConfig(rank=3, **{"group_size": 8, **options}))[0]
        dtype = torch.bfloat16 if options is half else torch.float32
        x = torch.randn(3, 96, dtype=dtype, requires_grad=True)
        outputs = [layer(x), torch.compile(layer, fullgraph=True, backend="aot_eager")(x)]
        torch.testing.assert_close(outputs[1], outputs[0])
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in outputs]
        torch.testing.assert_close(gradients[1], gradients[0])
        arguments = (x, layer.qweight, layer.scales, layer.zeros, layer.bits)
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(packed._forward, arguments, test_utils=checks)


if __name__ == "__main__":
    main()
