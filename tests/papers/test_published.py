"""Kept results: only whole ones, replaced at once, compared claim by claim."""

import dataclasses
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fullrank.papers import (
    Result,
    ResultError,
    catalogue,
    compare_results,
    find,
    keep,
    kept_result,
    latest_run,
    list_runs,
    readme_table,
    results_folder,
    run,
    run_info,
    state_of,
)
from fullrank.papers._environment import environment, source_commit

from . import toy

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """A results folder of the test's own, and a study that takes no time."""
    monkeypatch.setenv("FULLRANK_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(toy, "PAUSE", 0.0)
    return tmp_path / "results"


@pytest.fixture
def info(tmp_path):
    result = run(toy.PAPER, "smoke", runs=tmp_path / "runs")
    return run_info(tmp_path / "runs" / "toy" / result.run)


def result_of(info):
    return Result.load(info.folder)


def files(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}


def test_a_kept_result_is_the_runs(info, results):
    (info.folder / "figures" / ".steps.svg.abc.tmp").write_text("what a kill left")
    assert keep(info) == results / "toy" / "smoke"
    assert files(results) == {"toy/smoke/result.json", "toy/smoke/figures/steps.svg"}
    assert kept_result(toy.PAPER, "smoke") == result_of(info)
    assert kept_result(toy.PAPER) == result_of(info)
    assert kept_result(toy.PAPER, "quick") is None
    assert state_of(toy.PAPER) == "partly reproduced"


def test_the_largest_scale_is_shown(info, results):
    keep(info)
    larger = run(toy.PAPER, "quick", runs=info.folder.parents[1])
    keep(run_info(info.folder.parent / larger.run))
    kept = kept_result(toy.PAPER)
    assert kept is not None
    assert kept.scale == "quick"


def test_an_unfinished_run_is_not_kept(info, results):
    for status in ("running", "interrupted", "cancelled", "failed", "unreadable"):
        with pytest.raises(ValueError, match=f"the run toy/{info.run} is {status}: only a finished run is kept"):
            keep(dataclasses.replace(info, status=status))
    assert not results.exists()


def test_a_newer_result_replaces_the_older_as_a_whole(info, results):
    keep(info)
    (results / "toy" / "smoke" / "figures" / "of-the-older.svg").write_text("<svg/>")
    newer = run(toy.PAPER, "smoke", runs=info.folder.parents[1])
    keep(run_info(info.folder.parent / newer.run))
    assert kept_result(toy.PAPER) == newer
    assert files(results) == {"toy/smoke/result.json", "toy/smoke/figures/steps.svg"}
    assert os.listdir(results / "toy") == ["smoke"]  # noqa: PTH208 (hidden ones too)


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["copy", "rename"])
def test_the_older_result_survives_a_copy_that_fails(info, results, monkeypatch, fault, step):
    keep(info)
    before = {file: (results / file).read_bytes() for file in files(results)}
    newer = run(toy.PAPER, "smoke", runs=info.folder.parents[1])
    renamed = []

    def copy(source, target):
        raise fault

    def rename(path, target):
        renamed.append(path)
        if len(renamed) == 2:
            raise fault
        os.replace(path, target)  # noqa: PTH105

    with monkeypatch.context() as patch:
        if step == "copy":
            patch.setattr(shutil, "copy2", copy)
        else:
            patch.setattr("pathlib.Path.replace", rename)
        with pytest.raises(type(fault)):
            keep(run_info(info.folder.parent / newer.run))
    assert {file: (results / file).read_bytes() for file in files(results)} == before
    assert [folder.name for folder in (results / "toy").iterdir()] == ["smoke"]


def test_a_run_that_is_gone_leaves_nothing(info, results):
    shutil.rmtree(info.folder)
    with pytest.raises(FileNotFoundError):
        keep(info)
    assert files(results) == set()


def test_damage_is_not_taken_for_a_result(info, results):
    (keep(info) / "result.json").write_text("{")
    with pytest.raises(ResultError, match="is not a result of Fullrank"):
        kept_result(toy.PAPER)


