"""Measures of answers, against Rankify's own numbers and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search.answer_measures import (
    contains,
    corpus_bleu,
    exact_match,
    has_answer,
    normalized,
    rouge_l,
    token_overlap,
)


@pytest.mark.golden("rankify", kind="answer metrics")
def test_agrees_with_the_original_and_the_recommended(case):
    spec = case.spec
    said, gold, tolerance = spec["predictions"], spec["gold_answers"], spec["tolerance"]
    pairs = list(zip(said, gold, strict=True))
    assert [normalized(text, "rankify") for text in said] == spec["official_normalised_predictions"]
    overlaps = [token_overlap(*pair, "rankify") for pair in pairs]
    found = {
        "exact_match": [exact_match(*pair, "rankify") for pair in pairs],
        "f1_score": [overlap.f1 for overlap in overlaps],
        "precision": [overlap.precision for overlap in overlaps],
        "recall": [overlap.recall for overlap in overlaps],
        "contains_match": [contains(*pair, "rankify") for pair in pairs],
    }
    for name, values in found.items():
        known = spec["official"][name]
        assert [float(value) for value in values] == pytest.approx(known["per_item"], abs=tolerance)
        assert 100 * np.mean(values) == pytest.approx(known["aggregate"], abs=tolerance)
    known = spec["official"]["bleu_score"]["aggregate"]
    assert corpus_bleu(said, gold, "rankify") == pytest.approx(known, abs=tolerance)
    assert [float(exact_match(*pair)) for pair in pairs] == spec["recommended"]["exact_match"]
    assert [token_overlap(*pair).f1 for pair in pairs] == pytest.approx(spec["recommended"]["f1"], abs=tolerance)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_bounds_and_agreement(first, second):
    assert exact_match(first, first)
    assert contains(first + " " + second, first) or normalized(first) not in normalized(first + " " + second)
    f1, precision, recall = token_overlap(first, second)
    assert 0 <= min(precision, recall) <= f1 + 1e-12
    assert f1 <= max(precision, recall) + 1e-12 <= 1 + 1e-9
    assert token_overlap(second, first).precision == pytest.approx(recall)
    assert rouge_l(first, second) <= f1 + 1e-9
    assert rouge_l(first, first) == 1


def test_answers_in_texts():
    assert has_answer("The Eiffel Tower, in PARIS.", ["paris"])
    assert has_answer("café au lait", "cafe\u0301")
    assert not has_answer("comparison", "paris")
    assert has_answer("It cost $5.50 then", "$5.50")
    assert has_answer("他住在北京市。", ["北京"])
    assert not has_answer("anything", [""])
    assert not has_answer("anything", [])


def test_by_hand():
    assert rouge_l("a b c d", "b d e") == pytest.approx(2 * 2 / (3 + 3))  # the article is not counted
    assert corpus_bleu(["one two three four five"], [["one two three four five"]]) == 1
    assert corpus_bleu(["one two"], [["one two"]]) == 0
    assert token_overlap("red red blue", "red blue blue") == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    with pytest.raises(ValueError, match=r"gold=\[\] has no answer"):
        exact_match("x", [])
    with pytest.raises(ValueError, match="2 lists of gold answers for 1 answers"):
        corpus_bleu(["x"], [["x"], ["y"]])
