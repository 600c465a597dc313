"""Jobs in worker processes, with a worker that only pretends to compute."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fullrank.hub import Settings, jobs
from fullrank.hub.jobs import Jobs, TooMany
from fullrank.hub.store import Job, JobState, Store

SMOKE, QUICK = {"scale": "smoke"}, {"scale": "quick"}
_WORKER = """
import json, os, sys, threading, time
folder = sys.argv[1]
job = json.load(open(folder + "/job.json"))
def end(): os.read(0, 1); os._exit(74)
threading.Thread(target=end, daemon=True).start()
def state(**more):
    standing = {"done": 1, "total": 2, "text": "half", "pid": os.getpid(), **more}
    with open(folder + "/new", "w") as file: json.dump(standing, file)
    os.replace(folder + "/new", folder + "/state.json")
state()
try:
    if job["subject"] == "fails":
        state(error="no room on the disk")
        sys.exit(1)
    time.sleep(0.05 if job["subject"] == "short" else 60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(jobs, "_WORKER", _WORKER)
    settings = Settings(tmp_path / "runs", waiting=2)
    hub = Jobs(settings, Store(settings.folder / "hub.sqlite"))
    hub.start()
    yield hub
    hub.stop()


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.02)


def _reaches(hub: Jobs, job: Job, state: JobState) -> Job:
    _until(lambda: hub.store.job(job.id).state == state)
    return hub.store.job(job.id)


def _working(hub: Jobs, job: Job) -> int:
    """The process of a job that has begun to compute."""
    _until(lambda: "pid" in hub._state(job))
    return hub._state(job)["pid"]


def test_jobs_finish_one_after_the_other(hub: Jobs) -> None:
    first, second = hub.submit("run", "short", "Short", SMOKE), hub.submit("analysis", "short", "Short")
    assert _reaches(hub, second, "finished").ended >= _reaches(hub, first, "finished").ended
    assert hub.progress(hub.store.job(first.id)).text == "half"


def test_the_same_job_is_not_asked_for_twice(hub: Jobs) -> None:
    assert hub.submit("run", "long", "Long", SMOKE).id == hub.submit("run", "long", "Long", SMOKE).id
    assert hub.submit("run", "long", "Long", QUICK).id != hub.submit("run", "long", "Long", SMOKE).id


def test_too_many_are_refused(hub: Jobs) -> None:
    running = hub.submit("run", "long", "Long", SMOKE)
    _reaches(hub, running, "running")
    hub.submit("run", "a", "A", SMOKE)
    hub.submit("run", "b", "B", SMOKE)
    with pytest.raises(TooMany, match="2 jobs wait"):
        hub.submit("run", "c", "C", SMOKE)


def test_a_running_and_a_waiting_job_can_be_cancelled(hub: Jobs) -> None:
    running, waiting = hub.submit("run", "long", "Long", SMOKE), hub.submit("run", "next", "Next", SMOKE)
    _working(hub, running)
    hub.cancel(waiting.id)
    assert hub.store.job(waiting.id).state == "cancelled"
    hub.cancel(running.id)
    _reaches(hub, running, "cancelled")
    assert hub.cancel(running.id).state == "cancelled"


def test_a_failure_says_why(hub: Jobs) -> None:
    assert _reaches(hub, hub.submit("run", "fails", "Fails", SMOKE), "failed").reason == "no room on the disk"


def test_a_killed_worker_is_interrupted(hub: Jobs) -> None:
    job = hub.submit("run", "long", "Long", SMOKE)
    os.kill(_working(hub, job), signal.SIGKILL)
    assert "code -9" in _reaches(hub, job, "interrupted").reason


def test_workers_end_with_the_hub(hub: Jobs) -> None:
    job = hub.submit("run", "long", "Long", SMOKE)
    pid = _working(hub, job)
    worker = hub._workers[job.id]
    assert worker.stdin is not None
    worker.stdin.close()  # as when the hub is killed
    assert worker.wait(20) == 74
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    _reaches(hub, job, "interrupted")
