"""The command's verbs. Each parses its arguments, calls one public function, and prints."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from fullrank import __version__, papers
from fullrank._files import write_text
from fullrank.cli import (
    adapting,
    chirps,
    clicking,
    compressing,
    evaluating,
    ranking,
    reranking,
    searching,
    segmenting,
    tables,
)
from fullrank.cli.models import model_path
from fullrank.cli.output import check_outputs, console, errors, print_json, progress_bar, read_seeds
from fullrank.papers import Cancelled, Mode, RunInfo, Scale
from fullrank.papers._plain import paper_details, paper_row, run_row

app = typer.Typer(
    name="fullrank",
    help="Rank in both senses: 38 papers about low rank and ranking, to find, run, check and use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of runs. [default: $FULLRANK_RUNS or ./runs]")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
# The base of all errors of usage: typer exports only its subclasses, and its click is the package or a copy within.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_STOPPED = 130
_MARK = ("<!-- papers:begin -->\n", "<!-- papers:end -->\n")


def main() -> None:
    """Run the command. Exit codes: 0 done; 1 a check failed; 2 bad input; 130 stopped by Ctrl-C."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # closed, it is None
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no × and no box, but the words
    if not sys.warnoptions:  # what one library says to another is nothing for the user
        warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        errors.print("stopped")
        sys.exit(_STOPPED)
    except _UsageError as error:
        error.show()
        sys.exit(2)
    except (ValueError, LookupError, OSError, ImportError, RuntimeError, TypeError) as error:
        if not _is_ours(error):
            raise
        errors.print(f"error: {_words(error)}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    if code == _STOPPED:  # typer turns Ctrl-C into a code of its own accord
        errors.print("stopped")
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Rank in both senses: 38 papers about low rank and ranking, to find, run, check and use."""
    if show:
        console.print(__version__)
        raise typer.Exit


@app.command("papers")
def papers_command(
    query: Annotated[str | None, typer.Argument(help="Words to look for; all papers without.")] = None,
    count: Annotated[int, typer.Option("-k", "--count", min=1, help="How many at most, with a query.")] = 10,
    mode: Annotated[Mode, typer.Option(help="How to search.")] = "hybrid",
    readme: Annotated[Path | None, typer.Option(help="Rewrite the table of papers in this README.")] = None,
    check: Annotated[bool, typer.Option(help="With --readme: only check, exit 1 if it is outdated.")] = False,
    as_json: Json = False,
) -> None:
    """List the papers, or find some.

    Example: `fullrank papers "fine-tune with few parameters"`
    """
    if check and readme is None:
        raise ValueError("--check looks at a table of papers: name its file with --readme")
    if readme is not None:
        _readme(readme, check)
        return
    if query is None:
        rows = [paper_row(paper) for paper in papers.catalogue()]
        print_json(rows) if as_json else console.print(tables.papers_table(rows))
        return
    with console.status("searching"):
        hits = papers.search(query, count, mode)
    rows = [tables.hit_row(hit) for hit in hits]
    print_json(rows) if as_json else console.print(tables.papers_table(rows))


@app.command()
def show(slug: Annotated[str, typer.Argument(help="Slug or arXiv id.")], as_json: Json = False) -> None:
    """Show a paper: summary, claims beside measurements, how to use it.

    Example: `fullrank show rankme`
    """
    paper = papers.find(slug)
    result = papers.kept_result(paper)
    if as_json:
        print_json(paper_details(paper, result))
        return
    tables.print_paper(console, paper, result)


@app.command()
def run(
    slug: Annotated[str, typer.Argument(help="Slug or arXiv id.")],
    scale: Annotated[Scale, typer.Option(help="smoke: seconds; quick: minutes on two cores; full: one GPU.")] = "quick",
    device: Device = "cpu",
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming a stopped run.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the result in the results folder.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Run a paper's study: claims beside measurements, tables, figures. A stopped run is resumed.

    Example: `fullrank run rankme --scale smoke`
    """
    started: list[RunInfo] = []
    try:
        with progress_bar() as move:
            result = papers.run(
                slug,
                scale,
                runs=runs,
                device=device,
                seeds=None if seeds is None else read_seeds(seeds),
                fresh=fresh,
                on_start=started.append,
                on_progress=move,
            )
    except (KeyboardInterrupt, Cancelled):
        errors.print("stopped; the same command goes on from the last finished step")
        raise
    info = papers.run_info(started[0].folder)
    if keep:
        papers.keep(info)
    if as_json:
        print_json(result.to_dict())
        return
    tables.print_result(console, papers.find(slug), result)
    console.print(f"[dim]{info.folder}[/dim]", soft_wrap=True)


@app.command()
def results(
    slug: Annotated[str | None, typer.Argument(help="Only this paper.")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """List runs with their state, and the kept results.

    Example: `fullrank results rankme`
    """
    found = papers.list_runs(papers.find(slug).slug if slug else None, runs)
    chosen = [papers.find(slug)] if slug else papers.catalogue()
    kept = [result for paper in chosen if (result := papers.kept_result(paper)) is not None]
    if as_json:
        print_json({"runs": [run_row(info) for info in found], "kept": [result.to_dict() for result in kept]})
        return
    console.print(tables.runs_table(found) if found else "no runs here yet: fullrank run SLUG")
    if kept:
        console.print(tables.kept_table(kept))


@app.command()
def verify(
    slug: Annotated[str | None, typer.Argument(help="Only this paper; all kept results by default.")] = None,
    scale: Annotated[Scale, typer.Option(help="Scale of the kept results to repeat.")] = "quick",
    device: Device = "cpu",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Repeat kept results and compare; exit 1 if a verdict differs.

    Example: `fullrank verify rankme`
    """
    chosen = [papers.find(slug)] if slug else [paper for paper in papers.catalogue() if paper.built]
    report: list[dict[str, Any]] = []
    for paper in chosen:
        kept = papers.kept_result(paper, scale)
        if kept is None:
            report.append({"slug": paper.slug, "status": f"no kept {scale} result", "differences": []})
            continue
        with progress_bar() as move:
            now = papers.run(paper, scale, runs=runs, device=device, seeds=kept.seeds, fresh=True, on_progress=move)
        differences = papers.compare_results(kept, now)
        same = all(difference.holds for difference in differences)
        row = {"slug": paper.slug, "status": "same verdicts" if same else "verdicts differ"}
        report.append({**row, "differences": [vars(difference) for difference in differences]})
    print_json(report) if as_json else console.print(tables.verify_table(report))
    if any(row["status"] != "same verdicts" for row in report):
        raise typer.Exit(1)


@app.command()
def analyze(
    model: Annotated[str, typer.Argument(help='Hugging Face folder, safetensors file or index, or "minilm".')],
    against: Annotated[str | None, typer.Option(help="Compare with this model or checkpoint.")] = None,
    output: Annotated[
        list[Path] | None, typer.Option("-o", "--output", help="Write .html, .json, .csv or .parquet; repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")] = False,
    heads: Annotated[bool, typer.Option(help="Measure attention heads too.")] = True,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """The rank of every weight of a model, and where compression is cheapest.

    Example: `fullrank analyze minilm -o report.html`
    """
    from fullrank import spectra  # brings torch

    check_outputs(output or (), (".html", ".json", ".csv", ".parquet"), overwrite)

    def measure(source: str) -> spectra.Report:
        with progress_bar() as move:
            path, name = model_path(source)
            return spectra.analyze(path, heads=heads, device=device, name=name, on_progress=move)

    report = measure(model)
    outcome = spectra.compare(measure(against), report) if against else report
    for path in output or []:
        errors.print(f"wrote {outcome.save(path)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(outcome.to_dict())
        return
    console.print(outcome.to_table())
    if not against:
        tables.print_totals(console, report)


app.command("adapt")(adapting.adapt)
app.command("compare-adapters")(adapting.compare_adapters)
app.command("compress")(compressing.compress)
app.command("compare-compressors")(compressing.compare_compressors)
app.command("segment")(segmenting.segment)
app.command("chirps")(chirps.chirps)
for _verb in (searching.index, searching.search, reranking.rerank, evaluating.evaluate, searching.ask):
    app.command(_verb.__name__)(_verb)
for _verb in (clicking.clicks, clicking.propensities):
    ranking.app.command(_verb.__name__)(_verb)
app.add_typer(ranking.app, name="rank")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; keep the default unless you mean to expose it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    runs: Runs = None,
    models: Annotated[
        list[Path] | None, typer.Option(help="Folder whose models may be analyzed by path; repeatable.")
    ] = None,
) -> None:
    """Serve the hub: find a paper, run it, see claim beside measurement, analyze a model.

    Example: `fullrank serve --port 9000 --models ~/models`
    """
    from fullrank.hub import serve as serve_hub  # brings FastAPI

    serve_hub(host, port, runs=runs or papers.runs_folder(), models=tuple(models or ()))


def _readme(path: Path, check: bool) -> None:
    text = path.read_text()
    begin, end = _MARK
    if begin not in text or end not in text:
        raise ValueError(f"{path} has no place for the table: the lines {begin.strip()} and {end.strip()} are needed")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    wanted = f"{before}{begin}{papers.readme_table()}{end}{after}"
    if text == wanted:
        return
    if check:
        errors.print(f"the table of papers in {path} is outdated: fullrank papers --readme {path}")
        raise typer.Exit(1)
    write_text(path, wanted)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning in words, without the line of code that gave it."""
    errors.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised, with words for the user, by Fullrank itself or comes from the system."""
    if isinstance(error, OSError):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("fullrank")


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
