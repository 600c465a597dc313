"""Measures against trec_eval's numbers, its own code, and ir-measures."""

from __future__ import annotations

import re

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.order import evaluate, parse_measure
from fullrank.search import Qrels, Run

OWN = {"ndcg_exp2@10": "nDCG(gains='exp2')@10", "err@10": "ERR@10", "rbp(p=0.8,rel>=1)": "RBP(p=0.8)"}


@pytest.mark.golden("rankify", kind="trec metrics")
def test_agrees_with_trec_eval(case):
    spec, known = case.spec, case.tensors
    tolerance = spec["tolerance"]
    names, queries = spec["trec_eval_measures"], spec["queries_scored"]
    found = evaluate(spec["qrels"], spec["run"], names)
    assert list(found.queries) == queries
    values = np.array([[found.per_query[name][query] for name in names] for query in queries])
    np.testing.assert_allclose(values, known["per_query"].numpy(), rtol=0, atol=tolerance)
    for name in names:
        for query, by_name in spec["trec_eval_per_query"].items():
            assert found.per_query[name][query] == pytest.approx(by_name[name], abs=tolerance)
    np.testing.assert_allclose(values.mean(axis=0), known["mean"].numpy(), rtol=0, atol=tolerance)
    zeroed = evaluate(spec["qrels"], spec["run"], names, missing="zero")
    means = [np.mean(list(zeroed.per_query[name].values())) for name in names]
    np.testing.assert_allclose(means, known["mean_c"].numpy(), rtol=0, atol=tolerance)
    for query, order in spec["ranked_order"].items():
        assert [id for id, _ in Run(spec["run"]).ranking(query)] == order


@pytest.mark.golden("rankify", kind="trec metrics")
def test_agrees_with_ir_measures_and_the_formulas(case):
    spec = case.spec
    tolerance = spec["tolerance"]
    for query, values in spec["independent_per_query"].items():
        for name, value in values.items():
            if name in OWN:
                assert evaluate(spec["qrels"], spec["run"], OWN[name]).per_query[OWN[name]][query] == pytest.approx(
                    value, abs=tolerance
                )
    found = evaluate(spec["qrels"], spec["run"], list(spec["ir_measures_aggregate"]), missing="zero")
    for name, values in spec["ir_measures_per_query"].items():
        assert found.per_query[name] == pytest.approx(values, abs=tolerance)
    assert found == pytest.approx(spec["ir_measures_aggregate"], abs=tolerance)


IDS = st.sampled_from([f"d{number}" for number in range(14)] + ["ä", "Z"])
# trec_eval crashes where every judgement of a query is negative.
GRADES = st.dictionaries(IDS, st.integers(-2, 3), max_size=12).map(lambda grades: {**grades, "d0": 0})
POINTS = st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.0 + 1e-9, 1e30, -1e-30, -2.5, -2.0])
SCORES = st.dictionaries(IDS, POINTS, min_size=1, max_size=12)
QUERIES = st.sampled_from(["1", "10", "2", "q"])
NAMES = [
    "map", "map_cut_3", "ndcg", "ndcg_cut_5", "recip_rank", "P_2", "recall_4", "success_1", "Rprec", "bpref", "infAP",
    "iprec_at_recall_0.00", "iprec_at_recall_0.30", "iprec_at_recall_1.00", "set_P", "set_recall", "set_F", "num_ret",
]  # fmt: skip
ASKED = {
    "map", "map_cut.3", "ndcg", "ndcg_cut.5", "recip_rank", "P.2", "recall.4", "success.1", "Rprec", "bpref", "infAP",
    "iprec_at_recall.0.0,0.3,1.0", "set_P", "set_recall", "set_F", "num_ret",
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(QUERIES, GRADES, min_size=1), st.dictionaries(QUERIES, SCORES, min_size=1))
def test_is_trec_eval(qrels, run):
    if not qrels.keys() & run.keys():
        with pytest.raises(ValueError, match="share no query"):
            evaluate(qrels, run, "map")
        return
    known = pytrec_eval.RelevanceEvaluator(qrels, ASKED).evaluate(run)
    found = evaluate(qrels, run, NAMES)
    assert set(found.queries) == set(known)
    for query, values in known.items():
        for name in NAMES:
            assert found.per_query[name][query] == pytest.approx(values[name], abs=1e-9), (name, query)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(QUERIES, GRADES, min_size=1), st.dictionaries(QUERIES, SCORES, min_size=1))
def test_a_run_on_disk_measures_the_same(qrels, run):
    if not qrels.keys() & run.keys():
        return
    again = Run.from_trec(Run(run).to_trec()), Qrels.from_trec(Qrels(qrels).to_trec())
    assert evaluate(again[1], again[0], NAMES) == evaluate(qrels, run, NAMES)


def test_thresholds_are_those_of_ir_measures():
    qrels = {"a": {"x": 3, "y": 1, "z": 0, "w": 2}, "b": {"x": 1, "v": 2}}
    run = {"a": {"z": 4.0, "w": 3.0, "y": 2.0, "u": 1.5, "x": 1.0}, "b": {"x": 1.0, "v": 0.5}}
    names = [
        "AP(rel=2)",
        "RR(rel=2)@3",
        "P(rel=2)@2",
        "R(rel=2)@3",
        "Rprec(rel=2)",
        "Bpref(rel=2)",
        "Judged@4",
        "ERR@5",
    ]
    parsed = [ir_measures.parse_measure(name) for name in names[:-1]]
    known = ir_measures.calc_aggregate(parsed, qrels, run)
    found = evaluate(qrels, run, names)
    for name, measure in zip(names, parsed, strict=False):
        assert found[name] == pytest.approx(known[measure])


