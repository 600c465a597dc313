import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import Qrels, Run
from fullrank.search.reading import read_qrels

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \t\n\v\f\r"), min_size=1, max_size=6)
scores = st.floats(allow_nan=False, allow_infinity=False)
grades = st.integers(-(2**31), 2**31)


def entries(values):
    return st.dictionaries(words, st.dictionaries(words, values, min_size=1, max_size=5), max_size=4)


def test_identifiers_become_text_and_values_numbers():
    run = Run({1: {2: 3, "x": np.float32(0.5)}})
    assert run == {"1": {"2": 3.0, "x": 0.5}}
    assert {type(score) for score in run["1"].values()} == {float}
    qrels = Qrels({1: {2: 3.0, "x": np.int64(-1)}})
    assert qrels == {"1": {"2": 3, "x": -1}}
    assert {type(grade) for grade in qrels["1"].values()} == {int}
    assert json.loads(json.dumps(run)) == run


@pytest.mark.parametrize("kind", [Run, Qrels])
def test_identifiers_with_the_same_text_are_refused(kind):
    with pytest.raises(ValueError, match="query '1': two document ids have the same text"):
        kind({"1": {1: 1, "1": 2}})
    with pytest.raises(ValueError, match="two query ids have the same text"):
        kind({1: {"a": 1}, "1": {"b": 2}})


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(score):
    with pytest.raises(ValueError, match=f"query 'q': the score of 'd' is {score}; scores are finite numbers"):
        Run({"q": {"d": score}})
    with pytest.raises(ValueError, match=f"line 2: score '{score}' has no place in a ranking"):
        Run.from_trec(f"q Q0 a 1 1.0 t\nq Q0 d 2 {score} t\n")


@pytest.mark.parametrize("score", ["high", None])
def test_scores_are_numbers(score):
    with pytest.raises(ValueError, match=f"query 'q': the score of 'd' is {score!r}; scores are finite numbers"):
        Run({"q": {"d": score}})


@pytest.mark.parametrize("grade", [0.5, math.nan, math.inf, "high", "1", None])
def test_grades_are_whole_numbers(grade):
    with pytest.raises(ValueError, match=f"query 'q': the grade of 'd' is {grade!r}; grades are whole numbers"):
        Qrels({"q": {"d": grade}})


@pytest.mark.parametrize("kind", [Run, Qrels])
def test_entries_that_are_no_numbers_by_document(kind, unchecked):
    with pytest.raises(TypeError, match=r"query 'q' has \['d'\]; numbers by document id are needed"):
        kind({"q": ["d"]})


def test_a_mark_of_byte_order_is_no_part_of_the_first_query(tmp_path):
    (tmp_path / "run").write_text("\ufeffq Q0 d 1 2.0 t\n", encoding="utf-8")
    assert Run.load(tmp_path / "run") == {"q": {"d": 2.0}}
    (tmp_path / "qrels.tsv").write_text("\ufeffq\td\t1\n", encoding="utf-8")
    assert read_qrels(tmp_path / "qrels.tsv") == {"q": {"d": 1}}
    (tmp_path / "qrels.tsv").write_bytes(b"q\td\t1\nq\t\xff\t2\n")
    with pytest.raises(ValueError, match=r"qrels.tsv is not UTF-8 text: byte 8 is 0xff"):
        read_qrels(tmp_path / "qrels.tsv")


def test_order_is_by_score_then_by_document_id_both_descending():
    run = Run({"q": {"a": 1.0, "c": 2.0, "b": 2.0, "d": -1.0, "e": 3.0}})
    assert run.ranking("q") == [("e", 3.0), ("c", 2.0), ("b", 2.0), ("a", 1.0), ("d", -1.0)]
    assert run.ranking("q", 2) == [("e", 3.0), ("c", 2.0)]
    assert run.top(2) == {"q": {"e": 3.0, "c": 2.0}}
    assert list(run.top(3)["q"]) == ["e", "c", "b"]
    assert run.ranking("another") == []


