"""What reaches a layer of a model that is being quantised: statistics of its inputs, gathered when its turn comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.compress.layers import Layer
from fullrank.compress.statistics import LayerStatistics, call


class LayerInputs:
    """Statistics of the inputs of one layer after another, while earlier ones are replaced.

    A layer's inputs are those that the model gives it as it is then, with quantised layers in place. Layers that are
    called with the very same tensor, such as query, key and value, share one pass over the data.

    Args:
        model: it is run in evaluation mode.
        batches: see `collect_statistics`; read once for every pass.
        layers: all whose turn will come, in order.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any], layers: Sequence[Layer]) -> None:
        self.model = model
        self.batches = list(batches) if iter(batches) is batches else batches  # a generator can be read once only
        self.layers = layers
        self._known: dict[str, LayerStatistics] = {}

    def of(self, layer: Layer) -> LayerStatistics | None:
        """The statistics of a layer's inputs, in float32; None where no input reaches it.

        Raises:
            ValueError: the data hold no batch, or the inputs are not finite, with the layer's name.
        """
        if layer.name not in self._known:
            self._known = self._pass(layer)
        return self._known.pop(layer.name, None)

    @torch.no_grad()
    def _pass(self, layer: Layer) -> dict[str, LayerStatistics]:
        watch = _Watch(layer, {other.name for other in self.layers})
        handles = [layer.module.register_forward_pre_hook(watch.mine)]
        for other in self.layers:
            if other.name != layer.name:
                handles.append(other.module.register_forward_pre_hook(partial(watch.another, other.name)))
        batches = 0
        try:
            with _evaluating(self.model):
                for batch in self.batches:
                    batches += 1
                    watch.begin(batch)
                    call(self.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        if not batches:
            raise ValueError("data holds no batch: calibration needs some, 128 sequences of 2048 tokens are typical")
        statistics = watch.means()
        return {} if statistics is None else dict.fromkeys({layer.name, *watch.sharing}, statistics)


@dataclass
class _Watch:
    """Sums at one layer, and which others are called with its inputs and with nothing else."""

    layer: Layer
    sharing: set[str]
    mask: Tensor | None = None
    last: Tensor | None = None
    positions: int = 0
    calls: int = 0
    shared_calls: dict[str, int] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, batch: Any) -> None:
        self.mask, self.last = batch.get("attention_mask") if isinstance(batch, Mapping) else None, None

    def mine(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.last, self.calls = args[0], self.calls + 1
        x = args[0].reshape(-1, args[0].shape[-1]).float()
        if self.mask is not None and self.mask.shape == args[0].shape[:2]:  # padding says nothing about the task
            x = x[self.mask.reshape(-1).bool()]
        if not bool(x.isfinite().all()):
            raise ValueError(
                f"{self.layer.name}: its calibration inputs are not finite: use float32, or look before it"
            )
        self.positions += len(x)
        for name, value in (("mean_abs", x.abs().sum(0)), ("moments", x.mT @ x)):
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def another(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0] is self.last:
            self.shared_calls[name] = self.shared_calls.get(name, 0) + 1
        else:
            self.sharing.discard(name)

    def means(self) -> LayerStatistics | None:
        if not self.positions:
            return None
        self.sharing = {name for name in self.sharing if self.shared_calls.get(name) == self.calls}
        means: dict[str, Any] = {name: value / self.positions for name, value in self.sums.items()}
        square = means["moments"].diagonal().clone()
        return LayerStatistics(self.calls, self.positions, mean_square=square, **means)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, before in training:
            module.training = before
