"""The verb that orders a run anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fullrank.cli.output import check_places, console, errors, print_json

if TYPE_CHECKING:
    from fullrank.search import Document, Run, SESAReranker

_OFFLINE = ("bi-encoder", "sesa")  # which load from this machine in any case
_EXPLAINED = 5  # documents of a query


def rerank(
    run: Annotated[Path, typer.Argument(help="Run file: TREC, .jsonl or .parquet.", show_default=False)],
    queries: Annotated[Path, typer.Option(help=".tsv of id and text, .jsonl or .parquet.", show_default=False)],
    documents: Annotated[
        Path,
        typer.Option(
            "--documents",
            "--index",
            help=".jsonl, .tsv or .parquet with id, text, title; or the folder of an index.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write .trec, .jsonl or .parquet.", show_default=False)
    ],
    method: Annotated[
        str,
        typer.Option(help="bi-encoder, cross-encoder, monot5, upr, colbert, rankgpt, listt5, prp, sesa, ..."),
    ] = "bi-encoder",
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the model. [default: the bundled encoder]")
    ] = None,
    count: Annotated[int, typer.Option("-k", "--count", min=1, help="Documents of each query to order.")] = 100,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Inputs of the model at a time.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens of an input of the model.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Load the model from this machine alone.")] = False,
    why: Annotated[
        bool, typer.Option("--why", help="Say which concepts move the scores of the best documents; with sesa.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --why: print JSON.")] = False,
) -> None:
    """Order the first documents of a run anew, by a model; those below keep their order.

    Example: `fullrank rerank first.trec --queries q.tsv --documents d.jsonl --method monot5 --model FOLDER -o new.trec`
    """
    from fullrank.search import SESAReranker, rerank_run, reranker
    from fullrank.search.reading import read_queries, read_run, write_run

    check_places([output], overwrite)
    chosen = {"batch_size": batch_size, "max_length": max_length, "local_files_only": None}
    if offline and method not in _OFFLINE:
        chosen["local_files_only"] = True
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    made = reranker(method, model, device=device, **options)
    if (why or as_json) and not isinstance(made, SESAReranker):
        raise ValueError(f"--why: the scores of {method} have no parts to show; --method sesa has concepts")
    texts, found, collection = read_queries(queries), read_run(run), _documents(documents)
    with console.status("re-ranking"):
        better = rerank_run(made, texts, collection, found, count)
    errors.print(f"wrote {write_run(output, better)}", markup=False, highlight=False, soft_wrap=True)
    malformed = getattr(made, "n_malformed", 0)
    if malformed:
        errors.print(f"{malformed} answers of the model could not be read in full; what they left out kept its order")
    if isinstance(made, SESAReranker) and (why or as_json):
        rows = _reasons(made, texts, collection, better, min(count, _EXPLAINED))
        print_json(rows) if as_json else console.print(_reasons_table(rows))


def _reasons(
    reranker: SESAReranker, queries: Mapping[str, str], documents: Mapping[str, Document], run: Run, count: int
) -> list[dict[str, Any]]:
    """The best documents of every query, and the concepts that move their scores most."""
    rows = []
    for query in run:
        best = run.ranking(query, count)
        reasons = reranker.explain(queries[query], [documents[id] for id, _ in best])
        for (id, score), parts in zip(best, reasons, strict=True):
            why = [{**part._asdict(), "shared_absence": part.shared_absence} for part in parts]
            rows.append({"query": query, "id": id, "score": score, "why": why})
    return rows


def _reasons_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("query", "id", "score", "why"):
        table.add_column(name, justify="right" if name == "score" else "left", no_wrap=name != "why")
    for row in rows:
        parts = [
            f"{part['concept']} {part['contribution']:+.2f}{' (both lack it)' if part['shared_absence'] else ''}"
            for part in row["why"]
        ]
        table.add_row(Text(row["query"]), Text(row["id"]), f"{row['score']:.4g}", Text(", ".join(parts)))
    return table


def _documents(path: Path) -> Mapping[str, Document]:
    """Documents by id, of a file or of an index."""
    from fullrank.search import BM25Retriever
    from fullrank.search.protocols import identifiers
    from fullrank.search.reading import read_documents

    if path.is_dir():
        return BM25Retriever.load(path).documents
    found = list(read_documents(path))
    return dict(zip(identifiers(found), found, strict=True))
