"""Compiles every method whole, with warnings as errors; a process of its own, without checks in every function."""

from __future__ import annotations

import warnings

import torch
from models import build
from peft import get_peft_model

from fullrank.adapt import HydraConfig, LamdaConfig, LocaConfig, LoLDUConfig, WaraConfig

COMMON = {"target_modules": ["0"], "init_weights": False}
CONFIGS = [
    HydraConfig(r=2, **COMMON),
    WaraConfig(r=2, wavelet="db2", **COMMON),
    LoLDUConfig(r=4, **COMMON),
    LocaConfig(n_frequency=8, init_locations="distinct", learn_location_steps=20, **COMMON),
    LamdaConfig(r=4, **COMMON),
]


def main() -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch's own modules
    x = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    for config in CONFIGS:
        torch.manual_seed(0)
        model = get_peft_model(build("mlp"), config).train()
        weights = [p for p in model.parameters() if p.requires_grad]
        outputs = [model(x), torch.compile(model, fullgraph=True, backend="aot_eager")(x)]
        gradients = [torch.autograd.grad(y.square().sum(), weights) for y in outputs]
        torch.testing.assert_close(outputs[1], outputs[0])
        torch.testing.assert_close(gradients[1], gradients[0])


if __name__ == "__main__":
    main()
