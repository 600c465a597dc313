import copy
import csv
import json
import math

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from fullrank.spectra import CheckpointError, analysis, analyze, compare


@pytest.fixture
def before():
    torch.manual_seed(0)
    return nn.ModuleDict({"same": nn.Linear(8, 6), "tuned": nn.Linear(40, 30), "grown": nn.Linear(4, 4)})


@pytest.fixture
def after(before):
    """One matrix moved by a rank-2 update, one reshaped, one more."""
    model = copy.deepcopy(before)
    with torch.no_grad():
        model["tuned"].weight += 0.5 * torch.randn(30, 2) @ torch.randn(2, 40)
    model["grown"] = nn.Linear(4, 7)
    model["new"] = nn.Linear(3, 3)
    return model


def change_of(comparison, name):
    (found,) = (change for change in comparison.changes if change.name == name)
    return found


def test_two_models_give_the_rank_of_the_difference(before, after):
    comparison = compare(before, after, names=("base", "tuned"))
    assert (comparison.before, comparison.after) == ("base", "tuned")
    tuned = change_of(comparison, "tuned.weight")
    old, new = (model["tuned"].weight.detach() for model in (before, after))
    assert tuned.difference.relative_norm == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-4)
    assert tuned.difference.effective_rank < 2.01
    assert tuned.difference.energy_ranks["0.99"] == 2
    assert change_of(comparison, "same.weight").difference.relative_norm == 0
    assert change_of(comparison, "same.weight").effective_rank_change == 0
    assert change_of(comparison, "grown.weight").difference is None
    assert [change.name for change in comparison.reshaped] == ["grown.weight"]
    assert comparison.only_before == ()
    assert comparison.only_after == ("new.weight",)


def test_checkpoints_are_compared_in_blocks_as_models_are(before, after, tmp_path, monkeypatch):
    files = [tmp_path / "before.safetensors", tmp_path / "after.safetensors"]
    for model, file in zip((before, after), files, strict=True):
        save_file(model.state_dict(), file)
    whole = compare(before, after, names=("a", "b"))
    monkeypatch.setattr(analysis, "_LARGEST", 1)
    monkeypatch.setattr(analysis, "_BLOCK", 32)
    blocked = compare(*files, names=("a", "b"))
    for name in ("same.weight", "tuned.weight"):
        one, other = change_of(whole, name), change_of(blocked, name)
        assert one.difference.relative_norm == pytest.approx(other.difference.relative_norm, rel=1e-4)
        assert one.effective_rank == pytest.approx(other.effective_rank, rel=1e-4)


def test_reports_are_compared_without_the_difference(before, after):
    comparison = compare(analyze(before), analyze(after))
    assert comparison == analyze(after).against(analyze(before))
    assert not comparison.measured_differences
    ranks = [
        matrix.effective_rank
        for model in (before, after)
        for matrix in analyze(model).matrices
        if "tuned" in matrix.name
    ]
    assert list(change_of(comparison, "tuned.weight").effective_rank) == pytest.approx(ranks)
    changes = [abs(change.effective_rank_change) for change in comparison.changes]
    assert changes == sorted(changes, reverse=True)


def test_the_other_direction_mirrors(before, after):
    there, back = compare(before, after), compare(after, before)
    assert there.only_after == back.only_before
    assert change_of(there, "tuned.weight").nuclear_norm == change_of(back, "tuned.weight").nuclear_norm[::-1]


def test_a_weight_that_is_not_finite_is_not_compared(before, after):
    with torch.no_grad():
        after["same"].weight[0, 0] = math.nan
    assert "same.weight" in compare(before, after).only_before


def test_every_format(before, after, tmp_path):
    comparison = compare(before, after)
    data = json.loads(comparison.save(tmp_path / "c.json").read_text())
    assert data["changes"][0]["name"] == comparison.changes[0].name
    with comparison.save(tmp_path / "c.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["grown.weight"]["shape_after"] == "7x4"
    assert rows["grown.weight"]["difference_effective_rank"] == ""
    assert comparison.save(tmp_path / "c.parquet").stat().st_size > 0
    page = comparison.save(tmp_path / "c.html").read_text()
    assert "tuned.weight" in page
    assert "new.weight" in page
    assert "<html" not in comparison.to_html(fragment=True)
    with pytest.raises(ValueError, match=r"c\.txt names no format"):
        comparison.save(tmp_path / "c.txt")


def test_the_table_fits_a_terminal(before, after):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(compare(before, after, names=("[base]", "tuned")).to_table())
    assert "[base]" in capture.get()
    assert "only after: new.weight" in capture.get()
    assert max(map(len, capture.get().splitlines())) <= 100


def test_progress_and_bad_input(before, after, tmp_path):
    seen = []
    compare(before, after, on_progress=lambda done, total, text: seen.append((done, total, text)))
    assert seen[-1][:2] == (2, 2)
    assert "difference" in seen[-1][2]
    with pytest.raises(CheckpointError, match="does not exist"):
        compare(before, tmp_path / "gone" / "for" / "good")
