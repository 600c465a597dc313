"""Watch rank while a transformers `Trainer` trains: RankMe at evaluation, gradient spectra every so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.spectra.gradient_report import SpectraReport
from fullrank.spectra.gradients import GradientSpectra
from fullrank.spectra.modes import evaluating
from fullrank.spectra.rankme_metric import MAX_SAMPLES, RankMe

if TYPE_CHECKING:
    from transformers import TrainerCallback
else:
    TrainerCallback = require("transformers", "adapt").TrainerCallback


class RankMeCallback(TrainerCallback):
    """RankMe of a layer's output, at every evaluation.

    The value is logged under `name` and joins the evaluation's metrics as "eval_" + name, so that
    `metric_for_best_model="rankme"` chooses the checkpoint of the highest rank. Processes merge exactly.

    Args:
        layer: name of the module whose output is measured, such as "projector": the embeddings, after the projector.
        loader: batches to measure on: mappings of the model's arguments, tensors, or pairs that begin with the inputs.
            The evaluation's own loader by default. Use plain images, without augmentation.
        embed: turns the layer's output into embeddings (samples, dim), such as `lambda output: output[:, 0]` for the
            first token; by default the output is taken as it is.
        name: what the value is called in the log; one for each of several callbacks.
        eps: see `rankme`.
        center: see `rankme`.
        max_samples: rows after which the pass over the loader ends.
        trainer: logs through it and thereby to every reporter (`trainer.add_callback(RankMeCallback(...,
            trainer=trainer))`); without it the value goes to `trainer.state.log_history` and the metrics only.

    Raises:
        ValueError: at evaluation: no such layer, it was never called, its output is no matrix, or there is no loader.
    """

    def __init__(
        self,
        layer: str,
        loader: Iterable[Any] | None = None,
        *,
        embed: Callable[[Any], Tensor] | None = None,
        name: str = "rankme",
        eps: float = 1e-7,
        center: bool = False,
        max_samples: int | None = MAX_SAMPLES,
        trainer: Any = None,
    ) -> None:
        self.layer = layer
        self.loader = loader
        self.embed = embed
        self.name = name
        self.options = {"eps": eps, "center": center, "max_samples": max_samples}
        self.trainer = trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, log, and add to the evaluation's metrics."""
        loader = kwargs.get("eval_dataloader") if self.loader is None else self.loader
        if loader is None:
            raise ValueError(
                "RankMeCallback has nothing to measure on: give it a loader, or the trainer an eval_dataset"
            )
        value = float(self._measure(kwargs["model"], loader, args.device))
        if kwargs.get("metrics") is not None:
            kwargs["metrics"][f"eval_{self.name}"] = value
        _log({self.name: value}, state, self.trainer)

    @torch.no_grad()
    def _measure(self, model: nn.Module, loader: Iterable[Any], device: torch.device) -> Tensor:
        metric = RankMe(**self.options).to(device)
        handle = _submodule(model, self.layer).register_forward_hook(
            lambda module, inputs, output: metric.update(self._embeddings(output))
        )
        try:
            with evaluating(model):
                for batch in loader:
                    _call(model, batch, device)
                    if int(metric.count) == 0:
                        raise ValueError(f"layer={self.layer!r} was not called by the model's forward pass")
                    if metric.full:
                        break
        finally:
            handle.remove()
        return metric.compute()

    def _embeddings(self, output: Any) -> Tensor:
        embeddings = output if self.embed is None else self.embed(output)
        if isinstance(embeddings, Tensor) and embeddings.ndim == 2:
            return embeddings
        found = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise ValueError(
            f"layer={self.layer!r} gives {found}, but RankMe needs (samples, dim): "
            "say with `embed` how to take one row per sample, such as embed=lambda output: output.mean(1)"
        )


class GradientSpectraCallback(TrainerCallback):
    """Gradient spectra of fixed probe samples, every so many training steps.

    Measured in eval mode; train mode, `requires_grad` flags, `.grad` and the random state are left as they were.
    Processes share the probe out and gather the report, so each needs the whole model (DDP, not FSDP).

    Args:
        probe: (prompt, response) pairs, or records with "input_ids" and "labels" (a tokenised data set).
        every: training steps between two measurements.
        tokenizer: for pairs; the trainer's own by default.
        batch_size: samples in one pass.
        max_length: longer samples are truncated.
        chat: use the chat template, for pairs.
        trainer: see `RankMeCallback`.
        **options: of `GradientSpectra`, such as modules or metrics.

    Attributes:
        reports: the full report by training step. The log holds the means over samples and layers, as
            "gradient_spectra/effective_rank/q" and so on.

    Raises:
        ValueError: `every` below 1, an empty probe, or one with fewer samples than processes.
    """

    def __init__(
        self,
        probe: Sequence[Any],
        *,
        every: int = 100,
        tokenizer: Any = None,
        batch_size: int = 8,
        max_length: int = 4096,
        chat: bool = False,
        trainer: Any = None,
        **options: Any,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every}: a number of steps of at least 1 is accepted")
        if len(probe) == 0:
            raise ValueError("probe is empty: give (prompt, response) pairs, or records with input_ids and labels")
        self.probe = probe
        self.every = every
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = max_length
        self.chat = chat
        self.trainer = trainer
        self.options = options
        self.reports: dict[int, SpectraReport] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure and log, if it is time."""
        if state.global_step % self.every:
            return
        tokenizer = kwargs.get("processing_class") if self.tokenizer is None else self.tokenizer
        report = self._measure(GradientSpectra(kwargs["model"], tokenizer, **self.options))
        self.reports[state.global_step] = report
        values = {
            f"gradient_spectra/{metric}/{kind}": float(value)
            for metric, means in report.mean(by="projection").items()
            for kind, value in zip(report.kinds, means, strict=True)
        }
        _log(values, state, self.trainer)

    def _measure(self, spectra: GradientSpectra) -> SpectraReport:
        mine = self._share()
        if isinstance(mine[0], Mapping):
            samples = [(torch.as_tensor(record["input_ids"]), torch.as_tensor(record["labels"])) for record in mine]
        else:
            samples = [spectra.encode(prompt, response, self.max_length, self.chat) for prompt, response in mine]
        report = spectra.score(
            input_ids=[ids for ids, _ in samples],
            labels=[labels for _, labels in samples],
            batch_size=self.batch_size,
            max_length=self.max_length,
        )
        return report.gather() if _processes() > 1 else report

    def _share(self) -> list[Any]:
        """This process' stretch of the probe, so that the gathered report keeps the probe's order."""
        count, processes = len(self.probe), _processes()
        if count < processes:
            raise ValueError(f"probe has {count} samples for {processes} processes: at least one for each is needed")
        rank = torch.distributed.get_rank() if processes > 1 else 0
        return [self.probe[index] for index in range(count * rank // processes, count * (rank + 1) // processes)]


def _log(values: dict[str, float], state: Any, trainer: Any) -> None:
    if trainer is not None:
        trainer.log(values)
        return
    state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})


def _submodule(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        raise ValueError(f"layer={name!r} is no module of {type(model).__name__}; such are {list(modules)[1:6]}")
    return modules[name]


def _call(model: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        model(**{key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()})
        return
    inputs = batch if isinstance(batch, Tensor) else batch[0]
    model(inputs.to(device))


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
