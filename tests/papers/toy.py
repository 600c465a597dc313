"""A small study of ten steps, and processes that run it: `toy.py run|full-disk RUNS`, `toy.py kill RUNS SEED TIMES`."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from unittest import mock

from fullrank.papers import Claim, Paper, Result, Trial, list_runs, run

STEPS = 10
PAUSE = 0.03

PAPER = Paper(
    slug="toy",
    title="Toys: counting to ten",
    authors=1,
    published="2024-02-29",
    arxiv="2402.00001",
    position=99,
    summary="It counts.",
    topics=("measurement",),
    claims=(
        Claim(id="sum", says="The steps add up.", source="abstract", paper_value=45, holds=lambda total: total == 45),
        Claim(id="order", says="Last is most.", source="Table 1", holds=lambda step: step["last"] > step["first"]),
        Claim(id="small", says="The sum is small.", source="Table 2", unit="steps", holds=lambda total: total < 40),
        Claim(id="large", says="It scales.", source="abstract", needs="a larger machine"),
    ),
)


@PAPER.study
def study(trial: Trial) -> None:
    def compute(step: int) -> int:
        time.sleep(PAUSE)
        with (trial.scratch.parent / "computed").open("a") as computed:
            computed.write(f"{step}\n")
        return step

    values = []
    for step in trial.track(range(STEPS), "counting"):
        values.append(trial.step(f"step {step}", lambda step=step: compute(step)))
    trial.measure("sum", sum(values))
    trial.measure("order", {"first": values[0], "last": values[-1]}, spread={"first": 0, "last": 0.5})
    trial.measure("small", sum(values))
    trial.table("steps", [{"step": step, "value": value} for step, value in enumerate(values)])
    trial.figures["steps"] = "<svg/>"
    trial.note("Counted.")


def computed(folder: Path) -> list[int]:
    """The steps that were computed for a run, in order."""
    return [int(line) for line in (folder / "computed").read_text().splitlines()]


def outcome(result: Result) -> dict[str, object]:
    """Measurement, spread and verdict of every claim."""
    return {claim.id: [claim.value, claim.spread, claim.verdict] for claim in result.claims}


def _kill(runs: Path, seed: int, times: int) -> None:
    """Start the study again and again and kill it; print what the folder shows after every kill."""
    delays = random.Random(seed)
    for _ in range(times):
        child = os.fork()
        if not child:
            run(PAPER, "smoke", runs=runs)
            os._exit(0)
        time.sleep(delays.uniform(0, 1.3 * STEPS * PAUSE))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen = [
            {"run": info.run, "status": info.status, "outcome": outcome(Result.load(info.folder))}
            if info.status == "finished"
            else {"run": info.run, "status": info.status}
            for info in list_runs("toy", runs)
        ]
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "full-disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))  # bytes that fit into one file
    # The source checkout may change while the tests run; a run is resumed by the same commit only.
    with mock.patch("fullrank.papers._runs.source_commit", return_value="0123456789ab"):
        if sys.argv[1] == "kill":
            _kill(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        else:
            print(json.dumps(outcome(run(PAPER, "smoke", runs=Path(sys.argv[2])))))
