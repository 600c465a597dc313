"""The verb of ranking measures: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from fullrank.cli.output import console, print_json

if TYPE_CHECKING:
    from fullrank.order import Evaluation

Evaluations = dict[str, "Evaluation"]
Comparisons = dict[str, list[dict[str, float | int | str]]]
_MEASURES = ("nDCG@10", "AP", "RR@10", "P@10", "R@100")


def evaluate(
    qrels: Annotated[Path, typer.Argument(help="Judgements: TREC, .tsv, .jsonl or .parquet.", show_default=False)],
    runs: Annotated[list[Path], typer.Argument(help="Run files: TREC, .jsonl or .parquet.", show_default=False)],
    measure: Annotated[
        list[str] | None, typer.Option("-m", "--measure", help="Such as nDCG@10, AP, RR@10, P_5; repeatable.")
    ] = None,
    missing: Annotated[
        Literal["skip", "zero"], typer.Option(help="Judged queries that a run lacks: left out, or 0.")
    ] = "skip",
    per_query: Annotated[bool, typer.Option("--per-query", help="Print every query's values.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Test every run against the first: paired t-test, Holm's correction.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure runs exactly as trec_eval does, and tell whether one is better by more than chance.

    Tables have columns query_id, doc_id, and score or relevance.

    Example: `fullrank evaluate qrels.txt bm25.trec dense.trec -m nDCG@10 -m AP --compare`
    """
    from fullrank.order import evaluate as evaluate_run
    from fullrank.search.reading import read_qrels, read_run

    names = list(dict.fromkeys(measure or _MEASURES))
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; give every run once")
    judged = read_qrels(qrels)
    found = {str(path): evaluate_run(judged, read_run(path), names, missing) for path in runs}
    tests = _compared(found, names) if compare else {}
    if as_json:
        print_json([_plain(name, evaluation, per_query, tests) for name, evaluation in found.items()])
        return
    console.print(_values(found, names, per_query))
    if tests:
        console.print()
        console.print(_differences(tests, str(runs[0])))


def _compared(found: Evaluations, names: list[str]) -> Comparisons:
    """Every run against the first, by measure."""
    from fullrank.order import compare

    first, *others = found
    if not others:
        raise ValueError("--compare has nothing to compare with; give at least two runs")
    odd = next((name for name in others if found[name].queries != found[first].queries), None)
    if odd is not None:
        raise ValueError(
            f"{odd} and {first} answer other queries, which a paired test cannot compare; --missing zero counts 0 "
            f"where a run has no answer"
        )
    return {name: compare(found, first, name) for name in names}


def _plain(run: str, evaluation: Evaluation, per_query: bool, tests: Comparisons) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": run,
        "measures": dict(evaluation),
        "per_query": evaluation.per_query if per_query else None,
    }
    if not tests:
        return row
    fields = ("difference", "p", "wins", "losses")
    return row | {
        "against_first": {
            measure: {field: test[field] for field in fields}
            for measure, rows in tests.items()
            for test in rows
            if test["system"] == run
        }
    }


def _values(found: Evaluations, names: list[str], per_query: bool) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for run, evaluation in found.items():
        table.add_row(run, *(f"{evaluation[name]:.4f}" for name in names))
        for query in evaluation.queries if per_query else ():
            table.add_row(f"  {query}", *(f"{evaluation.per_query[name][query]:.4f}" for name in names), style="dim")
    return table


def _differences(tests: Comparisons, first: str) -> Table:
    table = Table(title=f"against {first}", title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("measure")
    for name in ("difference", "p", "better", "worse"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, rows in tests.items():
        for row in rows:
            table.add_row(
                str(row["system"]),
                name,
                f"{row['difference']:+.4f}",
                f"{row['p']:.4f}" + ("*" if float(row["p"]) < 0.05 else " "),
                str(row["wins"]),
                str(row["losses"]),
            )
    table.caption = "better, worse: queries; * p < 0.05 after Holm's correction"
    table.caption_justify = "left"
    return table
