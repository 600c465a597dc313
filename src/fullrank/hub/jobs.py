"""Jobs in worker processes: started in turn, watched, cancelled, ended with the hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullrank._files import write_json
from fullrank.hub.settings import Settings
from fullrank.hub.store import Job, Kind, Store
from fullrank.hub.worker import CANCELLED

_LOOK = 0.1  # seconds between two looks at the workers
_WORKER = "from fullrank.hub.worker import main; main()"
# Threads that wait for each other sleep: spinning, they take the cores from the hub and from whatever else runs.
_POLITE = {"OMP_WAIT_POLICY": "PASSIVE"}
_GRACE = 5.0  # seconds a cancelled worker gets before it is killed


class TooMany(RuntimeError):
    """Too many jobs wait already."""


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    done: int = 0
    total: int = 0
    text: str = ""


class Jobs:
    """The jobs of a hub.

    Args:
        settings: how many run at once and may wait, and where files go.
        store: where jobs are kept.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to work; what ran when the hub ended last is interrupted, what waited goes on waiting."""
        self.store.interrupt_running()
        self._watcher.start()

    def stop(self) -> None:
        """End every worker; their runs can be resumed."""
        self._ending.set()
        self._watcher.join()
        with self._lock:
            for id, worker in self._workers.items():
                _end(worker)
                self.store.move(id, "interrupted")
            self._workers.clear()

    def submit(self, kind: Kind, subject: str, title: str, options: Mapping[str, Any] | None = None) -> Job:
        """Ask for a job; one that waits or runs already is not asked for twice.

        Args:
            kind, subject, title, options: as in `Job`.

        Raises:
            TooMany: too many wait.
        """
        with self._lock:
            active = self.store.jobs(states=("waiting", "running"))
            for job in active:
                if (job.kind, job.subject, job.options) == (kind, subject, dict(options or {})):
                    return job
            if sum(job.state == "waiting" for job in active) >= self.settings.waiting:
                raise TooMany(f"{self.settings.waiting} jobs wait already; try again when some are done")
            return self.store.add(kind, subject, title, options)

    def cancel(self, id: int) -> Job:
        """Stop a job; one that is over stays as it is.

        Raises:
            LookupError: there is no such job.
        """
        with self._lock:
            job = self.store.job(id)
            if job.state == "waiting":
                self.store.move(id, "cancelled")
            if worker := self._workers.get(id):
                worker.send_signal(signal.SIGINT)
        return self.store.job(id)

    def finished(self, id: int, kind: Kind) -> tuple[Job, Path]:
        """A job that is done, and its files.

        Raises:
            LookupError: there is no such job, it is of another kind, or it is not finished.
        """
        job = self.store.job(id)
        if job.kind != kind or job.state != "finished":
            raise LookupError(f"job {id} is no finished {kind}")
        return job, self.folder(job)

    def progress(self, job: Job) -> Progress:
        """How far a job is."""
        state = self._state(job)
        return Progress(state.get("done", 0), state.get("total", 0), state.get("text", ""))

    def folder(self, job: Job) -> Path:
        """The files of a job."""
        return self.settings.folder / "jobs" / str(job.id)

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK):
            with self._lock:
                for id, worker in list(self._workers.items()):
                    self._look_at(id, worker)
                if len(self._workers) < self.settings.workers:
                    self._start_next()

    def _look_at(self, id: int, worker: subprocess.Popen[bytes]) -> None:
        job = self.store.job(id)
        state = self._state(job)
        if not job.run and "run" in state:
            self.store.name_run(id, state["run"])
        code = worker.poll()
        if code is None:
            return
        del self._workers[id]
        _close(worker)
        if code == 0:
            self.store.move(id, "finished")
        elif code in (CANCELLED, -signal.SIGINT):
            self.store.move(id, "cancelled")
        elif "error" in state:
            self.store.move(id, "failed", state["error"])
        else:  # killed from outside, or out of memory
            self.store.move(id, "interrupted", f"its process ended with code {code}")

    def _start_next(self) -> None:
        waiting = self.store.jobs(states=("waiting",))
        if not waiting:
            return
        job = waiting[-1]
        folder = self.folder(job)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            asked = {"kind": job.kind, "subject": job.subject, "title": job.title, "options": job.options}
            write_json(folder / "job.json", asked | {"runs": str(self.settings.runs.resolve())})
            with (folder / "worker.log").open("wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-c", _WORKER, str(folder.resolve())],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the terminal is for the hub, which then ends its workers
                    env=_POLITE | os.environ,
                )
        except OSError as error:
            self.store.move(job.id, "failed", f"it could not be started: {error}")
            return
        self._workers[job.id] = worker
        self.store.move(job.id, "running")

    def _state(self, job: Job) -> dict[str, Any]:
        try:
            return json.loads((self.folder(job) / "state.json").read_text())
        except FileNotFoundError:
            return {}


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()  # and not SIGINT: a run would call itself cancelled, which nobody did
    try:
        worker.wait(_GRACE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    _close(worker)


def _close(worker: subprocess.Popen[bytes]) -> None:
    if worker.stdin is not None:
        worker.stdin.close()