def test_gains_as_ir_measures_and_cuts_as_trec_eval_write_them():
    qrels, run = {"a": {"x": 3, "y": 1}}, {"a": {"z": 4.0, "y": 3.0, "x": 2.0}}
    found = evaluate(
        qrels, run, ["nDCG(gains='exp2')@3", "nDCG(dcg='exp-log2')@3", "nDCG(dcg='log2')@3", "ndcg_cut.3", "P.2", "P@2"]
    )
    values = list(found.values())
    assert values[0] == values[1] == pytest.approx((1 / np.log2(3) + 7 / 2) / (7 + 1 / np.log2(3)))
    assert values[2] == values[3] == pytest.approx((1 / np.log2(3) + 3 / 2) / (3 + 1 / np.log2(3)))
    assert values[4] == values[5] == 0.5


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(QUERIES, GRADES, min_size=1), SCORES, st.integers(1, 14))
def test_expected_reciprocal_rank_is_a_walk_down(qrels, scores, cutoff):
    run = dict.fromkeys(qrels, scores)
    found = evaluate(qrels, run, [f"ERR@{cutoff}", "ERR"])
    top = max(max(grades.values()) for grades in qrels.values())
    for query in found.queries:
        going, gained = 1.0, [0.0]
        for rank, (id, _) in enumerate(Run(run).ranking(query), 1):
            stop = (2 ** max(qrels[query].get(id, 0), 0) - 1) / 2 ** max(top, 0)
            gained.append(gained[-1] + going * stop / rank)
            going *= 1 - stop
        assert found.per_query["ERR"][query] == pytest.approx(gained[-1])
        assert found.per_query[f"ERR@{cutoff}"][query] == pytest.approx(gained[min(cutoff, len(gained) - 1)])


def test_grades_from_a_table_are_whole_floats(unchecked):
    qrels = {"a": {"x": np.float64(2), "y": 0.0}}
    assert evaluate(qrels, {"a": {"y": 2.0, "x": 1.0}}, "RR") == {"RR": 0.5}


def test_prints_a_line_a_measure():
    found = evaluate({"a": {"x": 1}}, {"a": {"x": 1.0}}, ["RR", "nDCG@10"])
    assert str(found) == "RR       1.0000\nnDCG@10  1.0000"


def test_ids_of_any_kind_and_empty_rankings():
    found = evaluate({1: {7: 1}, 2: {8: 1}}, {"1": {"7": 0.5}, 2: {}}, ["RR", "NumQ"])
    assert found == {"RR": 1.0, "NumQ": 1.0}
    assert evaluate({1: {7: 1}, 2: {8: 1}}, {"1": {"7": 0.5}, 2: {}}, "RR", missing="zero")["RR"] == 0.5
    with pytest.raises(ValueError, match="two document ids have the same text"):
        evaluate({"1": {7: 1, "7": 0}}, {"1": {"7": 0.5}}, "RR")


def test_the_table_has_a_row_a_query():
    frame = evaluate({"a": {"x": 1}, "b": {"x": 1}}, {"a": {"x": 1.0}, "b": {"y": 1.0}}, ["RR", "P@1"]).to_dataframe()
    assert frame.to_dict("list") == {"query_id": ["a", "b"], "RR": [1.0, 0.0], "P@1": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nDGC@10", "did you mean nDCG"),
        ("P", "a cut-off is needed, such as @10"),
        ("IPrec", "such as @0.1"),
        ("IPrec@3", "between 0 and 1"),
        ("P@0", "at least 1"),
        ("P@1.5", "whole number"),
        ("Rprec@5", "it has no cut-off"),
        ("AP(level=2)", "accepted: rel"),
        ("nDCG(gains='cubic')", "accepted: linear"),
        ("RBP(p=2)", "between 0 and 1"),
        ("AP(rel=x)", "rel=x"),
        ("AP(rel=1,rel=2)", "rel=2 is given twice"),
        ("nDCG(gains='exp2',dcg='log2')", "is given twice"),
        ("nDCG(dcg='exp2')", "accepted: log2, exp-log2"),
        ("@10", "cannot be read"),
    ],
)
def test_names_that_cannot_be_measured(name, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_measure(name)


def test_bad_input(unchecked):
    for odd in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match=f"query 'q': the score of 'b' is {odd}; a ranking needs finite numbers"):
            evaluate({"q": {"a": 1}}, {"q": {"a": 1.0, "b": odd}}, "AP")
    for odd in (0.5, None, "1"):
        with pytest.raises(ValueError, match=f"query 'q': the grade of 'b' is {odd!r}; grades are whole numbers"):
            evaluate({"q": {"a": 1, "b": odd}}, {"q": {"a": 1.0}}, "AP")
    with pytest.raises(ValueError, match=r"qrels has 1 queries \('p'\), run has none"):
        evaluate({"p": {"a": 1}}, {}, "AP")
    with pytest.raises(ValueError, match="measures=\\[\\] measures nothing"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, [])
    with pytest.raises(ValueError, match="missing='drop' is not known"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, "AP", missing="drop")
