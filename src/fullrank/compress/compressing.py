"""`compress`: a model in, a smaller one and a report out."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor, nn

from fullrank._files import write_bytes, write_json
from fullrank.compress.kinds import build, describe
from fullrank.compress.layers import Layer, Selection, Targets, replace_module, select_layers
from fullrank.compress.low_rank import LowRankMethod
from fullrank.compress.method import Job, Method, Replaced, relative_error
from fullrank.compress.methods import method_of
from fullrank.compress.report import CompressionReport, LayerReport
from fullrank.compress.statistics import LayerStatistics
from fullrank.nn import LowRankLinear
from fullrank.nn.low_rank import LowRankConvolution
from fullrank.tasks.losses import SampleLosses

OnProgress = Callable[[int, int, str], None]
#: What a replacement tells its report beside rank and loss.
_FACTS = ("weighted_error", "dead_inputs")


@dataclass(frozen=True)
class Compressed:
    """A compressed model.

    Attributes:
        model: it; the original is as it was, unless `copy=False`.
        report: what became of every layer.
    """

    model: nn.Module
    report: CompressionReport


def compress(
    model: nn.Module,
    method: str | Method = "svd",
    *,
    data: Iterable[Any] | None = None,
    sample_losses: SampleLosses | None = None,
    target_modules: Targets | None = None,
    exclude_modules: Targets = (),
    copy_model: bool = True,
    resume: str | Path | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
    **options: Any,
) -> Compressed:
    """Make a trained model smaller.

    Args:
        model: any module with dense layers; a model of transformers can be saved and loaded as one.
        method: a name of `METHODS`, such as "svd", "fwsvd", "asvd" or "whiten", or a `Method`.
        data: batches that the model is called with, for methods that look at a task; see `collect_statistics`.
        sample_losses: the loss of every sample of a batch; default that of the batch's labels.
        target_modules: see `select_layers`; default the method's, "all-linear" for most.
        exclude_modules: see `select_layers`.
        copy_model: False changes the model itself, and saves the memory of a copy.
        resume: folder for finished layers: a call that was interrupted goes on behind the last of them. It must not be
            that of another compression.
        on_progress: called with (layers done, layers in all, text).
        options: of the method, where it is given by name; `rank_rule` for those of ranks.

    Returns:
        The model and the report.

    Raises:
        ValueError: an unknown method or option, no layer to compress, missing data, or a model that would grow, with
            the numbers.
    """
    began = time.monotonic()
    chosen = method_of(method, options)
    small = copy.deepcopy(model) if copy_model else model
    selection = _selected(small, chosen, target_modules, exclude_modules)
    before = _size(small)
    job = Job(small, selection.layers, data, sample_losses, on_progress)
    finished = _Finished(resume, chosen, selection.layers)
    reports: list[LayerReport] = []
    left = dict(selection.left)
    for number, (layer, compute) in enumerate(chosen.steps(job), 1):
        replaced = finished.load(layer) or compute()
        if replaced.reason:
            left[layer.name] = replaced.reason
        else:
            reports.append(_layer_report(layer, replaced))
            replace_module(small, layer.name, replaced.module)
            finished.save(layer, replaced)
        on_progress(number, len(selection.layers), layer.name)
    after = _size(small)
    if after[1] > before[1]:
        raise ValueError(
            f"{chosen.name} would make the model larger: {before[0]:,} parameters ({before[1]:,} bytes) would become "
            f"{after[0]:,} ({after[1]:,} bytes); ask for a smaller rank or fewer bits"
        )
    report = CompressionReport(
        method=chosen.name,
        options=chosen.options(),
        layers=tuple(reports),
        left=left,
        parameters_before=before[0],
        parameters_after=after[0],
        bytes_before=before[1],
        bytes_after=after[1],
        seconds=round(time.monotonic() - began, 3),
        remarks=() if reports else ("no layer became smaller: every one stays as it was",),
    )
    return Compressed(small, report)


def gather_statistics(
    model: nn.Module,
    method: str | Method,
    *,
    data: Iterable[Any],
    sample_losses: SampleLosses | None = None,
    target_modules: Targets | None = None,
    exclude_modules: Targets = (),
    on_progress: OnProgress = lambda done, total, text: None,
    **options: Any,
) -> dict[str, LayerStatistics]:
    """What a method of ranks looks at, gathered once for several calls.

        found = gather_statistics(model, "fwsvd", data=batches)
        for share in (0.8, 0.6, 0.4):
            small = compress(model, "fwsvd", statistics=found, rank_rule=RatioRank(share))

    Args:
        model, method, data, sample_losses, target_modules, exclude_modules, on_progress, options: see `compress`.

    Returns:
        Statistics by layer name; of no other use for a method that looks at weights only.

    Raises:
        ValueError: a method that gathers no statistics by layer, and see `compress`.
    """
    chosen = method_of(method, options)
    if not isinstance(chosen, LowRankMethod):
        raise ValueError(
            f"method {chosen.name!r} keeps no statistics: those that do are svd, asvd, whiten, and the kinds of fwsvd"
        )
    layers = _selected(model, chosen, target_modules, exclude_modules).layers
    return chosen.gather(Job(model, layers, data, sample_losses, on_progress))


def _selected(model: nn.Module, method: Method, targets: Targets | None, exclude: Targets) -> Selection:
    return select_layers(model, method.targets if targets is None else targets, exclude, method.kinds, method.grouped)


class _Finished:
    """The layers that an interrupted compression has finished, in a folder, one file each."""

    def __init__(self, folder: str | Path | None, method: Method, layers: Sequence[Layer]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.places = {layer.name: number for number, layer in enumerate(layers)}
        if self.folder is None:
            return
        plan = {"method": method.name, "options": method.options(), "layers": [_seal(layer) for layer in layers]}
        plan = json.loads(json.dumps(plan, default=repr))
        file = self.folder / "plan.json"
        if not file.exists():
            write_json(file, plan)
        elif json.loads(file.read_text()) != plan:
            raise ValueError(
                f"{self.folder} holds layers of another compression: use the same model and options, or another folder"
            )

    def load(self, layer: Layer) -> Replaced | None:
        """The finished replacement of a layer, or None."""
        if self.folder is None:
            return None
        facts, tensors = (self._place(layer, suffix) for suffix in (".json", ".safetensors"))
        if not facts.exists():  # written last
            return None
        known: Mapping[str, Any] = json.loads(facts.read_text())
        module = build(known["layer"], layer.module)
        module.load_state_dict(load_file(tensors), assign=True)
        module.train(layer.module.training)
        more = {name: known[name] for name in _FACTS if name in known}
        return Replaced(module, known["rank"], known["loss"], **more)

    def save(self, layer: Layer, replaced: Replaced) -> None:
        """Keep a finished layer, whose kind can be built anew."""
        description = describe(replaced.module)
        if self.folder is None or description is None:
            return
        state = {name: tensor.contiguous() for name, tensor in replaced.module.state_dict().items()}
        write_bytes(self._place(layer, ".safetensors"), save(state))
        facts = {"rank": replaced.rank, "loss": replaced.loss} | {name: getattr(replaced, name) for name in _FACTS}
        write_json(self._place(layer, ".json"), {"layer": description} | facts)

    def _place(self, layer: Layer, suffix: str) -> Path:
        assert self.folder is not None
        return self.folder / f"layer-{self.places[layer.name]:05d}{suffix}"


def _seal(layer: Layer) -> str:
    """Name and a checksum of a layer's weight."""
    content = layer.module.weight.detach().cpu().contiguous().flatten().float().numpy().tobytes()
    return f"{layer.name} {hashlib.sha256(content).hexdigest()[:16]}"


