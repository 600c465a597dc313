"""What a study is given: measurements, tables, figures, progress, and steps that are resumed."""

import os
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import cpu_count
from matplotlib.figure import Figure

from fullrank.papers import Cancelled, Trial

finite = st.floats(allow_nan=False, allow_infinity=False)
cells = st.none() | st.booleans() | st.integers() | finite | st.text()
data = st.recursive(cells, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(claim_ids=("one", "two"), scale="smoke", scratch=tmp_path / "scratch")


@pytest.mark.parametrize(("scale", "value"), [("smoke", 1), ("quick", 2), ("full", 3)])
def test_the_scale_picks(tmp_path, scale, value):
    assert Trial(claim_ids=(), scale=scale, scratch=tmp_path).pick(smoke=1, quick=2, full=3) == value


def test_measurements_are_plain_numbers(trial):
    trial.measure("one", torch.tensor(3).item())
    trial.measure("two", {"ours": 1, "theirs": 0.5}, spread={"ours": 0, "theirs": 0.25})
    assert trial.measurements == {"one": 3.0, "two": {"ours": 1.0, "theirs": 0.5}}
    assert trial.spreads == {"two": {"ours": 0.0, "theirs": 0.25}}


def test_a_claim_that_is_not_declared_is_refused(trial):
    with pytest.raises(LookupError, match="claim 'three' is not declared; the paper's claims are one, two"):
        trial.measure("three", 1.0)


def test_a_claim_is_measured_once(trial):
    trial.measure("one", 1.0)
    with pytest.raises(ValueError, match="claim 'one' was measured already"):
        trial.measure("one", 1.0)
    assert trial.measurements == {"one": 1.0}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_measurement_is_finite(trial, number):
    for value in (number, {"ours": 1.0, "theirs": number}):
        with pytest.raises(ValueError, match=f"claim 'one' was measured as {number}, .*say why with `trial.note`"):
            trial.measure("one", value)
    with pytest.raises(ValueError, match="claim 'one' was measured as"):
        trial.measure("one", 1.0, spread=number)
    assert trial.measurements == {}


@pytest.mark.parametrize("name", ["", "Runs", "runs_of", "runs/of", "../runs", "runs of"])
def test_tables_and_figures_are_named_in_kebab_case(trial, name):
    with pytest.raises(ValueError, match="tables and figures are named in kebab-case, such as 'rank-by-layer'"):
        trial.table(name, [])
    with pytest.raises(ValueError, match="tables and figures are named in kebab-case"):
        trial.figure(name, Figure())


def test_a_table_keeps_numbers_and_words(trial):
    trial.table("ranks", [{"layer": "first", "rank": 3, "share": torch.tensor(0.5), "whole": True, "none": None}])
    assert trial.tables == {"ranks": [{"layer": "first", "rank": 3, "share": 0.5, "whole": True, "none": None}]}
    assert type(trial.tables["ranks"][0]["share"]) is float


def figure():
    drawn = Figure(figsize=(3, 2))
    axes = drawn.subplots()
    axes.plot([1, 2, 3], label="a < b & c")
    axes.fill_between([0, 1], [0, 1])
    axes.legend()
    return drawn


def test_a_figure_is_svg_with_text_and_always_the_same(trial):
    trial.figure("first", figure())
    trial.figure("second", figure())
    root = ElementTree.fromstring(trial.figures["first"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a < b & c" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert trial.figures["first"] == trial.figures["second"]


def test_progress_is_reported_before_every_item(tmp_path):
    seen = []
    trial = Trial(claim_ids=(), scale="smoke", scratch=tmp_path, on_progress=lambda *report: seen.append(report))
    assert list(trial.track("ab", "letters")) == ["a", "b"]
    assert list(trial.track(iter("c"), "one letter", total=1)) == ["c"]
    assert seen == [
        (0, 2, "letters"),
        (1, 2, "letters"),
        (2, 2, "letters"),
        (0, 1, "one letter"),
        (1, 1, "one letter"),
    ]


def test_a_trial_that_should_stop_is_cancelled_at_the_next_report(tmp_path):
    done = []

    def work(trial):
        for letter in trial.track("abc", "letters"):
            done.append(letter)

    trial = Trial(claim_ids=(), scale="smoke", scratch=tmp_path, should_stop=lambda: len(done) == 2)
    with pytest.raises(Cancelled, match="letters"):
        work(trial)
    assert done == ["a", "b"]


@settings(max_examples=40, deadline=None)
@given(value=data, key=st.text())
def test_a_step_gives_the_same_whether_computed_or_resumed(tmp_path_factory, value, key):
    trial = Trial(claim_ids=(), scale="smoke", scratch=tmp_path_factory.mktemp("scratch"))
    computed = trial.step(key, lambda: value)
    resumed = trial.step(key, lambda: pytest.fail("computed twice"))
    assert computed == resumed == value
    assert repr(computed) == repr(resumed)


def test_a_step_gives_json_types_at_once(trial):
    value = trial.step("mixed", lambda: {"pair": (1, 2), 3: float("nan")})
    assert value == {"pair": [1, 2], "3": None}
    assert value == trial.step("mixed", lambda: pytest.fail("computed twice"))


@settings(max_examples=40, deadline=None)
@given(keys=st.lists(st.text(max_size=200), min_size=2, max_size=6, unique=True))
def test_steps_of_different_keys_do_not_meet(tmp_path_factory, keys):
    trial = Trial(claim_ids=(), scale="smoke", scratch=tmp_path_factory.mktemp("scratch"))
    assert [trial.step(key, lambda key=key: key) for key in keys] == keys
    assert [trial.step(key, lambda: None) for key in keys] == keys
    assert len(list((trial.scratch / "steps").iterdir())) == len(keys)


def test_a_step_that_fails_is_not_kept(trial):
    with pytest.raises(ZeroDivisionError):
        trial.step("one", lambda: 1 / 0)
    assert trial.step("one", lambda: 2) == 2


def test_tensors_are_resumed_with_type_and_shape(trial):
    state = {
        "half": torch.randn(3, 2).bfloat16(),
        "turned": torch.randn(4, 3).T,
        "count": torch.tensor(7),
        "trained": torch.ones(2, requires_grad=True),
    }
    computed = trial.tensors("state", lambda: state)
    resumed = trial.tensors("state", lambda: pytest.fail("computed twice"))
    for found in (computed, resumed):
        assert found.keys() == state.keys()
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype
            assert not found[name].requires_grad
            assert torch.equal(found[name], tensor)


def test_one_thread_is_given_back(trial):
    def work():
        with trial.one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        work()
    assert torch.get_num_threads() == before


def _computed_where() -> dict[str, int]:
    return {"process": os.getpid(), "threads": torch.get_num_threads()}


def test_steps_outside_smoke_run_in_processes_of_one_thread_and_resume(tmp_path):
    seen: list[tuple[int, int, str]] = []
    trial = Trial(claim_ids=(), scale="quick", scratch=tmp_path, on_progress=lambda *report: seen.append(report))
    trial.step("second", lambda: "kept")
    first, second, third = trial.steps(dict.fromkeys(("first", "second", "third"), _computed_where), "places")
    assert second == "kept"
    assert seen == [(0, 2, "places"), (1, 2, "places"), (2, 2, "places")]
    if cpu_count() > 1:
        assert os.getpid() not in (first["process"], third["process"])
        assert first["threads"] == third["threads"] == 1
        assert trial.worker_memory.keys() == {first["process"], third["process"]}
    assert trial.steps({"third": pytest.fail, "first": pytest.fail}, "again") == [third, first]


def test_steps_that_should_stop_keep_what_is_done(tmp_path):
    seen: list[int] = []
    trial = Trial(
        claim_ids=(), scale="quick", scratch=tmp_path, on_progress=lambda done, total, text: seen.append(done),
        should_stop=lambda: len(seen) == 1,
    )  # fmt: skip
    with pytest.raises(Cancelled, match="places"):
        trial.steps(dict.fromkeys("abcd", _computed_where), "places")
    assert len(list((tmp_path / "steps").iterdir())) == 1


@pytest.mark.parametrize("scale", ["smoke", "quick"])
def test_a_step_that_fails_beside_others_is_not_kept(tmp_path, scale):
    trial = Trial(claim_ids=(), scale=scale, scratch=tmp_path)
    with pytest.raises(ZeroDivisionError):
        trial.steps({"a": partial(divmod, 1, 0), "b": partial(divmod, 1, 0)}, "divided")
    assert not (tmp_path / "steps").exists()
