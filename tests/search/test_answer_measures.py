"""Measures of answers, against Rankify's own numbers and by hand."""

from __future__ import annotations

import math

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
    top_k_accuracy,
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
    both, part = normalized(first + " " + second), normalized(first)
    assert contains(first + " " + second, first) == (part in both and (part != "" or both == ""))
    f1, precision, recall = token_overlap(first, second)
    assert 0 <= min(precision, recall) <= f1 + 1e-12
    assert f1 <= max(precision, recall) + 1e-12 <= 1 + 1e-9
    assert token_overlap(second, first).precision == pytest.approx(recall)
    assert rouge_l(first, second) <= f1 + 1e-9
    assert rouge_l(first, first) == 1


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("北京。", "北京", 1),
        ("北京市", "北京", 0.8),
        ("“Ｐａｒｉｓ”", "paris", 1),
        ("nai\u0308ve Bayes", "naïve bayes", 1),
        ("STRASSE", "Straße", 1),
        ("กรุงเทพ", "กรุงเทพ", 1),
        ("北京", "上海", 0),
        ("…", "!", 1),
    ],
)
def test_answers_of_all_scripts(answer, gold, f1):
    assert token_overlap(answer, gold, "unicode").f1 == pytest.approx(f1)
    assert exact_match(answer, gold, "unicode") == (f1 == 1)


def test_accuracy_of_the_first_texts():
    texts = [["Lyon lies south.", "Paris is a city."], ["Nothing here."], ["Rome!"]]
    gold = [["Paris"], ["Bonn"], "rome"]
    assert top_k_accuracy(texts, gold, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(texts, gold, 2) == top_k_accuracy(texts, gold, 9) == pytest.approx(2 / 3)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=20))
def test_tokens_of_plain_text_are_those_of_any(text):
    assert has_answer(text + " é", text) == any(c.isprintable() and c != " " for c in text)


def test_answers_in_texts():
    assert has_answer("他住在　北京市。", ["在北京"])
    assert has_answer("กรุงเทพมหานคร", ["กรุงเทพ"])
    assert not contains("anything", "the")
    assert contains("", "the")
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
    short = corpus_bleu(["one two three four five"], [["one two three four five six"]])
    assert short == pytest.approx(math.exp(1 - 6 / 5))  # for brevity
    assert corpus_bleu(["one two three four five six"], [["one two three four five six seven", "one two"]]) < 1
    assert token_overlap("red red blue", "red blue blue") == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    with pytest.raises(ValueError, match=r"gold=\[\] has no answer"):
        exact_match("x", [])
    with pytest.raises(ValueError, match="2 lists of gold answers for 1 answers"):
        corpus_bleu(["x"], [["x"], ["y"]])
    with pytest.raises(ValueError, match="2 lists of gold answers for 0 lists of texts"):
        top_k_accuracy([], [["x"], ["y"]], 1)
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        top_k_accuracy([["x"]], [["x"]], 0)


def test_an_unknown_normalizer(unchecked):
    with pytest.raises(ValueError, match="normalizer='dpr' is not known; accepted: squad, unicode, rankify"):
        exact_match("x", ["x"], "dpr")
