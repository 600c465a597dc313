"""Results: written last, read back whole, judged by the claims of now."""

import dataclasses
import json

import pytest

from fullrank.papers import Claim, ClaimResult, Result, ResultError, Trial
from fullrank.papers._result import SCHEMA, claim_results

from .toy import PAPER


@pytest.fixture
def result(tmp_path) -> Result:
    trial = Trial(claim_ids=tuple(claim.id for claim in PAPER.claims), scale="smoke", scratch=tmp_path / "scratch")
    trial.measure("sum", 45)
    trial.measure("order", {"first": 0, "last": 9}, spread={"first": 0, "last": 0.5})
    trial.measure("small", 45)
    return Result(
        slug="toy",
        scale="smoke",
        run="2024-02-29T00-00-00-000000Z",
        started="2024-02-29T00:00:00+00:00",
        finished="2024-02-29T00:00:01+00:00",
        seconds=1.0,
        peak_memory=1 << 20,
        device="cpu",
        seeds=(0, 1),
        claims=claim_results(PAPER, trial),
        tables={"ranks": [{"layer": "ärmel", "rank": 3}]},
        figures={"ranks": "figures/ranks.svg"},
        notes=("A remark.",),
        environment={"python": "3.11"},
    )


def edited(folder, **changes):
    """The result file of a folder, with other values; None takes a key away."""
    data = json.loads((folder / "result.json").read_text()) | changes
    kept = {key: value for key, value in data.items() if value is not None}
    (folder / "result.json").write_text(json.dumps(kept))


def test_verdicts_are_computed(result):
    assert result.verdicts == {
        "sum": "reproduced",
        "order": "reproduced",
        "small": "not reproduced",
        "large": "not measured",
    }


def test_a_result_is_read_back_as_it_was(result, tmp_path):
    result.save(tmp_path, {"ranks": "<svg/>"})
    assert Result.load(tmp_path) == result
    assert (tmp_path / "figures" / "ranks.svg").read_text() == "<svg/>"
    assert result.recomputed(PAPER) == result


def test_the_result_is_written_after_its_figures(result, tmp_path):
    (tmp_path / "figures").write_text("not a folder")
    with pytest.raises(FileExistsError):
        result.save(tmp_path, {"ranks": "<svg/>"})
    assert not (tmp_path / "result.json").exists()


def test_a_folder_without_a_result(tmp_path):
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path)


def test_every_truncation_is_noticed(result, tmp_path):
    result.save(tmp_path, {})
    file = tmp_path / "result.json"
    whole = file.read_bytes().rstrip()
    for length in {*range(0, len(whole), 97), len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(ResultError, match=r"result.json is not a result of Fullrank .*remove the folder and run"):
            Result.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}", '{"schema": "new"}', '{"schema": null}'])
def test_other_json_is_not_a_result(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ResultError, match="is not a result of Fullrank"):
        Result.load(tmp_path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="is not a result of Fullrank"):
        Result.load(tmp_path)


@pytest.mark.parametrize("key", ["slug", "scale", "seeds", "claims", "notes", "device"])
def test_a_missing_key_is_named(result, tmp_path, key):
    result.save(tmp_path, {})
    edited(tmp_path, **{key: None})
    with pytest.raises(ResultError, match=f"lacks what a result needs .*{key}"):
        Result.load(tmp_path)


@pytest.mark.parametrize("claims", [[{}], [{"id": "sum"}], ["sum"], 3])
def test_damaged_claims_are_noticed(result, tmp_path, claims):
    result.save(tmp_path, {})
    edited(tmp_path, claims=claims)
    with pytest.raises(ResultError, match="lacks what a result needs"):
        Result.load(tmp_path)


def test_a_newer_layout_asks_for_an_upgrade(result, tmp_path):
    result.save(tmp_path, {})
    edited(tmp_path, schema=SCHEMA + 1, claims={"in": "another layout"})
    with pytest.raises(
        ResultError, match=rf"newer Fullrank \(layout {SCHEMA + 1}; this one reads up to {SCHEMA}\): pip"
    ):
        Result.load(tmp_path)


def test_a_stored_verdict_is_not_believed(result, tmp_path):
    result.save(tmp_path, {})
    claims = [dataclasses.asdict(claim) | {"verdict": "reproduced"} for claim in result.claims]
    edited(tmp_path, claims=claims)
    assert Result.load(tmp_path).recomputed(PAPER).verdicts == result.verdicts


def test_claims_of_now_judge_old_measurements(result):
    stricter = Claim(id="sum", says="It is 46.", source="abstract", holds=lambda total: total == 46)
    new = Claim(id="new", says="Never measured.", source="abstract", holds=lambda value: True)
    now = result.recomputed(dataclasses.replace(PAPER, claims=(stricter, new)))
    assert now.verdicts == {"sum": "not reproduced", "new": "not measured"}
    assert now.claims == (ClaimResult.of(stricter, 45.0), ClaimResult.of(new))


@pytest.mark.parametrize("holds", [lambda sums: sums["ours"] > 1, lambda sums: len(sums) == 2])
def test_a_measurement_that_no_longer_fits_its_claim_counts_as_none_and_is_named(result, holds):
    claim = Claim(id="sum", says="Several sums.", source="abstract", holds=holds)
    now = result.recomputed(dataclasses.replace(PAPER, claims=(claim,)))
    assert (now.claims[0].verdict, now.claims[0].value) == ("not measured", None)
    assert now.notes[:-1] == result.notes
    assert "sum was measured (45.0)" in now.notes[-1]


def test_the_file_is_strict_json(result, tmp_path):
    result.save(tmp_path, {})

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)["schema"] == SCHEMA
