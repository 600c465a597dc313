import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import Run, interleave, reciprocal_rank_fusion, score_fusion

FIRST = {"q": {"a": 9.0, "b": 8.0, "c": 7.0}}
SECOND = {"q": {"c": 0.3, "d": 0.2, "a": 0.1}, "r": {"a": 1.0}}


def test_the_sum_of_reciprocal_ranks():
    fused = reciprocal_rank_fusion([FIRST, SECOND])
    assert fused == {
        "q": {"a": 1 / 61 + 1 / 63, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62},
        "r": {"a": 1 / 61},
    }
    assert [document for document, _ in fused.ranking("q")] == ["c", "a", "d", "b"]


def test_weights_and_k0():
    fused = reciprocal_rank_fusion([FIRST, SECOND], k0=0, weights=[2.0, 0.5])
    assert fused["q"] == pytest.approx({"a": 2 + 0.5 / 3, "b": 2 / 2, "c": 2 / 3 + 0.5, "d": 0.5 / 2})
    assert reciprocal_rank_fusion([FIRST, SECOND], weights=[0.0, 1.0]).top(1)["q"] == {"c": 1 / 61}


def test_ties_within_a_run_are_ranked_as_in_the_run():
    fused = reciprocal_rank_fusion([{"q": {"a": 1.0, "b": 1.0}}])
    assert fused == {"q": {"b": 1 / 61, "a": 1 / 62}}


def test_identifiers_of_any_type_meet():
    assert reciprocal_rank_fusion([{1: {2: 1.0}}, {"1": {"2": 5.0}}]) == {"1": {"2": 2 / 61}}


def test_nothing_to_fuse():
    assert reciprocal_rank_fusion([]) == {}
    assert reciprocal_rank_fusion([{"q": {}}, {"q": {"a": 1.0}}, {"r": {}}]) == {"q": {"a": 1 / 61}, "r": {}}


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), st.floats(-5, 5), min_size=1, max_size=8))
def test_fusion_with_itself_keeps_the_order(found):
    run = Run({"q": found})
    order = [document for document, _ in run.ranking("q")]
    assert [document for document, _ in reciprocal_rank_fusion([run, run, run]).ranking("q")] == order


def test_bad_inputs():
    with pytest.raises(ValueError, match="k0=-1 is not accepted"):
        reciprocal_rank_fusion([FIRST], k0=-1)
    with pytest.raises(ValueError, match="weights has 1 entries for 2 runs"):
        reciprocal_rank_fusion([FIRST, SECOND], weights=[1.0])
    with pytest.raises(ValueError, match=r"weights=\[1.0, nan\] are not accepted"):
        reciprocal_rank_fusion([FIRST, SECOND], weights=[1.0, math.nan])
    with pytest.raises(ValueError, match="the score of 'a' is inf"):
        reciprocal_rank_fusion([{"q": {"a": math.inf}}])


@pytest.mark.golden("rankify", kind="fusion")
def test_agrees_with_the_original(case):
    spec = case.spec
    tolerance = spec["tolerance"]
    runs = [{"q": dict(zip(run["ids"], run["scores"], strict=True))} for run in spec["runs"]]
    first_seen = list(dict.fromkeys(id for run in spec["runs"] for id in run["ids"]))
    fused = {
        "rrf": reciprocal_rank_fusion(runs, spec["rrf_k"]),
        "weighted_minmax": score_fusion(runs, weights=spec["weights"]),
    }
    for name, run in fused.items():
        ids, scores = spec["official"][name]
        assert [run["q"][id] for id in ids] == pytest.approx(scores, abs=tolerance)
        # The original leaves equal scores in the order in which they were first seen.
        rounded = {id: round(score, 12) for id, score in run["q"].items()}
        assert sorted(first_seen, key=lambda found, rounded=rounded: -rounded[found]) == ids
    assert [id for id, _ in interleave(runs).ranking("q")] == spec["official"]["interleave"][0]
    independent = {
        "weighted_rrf": reciprocal_rank_fusion(runs, spec["rrf_k"], spec["weights"]),
        "combsum_minmax": score_fusion(runs),
        "combmnz_minmax": score_fusion(runs, "mnz"),
    }
    for name, run in independent.items():
        assert run["q"] == pytest.approx(spec["independent"][name], abs=tolerance)


def test_scaled_scores_and_turns():
    fused = score_fusion([FIRST, SECOND])
    assert fused["q"] == pytest.approx({"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.5})
    assert fused["r"] == {"a": 0.0}
    assert score_fusion([FIRST, SECOND], "mnz")["q"]["a"] == 2.0
    assert [id for id, _ in interleave([FIRST, SECOND]).ranking("q")] == ["a", "c", "b", "d"]


def test_unknown_combinations_are_refused(unchecked):
    with pytest.raises(ValueError, match="combination='max' is not known; accepted: sum, mnz"):
        score_fusion([FIRST], "max")
    with pytest.raises(ValueError, match="weights has 1 entries for 2 runs"):
        score_fusion([FIRST, SECOND], weights=[1.0])
