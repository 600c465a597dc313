"""The few words of a sentence that answer a question: of the kind that is asked for, beside what the question names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fullrank.search.sentences import COMMON, terms

_NUMBER_WORD = (
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion|trillion|"
    r"half"
)
_MONTH = r"(?:january|february|march|april|may|june|july|august|september|october|november|december)"
# A kind of question: words that ask it, and what its answers look like.
_TIME = (
    re.compile(
        r"\b(?:when|what (?:year|date|day|month|century|decade)|which year)\b|何时|什么时候|哪一?[年天月]", re.I
    ),
    re.compile(
        rf"{_MONTH}\s+\d{{1,2}}(?:,\s*\d{{4}})?|\d{{1,2}}\s+{_MONTH}(?:\s+\d{{4}})?|{_MONTH}\s+\d{{4}}|"
        rf"\d{{1,2}}(?:st|nd|rd|th)[ -]century|\b1?\d{{3}}s?\b(?:\s*BC)?|\b20\d\d\b|{_MONTH}|"
        r"\d+\s*年(?:\s*\d+\s*月)?(?:\s*\d+\s*日)?|\d+\s*月(?:\s*\d+\s*日)?|\d+\s*世纪",
        re.I,
    ),
)
_COUNT = (
    re.compile(
        r"\bhow (?:many|much|old|long|far|large|big|tall|high|often|fast)\b|\bwhat (?:percent|number|amount)|"
        r"多少|几[个次名岁年天位种]|多[大长高远久]",
        re.I,
    ),
    re.compile(
        rf"[$€£¥]?\d[\d,.½]*(?<![,.])(?:\s*(?:%|percent|{_NUMBER_WORD}|千|万|亿)\b)*(?:\s*[个次名岁年天位种分码磅元])?|"
        rf"\b(?:{_NUMBER_WORD})\b(?:[ -](?:{_NUMBER_WORD}))*|[一二两三四五六七八九十百千万亿]+[个次名岁年天位种]",
        re.I,
    ),
)
_NAME = (
    re.compile(r"\b(?:who|whose|whom|where|which|what)\b|谁|哪[里位个家些支]|什么", re.I),
    re.compile(
        r"(?:[A-Z][\w'’.&-]*(?<![.]))(?:\s+(?:of|the|de|la|von|van|and|for|&)(?=\s+[A-Z])|\s+[A-Z][\w'’&-]*)*|"
        r"[“\"《「『][^”\"》」』]{2,60}[”\"》」』]|[\u4e00-\u9fff]{1,6}(?:·[\u4e00-\u9fff]{1,8})+",
    ),
)


def answer_span(question: str, sentence: str) -> str:
    """The part of a sentence that answers a question, as it stands there; the whole sentence if none stands out.

    When, how many, and who, which or what are looked for by how dates, numbers and names are written in English and in
    Chinese; any other answer is the longest part between commas that the question does not name.
    """
    asked = frozenset(terms(question)) - COMMON
    for asks, looks in (_TIME, _COUNT, _NAME):
        if not asks.search(question):
            continue
        found = [place for place in looks.finditer(sentence) if _is_new(place[0], asked)]
        if found:
            near = _named(sentence, asked)
            nearest = min(found, key=lambda place: _distance(place.start(), place.end(), near))
            return nearest[0].strip('“”"《》「」『』 ')
    return max(_parts(sentence, asked), key=len, default=sentence)


def _is_new(text: str, asked: frozenset[str]) -> bool:
    """Whether a text says something that the question does not."""
    return not set(terms(text)) <= asked | COMMON


def _named(sentence: str, asked: frozenset[str]) -> list[int]:
    """Where the sentence has what the question names."""
    lowered = sentence.lower()
    return [place.start() for term in asked for place in re.finditer(re.escape(term), lowered)]


def _distance(start: int, end: int, near: list[int]) -> float:
    """How far a span is from what the question names: the mean over it."""
    return sum(min(abs(start - place), abs(end - place)) for place in near) / len(near) if near else float(start)


def _parts(sentence: str, asked: frozenset[str]) -> Iterator[str]:
    for part in re.split(r"[,;:，；：、]\s*", sentence):
        if _is_new(part, asked):
            yield part.strip(" .!?。！？")