def test_scores_that_only_float64_tells_apart_are_ties():
    assert Run({"q": {"a": 1.0 + 1e-12, "b": 1.0}}).ranking("q") == [("b", 1.0), ("a", 1.0 + 1e-12)]
    assert Run({"q": {"a": 1.0 + 1e-6, "b": 1.0}}).ranking("q") == [("a", 1.0 + 1e-6), ("b", 1.0)]
    assert [id for id, _ in Run({"q": {"a": 1e300, "b": 1e200, "c": -1e300}}).ranking("q")] == ["b", "a", "c"]


def test_ties_are_ordered_by_bytes():
    ids = ["9", "10", "B", "a", "é", "z", "\U0001f600", "\uffff"]
    ranked = [id for id, _ in Run({"q": dict.fromkeys(ids, 1.0)}).ranking("q")]
    assert ranked == sorted(ids, key=str.encode, reverse=True)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(words, st.sampled_from([0.0, 0.5, 0.5 + 1e-12, 1e-50, -1.0, 1e39]), max_size=8))
def test_order_by_its_definition(found):
    def worse(item):
        with np.errstate(over="ignore"):
            return float(np.float32(item[1])), item[0].encode()

    assert Run({"q": found}).ranking("q") == sorted(found.items(), key=worse, reverse=True)


def test_k_and_scores_set_later_are_checked():
    run = Run({"q": {"a": 1.0}})
    with pytest.raises(ValueError, match="k=0 is not accepted; at least 1 is needed"):
        run.ranking("q", 0)
    with pytest.raises(ValueError, match="k=-1 is not accepted"):
        run.top(-1)
    run["q"]["b"] = math.nan
    with pytest.raises(ValueError, match="query 'q': the score of 'b' is NaN"):
        run.ranking("q")


@settings(max_examples=40, deadline=None)
@given(entries(scores))
def test_a_run_survives_trec_and_a_table(found):
    run = Run(found)
    assert Run.from_trec(run.to_trec()) == run
    assert Run.from_dataframe(run.to_dataframe()) == run


@settings(max_examples=40, deadline=None)
@given(entries(grades))
def test_judgements_survive_trec_and_a_table(found):
    qrels = Qrels(found)
    assert Qrels.from_trec(qrels.to_trec()) == qrels
    assert Qrels.from_dataframe(qrels.to_dataframe()) == qrels


def test_files(tmp_path):
    run, qrels = Run({"ä": {"b": 0.1}}), Qrels({"ä": {"b": 2}})
    assert Run.load(run.save(tmp_path / "new" / "a.run")) == run
    assert Qrels.load(qrels.save(tmp_path / "a.qrels")) == qrels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.qrels", "new"]


def test_columns_are_those_of_trec():
    assert Run({"q": {"a": 0.25, "b": 1}}).to_trec("ours") == "q Q0 b 1 1.0 ours\nq Q0 a 2 0.25 ours\n"
    assert Qrels({"q": {"a": 2, "b": -1}}).to_trec() == "q 0 a 2\nq 0 b -1\n"


def test_white_space_between_columns_is_free_and_ranks_do_not_count():
    text = "\n  q\tQ0 a  7 0.5 t \r\n\r\nq Q0 b 7 1e-3 t"
    assert Run.from_trec(text) == {"q": {"a": 0.5, "b": 0.001}}
    assert Qrels.from_trec("q 0\ta +2\r\n\nr 0 b -1") == {"q": {"a": 2}, "r": {"b": -1}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 a 1 1.0", r"line 2 has 5 columns, 6 are expected \(query Q0 document rank score tag\): 'q Q0 a 1 1.0'"),
        ("q Q0 a 1 1.0 t more", "line 2 has 7 columns"),
        ("q Q0 a 1 high t", "line 2: score 'high' is not a number"),
        ("q Q0 a 1 1_0 t", "line 2: score '1_0' is not a number"),
        ("q Q0 x 1 1.0 t", "line 2: document 'x' stands twice in its query"),
    ],
)
def test_a_malformed_line_of_a_run(tmp_path, line, message):
    text = f"q Q0 x 1 2.0 t\n{line}\n"
    with pytest.raises(ValueError, match=message):
        Run.from_trec(text)
    (tmp_path / "a.run").write_text(text)
    with pytest.raises(ValueError, match=f"a.run, {message}"):
        Run.load(tmp_path / "a.run")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q 0 a", r"line 3 has 3 columns, 4 are expected \(query 0 document grade\)"),
        ("q 0 a 1.5", "line 3: grade '1.5' is not a whole number"),
        ("q 0 a high", "line 3: grade 'high' is not a whole number"),
        ("q 0 x 0", "line 3: document 'x' stands twice in its query"),
    ],
)
def test_a_malformed_line_of_judgements(line, message):
    with pytest.raises(ValueError, match=message):
        Qrels.from_trec(f"q 0 x 1\n\n{line}\n")


