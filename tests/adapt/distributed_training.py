"""Trains every method in parallel and alone, and prints how far the two are apart; started by torchrun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator

import torch
from models import build
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fullrank.adapt import (
    DeltaConfig,
    DeltaLayer,
    HydraConfig,
    LamdaConfig,
    LocaConfig,
    LoLDUConfig,
    WaraConfig,
    freeze_step,
    loca_param_groups,
    update_schedule,
)

STEPS, BATCH = 10, 8
COMMON = {"target_modules": ["0", "2"], "init_weights": False}
CYCLE = {"learn_location_steps": 0.6, "coefficient_steps": 2, "location_steps": 2}
METHODS: dict[str, DeltaConfig] = {
    "hydra": HydraConfig(r=2, **COMMON),
    "wara": WaraConfig(r=2, **COMMON),
    "loldu": LoLDUConfig(r=4, **COMMON),
    "loca": LocaConfig(n_frequency=8, init_locations="distinct", **CYCLE, **COMMON),
    "lamda": LamdaConfig(r=4, freeze_fraction=0.5, **COMMON),
    "lamda, ascending": LamdaConfig(r=4, freeze_fraction=0.5, freeze_order="ascending", **COMMON),
}


def adapted(config: DeltaConfig) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(build("mlp"), config)


def schedules(config: DeltaConfig) -> tuple[Callable[..., None], Callable[..., None]]:
    """What is called before the forward pass of a step, and what after its backward pass."""

    def nothing(*_: object) -> None:
        pass

    if isinstance(config, LocaConfig):
        return (lambda model, step, optimizer: update_schedule(model, step, STEPS)), nothing
    if isinstance(config, LamdaConfig):
        return nothing, (lambda model, step, optimizer: freeze_step(model, step, STEPS, optimizer))
    return nothing, nothing


def train(model: nn.Module, config: DeltaConfig, rows: slice) -> Iterator[Tensor]:
    """Trains on these rows of every batch, and gives the loss of every step."""
    before, after = schedules(config)
    trained = [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": 0.01}]
    if isinstance(config, LocaConfig):
        trained = loca_param_groups(model, 0.05, location_lr=0.5, weight_decay=0.01)
    optimizer = torch.optim.SGD(trained, 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x, target = torch.randn(BATCH, 10, generator=generator), torch.randn(BATCH, 3, generator=generator)
        before(model, step, optimizer)
        loss = nn.functional.mse_loss(model(x[rows]), target[rows])
        optimizer.zero_grad()
        loss.backward()
        after(model, step, optimizer)
        optimizer.step()
        yield loss.detach()
    before(model, STEPS, optimizer)


def state(model: nn.Module) -> dict[str, Tensor]:
    saved = get_peft_model_state_dict(model)
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in saved.items()}


def sharded(model: PeftModel) -> nn.Module:
    for module in list(model.modules()):
        if isinstance(module, DeltaLayer):
            fully_shard(module)
    return fully_shard(model)


def difference(config: DeltaConfig, kind: str) -> tuple[float, float]:
    """The largest difference of losses, and of the adapter's tensors."""
    alone, model = adapted(config), adapted(config)
    losses = torch.stack(list(train(alone, config, slice(None))))
    share, rank = BATCH // distributed.get_world_size(), distributed.get_rank()
    parallel = DistributedDataParallel(model) if kind == "ddp" else sharded(model)
    found = torch.stack(list(train(parallel, config, slice(rank * share, (rank + 1) * share))))
    distributed.all_reduce(found)
    found /= distributed.get_world_size()
    tensors, expected = state(model), state(alone)
    assert tensors.keys() == expected.keys()
    if isinstance(config, LocaConfig):
        assert alone.base_model.phase() == "frozen"
        assert all(report.moved for report in alone.base_model.loca_report().values())
    if isinstance(config, LamdaConfig):
        assert all(delta.frozen == config.r for delta in model.base_model.deltas())
    apart = max(float((tensors[key].double() - expected[key].double()).abs().max()) for key in expected)
    return float((found - losses).abs().max()), apart


def main() -> None:
    distributed.init_process_group("gloo")
    found = {f"{method}, {kind}": difference(METHODS[method], kind) for kind in ("ddp", "fsdp2") for method in METHODS}
    if distributed.get_rank() == 0:
        print(json.dumps(found), flush=True)
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may still be there while Python takes itself apart, and would abort the process


if __name__ == "__main__":
    main()
