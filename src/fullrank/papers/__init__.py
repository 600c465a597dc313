"""The page as code: one file per paper, the study machinery, and the catalogue that discovers them."""

from fullrank.papers._catalogue import UnknownPaper, catalogue, find
from fullrank.papers._paper import TOPICS, Claim, Paper, State, Verdict
from fullrank.papers._result import ClaimResult, Result, ResultError
from fullrank.papers._runs import RunInfo, list_runs, run, run_info, runs_folder
from fullrank.papers._trial import SCALES, Cancelled, Measured, Scale, Trial

__all__ = [
    "SCALES",
    "TOPICS",
    "Cancelled",
    "Claim",
    "ClaimResult",
    "Measured",
    "Paper",
    "Result",
    "ResultError",
    "RunInfo",
    "Scale",
    "State",
    "Trial",
    "UnknownPaper",
    "Verdict",
    "catalogue",
    "find",
    "list_runs",
    "run",
    "run_info",
    "runs_folder",
]
