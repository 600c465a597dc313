"""Solved examples for a language model's prompt: how they are written down, and what is read from its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fullrank.search.prompts import inserted

_MARKED = re.compile(r"###+\s*\$?(-?\d[\d,]*(?:\.\d+)?)")
_NUMBER = re.compile(r"(?:(?<![\d)])-)?\d[\d,]*(?:\.\d+)?")  # the minus of 10-3 is no sign
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_QUESTION = "{question}"


@dataclass(frozen=True)
class Exemplar:
    """A question and its solution.

    Attributes:
        id: unique in its pool.
        question: as it is asked.
        solution: step by step; GSM8K's marks are as they stand there.
    """

    id: str
    question: str
    solution: str

    @property
    def text(self) -> str:
        """Question and solution, without a calculator's marks: what is encoded."""
        return pair_text(self.question, plain_solution(self.solution))

    @property
    def steps(self) -> int:
        """Lines of the solution, that of the answer not counted."""
        return sum(bool(line.strip()) and not _is_answer(line) for line in self.solution.splitlines())


def pair_text(question: str, solution: str) -> str:
    """A question and what is known of its solution as one text; the question alone where nothing is.

    The question stands first, so an encoder that cuts long texts keeps it, and the head of the solution.
    """
    return f"{question}\t{solution}" if solution.strip() else question


def plain_solution(solution: str) -> str:
    """A solution without a calculator's marks, <<6*7=42>>."""
    return _CALCULATOR.sub("", solution)


def numbered_solution(solution: str) -> str:
    """A solution with numbered steps, and "#### 42" as "The answer is 42"."""
    lines = [line.strip() for line in plain_solution(solution).splitlines() if line.strip()]
    steps = [line for line in lines if not _is_answer(line)]
    answers = [line.lstrip("#").strip() for line in lines if _is_answer(line)]
    numbered = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join([*numbered, *(f"The answer is {answer}" for answer in answers)])


@dataclass(frozen=True)
class PromptTemplate:
    """Writes exemplars as solved questions, most similar first, then the question.

    Attributes:
        question: how a question is asked.
        solution: how a solution is written.
        separator: between exemplars.

    Raises:
        ValueError: no place for the question.
    """

    question: str = f"Question: {_QUESTION}\nLet's think step by step."
    solution: Callable[[str], str] = numbered_solution
    separator: str = "\n"

    def __post_init__(self) -> None:
        if _QUESTION not in self.question:
            raise ValueError(f"question={self.question!r} has no place for the question: write {_QUESTION} there")

    def __call__(self, exemplars: Sequence[Exemplar], question: str) -> str:
        """The prompt."""
        shown = [f"{self.asked(exemplar.question)}\n{self.solution(exemplar.solution)}" for exemplar in exemplars]
        return self.separator.join([*shown, self.asked(question)]) + "\n"

    def asked(self, question: str) -> str:
        """A question as it is asked."""
        return inserted(self.question, question=question)


Template = Callable[[Sequence[Exemplar], str], str]
PROMPT = PromptTemplate()


def final_answer(text: str) -> str | None:
    """The first number after "###", else the last number of the text, without commas; None without any."""
    marked = _MARKED.search(text)
    numbers = [marked[1]] if marked else _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


def accuracy(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Share of outputs whose final answer is that of the reference; an output without one is wrong.

    Raises:
        ValueError: another number of references, or none.
    """
    right = _right(outputs, references)
    return sum(right) / len(right)


def accuracy_by_draft(
    drafts: Sequence[str], outputs: Sequence[str], references: Sequence[str]
) -> dict[str, tuple[float | None, int]]:
    """Accuracy where the first call was right, and where it was wrong, each with the number of questions.

    A wrong draft can lead the second query astray: this shows by how much. None where there is no such question.

    Raises:
        ValueError: other numbers of drafts or references, or none.
    """
    groups: dict[bool, list[bool]] = {True: [], False: []}
    for draft_right, right in zip(_right(drafts, references), _right(outputs, references), strict=True):
        groups[draft_right].append(right)
    return {
        name: (sum(group) / len(group) if group else None, len(group))
        for name, group in (("draft right", groups[True]), ("draft wrong", groups[False]))
    }


def _right(outputs: Sequence[str], references: Sequence[str]) -> list[bool]:
    if len(outputs) != len(references) or not outputs:
        raise ValueError(f"{len(references)} references for {len(outputs)} outputs; one each is needed")
    return [_same(final_answer(said), final_answer(known)) for said, known in zip(outputs, references, strict=True)]


def _same(first: str | None, second: str | None) -> bool:
    return first is not None and second is not None and float(first) == float(second)


def _is_answer(line: str) -> bool:
    return line.lstrip().startswith("###")
