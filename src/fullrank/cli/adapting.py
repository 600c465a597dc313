"""The verbs that train adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from fullrank.cli.models import model_path
from fullrank.cli.output import LARGEST_SEED, check_outputs, console, errors, print_json, progress_bar, read_seeds

if TYPE_CHECKING:
    from fullrank.adapt import Examples

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Data = Annotated[
    str,
    typer.Option(
        help="A file (.tsv or .csv with a header, .jsonl, .parquet, .txt) or a data set: sst2, trec-questions, agnews, "
        "rt-polarity, stsb, gsm8k-mini, tinyshakespeare, wikitext2."
    ),
]
Test = Annotated[Path | None, typer.Option(help="File to evaluate on. [default: the data's own test part, or a fifth]")]
Task = Annotated[
    Literal["classification", "regression", "pairs", "causal-lm"] | None,
    typer.Option(help="What the data pose. [default: the one that the fields pose]"),
]
Epochs = Annotated[float, typer.Option(help="Passes over the training examples.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a step.")]
MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Tokens of an example. [default: 128, or what the model reads at most]")
]
Targets = Annotated[
    str | None,
    typer.Option(
        help='Names of the layers to adapt, with commas, or "all-linear". [default: the method\'s; of a compressed '
        "model its factors]"
    ),
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def adapt(
    model: Annotated[str, typer.Argument(help='Hugging Face folder, or "minilm".')],
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the adapter and report.json.")],
    method: Annotated[
        str, typer.Option(help="lora, dora, vera, fourierft, hydra, wara, loldu, loca or lamda.")
    ] = "lora",
    task: Task = None,
    test: Test = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank, or number of frequencies.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Trainable parameters, in place of --rank.")] = None,
    epochs: Epochs = 3,
    batch_size: BatchSize = 32,
    learning_rate: Annotated[float | None, typer.Option(help="Of the adapter. [default: the method's]")] = None,
    max_length: MaxLength = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Train and test on at most so many examples.")] = None,
    target_modules: Targets = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the head, the adapter and the order of examples.")
    ] = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train an adapter on data of your own, measure before and after, and save it for PEFT.

    Example: `fullrank adapt minilm --method loca --data sst2 --limit 500 -o adapter`
    """
    from fullrank.adapt import TrainingSettings, adapter_method, fine_tune
    from fullrank.tasks import require_empty

    require_empty(output)  # before an hour of training, not after
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=adapter_method(method).learning_rate if learning_rate is None else learning_rate,
        seed=seed,
        device=device,
    )
    examples = _examples(data, task, test, limit, seed)
    with progress_bar() as move:
        tuned = fine_tune(
            model_path(model)[0],
            examples,
            method,
            rank=rank,
            budget=budget,
            settings=settings,
            max_length=max_length,
            options=_options(target_modules),
            on_progress=move,
        )
    folder = tuned.save(output)
    report = tuned.report
    if as_json:
        print_json(report.to_dict())
        return
    console.print(report.to_table())
    console.print(
        f"{report.adapter_parameters:,} of {report.parameters:,} parameters trained in the adapter, "
        f"{report.trainable_parameters:,} with the head; {report.steps} steps of "
        f"{1000 * report.seconds_per_step:.0f} ms, {report.memory['total'] / 2**20:.0f} MiB beside the weights.",
        highlight=False,
    )
    console.print(f"[dim]{escape(str(folder))}[/dim]", soft_wrap=True)


def compare_adapters(
    data: Data,
    methods: Annotated[str, typer.Option(help="Methods to compare, with commas.")] = "lora,hydra,wara,loldu,loca,lamda",
    model: Annotated[str, typer.Option(help='Hugging Face folder, or "minilm".')] = "minilm",
    budget: Annotated[
        int, typer.Option(min=1, help="Trainable parameters that every method comes nearest to.")
    ] = 25_000,
    task: Task = None,
    test: Test = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    epochs: Epochs = 3,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    limit: Annotated[int, typer.Option(min=0, help="Train and test on at most so many examples; 0: all.")] = 1000,
    target_modules: Targets = None,
    device: Device = "cpu",
    output: Annotated[
        list[Path] | None, typer.Option("-o", "--output", help="Write .svg, .json, .csv or .parquet; repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Train several methods at the same size on the same data: quality, memory and time beside each other.

    Example: `fullrank compare-adapters --methods lora,loca --data sst2 --budget 25000 -o comparison.svg`
    """
    from fullrank.adapt import TrainingSettings, compare_adapters

    check_outputs(output or (), (".svg", ".json", ".csv", ".parquet"), overwrite)
    settings = TrainingSettings(epochs=epochs, batch_size=batch_size, device=device)
    examples = _examples(data, task, test, limit or None, 0)
    path, name = model_path(model)
    with progress_bar() as move:
        comparison = compare_adapters(
            path,
            examples,
            [method.strip() for method in methods.split(",")],
            budget,
            seeds=read_seeds(seeds),
            settings=settings,
            max_length=max_length,
            options=_options(target_modules),
            on_progress=move,
        )
    comparison = replace(comparison, model=name or comparison.model)
    for file in output or []:
        errors.print(f"wrote {comparison.save(file)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(comparison.to_dict())
        return
    console.print(comparison.to_table())


def _examples(data: str, task: Any, test: Path | None, limit: int | None, seed: int) -> Examples:
    from fullrank.adapt import load_examples

    return load_examples(data, task, test, limit, seed)


def _options(target_modules: str | None) -> dict[str, Any]:
    if target_modules is None:
        return {}
    names = [name.strip() for name in target_modules.split(",")]
    return {"target_modules": names[0] if names == ["all-linear"] else names}
