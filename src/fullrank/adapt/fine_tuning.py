"""`fine_tune`: a model, a data set and the name of a method in; a trained PEFT adapter and a report out."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, TaskType, get_peft_model
from rich import box
from rich.markup import escape
from rich.table import Table
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from fullrank._files import write_json
from fullrank._model_hub import know_compressed_layers, only_local_files, reason_not_loaded
from fullrank.adapt.methods import AdapterMethod, adapter_method, adapter_parameters, size_for_budget
from fullrank.adapt.training import OnProgress, TrainingRecord, TrainingSettings, train
from fullrank.nn import LowRankLinear
from fullrank.tasks.evaluation import evaluate
from fullrank.tasks.examples import Examples, Task, load_examples
from fullrank.tasks.models import quiet, require_empty
from fullrank.tasks.tokens import TokenizedExamples, collator

SCHEMA = 1
_TASK_TYPES: dict[Task, TaskType] = {
    "classification": TaskType.SEQ_CLS,
    "regression": TaskType.SEQ_CLS,
    "pairs": TaskType.SEQ_CLS,
    "causal-lm": TaskType.CAUSAL_LM,
}
_MAX_LENGTH = 128
_HEADS = ("pooler", "pre_classifier", "classifier", "score")


@dataclass(frozen=True)
class AdaptReport:
    """What fine-tuning did.

    Attributes:
        model, data: where they come from.
        task: of the data.
        method: name of the method.
        configuration: of the adapter, as PEFT stores it.
        adapter_parameters: trained in the adapter.
        trainable_parameters: with the head.
        parameters: of the model without adapter.
        before, after: metrics on the test records, by name; before training the head is new.
        settings: of the training.
        training_examples, test_examples: how many.
        steps, seconds, seconds_per_step: of the training.
        memory: bytes that a training step keeps beside the weights; see `TrainingMemory`.
        labels: the classes, in the order of the head's outputs; empty where a number or text is predicted.
        schema: version of the JSON layout.
    """

    model: str
    data: str
    task: Task
    method: str
    configuration: dict[str, Any]
    adapter_parameters: int
    trainable_parameters: int
    parameters: int
    before: dict[str, float]
    after: dict[str, float]
    settings: dict[str, Any]
    training_examples: int
    test_examples: int
    steps: int
    seconds: float
    seconds_per_step: float
    memory: dict[str, int]
    labels: list[Any] = field(default_factory=list)
    schema: int = SCHEMA

    @property
    def metric(self) -> str:
        """The name of the main metric."""
        return next(iter(self.after))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in `report.json`."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | Path) -> AdaptReport:
        """Read a `report.json`.

        Raises:
            ValueError: it was written by a newer version, or is none.
        """
        content = json.loads(Path(path).read_text())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path} is no adapter report of layout {SCHEMA}: fine-tune again, or update fullrank")
        return cls(**content)

    def to_table(self) -> Table:
        """A table for the terminal."""
        table = Table(
            title=escape(f"{self.method} on {Path(self.data).name} ({self.task})"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            header_style="bold",
        )
        table.add_column("")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        for name in self.after:
            table.add_row(name, f"{self.before[name]:.4g}", f"{self.after[name]:.4g}")
        return table


@dataclass(frozen=True)
class FineTuned:
    """A trained adapter.

    Attributes:
        model: the model with its adapter.
        tokenizer: its tokenizer.
        report: what was done and measured.
        record: what training took, step by step.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    report: AdaptReport
    record: TrainingRecord

    def save(self, folder: str | Path) -> Path:
        """Write the adapter as PEFT does, the tokenizer, and `report.json`, into a new or empty folder.

        Raises:
            FileExistsError: the folder holds something.
        """
        folder = Path(folder)
        require_empty(folder)
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))
        write_json(folder / "report.json", self.report.to_dict())
        return folder


