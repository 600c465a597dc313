"""Tables and pages of the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fullrank.cli.output import VERDICT_STYLE
from fullrank.papers import ClaimResult, Paper, Result, RunInfo, state_of
from fullrank.papers._plain import claims_of, paper_row, readable

if TYPE_CHECKING:
    from fullrank.papers import PaperHit
    from fullrank.spectra import Report


def hit_row(hit: PaperHit) -> dict[str, Any]:
    """A paper that was found, with why."""
    why = {"score": hit.score, "terms": list(hit.terms), "cosine": hit.cosine}
    return paper_row(hit.paper) | why


def papers_table(rows: list[dict[str, Any]]) -> Table:
    """The list of papers."""
    table = Table(header_style="bold", show_edge=False)
    table.add_column("slug", style="cyan", no_wrap=True)
    table.add_column("title")
    table.add_column("published", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in rows:
        table.add_row(row["slug"], escape(row["title"]), row["published"] or "", row["state"])
    return table


def print_paper(console: Console, paper: Paper, result: Result | None) -> None:
    """A paper's page."""
    console.print(f"[bold]{escape(paper.title)}[/bold]")
    facts = [
        f"arXiv {paper.arxiv}",
        paper.venue,
        paper.published,
        f"{paper.authors} authors" if paper.authors else None,
    ]
    console.print(" · ".join(fact for fact in facts if fact), style="dim")
    console.print(f"\n{escape(paper.summary)}\n")
    if paper.notes:
        console.print(f"{escape(paper.notes)}\n")
    claims = claims_of(paper, result)
    console.print(claims_table(claims))
    console.print(f"\nState: [bold]{state_of(paper)}[/bold]")
    if paper.usage:
        console.print(f"\n{escape(paper.usage)}")
    if paper.built:
        console.print(f"\nRun it: fullrank run {paper.slug} --scale quick")


def claims_table(claims: tuple[ClaimResult, ...]) -> Table:
    """Claims beside measurements."""
    table = Table(header_style="bold", show_lines=True)
    table.add_column("claim", ratio=5)
    table.add_column("paper", ratio=2)
    table.add_column("measured", ratio=3)
    table.add_column("verdict", no_wrap=True)
    for claim in claims:
        says = escape(claim.says) + ("" if claim.kind == "paper" else " [yellow](finding)[/yellow]")
        says += "" if claim.confirmed else " [dim](not confirmed)[/dim]"
        measured = readable(claim.value, claim.unit) if claim.value is not None else escape(claim.needs or "")
        style = VERDICT_STYLE[claim.verdict]
        verdict = f"[{style}]{claim.verdict}[/{style}]"
        table.add_row(says, escape(readable(claim.paper_value, claim.unit)), escape(measured), verdict)
    return table


def print_result(console: Console, paper: Paper, result: Result) -> None:
    """What a run found."""
    console.print(f"[bold]{escape(paper.title)}[/bold], {result.scale}, {result.seconds:.0f} s, {result.device}")
    console.print(claims_table(tuple(claim for claim in result.claims if claim.value is not None)))
    unmeasured = sum(claim.value is None for claim in result.claims)
    if unmeasured:
        console.print(f"{unmeasured} claims not measured: fullrank show {paper.slug}", style="dim")
    for name, rows in result.tables.items():
        console.print(rows_table(name, rows))
    for note in result.notes:
        console.print(f"Note: {escape(note)}")


def rows_table(name: str, rows: list[dict[str, Any]]) -> Table:
    """A study's table."""
    table = Table(title=name.replace("-", " "), title_justify="left", header_style="bold")
    for column in rows[0] if rows else []:
        table.add_column(str(column), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(escape(readable(value)) for value in row.values()))
    return table


def runs_table(found: list[RunInfo]) -> Table:
    """Runs with their state."""
    table = Table(title="runs", title_justify="left", header_style="bold")
    for column in ("paper", "run", "scale", "status", "progress", "seconds", "reason"):
        table.add_column(column)
    for info in found:
        progress = f"{info.done}/{info.total}" if info.total else ""
        row = (info.slug, info.run, info.scale or "", info.status, progress, f"{info.seconds:.0f}", escape(info.reason))
        table.add_row(*row)
    return table


def kept_table(kept: list[Result]) -> Table:
    """Kept results."""
    table = Table(title="kept results", title_justify="left", header_style="bold")
    for column in ("paper", "scale", "reproduced", "not reproduced", "not measured", "commit", "seconds"):
        table.add_column(column)
    for result in kept:
        verdicts = list(result.verdicts.values())
        counts = (str(verdicts.count(name)) for name in ("reproduced", "not reproduced", "not measured"))
        commit = str(result.environment.get("commit") or "")
        table.add_row(result.slug, result.scale, *counts, commit, f"{result.seconds:.0f}")
    return table


def verify_table(report: list[dict[str, Any]]) -> Table:
    """What a repetition found."""
    table = Table(title="repeated", title_justify="left", header_style="bold")
    for column in ("paper", "status", "claim", "kept", "now", "drift"):
        table.add_column(column)
    for row in report:
        table.add_row(row["slug"], row["status"], "", "", "", "")
        for difference in row["differences"]:
            drift = "" if difference["drift"] is None else f"{difference['drift']:.1%}"
            table.add_row("", "", difference["claim"], difference["kept"], difference["now"], drift)
    return table


def print_totals(console: Console, report: Report) -> None:
    """Totals of a rank report, and where compression is cheapest."""
    totals = report.totals
    console.print(
        f"{totals['parameters']:,} parameters in all, {totals['parameters_in_matrices']:,} in {totals['matrices']} "
        f"matrices; effective rank {totals['mean_rank_share']:.0%} of full rank."
    )
    saved = ", ".join(f"{count:,} at {float(error):.0%}" for error, count in totals["saved"].items())
    console.print(f"Parameters saved by truncation, by relative error: {saved}.")
    cheapest = report.cheapest(0.1, 5)
    if cheapest:
        names = ", ".join(f"{matrix.name} ({matrix.truncation(0.1).share:.0%})" for matrix in cheapest)
        console.print(f"Cheapest to compress at 10 %: {names}.", highlight=False)
    for remark in report.remarks:
        console.print(f"Note: {remark}")
    for skipped in report.skipped:
        console.print(f"Left out: {escape(skipped.name)}: {escape(skipped.reason)}", style="dim")
