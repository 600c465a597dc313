"""Prompts with exemplars, and what is read from answers."""

from __future__ import annotations

import pytest

from fullrank.search.exemplars import (
    PROMPT,
    Exemplar,
    PromptTemplate,
    accuracy,
    accuracy_by_draft,
    final_answer,
    numbered_solution,
    pair_text,
)

SOLUTION = "She has 2*3=<<2*3=6>>6 eggs.\nSo 6 + 1 = 7.\n#### 7"


def test_solutions_and_prompts_are_written_as_the_paper_does():
    exemplar = Exemplar("a", "How many?", SOLUTION)
    assert exemplar.steps == 2
    assert exemplar.text == "How many?\tShe has 2*3=6 eggs.\nSo 6 + 1 = 7.\n#### 7"
    assert pair_text("How many?", " ") == "How many?"
    assert numbered_solution(SOLUTION) == "1. She has 2*3=6 eggs.\n2. So 6 + 1 = 7.\nThe answer is 7"
    assert PROMPT([exemplar], "And {now}?") == (
        "Question: How many?\nLet's think step by step.\n1. She has 2*3=6 eggs.\n2. So 6 + 1 = 7.\nThe answer is 7\n"
        "Question: And {now}?\nLet's think step by step.\n"
    )
    other = PromptTemplate("Q: {question}\nA:", solution=str.upper, separator="\n---\n")
    assert other([Exemplar("a", "b?", "c")], "d?") == "Q: b?\nA:\nC\n---\nQ: d?\nA:\n"
    with pytest.raises(ValueError, match="question='Q:' has no place for the question"):
        PromptTemplate("Q:")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 5 then #### 1,234", "1234"),
        ("### 3\n### 4", "3"),
        ("#### $18", "18"),
        ("The answer is 42.", "42"),
        ("first 3, then -4.5", "-4.5"),
        ("that is 10-3", "3"),
        ("none", None),
    ],
)
def test_the_answer_is_the_first_marked_number_or_the_last_one(text, answer):
    assert final_answer(text) == answer


def test_what_cannot_be_read_is_wrong():
    assert accuracy(["#### 7", "no idea"], ["#### 7.0", "#### 1"]) == 0.5
    split = accuracy_by_draft(["#### 7", "1", "2"], ["#### 7", "1", "8"], ["#### 7", "#### 1", "#### 8"])
    assert split == {"draft right": (1.0, 2), "draft wrong": (1.0, 1)}
    assert accuracy_by_draft(["1"], ["2"], ["1"]) == {"draft right": (0.0, 1), "draft wrong": (None, 0)}
    with pytest.raises(ValueError, match="0 references for 0 outputs"):
        accuracy([], [])
