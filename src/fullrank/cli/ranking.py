"""The verbs of learning to rank: rank train, rank score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fullrank.cli.output import console, errors, print_json

app = typer.Typer(help="Learn to rank from clicks or grades, and score documents.", no_args_is_help=True)
Objective = Literal["naive", "ips", "dla", "rem", "pairdebias", "two-tower"]


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="LETOR/SVMlight: clicks as labels, lists in shown order.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the ranker.", show_default=False)],
    objective: Annotated[Objective, typer.Option(help="How clicks are corrected.")] = "dla",
    scorer: Annotated[Literal["linear", "mlp"], typer.Option(help="What scores documents.")] = "linear",
    propensities: Annotated[str | None, typer.Option(help="Of the positions, for ips, such as 1,0.7,0.5.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the lists.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of initial weights and order.")] = 0,
    test: Annotated[Path | None, typer.Option(help="Graded documents to measure nDCG@10 on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a ranker on clicked lists.

    Example: `fullrank rank train clicks.svm --objective dla --out ranker --test graded.svm`
    """
    from fullrank.order.svmlight import load_svmlight
    from fullrank.order.ultr_ranker import ULTRRanker

    if (out / "ranker.json").exists():
        raise FileExistsError(17, "A ranker is there; name another folder", str(out))
    loaded = load_svmlight(data)
    given = [float(part) for part in propensities.split(",")] if propensities else None
    ranker = ULTRRanker(objective, scorer, given, lr, epochs, random_state=seed)
    with console.status("training"):
        ranker.fit(loaded.features, (loaded.grades > 0).astype(int), loaded.qid)
    measured = None
    if test is not None:
        judged = load_svmlight(test, loaded.features.shape[1])
        measured = ranker.score(judged.features, judged.grades, judged.qid)
    ranker.save(out)
    if as_json:
        print_json({"folder": str(out), "nDCG@10": measured})
        return
    errors.print(f"wrote {out}", markup=False, highlight=False, soft_wrap=True)
    if measured is not None:
        console.print(f"nDCG@10 {measured:.4f}", highlight=False)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of a ranker.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="LETOR/SVMlight file.", show_default=False)],
) -> None:
    """Print a score for every document of a file, a line each.

    Example: `fullrank rank score ranker documents.svm > scores.txt`
    """
    from fullrank.order.svmlight import load_svmlight
    from fullrank.order.ultr_ranker import ULTRRanker

    ranker = ULTRRanker.load(folder)
    for value in ranker.predict(load_svmlight(data, ranker.n_features_in_).features).tolist():
        print(repr(value))
