"""Run a study in a folder of its own: resumable after a kill, listed only as what it is.

A run's folder `runs/<slug>/<start in UTC>/` holds

- `run.json`: what was asked (scale, device, seeds, version), and the seconds of earlier sessions;
- `lock`: held by the process that works on it, released by the system when that process dies;
- `progress.json`: the last progress report;
- `scratch/`: finished steps, until the run is finished;
- `stopped.json`: why the last session ended early, if it could still say so;
- `run.log`: what happened when, with the traceback of a failure;
- `result.json` and `figures/`: written when everything is done, `result.json` last.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

import fullrank
from fullrank._files import write_json
from fullrank.papers._catalogue import find
from fullrank.papers._environment import environment, peak_memory, source_commit
from fullrank.papers._paper import Paper
from fullrank.papers._result import Result, ResultError, claim_results
from fullrank.papers._trial import SCALES, Cancelled, Scale, Trial

Status = Literal["running", "finished", "interrupted", "cancelled", "failed", "unreadable"]
OnProgress = Callable[[int, int, str], None]

_SEEDS: dict[Scale, tuple[int, ...]] = {"smoke": (0,), "quick": (0, 1, 2), "full": (0, 1, 2)}
_PROGRESS_EVERY = 0.2  # seconds between two progress files
_PROBE = 0.1  # seconds to wait for a lock: a look at it holds it for a moment, a run holds it for good

_log = logging.getLogger("fullrank.papers")


@dataclass(frozen=True)
class RunInfo:
    """One run folder and the state it is in.

    Attributes:
        slug, scale, device, seeds: what was asked.
        run: the folder's name.
        folder: where it is.
        status: "finished" only with a whole result; "running" only while a process holds its lock.
        done, total, text: the last progress report.
        reason: why it stopped, failed or cannot be read; empty otherwise.
        seconds: computing time so far.
    """

    slug: str
    run: str
    folder: Path
    status: Status
    scale: Scale | None = None
    device: str = "cpu"
    seeds: tuple[int, ...] = ()
    done: int = 0
    total: int = 0
    text: str = ""
    reason: str = ""
    seconds: float = 0.0

    @property
    def resumable(self) -> bool:
        """Whether running it again goes on from its last finished step."""
        return self.status in ("interrupted", "cancelled", "failed")

    def result(self) -> Result:
        """The finished run's result, its verdicts computed by the claims as they are now."""
        return Result.load(self.folder).recomputed(find(self.slug))


def runs_folder() -> Path:
    """Where runs go: `$FULLRANK_RUNS`, or `runs` in the working directory."""
    return Path(os.environ.get("FULLRANK_RUNS", "runs"))