def test_the_latest_run_is_the_newest_that_finished(info, tmp_path):
    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy.PAPER, "quick", runs=tmp_path / "runs", on_progress=stop)
    assert list_runs("toy", tmp_path / "runs")[0].status != "finished"
    latest = latest_run("toy", tmp_path / "runs")
    assert latest is not None
    assert latest.run == info.run
    assert latest_run("rankme", tmp_path / "runs") is None


def changed(result, **values):
    claims = tuple(
        dataclasses.replace(claim, **values[claim.id]) if claim.id in values else claim for claim in result.claims
    )
    return dataclasses.replace(result, claims=claims)


def test_equal_results_differ_in_nothing(info):
    assert compare_results(result_of(info), result_of(info)) == []


@pytest.mark.parametrize(("value", "drift"), [(45 * 1.04, None), (45 * 1.1, 0.1), (-45.0, 2.0), (None, None)])
def test_drift_is_relative_and_small_ones_are_left_out(info, value, drift):
    kept = result_of(info)
    found = compare_results(kept, changed(kept, sum={"value": value}))
    assert [(one.claim, one.drift, one.holds) for one in found] == (
        [("sum", pytest.approx(drift), True)] if drift else []
    )


def test_the_largest_drift_of_several_numbers_counts(info):
    kept = result_of(info)
    [found] = compare_results(kept, changed(kept, order={"value": {"first": 0.0, "last": 12.0}}))
    assert (found.claim, found.drift) == ("order", pytest.approx(1 / 3))


def test_another_verdict_is_a_difference_that_does_not_hold(info):
    kept = result_of(info)
    [found] = compare_results(kept, changed(kept, small={"verdict": "reproduced"}))
    assert (found.claim, found.kept, found.now) == ("small", "not reproduced", "reproduced")
    assert (found.drift, found.holds) == (0.0, False)


def test_a_claim_that_is_gone_is_not_compared(info):
    kept = result_of(info)
    assert compare_results(kept, dataclasses.replace(kept, claims=())) == []


def test_the_table_has_every_paper_and_what_was_measured(results, monkeypatch):
    rows = readme_table().splitlines()[2:]
    assert len(rows) == 38
    for row, paper in zip(rows, catalogue(), strict=True):
        state = "not run" if paper.built else "not built yet"
        assert row.startswith(f"| [{paper.title}](https://arxiv.org/abs/{paper.arxiv}) |")
        assert row.endswith(f"| {state} | 0 of {len(paper.claims)} |")
    monkeypatch.delenv("FULLRANK_RESULTS")
    rankme = find("rankme")
    kept = kept_result(rankme)
    assert kept is not None
    measured = sum(claim.value is not None for claim in kept.claims)
    row = readme_table().splitlines()[2 + rankme.position]
    assert row.endswith(f"| {state_of(rankme)} | {measured} of {len(rankme.claims)} |")


def test_every_result_in_the_repository_fits_its_paper(monkeypatch):
    monkeypatch.delenv("FULLRANK_RESULTS")
    folders = [file.parent for file in results_folder().glob("*/*/result.json")]
    assert folders
    for folder in folders:
        result = kept_result(find(folder.parent.name), folder.name)
        assert result is not None
        assert (result.slug, result.scale) == (folder.parent.name, folder.name)
        assert all((folder / svg).exists() for svg in result.figures.values())


def test_the_environment_says_what_computed():
    found = environment("cpu")
    assert found["device"] == "cpu"
    assert found["cores"] >= 1
    assert {"torch", "numpy"} <= found["libraries"].keys()


@pytest.mark.skipif(not (_ROOT / ".git").exists(), reason="no source checkout")
def test_the_commit_is_one_of_the_checkout():
    commit = source_commit()
    assert commit is not None
    subprocess.run(["git", "-C", str(_ROOT), "cat-file", "-e", commit.removesuffix("+")], check=True)
