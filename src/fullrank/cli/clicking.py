"""The verbs of click logs: rank clicks, rank propensities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from fullrank.cli.output import check_places, console, errors, print_json

if TYPE_CHECKING:
    from fullrank.order import ClickModel, ClickSessions

Kind = Literal["pbm", "ubm", "cascade", "dcm", "dbn", "sdbn", "ctr", "rank-ctr", "document-ctr"]
Log = Annotated[
    Path,
    typer.Argument(help="Click log: .jsonl or .parquet with query_id, doc_ids as shown, clicks.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
#: Class in `fullrank.order`, and its arguments.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "pbm": ("PBM", {}),
    "ubm": ("UBM", {}),
    "cascade": ("Cascade", {}),
    "dcm": ("DCM", {}),
    "dbn": ("DBN", {}),
    "sdbn": ("DBN", {"continuation": 1.0}),
    "ctr": ("ClickThroughRate", {"by": "all"}),
    "rank-ctr": ("ClickThroughRate", {"by": "rank"}),
    "document-ctr": ("ClickThroughRate", {"by": "document"}),
}


def clicks(
    log: Log,
    model: Annotated[Kind, typer.Option(help="How users are thought to click; ctr are plain rates.")] = "pbm",
    test: Annotated[Path | None, typer.Option(help="Another log to measure on; default the same.")] = None,
    smoothing: Annotated[float, typer.Option(min=0, help="Clicks and skips added to every count.")] = 1.0,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Write the model as .json, its documents as .csv, .parquet; repeatable."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Fit a click model to a log, and tell how well it foresees the clicks at every rank.

    Perplexity is 1 where every click is foreseen, 2 where a coin is tossed.

    Example: `fullrank rank clicks log.jsonl --model dbn --test later.jsonl -o model.json`
    """
    from fullrank import order

    check_places(output or (), overwrite)
    sessions = order.read_click_sessions(log)
    measured_on = sessions if test is None else order.read_click_sessions(test)
    name, options = _MODELS[model]
    with console.status("fitting"):
        fitted = getattr(order, name)(smoothing=smoothing, **options).fit(*sessions)
    found = _measured(fitted, measured_on)
    for path in output or []:
        errors.print(f"wrote {fitted.save(path)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"model": model, "sessions": len(sessions.clicks), **found})
        return
    table = Table(header_style="bold", show_edge=False)
    for column in found["ranks"][0]:
        table.add_column(column, justify="right")
    for row in found["ranks"]:
        table.add_row(*(str(value) if column == "rank" else f"{value:.4f}" for column, value in row.items()))
    console.print(table)
    said = f"perplexity {found['perplexity']:.4f}, log-likelihood of a session {found['log_likelihood']:.4f}"
    impossible = found["impossible_sessions"]
    console.print(said + (f"; {impossible} sessions are impossible under the model" if impossible else ""),
                  highlight=False)  # fmt: skip


def propensities(
    log: Log,
    method: Annotated[
        Literal["randomization", "shuffle", "harvest", "adjacent", "em", "dla"],
        typer.Option(
            help="Shuffled lists (either name); several rankers' lists (all pairs of ranks, or neighbours); a PBM; or "
            "dual learning."
        ),
    ] = "harvest",
    as_json: Json = False,
) -> None:
    """How much every rank is examined, over the first: one line, as `rank train --objective ips` takes it.

    Example: `fullrank rank propensities log.jsonl --method harvest`
    """
    from fullrank.order import estimate_propensities, read_click_sessions

    with console.status("estimating"):
        found = estimate_propensities(*read_click_sessions(log), method=method).tolist()
    if as_json:
        print_json({"method": method, "propensities": found})
        return
    print(",".join(f"{value:.4g}" for value in found))


def _measured(model: ClickModel, sessions: ClickSessions) -> dict[str, Any]:
    """Perplexity and log-likelihood; clicks, perplexity and, where the model tells it, examination by rank."""
    from fullrank.order import ClickThroughRate

    shown = sessions.mask.sum(0)
    perplexity, log_likelihoods = model.perplexity(*sessions), model.log_likelihood(*sessions)
    columns = {
        "rank": range(1, len(shown) + 1),
        "clicked": (sessions.clicks.sum(0) / shown).tolist(),
        "perplexity": perplexity.by_rank.tolist(),
    }
    if not isinstance(model, ClickThroughRate):
        columns["examined"] = (model.examination_probabilities(*sessions[1:]).sum(0) / shown).tolist()
    return {
        "log_likelihood": float(log_likelihoods.mean()),
        "impossible_sessions": int((log_likelihoods == -float("inf")).sum()),
        "perplexity": perplexity.overall,
        "ranks": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }
