"""How good answers are: exact match, overlap of tokens, containment, BLEU, ROUGE-L; and whether a text has one."""

from __future__ import annotations

import itertools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from fullrank.search.run import at_least_one

Normalizer = Literal["squad", "unicode", "rankify"]
Answers = Sequence[str] | str

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_PLAIN = re.compile(r"[^a-z0-9 ]")
_ASCII_TOKEN = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
# Scripts without spaces, in which every character is a token of its own: Thai, Lao, Tibetan, Burmese, Khmer, those of
# China and Japan.
_SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
)


class Overlap(NamedTuple):
    """Tokens that an answer shares with a gold one; the best over all gold answers, each by itself.

    Attributes:
        f1: harmonic mean of the two.
        precision: share of the answer's tokens.
        recall: share of the gold answer's tokens.
    """

    f1: float
    precision: float
    recall: float


def normalized(text: str, normalizer: Normalizer = "squad") -> str:
    """A text as answers are compared.

    Args:
        text: any script.
        normalizer: "squad": lower case, no ASCII punctuation, no articles, single spaces. "unicode": the same with the
            cases, widths, accents' spellings and punctuation of all scripts, and every character a token of its own
            where a script has no spaces. "rankify": as "squad", and every character outside a-z and 0-9 is lost, so
            that any two answers in another script are equal.

    Raises:
        ValueError: an unknown normalizer.
    """
    if normalizer not in get_args(Normalizer):
        raise ValueError(f"normalizer={normalizer!r} is not known; accepted: {', '.join(get_args(Normalizer))}")
    if normalizer == "unicode":
        text = _folded(text)
    bare = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join((_NOT_PLAIN.sub("", bare) if normalizer == "rankify" else bare).split())


def exact_match(answer: str, gold: Answers, normalizer: Normalizer = "squad") -> bool:
    """Whether an answer is one of the gold ones, as `normalized`.

    Raises:
        ValueError: there are no gold answers.
    """
    said = normalized(answer, normalizer)
    return any(said == normalized(other, normalizer) for other in _listed(gold))


def contains(answer: str, gold: Answers, normalizer: Normalizer = "squad") -> bool:
    """Whether one of the gold answers stands in an answer, as `normalized`.

    A gold answer of which nothing is left stands in an empty answer alone, with "rankify" in any.

    Raises:
        ValueError: there are no gold answers.
    """
    said = normalized(answer, normalizer)
    return any(_holds(said, normalized(other, normalizer), normalizer) for other in _listed(gold))


def token_overlap(answer: str, gold: Answers, normalizer: Normalizer = "squad") -> Overlap:
    """F1, precision and recall of tokens. If both are empty they agree, with "rankify" they do not.

    Raises:
        ValueError: there are no gold answers.
    """
    said = normalized(answer, normalizer).split()
    overlaps = [_overlap(said, normalized(other, normalizer).split(), normalizer) for other in _listed(gold)]
    return Overlap(*(max(values) for values in zip(*overlaps, strict=True)))


def corpus_bleu(answers: Sequence[str], gold: Sequence[Answers], normalizer: Normalizer = "squad") -> float:
    """BLEU of 1- to 4-grams over all answers, without smoothing, from 0 to 1 (Papineni et al. 2002).

    Args:
        answers: one a question.
        gold: of every question.
        normalizer: see `normalized`.

    Raises:
        ValueError: another number of gold lists than of answers, or a question without gold answers.
    """
    if len(answers) != len(gold):
        raise ValueError(f"{len(gold)} lists of gold answers for {len(answers)} answers; one each is needed")
    found, possible = [0] * 4, [0] * 4
    length = reference = 0
    for answer, others in zip(answers, gold, strict=True):
        said = normalized(answer, normalizer).split()
        references = [normalized(other, normalizer).split() for other in _listed(others)]
        length += len(said)
        reference += min((abs(len(other) - len(said)), len(other)) for other in references)[1]
        for order in range(1, 5):
            grams = _grams(said, order)
            allowed: Counter[tuple[str, ...]] = Counter()
            for other in references:
                allowed |= _grams(other, order)
            found[order - 1] += (grams & allowed).total()
            possible[order - 1] += grams.total()
    if not all(found):
        return 0.0
    precision = sum(math.log(hit / count) for hit, count in zip(found, possible, strict=True)) / 4
    return math.exp(precision + min(0.0, 1 - reference / length))


