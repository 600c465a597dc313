"""Runs that are killed, stopped, full of errors, or two at once: never half a result, and always a way on."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import fullrank
from fullrank.papers import Cancelled, Paper, Result, UnknownPaper, list_runs, run, run_info, runs_folder

from . import toy

UNDISTURBED = {
    "sum": [45.0, None, "reproduced"],
    "order": [{"first": 0.0, "last": 9.0}, {"first": 0.0, "last": 0.5}, "reproduced"],
    "small": [45.0, None, "not reproduced"],
    "large": [None, None, "not measured"],
}


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed by the same commit only, and the checkout may change while the tests run."""
    monkeypatch.setattr("fullrank.papers._runs.source_commit", lambda: "0123456789ab")
    monkeypatch.setattr(toy, "PAUSE", 0.0)


def toys(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, toy.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def studied(study) -> Paper:
    """The toy paper with another study."""
    return dataclasses.replace(toy.PAPER, _study=[study])


def stopped_at(step, error=KeyboardInterrupt) -> Paper:
    """The toy paper, whose study ends with an error before a step."""

    def study(trial):
        def watch(done, total, text):
            if done == step:
                raise error
            report(done, total, text)

        report, trial.on_progress = trial.on_progress, watch
        toy.study(trial)

    return studied(study)


def tree(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def test_a_run_keeps_its_result(tmp_path):
    started, seen = [], []
    result = run(
        toy.PAPER, "smoke", runs=tmp_path, on_start=started.append, on_progress=lambda *report: seen.append(report)
    )
    assert toy.outcome(result) == UNDISTURBED
    [info] = list_runs(runs=tmp_path)
    assert (info.slug, info.run, info.status) == ("toy", result.run, "finished")
    assert (info.done, info.total, info.text) == (10, 10, "counting")
    assert [first.status for first in started] == ["running"]
    assert started[0].folder == info.folder
    assert seen[-1] == (10, 10, "counting")
    assert Result.load(info.folder) == result
    assert (info.folder / "figures" / "steps.svg").read_text() == "<svg/>"
    assert not (info.folder / "scratch").exists()
    assert result.notes == ("Counted.",)
    assert result.seeds == (0,)
    assert result.environment["fullrank"] == fullrank.__version__
    assert result.environment["libraries"]["torch"] == torch.__version__
    assert result.peak_memory > 1 << 20
    log = (info.folder / "run.log").read_text().splitlines()
    assert [line.partition(" ")[2] for line in log] == ["starting", "counting", "study finished"]


def test_a_finished_run_is_not_run_over(tmp_path):
    first = run(toy.PAPER, "smoke", runs=tmp_path)
    before = tree(tmp_path)
    second = run(toy.PAPER, "smoke", runs=tmp_path)
    assert second.run > first.run
    assert [info.run for info in list_runs("toy", tmp_path)] == [second.run, first.run]
    assert before.items() <= tree(tmp_path).items()


def test_the_folder_of_runs_is_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLRANK_RUNS", str(tmp_path / "mine"))
    result = run(toy.PAPER, "smoke")
    assert (tmp_path / "mine" / "toy" / result.run / "result.json").exists()
    monkeypatch.delenv("FULLRANK_RUNS")
    assert runs_folder() == Path("runs")


def test_killed_at_random_moments(tmp_path):
    times = 20
    with toys("kill", tmp_path, 7, times) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    seen = [json.loads(line) for line in out.splitlines()]
    assert len(seen) == times
    for runs in seen:
        assert {info["status"] for info in runs} <= {"interrupted", "finished"}
        assert [info["outcome"] for info in runs if "outcome" in info] == [UNDISTURBED] * len(
            [info for info in runs if info["status"] == "finished"]
        )
    assert any(info["status"] == "interrupted" for runs in seen for info in runs)
    assert toy.outcome(run(toy.PAPER, "smoke", runs=tmp_path)) == UNDISTURBED
    infos = list_runs("toy", tmp_path)
    assert {info.status for info in infos} == {"finished"}
    for info in infos:  # a step is computed twice only if the kill hit it before it was kept
        computed = toy.computed(info.folder)
        assert sorted(set(computed)) == list(range(toy.STEPS))
        assert computed == sorted(computed)


def test_two_runs_at_once_get_two_folders(tmp_path):
    with toys("run", tmp_path) as first, toys("run", tmp_path) as second:
        outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [json.loads(out) for out, _ in outputs] == [UNDISTURBED] * 2, outputs
    infos = list_runs("toy", tmp_path)
    assert [info.status for info in infos] == ["finished"] * 2
    assert [toy.computed(info.folder) for info in infos] == [list(range(toy.STEPS))] * 2


def test_a_stopped_run_is_resumed_by_one_of_two(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(stopped_at(5), "smoke", runs=tmp_path)
    [stopped] = list_runs(runs=tmp_path)
    with toys("run", tmp_path) as first, toys("run", tmp_path) as second:
        outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [json.loads(out) for out, _ in outputs] == [UNDISTURBED] * 2, outputs
    infos = list_runs("toy", tmp_path)
    assert [info.status for info in infos] == ["finished"] * 2
    assert stopped.run in [info.run for info in infos]
    assert [toy.computed(info.folder) for info in infos] == [list(range(toy.STEPS))] * 2


def test_a_run_that_another_process_holds_is_running(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(stopped_at(5), "smoke", runs=tmp_path)
    [stopped] = list_runs(runs=tmp_path)
    with FileLock(stopped.folder / "lock"):
        assert run_info(stopped.folder).status == "running"
        assert not run_info(stopped.folder).resumable
        assert run(toy.PAPER, "smoke", runs=tmp_path).run != stopped.run
    assert run_info(stopped.folder).status == "cancelled"


def test_a_run_is_listed_while_it_works(tmp_path):
    seen = []

    def look(trial):
        seen.extend(list_runs("toy", tmp_path))
        toy.study(trial)

    run(studied(look), "smoke", runs=tmp_path)
    assert [info.status for info in seen] == ["running"]
    listing = threading.Event()
    statuses = set()

    def watch():
        while not listing.is_set():
            statuses.update(info.status for info in list_runs("toy", tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        run(toy.PAPER, "smoke", runs=tmp_path)
    listing.set()
    watcher.join()
    assert statuses <= {"running", "interrupted", "finished"}
    assert {info.status for info in list_runs("toy", tmp_path)} == {"finished"}


@pytest.mark.parametrize("step", [0, 1, 5, 10])
def test_a_keyboard_interrupt_can_be_resumed(tmp_path, step):
    with pytest.raises(KeyboardInterrupt):
        run(stopped_at(step), "smoke", runs=tmp_path)
    [info] = list_runs(runs=tmp_path)
    assert (info.status, info.resumable, info.reason) == ("cancelled", True, "")
    result = run(toy.PAPER, "smoke", runs=tmp_path)
    assert toy.outcome(result) == UNDISTURBED
    assert result.run == info.run
    assert result.seconds >= info.seconds
    assert toy.computed(info.folder) == list(range(toy.STEPS))
    assert [info.status for info in list_runs(runs=tmp_path)] == ["finished"]
    assert not (info.folder / "stopped.json").exists()


def test_a_run_that_should_stop_can_be_resumed(tmp_path):
    done = []
    with pytest.raises(Cancelled):
        run(
            toy.PAPER,
            "smoke",
            runs=tmp_path,
            on_progress=lambda step, total, text: done.append(step),
            should_stop=lambda: 3 in done,
        )
    [info] = list_runs(runs=tmp_path)
    assert (info.status, info.resumable) == ("cancelled", True)
    assert toy.computed(info.folder) == [0, 1, 2, 3]
    assert toy.outcome(run(toy.PAPER, "smoke", runs=tmp_path)) == UNDISTURBED
    assert toy.computed(info.folder) == list(range(toy.STEPS))


def test_a_study_that_raises_has_failed_with_its_reason_and_a_log(tmp_path):
    with pytest.raises(ArithmeticError, match="it diverged"):
        run(stopped_at(4, ArithmeticError("it diverged")), "smoke", runs=tmp_path)
    [info] = list_runs(runs=tmp_path)
    assert (info.status, info.reason, info.resumable) == ("failed", "ArithmeticError: it diverged", True)
    log = (info.folder / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "ArithmeticError: it diverged" in log
    assert toy.outcome(run(toy.PAPER, "smoke", runs=tmp_path)) == UNDISTURBED
    assert run_info(info.folder).reason == ""


def test_a_predicate_that_raises_has_failed(tmp_path):
    def study(trial):
        trial.measure("order", {"first": 1})

    with pytest.raises(KeyError):
        run(studied(study), "smoke", runs=tmp_path)
    [info] = list_runs(runs=tmp_path)
    assert (info.status, info.reason) == ("failed", "KeyError: 'last'")


@pytest.mark.parametrize("what", ["scale", "seeds", "fresh", "version", "commit"])
def test_only_the_same_run_is_resumed(tmp_path, monkeypatch, what):
    with pytest.raises(KeyboardInterrupt):
        run(stopped_at(5), "smoke", runs=tmp_path)
    [stopped] = list_runs(runs=tmp_path)
    if what == "version":
        monkeypatch.setattr(fullrank, "__version__", "9.9.9")
    if what == "commit":
        monkeypatch.setattr("fullrank.papers._runs.source_commit", lambda: "ba9876543210")
    scale = "quick" if what == "scale" else "smoke"
    result = run(toy.PAPER, scale, runs=tmp_path, seeds=(4, 5) if what == "seeds" else (0,), fresh=what == "fresh")
    assert result.run != stopped.run
    assert run_info(stopped.folder) == stopped


def test_a_full_disk_leaves_no_half_result(tmp_path):
    with toys("full-disk", tmp_path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    [info] = list_runs("toy", tmp_path)
    assert err.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{info.folder / 'result.json'}'"
    assert info.status == "failed"
    assert info.reason == f"OSError: [Errno 27] File too large: '{info.folder / 'result.json'}'"
    assert not list(tmp_path.rglob("*.tmp"))
    computed = toy.computed(info.folder)
    assert toy.outcome(run(toy.PAPER, "smoke", runs=tmp_path)) == UNDISTURBED
    assert run_info(info.folder).status == "finished"
    assert toy.computed(info.folder) == computed


@pytest.mark.parametrize("write", [1, 2, 3, 4, 11, 20, 25, 26])
def test_a_disk_that_fills_at_any_write(tmp_path, monkeypatch, caplog, write):
    writes = []

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("fullrank.papers._runs._PROGRESS_EVERY", 0.0)
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            run(toy.PAPER, "smoke", runs=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert {info.status for info in list_runs("toy", tmp_path)} <= {"interrupted"}
    assert not [file for file in tmp_path.rglob("*") if file.suffix == ".tmp" or file.name == "result.json"]
    if any(tmp_path.rglob("scratch")):
        assert "could not note" in caplog.text
    assert toy.outcome(run(toy.PAPER, "smoke", runs=tmp_path)) == UNDISTURBED
    assert {info.status for info in list_runs("toy", tmp_path)} == {"finished"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_refused(tmp_path, device):
    with pytest.raises(RuntimeError, match=f"device='{device}' is not there; use --device cpu"):
        run(toy.PAPER, "smoke", runs=tmp_path, device=device)
    assert not list(tmp_path.iterdir())


def test_a_device_beyond_those_that_are_there_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="device='cuda:99' is not there"):
        run(toy.PAPER, "smoke", runs=tmp_path, device="cuda:99")


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:one", "tpu", "cpu:0:0"])
def test_a_device_that_is_none_is_refused(tmp_path, device):
    with pytest.raises(ValueError, match=f"device='{device}' is not known; accepted: cpu, cuda, cuda:1, mps"):
        run(toy.PAPER, "smoke", runs=tmp_path, device=device)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match="scale='huge' is not known; accepted: smoke, quick, full"):
        run(toy.PAPER, "huge", runs=tmp_path)
    with pytest.raises(ValueError, match=r"seeds=\(\) leaves nothing to run"):
        run(toy.PAPER, "smoke", runs=tmp_path, seeds=())
    with pytest.raises(UnknownPaper, match="did you mean rankme"):
        run("rankm", "smoke", runs=tmp_path)
    with pytest.raises(LookupError, match="'toy' is not built yet"):
        run(dataclasses.replace(toy.PAPER, _study=[]), "smoke", runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_runs_of_a_newer_fullrank_are_listed_and_not_touched(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(stopped_at(5), "smoke", runs=tmp_path)
    [stopped] = list_runs(runs=tmp_path)
    asked = json.loads((stopped.folder / "run.json").read_text())
    (stopped.folder / "run.json").write_text(json.dumps(asked | {"version": "9.9.9", "more": {}}))
    finished = run(toy.PAPER, "smoke", runs=tmp_path)
    file = tmp_path / "toy" / finished.run / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99, "claims": {}}))
    before = tree(tmp_path)
    infos = {info.run: info for info in list_runs("toy", tmp_path)}
    assert infos[stopped.run].status == "cancelled"
    assert infos[finished.run].status == "unreadable"
    assert "was made by a newer Fullrank (layout 99" in infos[finished.run].reason
    assert run(toy.PAPER, "smoke", runs=tmp_path).run not in infos
    assert before.items() <= tree(tmp_path).items()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *product(("run.json", "progress.json", "stopped.json", "result.json"), ("", "{", "[]", "null", "\0")),
        ("run.json", "{}"),
        ("stopped.json", '{"status": "resting"}'),
        ("result.json", "{}"),
    ],
)
def test_a_damaged_folder_is_listed_as_unreadable(tmp_path, name, content):
    whole = run(toy.PAPER, "smoke", runs=tmp_path).run
    with pytest.raises(KeyboardInterrupt):
        run(stopped_at(5), "smoke", runs=tmp_path)
    damaged = next(info for info in list_runs("toy", tmp_path) if info.run != whole)
    (damaged.folder / name).write_text(content)
    infos = {info.run: info for info in list_runs("toy", tmp_path)}
    assert infos[whole].status == "finished"
    assert infos[damaged.run].status == "unreadable"
    assert infos[damaged.run].reason
    assert run(toy.PAPER, "smoke", runs=tmp_path).run not in infos


def test_other_folders_are_not_runs(tmp_path):
    assert list_runs(runs=tmp_path / "nothing") == []
    (tmp_path / "toy" / "empty").mkdir(parents=True)
    (tmp_path / "toy" / "file").write_text("")
    (tmp_path / "hub.sqlite").write_text("")
    assert list_runs(runs=tmp_path) == []


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        run(toy.PAPER, "smoke", runs=tmp_path / "file")
