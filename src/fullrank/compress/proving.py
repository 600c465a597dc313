"""`compress_pretrained`: a folder in, a smaller folder out, and the proof: size, speed and quality before and after."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn
from transformers import PreTrainedTokenizerBase

from fullrank._files import write_json
from fullrank.compress.compressing import OnProgress, compress
from fullrank.compress.folder import save
from fullrank.compress.layers import Targets
from fullrank.compress.method import Method
from fullrank.compress.methods import method_of
from fullrank.compress.report import CompressionReport
from fullrank.tasks import (
    Examples,
    Quality,
    architecture,
    load_as_is,
    load_examples,
    quality_of,
    require_empty,
    require_fit,
)

SCHEMA = 1
_TOKENS = 128  # of the texts that latency is measured on
_PAIRS = 7


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of the original and the compressed model, alternating, medians.

    Attributes:
        batch: sequences at a time.
        tokens: of each.
        before, after: of the two models.
        faster: median ratio.
    """

    batch: int
    tokens: int
    before: float
    after: float
    faster: float


@dataclass(frozen=True)
class ProofReport:
    """What a compression did to a pretrained model.

    Attributes:
        model, data: where they come from.
        metric: the main measure of quality.
        lower_is_better: whether less of it is better.
        compression: what became of every layer.
        before, after: quality by name.
        recovered: quality after training the factors, or None.
        latency: by batch size.
        disk_before, disk_after: bytes of the weights' files; `disk_after` is None where nothing was saved.
        recovery: how the factors were trained.
        schema: version of the JSON layout.
    """

    model: str
    data: str
    metric: str
    lower_is_better: bool
    compression: CompressionReport
    before: dict[str, float]
    after: dict[str, float]
    recovered: dict[str, float] | None
    latency: tuple[Latency, ...]
    disk_before: int
    disk_after: int | None = None
    recovery: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def quality(self) -> float:
        """The main measure at the end."""
        return (self.recovered or self.after)[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-like."""
        return asdict(self) | {"compression": self.compression.to_dict()}

    def to_table(self) -> Table:
        """Size, speed and quality for the terminal."""
        compression = self.compression
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
        for name in ("", "before", "after", "recovered"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        table.add_row(
            "parameters",
            f"{compression.parameters_before:,}",
            f"{compression.parameters_after:,} ({100 * compression.kept:.1f} %)",
            "",
        )
        after = "" if self.disk_after is None else f"{self.disk_after / 2**20:.1f}"
        table.add_row("MiB on disk", f"{self.disk_before / 2**20:.1f}", after, "")
        for latency in self.latency:
            table.add_row(
                f"ms for {latency.batch} x {latency.tokens} tokens",
                f"{latency.before:.1f}",
                f"{latency.after:.1f} ({latency.faster:.2f}x)",
                "",
            )
        for name in self.before:
            recovered = "" if self.recovered is None else f"{self.recovered[name]:.4g}"
            table.add_row(name, f"{self.before[name]:.4g}", f"{self.after[name]:.4g}", recovered)
        return table


@dataclass(frozen=True)
class Proven:
    """A compressed pretrained model.

    Attributes:
        model: it.
        tokenizer: of the original.
        report: the proof.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    report: ProofReport


def compress_pretrained(
    model: str | Path,
    method: str | Method = "fwsvd",
    data: str | Path | Examples = "stsb",
    *,
    output: str | Path | None = None,
    recover: int | float = 0,
    learning_rate: int | float = 1e-4,
    batch_size: int = 16,
    num_samples: int = 256,
    target_modules: Targets = "all-linear",
    exclude_modules: Targets = (),
    max_length: int = 128,
    limit: int | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
    **options: Any,
) -> Proven:
    """Compress a pretrained model, measure it before and after, and save it.

        compress_pretrained("path/to/model", "fwsvd", "train.tsv", output="small", rank_rule=RatioRank(0.5))

    Args:
        model: a Hugging Face folder.
        method: see `compress`.
        data: examples of the model's task, see `load_examples`; for an encoder without a head pairs with scores, or
            texts with labels.
        output: new folder for the compressed model, its tokenizer and `report.json`; default nothing is saved.
        recover: epochs of training what changed, on the training examples; 0 for none.
        learning_rate: of the recovery.
        batch_size: of statistics and recovery.
        num_samples: training examples that statistics are gathered from.
        target_modules, exclude_modules: see `select_layers`.
        max_length: tokens of an example.
        limit: at most so many training and test examples.
        seed: of the draw and the order of examples.
        resume: see `compress`.
        on_progress: called with (done, total, text).
        options: of the method.

    Raises:
        FileExistsError: `output` holds something.
        ValueError: see `check_compression`, `compress` and `quality_of`.
    """
    if output is not None:
        require_empty(Path(output))  # before an hour of work, not after
    examples = data if isinstance(data, Examples) else load_examples(data, limit=limit, seed=seed)
    check_compression(model, method, examples, recover=recover, learning_rate=learning_rate, **options)
    on_progress(0, 0, "loading the model")
    original, tokenizer = load_as_is(model)
    quality = quality_of(original, tokenizer, examples, max_length)
    on_progress(0, 0, "measuring the model")
    before = quality.measure(original)
    batches = list(itertools.islice(quality.batches(batch_size), max(1, num_samples // batch_size)))
    compressed = compress(
        original,
        method,
        data=batches,
        sample_losses=quality.sample_losses,
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        resume=resume,
        on_progress=on_progress,
        **options,
    )
    on_progress(0, 0, "measuring the compressed model")
    small = compressed.model
    after = quality.measure(small)
    recovered = None
    if recover:
        names = [layer.name for layer in compressed.report.layers]
        recover_quality(small, quality, names, recover, learning_rate, batch_size, seed, on_progress)
        recovered = quality.measure(small)
    on_progress(0, 0, "measuring speed")
    report = ProofReport(
        model=str(model),
        data=examples.source,
        metric=quality.metric,
        lower_is_better=quality.lower_is_better,
        compression=compressed.report,
        before=before,
        after=after,
        recovered=recovered,
        latency=tuple(latency(original, small, batch) for batch in (1, 32)),
        disk_before=weight_bytes(model),
        recovery={"epochs": recover, "learning_rate": learning_rate, "batch_size": batch_size} if recover else {},
    )
    proven = Proven(small, tokenizer, report)
    return proven if output is None else _saved(proven, Path(output))


def check_compression(
    model: str | Path,
    method: str | Method,
    examples: Examples,
    *,
    recover: int | float = 0,
    learning_rate: int | float = 1e-4,
    **options: Any,
) -> None:
    """Refuse what `compress_pretrained` could not do, as far as it can be told without loading the model.

    Args:
        model, method, recover, learning_rate, options: as there.
        examples: that the model is to be measured on.

    Raises:
        ValueError: no model at that place, an unknown method or option, a number out of range, or examples that the
            model cannot be asked for.
    """
    method_of(method, options)
    if not 0 <= recover < math.inf:
        raise ValueError(f"recover={recover}: a number of epochs is accepted, 0 for none")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate}: a positive number is accepted, such as 1e-4")
    named = architecture(model)
    if named is not None:
        require_fit(named, examples)


def recover_quality(
    model: nn.Module,
    quality: Quality,
    names: list[str],
    epochs: int | float,
    learning_rate: int | float = 1e-4,
    batch_size: int = 16,
    seed: int = 0,
    on_progress: OnProgress = lambda done, total, text: None,
) -> None:
    """Train the compressed layers on the task's training examples, by AdamW with a linear decay; the rest is frozen.

    Args:
        model: the compressed model; it is left in evaluation mode.
        quality: the task.
        names: of the layers to train.
        epochs: passes over the training examples.
        learning_rate: at the start.
        batch_size: examples a step.
        seed: of the order of batches.
        on_progress: called with (steps done, steps in all, text).

    Raises:
        ValueError: these layers have nothing to train.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    weights = [p for name in names for p in model.get_submodule(name).parameters() if p.is_floating_point()]
    if not weights:
        raise ValueError("the compressed layers have no parameter to train: recover=0 is accepted for this method")
    model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    batches = list(quality.batches(batch_size))
    steps = max(1, round(epochs * len(batches)))
    order = [int(row) for row in _orders(len(batches), steps, seed)]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for step, row in enumerate(order, 1):
        optimizer.zero_grad()
        quality.sample_losses(model, batches[row]).mean().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        on_progress(step, steps, "training the compressed layers")
    for parameter, trained in before:
        parameter.requires_grad_(trained)
    model.eval()


@torch.no_grad()
def latency(original: nn.Module, small: nn.Module, batch: int, pairs: int = _PAIRS) -> Latency:
    """A forward pass of both models over the same random tokens, alternating, so that what else runs falls on both."""
    config: Any = original.config
    tokens = min(_TOKENS, getattr(config, "max_position_embeddings", None) or _TOKENS)
    generator = torch.Generator().manual_seed(0)
    device = next(original.parameters()).device
    ids = torch.randint(config.vocab_size, (batch, tokens), generator=generator).to(device)
    sides = (original.eval(), small.eval())
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs + 1):  # the first does not count
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times[side].append(_timed(lambda model=sides[side]: model(input_ids=ids)))
    before, after = (part[1:] for part in times)
    ratio = statistics.median(b / a for b, a in zip(before, after, strict=True))
    return Latency(batch, tokens, 1000 * statistics.median(before), 1000 * statistics.median(after), ratio)


def weight_bytes(folder: str | Path) -> int:
    """Bytes of a folder's safetensors files."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def _orders(count: int, steps: int, seed: int) -> torch.Tensor:
    """Batches by step: one permutation after another."""
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-steps // count))]
    return torch.cat(rounds)[:steps]


def _timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _saved(proven: Proven, folder: Path) -> Proven:
    save(proven.model, folder, proven.report.compression)
    if proven.tokenizer is not None:
        proven.tokenizer.save_pretrained(str(folder))
    report = replace(proven.report, disk_after=weight_bytes(folder))
    write_json(folder / "report.json", report.to_dict())
    return Proven(proven.model, proven.tokenizer, report)
