"""Filter pruning as a method of `compress`: `compress(model, "beta-rank", data=batches, pruning_ratio=0.5)`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from fullrank.compress.filter_pruner import FilterPruner
from fullrank.compress.filter_scores import listed, without_labels
from fullrank.compress.kept_channels import is_depthwise, kept_channels
from fullrank.compress.layers import CONVOLUTIONS, LINEAR, replace_module
from fullrank.compress.method import Job, Method, Replaced, Step

#: Criterion of `FilterPruner` by the name of a method.
PRUNING_CRITERIA = {
    "beta-rank": "beta",
    "hrank": "hrank",
    "l1": "l1",
    "l2": "l2",
    "bn": "bn",
    "fpgm": "fpgm",
    "random": "random",
}
_WITHOUT_DATA = ("l1", "l2", "bn", "fpgm", "random")


class PruningMethod(Method):
    """Removes filters of convolutions, and what other layers read of them.

    All layers are planned together, from one pass over the data through the dense model; then each takes its turn.
    Layers that are not asked for keep their filters, but lose inputs that are gone.

    Args:
        name: of the criterion: "beta-rank", "hrank", "l1", "l2", "bn", "fpgm" or "random".
        example_inputs: what the model is called with; default the first batch of the data.
        pruning_ratio, pruning_ratio_dict, global_pruning, round_to, min_channels, coupled, init_scale, reset_bn, seed:
            see `FilterPruner`.
    """

    kinds = CONVOLUTIONS + LINEAR
    targets = "all"
    grouped = True

    def __init__(
        self,
        name: str = "beta-rank",
        example_inputs: Any = None,
        pruning_ratio: float = 0.5,
        pruning_ratio_dict: Mapping[str, float] | None = None,
        global_pruning: bool = False,
        round_to: int | None = None,
        min_channels: int | None = None,
        coupled: bool = True,
        init_scale: Literal["upstream"] | None = None,
        reset_bn: bool = False,
        seed: int = 0,
    ) -> None:
        if name not in PRUNING_CRITERIA:
            raise ValueError(f"name={name!r} is not known; accepted: {', '.join(PRUNING_CRITERIA)}")
        self.name, self.example_inputs = name, example_inputs
        self.pruning: dict[str, Any] = {
            "pruning_ratio": pruning_ratio,
            "pruning_ratio_dict": dict(pruning_ratio_dict or {}),
            "global_pruning": global_pruning,
            "round_to": round_to,
            "min_channels": min_channels,
            "coupled": coupled,
            "init_scale": init_scale,
            "reset_bn": reset_bn,
            "seed": seed,
        }

    def steps(self, job: Job) -> Iterator[Step]:
        """Score and cut a copy, then hand its layers over one by one, and at last its normalisations."""
        batches, example = self._inputs(job)
        asked = {layer.name for layer in job.layers}
        ignored = [
            name
            for name, module in job.model.named_modules()
            if isinstance(module, CONVOLUTIONS) and name not in asked and not is_depthwise(module)
        ]
        pruner = FilterPruner(job.model, example, PRUNING_CRITERIA[self.name], ignored_layers=ignored, **self.pruning)
        pruner.score(batches)
        slim = pruner.prune()
        reasons = pruner.report().left
        for layer in job.layers:
            module = slim.get_submodule(layer.name)
            reason = "" if kept_channels(module) else reasons.get(layer.name, "no channel that it makes or reads goes")
            yield layer, partial(Replaced, layer.module if reason else module, reason=reason)
        for name, module in slim.named_modules():
            if kept_channels(module) and name not in asked:
                replace_module(job.model, name, module)

    def options(self) -> dict[str, Any]:
        """Those of `FilterPruner`."""
        return dict(self.pruning)

    def _inputs(self, job: Job) -> tuple[Iterable[Any], Any]:
        """The data, and one example of them."""
        if job.batches is None and self.name not in _WITHOUT_DATA:
            job.need_batches(self.name, "give data=[batch, ...] as the model is called with, 64 samples or more")
        if job.batches is None:
            return [self.example_inputs], self.example_inputs
        if self.example_inputs is not None:
            return job.batches, self.example_inputs
        batches = iter(listed(job.model, job.batches))
        first = next(batches, None)
        if first is None:
            raise ValueError("data holds no batch: scores need at least one")
        return itertools.chain([first], batches), without_labels(job.model, first)