def fine_tune(
    model: str | Path,
    data: str | Path | Examples,
    method: str = "lora",
    *,
    task: Task | None = None,
    rank: int | None = None,
    budget: int | None = None,
    settings: TrainingSettings | None = None,
    learning_rate: int | float | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> FineTuned:
    """Train an adapter on a data set, and measure the model before and after.

        fine_tune("path/to/model", "train.tsv", "loca").save("adapter")

    Args:
        model: a Hugging Face folder; a name of the hub where the network is.
        data: what `load_examples` reads, or what it returned.
        method: one of `METHODS`.
        task: default the one that the fields of the data pose.
        rank: the size of the adapter: rank, or number of frequencies; default the method's.
        budget: instead of `rank`: the number of trainable parameters to come nearest to.
        settings: how to train; default `TrainingSettings()` with the method's learning rate.
        learning_rate: of the adapter, in place of the method's; not together with `settings`.
        max_length: tokens of an example; longer ones are cut. Default 128, or what the model reads at most.
        limit: at most so many training and test examples.
        options: other fields of the method's configuration, such as `target_modules`; of a compressed model they are
            its factors by default.
        on_progress: called with (done, total, text).

    Raises:
        LookupError: an unknown method or data set.
        ValueError: options that exclude each other or do not fit; a file that cannot be understood; a folder without a
            model or a tokenizer.
    """
    chosen = adapter_method(method)
    if rank is not None and budget is not None:
        raise ValueError(f"rank={rank} and budget={budget}: give one of them")
    if settings is not None and learning_rate is not None:
        raise ValueError(f"learning_rate={learning_rate}: give it in `settings`, which were given too")
    settings = settings or TrainingSettings(learning_rate=learning_rate or chosen.learning_rate)
    examples = data if isinstance(data, Examples) else load_examples(data, task, limit=limit, seed=settings.seed)
    on_progress(0, 0, "loading the model")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        base, tokenizer = load_model(model, examples)
        parameters = sum(parameter.numel() for parameter in base.parameters())
        fields = {"task_type": _TASK_TYPES[examples.task], "modules_to_save": _head(base), **(options or {})}
        adapted = _adapted(base, chosen, rank, budget, fields)
    counts = {  # now: a schedule may freeze some of them
        "adapter_parameters": sum(p.numel() for p in adapter_parameters(adapted) if p.requires_grad),
        "trainable_parameters": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
    }
    max_length = _max_length(max_length, base)
    tokens = TokenizedExamples.of(examples, tokenizer, max_length)
    collate = collator(tokenizer, examples.task)
    adapted.to(settings.device)
    on_progress(0, 0, "measuring the model before training")
    before = evaluate(adapted, tokens.test, collate, examples.task, settings.batch_size)
    record = train(adapted, tokens.train, collate, settings, chosen.callbacks, on_progress)
    on_progress(0, 0, "measuring the model after training")
    after = evaluate(adapted, tokens.test, collate, examples.task, settings.batch_size)
    report = AdaptReport(
        model=str(model),
        data=examples.source,
        task=examples.task,
        method=method,
        configuration=_configuration(adapted),
        **counts,
        parameters=parameters,
        before=before,
        after=after,
        settings=asdict(settings) | {"max_length": max_length},
        training_examples=len(examples.train),
        test_examples=len(examples.test),
        steps=record.steps,
        seconds=round(record.seconds, 3),
        seconds_per_step=record.seconds_per_step,
        memory=asdict(record.memory) | {"total": record.memory.total},
        labels=list(examples.labels),
    )
    return FineTuned(adapted, tokenizer, report, record)


def _max_length(asked: int | None, model: PreTrainedModel) -> int:
    most = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    if asked is not None and asked > most:
        raise ValueError(f"max_length={asked}: {type(model).__name__} reads at most {most} tokens")
    return min(_MAX_LENGTH, most) if asked is None else asked


def _adapted(
    base: PreTrainedModel, method: AdapterMethod, rank: int | None, budget: int | None, fields: Mapping[str, Any]
) -> PeftModel:
    factored = _factored(base)
    if factored:  # no adapter takes a pair of factors for one layer
        fields = {"target_modules": ["first", "second"], **fields}
    try:
        size = rank if budget is None else size_for_budget(base, method, budget, **fields)
        with warnings.catch_warnings():
            # PEFT asks transformers under an old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return cast(PeftModel, get_peft_model(base, method.configure(size, **fields)))
    except (ValueError, TypeError) as error:
        hint = '; of compressed layers it adapts the factors: target_modules "first,second"' if factored else ""
        raise type(error)(f"{method.name} does not fit {type(base).__name__}: {error}{hint}") from error


def _factored(model: PreTrainedModel) -> bool:
    return any(isinstance(layer, LowRankLinear) for layer in model.modules())


def load_model(model: str | Path, examples: Examples) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with a head for the task, new where it has none, and its tokenizer.

    Raises:
        ValueError: there is no model or no tokenizer at that place, or an encoder is to continue a text.
    """
    local = only_local_files(model)
    know_compressed_layers(model)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=local)
            loaded = _load(str(model), examples, local)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model={str(model)!r} cannot be loaded for {examples.task}: {reason_not_loaded(model, error)}; a "
                "Hugging Face folder with config.json, weights and a tokenizer is accepted, or a hub name where the "
                "network is"
            ) from error
    if examples.task == "causal-lm" and _sees_what_follows(loaded):
        raise ValueError(
            f"model={str(model)!r} is a {loaded.config.model_type} encoder, which sees the words that follow: it "
            "cannot learn to continue a text; use a causal language model, or data with labels or scores"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded, tokenizer


def _load(model: str, examples: Examples, local: bool) -> PreTrainedModel:
    if examples.task == "causal-lm":
        return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=local)
    labels = [str(label) for label in examples.labels]
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return AutoModelForSequenceClassification.from_pretrained(
        model,
        dtype=torch.float32,
        local_files_only=local,
        num_labels=examples.outputs,
        problem_type="single_label_classification" if labels else "regression",
        ignore_mismatched_sizes=True,  # a head for other classes is replaced
        **(named if labels else {}),
    )


def _sees_what_follows(model: PreTrainedModel) -> bool:
    """Whether a model that was loaded to continue a text is an encoder without a causal mask."""
    return model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not model.config.is_decoder


def _head(model: PreTrainedModel) -> list[str] | None:
    """What stands between the last block and the classes; PEFT itself would leave some of it frozen at random."""
    names = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    return [name for name in _HEADS if name in names] or None


def _configuration(adapted: PeftModel) -> dict[str, Any]:
    """The adapter's configuration as plain data."""
    fields = adapted.peft_config["default"].to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}