def rouge_l(answer: str, gold: Answers, normalizer: Normalizer = "squad") -> float:
    """F1 of the longest common subsequence of tokens, the best over the gold answers (Lin 2004).

    Raises:
        ValueError: there are no gold answers.
    """
    said = normalized(answer, normalizer).split()
    return max(_rouge(said, normalized(other, normalizer).split()) for other in _listed(gold))


def has_answer(text: str, gold: Answers) -> bool:
    """Whether the tokens of a gold answer stand in a text one after another, in any case (as DPR looks for them).

    Tokens are runs of letters, digits and their marks, and other signs one by one; so are the characters of scripts
    without spaces.
    """
    tokens = _tokens(text)
    return any(_stands_in(_tokens(other), tokens) for other in ([gold] if isinstance(gold, str) else gold))


def top_k_accuracy(texts: Sequence[Sequence[str]], gold: Sequence[Answers], k: int) -> float:
    """Share of the questions for which one of the first k texts `has_answer` (Karpukhin et al. 2020).

    Args:
        texts: of every question, best first.
        gold: of every question.
        k: texts that count.

    Raises:
        ValueError: no questions, another number of gold lists than of questions, or k below 1.
    """
    at_least_one(k)
    if not texts or len(texts) != len(gold):
        raise ValueError(f"{len(gold)} lists of gold answers for {len(texts)} lists of texts; give one of each")
    hits = [any(has_answer(text, answers) for text in found[:k]) for found, answers in zip(texts, gold, strict=True)]
    return sum(hits) / len(hits)


def _folded(text: str) -> str:
    """One width and spelling of every character, no punctuation, characters of scripts without spaces apart."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = "".join(character for character in folded if unicodedata.category(character)[0] != "P")
    return _SPACELESS.sub(r" \g<0> ", words)


def _holds(said: str, wanted: str, normalizer: Normalizer) -> bool:
    return wanted in said if wanted or normalizer == "rankify" else not said


def _overlap(said: list[str], gold: list[str], normalizer: Normalizer) -> Overlap:
    if not said or not gold:
        agree = float(normalizer != "rankify" and said == gold)
        return Overlap(agree, agree, agree)
    shared = (Counter(said) & Counter(gold)).total()
    precision, recall = shared / len(said), shared / len(gold)
    return Overlap(2 * precision * recall / (precision + recall) if shared else 0.0, precision, recall)


def _grams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[place : place + order]) for place in range(len(tokens) - order + 1))


def _rouge(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    row = [0] * (len(gold) + 1)
    for token in said:
        before = 0
        for place, other in enumerate(gold, 1):
            before, row[place] = row[place], before + 1 if token == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(said) + len(gold))


def _tokens(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    found: list[str] = []
    decomposed = unicodedata.normalize("NFD", text).lower()
    for kind, run in itertools.groupby(decomposed, key=_kind):
        if kind == "word":
            found.append("".join(run))
        elif kind == "sign":
            found.extend(run)
    return found


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "ZC":
        return "space"
    return "word" if category[0] in "LNM" and not _SPACELESS.match(character) else "sign"


def _stands_in(wanted: list[str], tokens: list[str]) -> bool:
    size = len(wanted)
    return size > 0 and any(tokens[place : place + size] == wanted for place in range(len(tokens) - size + 1))


def _listed(gold: Answers) -> Sequence[str]:
    answers = [gold] if isinstance(gold, str) else gold
    if not answers:
        raise ValueError("gold=[] has no answer to compare with; give at least one")
    return answers
