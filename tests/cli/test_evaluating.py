"""Runs measured and compared from the command."""

from __future__ import annotations

import json

import pandas
import pytest

from fullrank.order import compare, evaluate
from fullrank.search import Qrels, Run

QRELS = {f"q{n}": {"a": 1, "b": 0, "c": n % 3} for n in range(8)}
GOOD = {f"q{n}": {"a": 3.0, "c": 2.0, "b": 1.0} for n in range(8)}
POOR = {f"q{n}": {"b": 3.0, "c": 2.0 + n % 2 * 2, "a": 1.0} for n in range(8)}
NAMES = ["nDCG@10", "AP", "RR@10", "P@10", "R@100"]


@pytest.fixture
def files(folders):
    Qrels(QRELS).save(folders / "qrels.txt")
    Run(GOOD).save(folders / "good.trec")
    Run(POOR).save(folders / "poor.trec")


def test_values_are_those_of_the_library(fullrank, files):
    row = fullrank("evaluate", "qrels.txt", "poor.trec", "--json", "--per-query").json[0]
    known = evaluate(QRELS, POOR, NAMES)
    assert row == {"run": "poor.trec", "measures": pytest.approx(known), "per_query": known.per_query}
    asked = fullrank("evaluate", "qrels.txt", "poor.trec", "-m", "map", "-m", "P_1", "--json").json[0]
    assert asked["measures"] == evaluate(QRELS, POOR, ["map", "P_1"])
    assert asked["per_query"] is None


def test_tables_of_any_format_measure_the_same(fullrank, files, folders):
    frame = Run(POOR).to_dataframe()
    frame.to_parquet(folders / "poor.parquet")
    (folders / "poor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    pandas.DataFrame(Qrels(QRELS).to_dataframe()).to_parquet(folders / "qrels.parquet")
    rows = fullrank("evaluate", "qrels.parquet", "poor.trec", "poor.parquet", "poor.jsonl", "--json").json
    assert [row["measures"] for row in rows] == [rows[0]["measures"]] * 3
    assert rows[0]["measures"] == pytest.approx(evaluate(QRELS, POOR, NAMES))


def test_runs_are_compared_with_the_first(fullrank, files):
    first, second = fullrank("evaluate", "qrels.txt", "poor.trec", "good.trec", "--compare", "--json").json
    assert first["against_first"] == {}
    known = compare({"poor": evaluate(QRELS, POOR, NAMES), "good": evaluate(QRELS, GOOD, NAMES)}, "poor", "AP")[0]
    assert second["against_first"]["AP"] == {name: known[name] for name in ("difference", "p", "wins", "losses")}
    lines = fullrank("evaluate", "qrels.txt", "poor.trec", "good.trec", "--compare", "-m", "RR").out.splitlines()
    assert any(line.split()[:2] == ["good.trec", "1.0000"] for line in lines)
    tested = next(line.split() for line in lines if line.startswith("good.trec") and "RR" in line)
    known = compare({"poor": evaluate(QRELS, POOR, "RR"), "good": evaluate(QRELS, GOOD, "RR")}, "poor", "RR")[0]
    assert known["p"] < 0.05
    assert tested[2:] == [f"{known['difference']:+.4f}", f"{known['p']:.4f}*", "5", "0"]


def test_every_query_is_printed(fullrank, files):
    lines = [
        line.split()
        for line in fullrank("evaluate", "qrels.txt", "poor.trec", "-m", "RR", "--per-query").out.splitlines()
    ]
    known = evaluate(QRELS, POOR, "RR").per_query["RR"]
    assert [line for line in lines if line[0] in known] == [[query, f"{known[query]:.4f}"] for query in known]


def test_bad_input(fullrank, files, folders):
    Run({"q1": {"a": 1.0}}).save(folders / "short.trec")
    Run({"other": {"a": 1.0}}).save(folders / "other.trec")
    call = ("evaluate", "qrels.txt", "good.trec")
    assert "at least two runs" in fullrank(*call, "--compare").complaint
    assert "good.trec is given twice" in fullrank(*call, "good.trec").complaint
    assert "short.trec and good.trec answer other queries" in fullrank(*call, "short.trec", "--compare").complaint
    assert fullrank(*call, "short.trec", "--compare", "--missing", "zero").code == 0
    assert "share no query" in fullrank("evaluate", "qrels.txt", "other.trec").complaint
    assert "did you mean nDCG" in fullrank(*call, "-m", "nDGC@10").complaint
    assert "absent.trec: No such file" in fullrank("evaluate", "qrels.txt", "absent.trec").complaint