def run(
    paper: Paper | str,
    scale: Scale = "quick",
    *,
    runs: Path | None = None,
    device: str = "cpu",
    seeds: tuple[int, ...] | None = None,
    fresh: bool = False,
    on_start: Callable[[RunInfo], None] = lambda info: None,
    on_progress: OnProgress = lambda done, total, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Run a paper's study and keep its result.

    A run of the same paper, scale, device, seeds and version that was killed or stopped before is resumed, unless
    another process is at it.

    Args:
        paper: the paper or its slug.
        scale: "smoke", "quick" or "full".
        runs: folder for all runs; see `runs_folder`.
        device: torch device name, such as "cpu" or "cuda:0".
        seeds: seeds to repeat over; one at "smoke", three otherwise.
        fresh: start anew even where an earlier run could be resumed.
        on_start: called once with the run's folder.
        on_progress: called with (done, total, text).
        should_stop: asked at every progress report; True stops the run, which can be resumed.

    Returns:
        The result, also kept as `result.json` in the run's folder.

    Raises:
        UnknownPaper: no paper has that slug.
        LookupError: the paper has no study yet.
        ValueError: an unknown scale or device, or no seeds.
        RuntimeError: the device is not there.
        Cancelled: `should_stop` said so.
        OSError: the folder cannot be written.
    """
    paper = find(paper) if isinstance(paper, str) else paper
    study = paper.run_study
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r} is not known; accepted: {', '.join(SCALES)}")
    seeds = _SEEDS[scale] if seeds is None else tuple(seeds)
    if not seeds:
        raise ValueError("seeds=() leaves nothing to run; give at least one, such as seeds=(0,)")
    _require_device(device)
    asked = {"slug": paper.slug, "scale": scale, "device": device, "seeds": list(seeds)}
    asked |= {"version": fullrank.__version__, "commit": source_commit()}
    with _claimed_folder(runs or runs_folder(), asked, fresh) as folder:
        (folder / "stopped.json").unlink(missing_ok=True)
        on_start(run_info(folder))
        session = _Session(folder, on_progress)
        trial = Trial(
            claim_ids=tuple(claim.id for claim in paper.claims),
            scale=scale,
            scratch=folder / "scratch",
            device=device,
            seeds=seeds,
            on_progress=session.report,
            should_stop=should_stop,
        )
        try:
            study(trial)
            return _finish(paper, trial, session)
        except (Cancelled, KeyboardInterrupt):
            session.stop("cancelled", "")
            raise
        except Exception as error:
            session.stop("failed", f"{type(error).__name__}: {error}")
            raise


def list_runs(slug: str | None = None, runs: Path | None = None) -> list[RunInfo]:
    """Every run folder with its state, newest first; damaged ones and those of a newer Fullrank say so."""
    root = runs or runs_folder()
    files = root.glob(f"{slug or '*'}/*/run.json")
    return sorted((run_info(file.parent) for file in files), key=lambda info: info.run, reverse=True)


def run_info(folder: Path) -> RunInfo:
    """The state of one run folder."""
    slug, name = folder.parent.name, folder.name
    try:
        asked = _read(folder / "run.json")
        progress = _read(folder / "progress.json") if (folder / "progress.json").exists() else {}
        stopped = _read(folder / "stopped.json") if (folder / "stopped.json").exists() else {}
        status: Status = stopped.get("status", "interrupted")
        if status not in get_args(Status):
            raise ValueError(f"stopped.json names the status {status!r}")
        common: dict[str, Any] = {
            "scale": asked["scale"],
            "device": asked["device"],
            "seeds": tuple(asked["seeds"]),
            "done": progress.get("done", 0),
            "total": progress.get("total", 0),
            "text": progress.get("text", ""),
            "seconds": asked.get("seconds", 0.0) + progress.get("seconds", 0.0),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        return RunInfo(slug, name, folder, "unreadable", reason=f"its folder is damaged ({error})")
    file = folder / "result.json"
    running = not file.exists() and _is_locked(folder)
    if file.exists():  # looked at after the lock: a run may have finished in between
        try:
            Result.load(folder)
        except ResultError as error:
            return RunInfo(slug, name, folder, "unreadable", reason=str(error), **common)
        return RunInfo(slug, name, folder, "finished", **common)
    if running:
        return RunInfo(slug, name, folder, "running", **common)
    return RunInfo(slug, name, folder, status, reason=stopped.get("reason", ""), **common)


class _Session:
    """The part of a run that one process does: time and progress."""

    def __init__(self, folder: Path, on_progress: OnProgress) -> None:
        self.folder = folder
        self.on_progress = on_progress
        self.began = time.monotonic()
        self.reported = 0.0
        self.text = ""
        asked = _read(folder / "run.json")
        earlier = _read(folder / "progress.json")["seconds"] if (folder / "progress.json").exists() else 0.0
        self.before = asked.get("seconds", 0.0) + earlier
        write_json(folder / "run.json", {**asked, "seconds": self.before})
        self.report(0, 0, "starting")

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def report(self, done: int, total: int, text: str) -> None:
        self.on_progress(done, total, text)
        now = time.monotonic()
        if done < total and now - self.reported < _PROGRESS_EVERY:
            return
        self.reported = now
        if text != self.text:
            self.text = text
            self.log(text)
        progress = {"done": done, "total": total, "text": text, "seconds": now - self.began}
        write_json(self.folder / "progress.json", progress)

    def stop(self, status: Status, reason: str) -> None:
        try:
            write_json(self.folder / "stopped.json", {"status": status, "reason": reason})
            self.log(traceback.format_exc().rstrip() if status == "failed" else status)
        except OSError as error:  # the disk may be what failed; the run is then listed as interrupted
            _log.warning("could not note in %s why the run stopped: %s", self.folder, error)

    def log(self, text: str) -> None:
        with (self.folder / "run.log").open("a") as log:
            log.write(f"{_now().isoformat(timespec='milliseconds')} {text}\n")


def _finish(paper: Paper, trial: Trial, session: _Session) -> Result:
    asked = _read(session.folder / "run.json")
    result = Result(
        slug=paper.slug,
        scale=trial.scale,
        run=session.folder.name,
        started=asked["started"],
        finished=_now().isoformat(timespec="seconds"),
        seconds=round(session.seconds, 3),
        peak_memory=peak_memory() + sum(trial.worker_memory.values()),
        device=trial.device,
        seeds=trial.seeds,
        claims=claim_results(paper, trial),
        tables=trial.tables,
        figures={name: f"figures/{name}.svg" for name in trial.figures},
        notes=tuple(trial.notes),
        environment=environment(trial.device),
    )
    session.log("study finished")
    result.save(session.folder, trial.figures)
    shutil.rmtree(trial.scratch, ignore_errors=True)  # the result stands; scratch left behind only takes room
    return result


@contextmanager
def _claimed_folder(root: Path, asked: dict[str, Any], fresh: bool) -> Iterator[Path]:
    """A folder for this run, its lock held: one that can be resumed, or a new one."""
    candidates = [] if fresh else [info for info in list_runs(asked["slug"], root) if info.resumable]
    for info in candidates:
        if not _same(info, asked):
            continue
        lock = FileLock(info.folder / "lock", timeout=_PROBE)
        try:
            lock.acquire()
        except Timeout:
            continue  # another process is resuming it
        try:
            if not (info.folder / "result.json").exists():  # nobody finished it meanwhile
                yield info.folder
                return
        finally:
            lock.release()
    folder = _new_folder(root / asked["slug"])
    with FileLock(folder / "lock", timeout=_PROBE):
        write_json(folder / "run.json", {**asked, "started": _now().isoformat(timespec="seconds")})
        yield folder


def _same(info: RunInfo, asked: dict[str, Any]) -> bool:
    stored = _read(info.folder / "run.json")
    return all(stored.get(key) == value for key, value in asked.items())


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / _now().strftime("%Y-%m-%dT%H-%M-%S-%fZ")
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # two runs in one microsecond
        return folder


def _is_locked(folder: Path) -> bool:
    if not (folder / "lock").exists():
        return False
    try:
        with FileLock(folder / "lock", timeout=_PROBE):
            return False
    except Timeout:
        return True


def _require_device(device: str) -> None:
    if device == "cpu":
        return
    found = re.fullmatch(r"(cuda|mps)(?::(\d+))?", device)
    if found is None:
        raise ValueError(f"device={device!r} is not known; accepted: cpu, cuda, cuda:1, mps")
    import torch

    count = torch.cuda.device_count() if found[1] == "cuda" else int(torch.backends.mps.is_available())
    if int(found[2] or 0) >= count:
        raise RuntimeError(f"device={device!r} is not there; use --device cpu, or a machine that has one")


def _read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no object")
    return content


def _now() -> datetime:
    return datetime.now(UTC)
