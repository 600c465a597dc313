"""The page as code: one file per paper, the study machinery, and the catalogue that discovers them."""

from typing import TYPE_CHECKING, Any

from fullrank.papers._catalogue import UnknownPaper, catalogue, find
from fullrank.papers._paper import TOPICS, Claim, Mode, Paper, State, Verdict
from fullrank.papers._published import (
    Difference,
    compare_results,
    keep,
    kept_result,
    latest_run,
    readme_table,
    results_folder,
    state_of,
)
from fullrank.papers._result import ClaimResult, Result, ResultError
from fullrank.papers._runs import RunInfo, list_runs, run, run_info, runs_folder
from fullrank.papers._trial import SCALES, Cancelled, Measured, Scale, Trial

if TYPE_CHECKING:
    from fullrank.papers._search import PaperHit, search

__all__ = [
    "SCALES",
    "TOPICS",
    "Cancelled",
    "Claim",
    "ClaimResult",
    "Difference",
    "Measured",
    "Mode",
    "Paper",
    "PaperHit",
    "Result",
    "ResultError",
    "RunInfo",
    "Scale",
    "State",
    "Trial",
    "UnknownPaper",
    "Verdict",
    "catalogue",
    "compare_results",
    "find",
    "keep",
    "kept_result",
    "latest_run",
    "list_runs",
    "readme_table",
    "results_folder",
    "run",
    "run_info",
    "runs_folder",
    "search",
    "state_of",
]


def __getattr__(name: str) -> Any:
    if name in ("PaperHit", "search"):  # they bring torch, which the catalogue does without
        from fullrank.papers import _search

        return getattr(_search, name)
    raise AttributeError(f"module 'fullrank.papers' has no attribute {name!r}")
