"""One job in a process of its own: does what `job.json` in the folder named as its argument says.

It reports into `FOLDER/state.json`. It ends with the hub: the hub holds the other end of its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullrank import papers
from fullrank._files import write_json
from fullrank.hub.store import Kind

CANCELLED, INTERRUPTED, ORPHANED = 130, 143, 74
_EVERY = 0.2  # seconds between two reports


class Progress:
    """Writes where the job stands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.state: dict[str, Any] = {"done": 0, "total": 0, "text": "starting"}
        self.reported = 0.0

    def move(self, done: int, total: int, text: str) -> None:
        """Report, but not too often."""
        self.state |= {"done": done, "total": total, "text": text}
        now = time.monotonic()
        if done < total and now - self.reported < _EVERY:
            return
        self.reported = now
        self.note()

    def note(self, **more: Any) -> None:
        """Report now, with more facts."""
        self.state |= more
        write_json(self.file, self.state)


def main() -> None:
    """Do the job; exit 0 done, 130 cancelled (SIGINT), 143 interrupted (SIGTERM), 1 failed, with why in the state."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))  # temporary folders are cleared
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_the_hub, daemon=True).start()
    progress = Progress(folder / "state.json")
    job = json.loads((folder / "job.json").read_text())
    try:
        WORK[job["kind"]](job, progress, folder)
    except (KeyboardInterrupt, papers.Cancelled):
        sys.exit(CANCELLED)
    except Exception as error:
        progress.note(error=f"{error}" or type(error).__name__)
        raise


def _run(job: dict[str, Any], progress: Progress, folder: Path) -> None:
    papers.run(
        job["subject"],
        job["options"]["scale"],
        runs=Path(job["runs"]),
        on_start=lambda info: progress.note(run=info.run),
        on_progress=progress.move,
    )


def _analyze(job: dict[str, Any], progress: Progress, folder: Path) -> None:
    from fullrank.spectra import analyze  # brings torch

    report = analyze(job["subject"], name=job["title"], on_progress=progress.move)
    report.save(folder / "report.json")


def _adapt(job: dict[str, Any], progress: Progress, folder: Path) -> None:
    from fullrank.adapt import TrainingSettings, adapter_method, fine_tune  # brings torch

    options = job["options"]
    method = adapter_method(options["method"])
    tuned = fine_tune(
        job["subject"],
        options["data"],
        method.name,
        rank=options["size"],
        budget=options["budget"],
        settings=TrainingSettings(epochs=options["epochs"], learning_rate=method.learning_rate),
        limit=options["examples"],
        on_progress=progress.move,
    )
    with tempfile.TemporaryDirectory() as saved:
        adapter = tuned.save(Path(saved) / "adapter")
        shutil.make_archive(str(folder / "adapter"), "zip", adapter.parent, adapter.name)
        shutil.copy(adapter / "report.json", folder)


def _compare(job: dict[str, Any], progress: Progress, folder: Path) -> None:
    from fullrank.adapt import TrainingSettings, compare_adapters  # brings torch

    options = job["options"]
    comparison = compare_adapters(
        job["subject"],
        options["data"],
        options["methods"],
        options["budget"],
        seeds=range(options["seeds"]),
        settings=TrainingSettings(epochs=options["epochs"]),
        limit=options["examples"],
        on_progress=progress.move,
    )
    comparison = replace(comparison, model=job["title"], data=Path(options["data"]).name)
    for suffix in (".json", ".svg"):
        comparison.save(folder / f"comparison{suffix}")


def _compress(job: dict[str, Any], progress: Progress, folder: Path) -> None:
    from fullrank.compress import compress_pretrained  # brings torch

    options = job["options"]
    with tempfile.TemporaryDirectory() as saved:
        output = Path(saved) / "model"
        compress_pretrained(
            job["subject"],
            options["method"],
            options["data"],
            output=output,
            recover=options["recover"],
            limit=options["examples"],
            on_progress=progress.move,
            **size_of(options),
        )
        shutil.make_archive(str(folder / "model"), "zip", output.parent, output.name)
        shutil.copy(output / "report.json", folder)


def size_of(options: dict[str, Any]) -> dict[str, Any]:
    """The option of a compression's method that sets its size, from what the form asked for."""
    from fullrank.compress import RatioRank  # brings torch

    return {"bits": options["bits"]} if options["bits"] else {"rank_rule": RatioRank(options["keep"] / 100)}


def _compare_compressors(job: dict[str, Any], progress: Progress, folder: Path) -> None:
    from fullrank.compress import compare_compressors  # brings torch

    options = job["options"]
    comparison = compare_compressors(
        job["subject"], options["data"], options["methods"], limit=options["examples"], on_progress=progress.move
    )
    comparison = replace(comparison, model=job["title"], data=Path(options["data"]).name)
    for suffix in (".json", ".svg"):
        comparison.save(folder / f"frontier{suffix}")


WORK: dict[Kind, Callable[[dict[str, Any], Progress, Path], None]] = {
    "run": _run,
    "analysis": _analyze,
    "adaptation": _adapt,
    "comparison": _compare,
    "compression": _compress,
    "frontier": _compare_compressors,
}


def _end_with_the_hub() -> None:
    os.read(0, 1)  # nothing is ever sent: it returns when the hub is gone
    os._exit(ORPHANED)