def _layer_report(layer: Layer, replaced: Replaced) -> LayerReport:
    module = replaced.module
    parameters, size = _size(module)
    before, size_before = _size(layer.module)
    product = _product(module, layer.shape)
    return LayerReport(
        name=layer.name,
        kind=(describe(module) or {"kind": type(module).__name__})["kind"],
        shape=layer.shape,
        rank=replaced.rank,
        parameters_before=before,
        parameters_after=parameters,
        bytes_before=size_before,
        bytes_after=size,
        error=None if product is None else relative_error(layer.matrix, product),
        loss=replaced.loss,
        factor_growth=_factor_growth(layer.matrix, module),
        **{name: getattr(replaced, name) for name in _FACTS},
    )


def _factor_growth(dense: Tensor, module: nn.Module) -> float | None:
    """max |A| / max |W|; None for a layer without factors, or a weight of zeros."""
    if not isinstance(module, LowRankLinear | LowRankConvolution) or not dense.any():
        return None
    return float(module.first.weight.detach().abs().max().double() / dense.abs().max().double())


def _product(module: Any, shape: tuple[int, int]) -> Tensor | None:
    """What a compressed layer multiplies by, (out, in); None where it does not say, or lost rows or columns."""
    weight = getattr(module, "weight", None) if describe(module) else None
    weight = weight() if callable(weight) else weight
    if not isinstance(weight, Tensor) or weight.flatten(1).shape != shape:
        return None
    return weight.detach().flatten(1)


def _size(module: nn.Module) -> tuple[int, int]:
    """Parameters, with the numbers that packed buffers stand for, and bytes of parameters and buffers; each once."""
    parameters = list(module.parameters())
    packed = sum(getattr(part, "packed_values", 0) for part in module.modules())
    tensors = [*parameters, *module.buffers()]
    return sum(p.numel() for p in parameters) + packed, sum(t.numel() * t.element_size() for t in tensors)