def test_a_file_of_another_encoding_or_none(tmp_path):
    (tmp_path / "a.run").write_bytes(b"q Q0 caf\xe9 1 1.0 t\n")
    with pytest.raises(ValueError, match=r"a.run is not UTF-8 text: byte 8 is 0xe9"):
        Run.load(tmp_path / "a.run")
    with pytest.raises(FileNotFoundError):
        Qrels.load(tmp_path / "none")


@pytest.mark.parametrize("word", ["", "two words", "line\nbreak"])
def test_identifiers_that_trec_cannot_hold(word):
    for entries in (Run({word: {"d": 1.0}}), Run({"q": {word: 1.0}}), Qrels({word: {"d": 1}}), Qrels({"q": {word: 1}})):
        with pytest.raises(ValueError, match="cannot stand in a TREC file"):
            entries.to_trec()
    with pytest.raises(ValueError, match="cannot stand in a TREC file"):
        Run({"q": {"d": 1.0}}).to_trec(tag=word)


def test_tables():
    frame = Run({"q": {"a": 0.25, "b": 1.0}}).to_dataframe()
    assert frame.to_dict("list") == {
        "query_id": ["q", "q"],
        "doc_id": ["b", "a"],
        "rank": [1, 2],
        "score": [1.0, 0.25],
    }
    assert list(Qrels().to_dataframe().columns) == ["query_id", "doc_id", "relevance"]
    numbers = pd.DataFrame({"query_id": [1, 1], "doc_id": [10, 11], "relevance": [0.0, 2.0], "more": ["x", "y"]})
    assert Qrels.from_dataframe(numbers) == {"1": {"10": 0, "11": 2}}


def test_tables_that_are_none():
    table = pd.DataFrame({"query_id": ["q", "q"], "doc_id": ["a", "a"], "score": [1.0, 2.0], "relevance": [1, 2]})
    with pytest.raises(ValueError, match="row 2: document 'a' stands twice in query 'q'"):
        Run.from_dataframe(table)
    with pytest.raises(
        ValueError, match="the table has no column doc_id, score; query_id, doc_id and score are needed"
    ):
        Run.from_dataframe(table[["query_id"]])
    table["doc_id"], table["relevance"] = ["a", "b"], [1, None]
    with pytest.raises(ValueError, match="the grade of 'b' is nan; grades are whole numbers"):
        Qrels.from_dataframe(table)
    table["score"] = [1.0, math.inf]
    with pytest.raises(ValueError, match="the score of 'b' is inf"):
        Run.from_dataframe(table)


@pytest.mark.parametrize(("kind", "one", "two"), [(Run, 1.0, 2.0), (Qrels, 1, 2)])
def test_what_is_made_of_a_run_is_one(kind, one, two):
    first, second = kind({"a": {"x": one}, "b": {"y": one}}), kind({"b": {"z": two}})
    merged = {"a": {"x": one}, "b": {"z": two}}
    for made in (first | second, first | {"b": {"z": two}}, {"a": {"x": one}, "b": {}} | second):
        assert (type(made), made) == (kind, merged)
    numbers = first | {2: {7: one}}
    assert numbers["2"] == {"7": one}
    copied = first.copy()
    copied["c"] = {}
    assert (type(copied), "c" in first, list(first.to_trec())) == (kind, False, list(first.copy().to_trec()))
    first |= {"b": {"z": two}}
    assert (type(first), first) == (kind, merged)
    with pytest.raises(TypeError):
        first | 3
