"""The verbs of learning to rank: rank train, rank text, rank score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fullrank._files import require_writable
from fullrank.cli.output import LARGEST_SEED, console, errors, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fullrank.order.baidu_features import FeatureRows
    from fullrank.order.baidu_format import Annotation, Session

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
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of initial weights and order.")] = 0,
    test: Annotated[Path | None, typer.Option(help="Graded documents to measure nDCG@10 on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a ranker on clicked lists.

    Example: `fullrank rank train clicks.svm --objective dla --out ranker --test graded.svm`
    Example: `fullrank rank train part-00000.gz --format baidu --ranker lightgbm --out ranker --test annotations.txt`
    """
    from fullrank.order.lightgbm_ranker import LightGBMRanker
    from fullrank.order.ultr_ranker import ULTRRanker

    _refuse_to_replace(out)
    if objective == "lambdarank" and ranker != "lightgbm":
        raise ValueError("--objective lambdarank is LightGBM's own: add --ranker lightgbm, or take unbiased-lambdarank")
    rows = _clicked(data, format)
    given = _numbers(propensities)
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
    _keep(made, out, "nDCG@10", measured, as_json)


@app.command()
def text(
    sessions: Annotated[Path, typer.Argument(help="Baidu-ULTR sessions, plain or gzip.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the ranker.", show_default=False)],
    size: Annotated[Literal["small", "base", "large"], typer.Option(help="3, 6 or 12 layers of width 768.")] = "small",
    pretrain: Annotated[int, typer.Option(min=0, help="Batches that teach words and clicks together first.")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Batches of clicked lists.")] = 1000,
    objective: Annotated[Objective, typer.Option(help="How clicks are corrected.")] = "naive",
    propensities: Annotated[str | None, typer.Option(help="Of the positions, for ips, such as 1,0.7,0.5.")] = None,
    judged: Annotated[Path | None, typer.Option(help="Judged documents to learn from in the end.")] = None,
    judged_steps: Annotated[int, typer.Option(min=1, help="Batches of their queries.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Sessions, or judged queries, at a time.")] = 22,
    warm_up: Annotated[int, typer.Option(min=0, help="Steps until the learning rate is reached.")] = 100,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 2e-5,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of initial weights, masks and order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    test: Annotated[Path | None, typer.Option(help="Judged documents to measure DCG@10 on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a language model that ranks by the words of a page, from sessions.

    Example: `fullrank rank text part-00000.gz --pretrain 2000 --objective dla --out ranker --test annotations.txt`
    """
    from fullrank.order.text_ranker import TextRanker

    _refuse_to_replace(out)
    if objective == "lambdarank":
        raise ValueError("--objective lambdarank is LightGBM's own; take unbiased-lambdarank")
    if not (pretrain or steps or judged):
        raise ValueError("--pretrain 0 --steps 0 teaches nothing; give a number of batches, or --judged FILE")
    made = TextRanker(
        size, objective, _numbers(propensities), batch_size=batch_size, warm_up=warm_up, device=device,
        random_state=seed,
    )  # fmt: skip
    log = _SessionFile(sessions)
    with console.status("training"):
        if pretrain:
            made.pretrain(log, pretrain, lr)
        if steps:
            made.fit(log, steps, lr)
        if judged is not None:
            made.fine_tune(_annotations(judged), judged_steps, lr)
    _show(log.malformed)
    measured = None if test is None else made.score(_annotations(test))
    _keep(made, out, "DCG@10", measured, as_json)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of a ranker.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="LETOR/SVMlight file, or judged documents of Baidu-ULTR.")],
    format: Annotated[Format, typer.Option(help="Of the file.")] = "svmlight",
) -> None:
    """Print a score for every document of a file, a line each.

    Example: `fullrank rank score ranker documents.svm > scores.txt`
    """
    from fullrank.order.text_ranker import TextRanker

    ranker = _loaded(folder)
    if isinstance(ranker, TextRanker):
        if format != "baidu":
            raise ValueError(f"{folder} reads words, which --format {format} has none of; give --format baidu")
        scores = ranker.predict(_annotations(data))
    else:
        scores = ranker.predict(_judged(data, format, ranker.n_features_in_).features)
    for value in scores.tolist():
        print(repr(value))


def _refuse_to_replace(out: Path) -> None:
    if (out / "ranker.json").exists():
        raise FileExistsError(17, "A ranker is there; name another folder", str(out))
    require_writable(out)


def _keep(ranker: Any, out: Path, measure: str, measured: float | None, as_json: bool) -> None:
    """Save a trained ranker, and say where and how good it is."""
    ranker.save(out)
    if as_json:
        print_json({"folder": str(out), measure: measured})
        return
    errors.print(f"wrote {out}", markup=False, highlight=False, soft_wrap=True)
    if measured is not None:
        console.print(f"{measure} {measured:.4f}", highlight=False)


def _loaded(folder: Path) -> Any:
    """A ranker of the kind that its folder names."""
    from fullrank.order.lightgbm_ranker import LightGBMRanker
    from fullrank.order.text_ranker import TextRanker
    from fullrank.order.ultr_ranker import ULTRRanker

    about = folder / "ranker.json"
    kind = json.loads(about.read_text(encoding="utf-8")).get("kind", "") if about.exists() else ""
    return {"LightGBMRanker": LightGBMRanker, "TextRanker": TextRanker}.get(kind, ULTRRanker).load(folder)


class _SessionFile:
    """Sessions of a file, as often as they are wanted; malformed lines are counted the first time."""

    def __init__(self, path: Path) -> None:
        from fullrank.order.baidu_format import MalformedLines

        self.path, self.malformed, self.read = path, MalformedLines(), False

    def __iter__(self) -> Iterator[Session]:
        from fullrank.order.baidu_format import MalformedLines, read_baidu_sessions

        malformed, self.read = MalformedLines() if self.read else self.malformed, True
        return read_baidu_sessions(self.path, malformed)


def _numbers(text: str | None) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise ValueError(f"--propensities {text} holds no numbers with commas between, such as 1,0.7,0.5") from error


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

    return _svmlight(path, features) if format == "svmlight" else annotation_features(_annotations(path))


def _annotations(path: Path) -> list[Annotation]:
    from fullrank.order.baidu_format import MalformedLines, read_baidu_annotations

    malformed = MalformedLines()
    found = list(read_baidu_annotations(path, malformed))
    _show(malformed)
    return found


def _svmlight(path: Path, features: int | None) -> FeatureRows:
    from fullrank.order.baidu_features import FeatureRows
    from fullrank.order.svmlight import load_svmlight
    from fullrank.order.ultr_ranker import places_within

    loaded = load_svmlight(path, features)
    return FeatureRows(loaded.features, loaded.grades, loaded.qid, places_within(loaded.qid) + 1)


def _show(malformed: Any) -> None:
    if malformed.count:
        errors.print(str(malformed), style="yellow", markup=False, highlight=False, soft_wrap=True)
