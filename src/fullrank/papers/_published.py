"""Results that are kept: `results/<slug>/<scale>/`, made by the command itself, shown by CLI, hub and README."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fullrank.papers._catalogue import catalogue
from fullrank.papers._paper import Measured, Paper, State
from fullrank.papers._result import Result
from fullrank.papers._runs import RunInfo, list_runs
from fullrank.papers._trial import SCALES, Scale

_DRIFT = 0.05  # relative difference of a measurement that is worth showing


@dataclass(frozen=True)
class Difference:
    """One claim whose measurement or verdict differs between two results.

    Attributes:
        claim: its id.
        kept, now: verdicts.
        drift: largest relative difference of the measured numbers, None where they cannot be compared.
        holds: whether the verdict is the same.
    """

    claim: str
    kept: str
    now: str
    drift: float | None
    holds: bool


def results_folder() -> Path:
    """Where kept results are: `$FULLRANK_RESULTS`, `results/` of a source checkout, or inside the installed package."""
    if "FULLRANK_RESULTS" in os.environ:
        return Path(os.environ["FULLRANK_RESULTS"])
    checkout = Path(__file__).parents[3] / "results"
    return checkout if checkout.is_dir() else Path(__file__).parent / "results"


def kept_result(paper: Paper, scale: Scale | None = None) -> Result | None:
    """The kept result of a paper: of that scale, or of the largest there is; verdicts computed by the claims of now.

    Raises:
        ResultError: the file is damaged, or was made by a newer Fullrank.
    """
    for name in (scale,) if scale else reversed(SCALES):
        folder = results_folder() / paper.slug / str(name)
        if (folder / "result.json").exists():
            return Result.load(folder).recomputed(paper)
    return None


def state_of(paper: Paper) -> State:
    """One word for a paper, computed from its kept result."""
    result = kept_result(paper)
    return paper.state(result.verdicts if result else None)


def keep(info: RunInfo) -> Path:
    """Copy a finished run into the results folder, in place of the result of its paper and scale.

    Raises:
        ValueError: the run is not finished.
        OSError: the results folder cannot be written; the result that was kept before stays.
    """
    if info.status != "finished" or info.scale is None:
        raise ValueError(f"the run {info.slug}/{info.run} is {info.status}: only a finished run is kept")
    target = results_folder() / info.slug / info.scale
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        fresh, old = Path(beside, "fresh"), Path(beside, "old")
        for name in ("result.json", *Result.load(info.folder).figures.values()):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(info.folder / name, fresh / name)
        if target.exists():
            target.replace(old)
        try:
            fresh.replace(target)
        except BaseException:
            if old.exists():
                old.replace(target)
            raise
    return target


def latest_run(slug: str, runs: Path | None = None) -> RunInfo | None:
    """The newest finished run of a paper."""
    return next((info for info in list_runs(slug, runs) if info.status == "finished"), None)


def compare_results(kept: Result, now: Result) -> list[Difference]:
    """Claims whose verdict changed, or whose measurement moved by more than 5 %."""
    found = []
    for old in kept.claims:
        new = next((claim for claim in now.claims if claim.id == old.id), None)
        if new is None:
            continue
        drift = _drift(old.value, new.value)
        if old.verdict != new.verdict or (drift is not None and drift > _DRIFT):
            found.append(Difference(old.id, old.verdict, new.verdict, drift, old.verdict == new.verdict))
    return found


def readme_table() -> str:
    """The table of all papers for the README, in Markdown."""
    lines = ["| paper | topics | state | claims measured |", "| --- | --- | --- | --- |"]
    for paper in catalogue():
        result = kept_result(paper)
        measured = sum(claim.verdict != "not measured" for claim in result.claims) if result else 0
        link = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})"
        lines.append(f"| {link} | {', '.join(paper.topics)} | {state_of(paper)} | {measured} of {len(paper.claims)} |")
    return "\n".join(lines) + "\n"


def _drift(old: Measured | None, new: Measured | None) -> float | None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        drifts = [drift for name in old if name in new and (drift := _drift(old[name], new[name])) is not None]
        return max(drifts, default=None)
    if isinstance(old, int | float) and isinstance(new, int | float):
        return abs(new - old) / max(abs(old), 1e-12)
    return None
