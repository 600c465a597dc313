"""The verbs of learning to rank: rank train, rank score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fullrank.cli.output import console, errors, print_json

if TYPE_CHECKING:
    from fullrank.order.baidu_features import FeatureRows

app = typer.Typer(help="Learn to rank from clicks or grades, and score documents.", no_args_is_help=True)
Objective = Literal[
    "naive", "ips", "dla", "rem", "pairdebias", "unbiased-lambdarank", "two-tower", "lambdarank"
]  # fmt: skip
Format = Literal["svmlight", "baidu"]


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Clicks as labels, lists in shown order; or Baidu-ULTR sessions.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the ranker.", show_default=False)],
    objective: Annotated[Objective, typer.Option(help="How clicks are corrected; lambdarank does not.")] = "dla",
    ranker: Annotated[Literal["linear", "mlp", "lightgbm"], typer.Option(help="What scores documents.")] = "linear",
    format: Annotated[Format, typer.Option(help="Of the files: LETOR/SVMlight, or Baidu-ULTR, plain or gzip.")] = (
        "svmlight"
    ),
    propensities: Annotated[str | None, typer.Option(help="Of the positions, for ips, such as 1,0.7,0.5.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the lists, of linear and mlp.")] = 5,
    trees: Annotated[int, typer.Option(min=1, help="Trees, of lightgbm.")] = 100,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate. [default: 0.05, of trees 0.1]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and order.")] = 0,
    test: Annotated[Path | None, typer.Option(help="Graded documents to measure nDCG@10 on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a ranker on clicked lists.

    Example: `fullrank rank train clicks.svm --objective dla --out ranker --test graded.svm`
    Example: `fullrank rank train part-00000.gz --format baidu --ranker lightgbm --out ranker --test annotations.txt`
    """
    from fullrank.order.lightgbm_ranker import LightGBMRanker
    from fullrank.order.ultr_ranker import ULTRRanker

    if (out / "ranker.json").exists():
        raise FileExistsError(17, "A ranker is there; name another folder", str(out))
    if objective == "lambdarank" and ranker != "lightgbm":
        raise ValueError("--objective lambdarank is LightGBM's own: add --ranker lightgbm, or take unbiased-lambdarank")
    rows = _clicked(data, format)
    given = [float(part) for part in propensities.split(",")] if propensities else None
    if ranker == "lightgbm":
        made: Any = LightGBMRanker(objective, given, trees, 0.1 if lr is None else lr, random_state=seed)
    else:
        made = ULTRRanker(objective, ranker, given, 0.05 if lr is None else lr, epochs, random_state=seed)
    with console.status("training"):
        made.fit(*rows)
    measured = None
    if test is not None:
        judged = _judged(test, format, rows.features.shape[1])
        measured = made.score(judged.features, judged.labels, judged.qid)
    made.save(out)
    if as_json:
        print_json({"folder": str(out), "nDCG@10": measured})
        return
    errors.print(f"wrote {out}", markup=False, highlight=False, soft_wrap=True)
    if measured is not None:
        console.print(f"nDCG@10 {measured:.4f}", highlight=False)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of a ranker.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="LETOR/SVMlight file, or judged documents of Baidu-ULTR.")],
    format: Annotated[Format, typer.Option(help="Of the file.")] = "svmlight",
) -> None:
    """Print a score for every document of a file, a line each.

    Example: `fullrank rank score ranker documents.svm > scores.txt`
    """
    ranker = _loaded(folder)
    for value in ranker.predict(_judged(data, format, ranker.n_features_in_).features).tolist():
        print(repr(value))


def _loaded(folder: Path) -> Any:
    """A ranker of the kind that its folder names."""
    from fullrank.order.lightgbm_ranker import LightGBMRanker
    from fullrank.order.ultr_ranker import ULTRRanker

    about = folder / "ranker.json"
    trees = about.exists() and json.loads(about.read_text(encoding="utf-8")).get("kind") == "LightGBMRanker"
    return (LightGBMRanker if trees else ULTRRanker).load(folder)


def _clicked(path: Path, format: Format) -> FeatureRows:
    """Documents that were shown, with clicks."""
    from fullrank.order.baidu_features import session_features
    from fullrank.order.baidu_format import MalformedLines, read_baidu_sessions

    if format == "svmlight":
        rows = _svmlight(path, None)
        return rows._replace(labels=(rows.labels > 0).astype("int64"))
    malformed = MalformedLines()
    rows = session_features(read_baidu_sessions(path, malformed))
    _show(malformed)
    return rows


def _judged(path: Path, format: Format, features: int) -> FeatureRows:
    """Documents that were judged, with grades."""
    from fullrank.order.baidu_features import annotation_features
    from fullrank.order.baidu_format import MalformedLines, read_baidu_annotations

    if format == "svmlight":
        return _svmlight(path, features)
    malformed = MalformedLines()
    rows = annotation_features(read_baidu_annotations(path, malformed))
    _show(malformed)
    return rows


def _svmlight(path: Path, features: int | None) -> FeatureRows:
    from fullrank.order.baidu_features import FeatureRows
    from fullrank.order.svmlight import load_svmlight
    from fullrank.order.ultr_ranker import places_within

    loaded = load_svmlight(path, features)
    return FeatureRows(loaded.features, loaded.grades, loaded.qid, places_within(loaded.qid) + 1)


def _show(malformed: Any) -> None:
    if malformed.count:
        errors.print(str(malformed), style="yellow", markup=False, highlight=False, soft_wrap=True)
