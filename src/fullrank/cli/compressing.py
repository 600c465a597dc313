"""The verbs that make models smaller."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from fullrank.cli.models import model_path
from fullrank.cli.output import LARGEST_SEED, check_outputs, console, errors, print_json, progress_bar

if TYPE_CHECKING:
    from fullrank.compress import RankRule

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Data = Annotated[
    str,
    typer.Option(
        help="Examples of the model's task: a file (.tsv or .csv with a header, .jsonl, .parquet, .txt) or a data set "
        "such as stsb, sst2 or wikitext2. An encoder without a head takes pairs with scores, or texts with labels."
    ),
]
Targets = Annotated[
    str, typer.Option(help='Names of the layers, with commas; "all-linear", or "all" with convolutions.')
]
Exclude = Annotated[str, typer.Option(help="Names of layers that stay as they are, with commas.")]
Samples = Annotated[int, typer.Option(min=1, help="Training examples that statistics are gathered from.")]
Limit = Annotated[int | None, typer.Option(min=2, help="At most so many training and test examples.")]
MaxLength = Annotated[int, typer.Option(min=2, help="Tokens of an example.")]
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def compress(
    model: Annotated[str, typer.Argument(help='Hugging Face folder, or "minilm".')],
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the compressed model.")],
    method: Annotated[
        str,
        typer.Option(help="svd, fwsvd, fwsvd-output, fwsvd-both, asvd, whiten, snmf, rtn, gptq, lorc or lr2vq."),
    ] = "fwsvd",
    keep: Annotated[float | None, typer.Option(help="Share of every layer's parameters.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="The same rank in every layer.")] = None,
    energy: Annotated[float | None, typer.Option(help="Share of the squared singular values, by layer.")] = None,
    bits: Annotated[int | None, typer.Option(min=2, max=8, help="Bits of a weight, for methods that quantise.")] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Inputs that share a scale, for methods that quantise; -1 for whole rows.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Parameters of all compressed layers, spent where they matter: 5M, 800k.")
    ] = None,
    recover: Annotated[float, typer.Option(min=0, help="Epochs of training what changed.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Of the recovery.")] = 1e-4,
    target_modules: Targets = "all-linear",
    exclude_modules: Exclude = "",
    num_samples: Samples = 256,
    max_length: MaxLength = 128,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the draw and the order of examples.")] = 0,
    resume: Annotated[Path | None, typer.Option(help="Folder of finished layers, to go on after an interruption.")] = (
        None
    ),
    as_json: Json = False,
) -> None:
    """Make a trained model smaller, and prove it: size, speed and quality before and after.

    Example: `fullrank compress minilm --method fwsvd --keep 0.5 --data stsb -o small`
    """
    from fullrank.compress import compress_pretrained

    options = _size(keep, rank, energy, bits, budget) | ({} if group_size is None else {"group_size": group_size})
    with progress_bar() as move:
        proven = compress_pretrained(
            model_path(model)[0],
            method,
            data,
            output=output,
            recover=recover,
            learning_rate=learning_rate,
            num_samples=num_samples,
            target_modules=_targets(target_modules),
            exclude_modules=_names(exclude_modules),
            max_length=max_length,
            limit=limit,
            seed=seed,
            resume=resume,
            on_progress=move,
            **options,
        )
    report = proven.report
    if as_json:
        print_json(report.to_dict())
        return
    console.print(report.compression.to_table())
    console.print(report.to_table())
    console.print(f"[dim]{escape(str(output))}[/dim]", soft_wrap=True)


def compare_compressors(
    data: Data,
    methods: Annotated[str, typer.Option(help="Methods to compare, with commas.")] = (
        "svd,asvd,whiten,fwsvd,fwsvd-output,fwsvd-both"
    ),
    model: Annotated[str, typer.Option(help='Hugging Face folder, or "minilm".')] = "minilm",
    keeps: Annotated[str, typer.Option(help="Shares of every layer's parameters, with commas.")] = "0.8,0.6,0.5,0.35",
    bits: Annotated[str, typer.Option(help="Bits of a weight, with commas, for methods that quantise.")] = "8,6,4,3",
    target_modules: Targets = "all-linear",
    exclude_modules: Exclude = "",
    num_samples: Samples = 256,
    max_length: MaxLength = 128,
    limit: Limit = None,
    output: Annotated[
        list[Path] | None, typer.Option("-o", "--output", help="Write .svg, .json, .csv or .parquet; repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Compress one model by several methods at several sizes: the frontier of quality and size.

    Example: `fullrank compare-compressors --data stsb -o frontier.svg`
    """
    from fullrank.compress import compare_compressors

    check_outputs(output or (), (".svg", ".json", ".csv", ".parquet"), overwrite)
    path, name = model_path(model)
    with progress_bar() as move:
        comparison = compare_compressors(
            path,
            data,
            _names(methods),
            _numbers("keeps", keeps, float),
            _numbers("bits", bits, int),
            num_samples=num_samples,
            target_modules=_targets(target_modules),
            exclude_modules=_names(exclude_modules),
            max_length=max_length,
            limit=limit,
            on_progress=move,
        )
    comparison = replace(comparison, model=name or comparison.model)
    for file in output or []:
        errors.print(f"wrote {comparison.save(file)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(comparison.to_dict())
        return
    console.print(comparison.to_table())
    for setting, reason in comparison.skipped.items():
        errors.print(f"left out {setting}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _size(
    keep: float | None, rank: int | None, energy: float | None, bits: int | None, budget: str | None
) -> dict[str, Any]:
    """The option of the method that its size comes to."""
    from fullrank.compress import BudgetRank, EnergyRank, FixedRank, RatioRank

    rules: dict[str, RankRule] = {}
    if keep is not None:
        rules["keep"] = RatioRank(keep)
    if rank is not None:
        rules["rank"] = FixedRank(rank)
    if energy is not None:
        rules["energy"] = EnergyRank(energy)
    if budget is not None:
        rules["budget"] = BudgetRank(parameters=_count(budget))
    if len(rules) > 1:
        raise ValueError(f"--{' and --'.join(rules)} exclude each other: give one of them")
    options: dict[str, Any] = {} if bits is None else {"bits": bits}
    if rules:
        (options["rank_rule"],) = rules.values()
    return options


def _count(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", text.strip().lower())
    if match is None:
        raise ValueError(f"--budget {text}: a number of parameters is accepted, such as 800000, 800k or 5M")
    return round(float(match[1]) * _UNITS[match[2]])


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _targets(text: str) -> str | list[str]:
    names = _names(text)
    return names[0] if names in (["all-linear"], ["all"]) else names


def _numbers(option: str, text: str, kind: type[float] | type[int]) -> list[Any]:
    try:
        return [kind(part) for part in _names(text)]
    except ValueError as error:
        raise ValueError(f"--{option} {text}: numbers with commas are accepted") from error
