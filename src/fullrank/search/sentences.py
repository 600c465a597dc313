"""Sentences and terms of texts in scripts with and without spaces."""

from __future__ import annotations

import re
import unicodedata

from fullrank.search.analysis import SOUTH_EAST_ASIA, word_pattern

# A full stop of East Asia ends a sentence; one of the West if white space follows; and so does an empty line.
_END = re.compile(r"""[。！？｡]+["'”’」』）)\]]*\s*|[.!?…]+["'”’)\]]*\s+|\s*\n\s*\n\s*""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(“\"'])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|mr|mrs|ms|dr|prof|st|jr|sr|gen|col|lt|capt|sgt|rep|sen|gov|rev|"
    r"hon|no|vol|fig|eq|pp|ed|eds|inc|ltd|co|corp|vs|cf|al|etc|ca|approx|dept|univ)\.$",
    re.IGNORECASE,
)
_SPACELESS = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    f"\U00020000-\U0003134f{SOUTH_EAST_ASIA}"
)
_LETTER = rf"[^\W_{_SPACELESS}]"
_PIECE = re.compile(f"[{_SPACELESS}]+|{word_pattern(_LETTER)}")
_PAIRED = re.compile(rf"[{_SPACELESS}]")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each as it stands there, without white space around."""
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if _goes_on(text, start, end):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def terms(text: str) -> list[str]:
    """What a text can be found by: words, lower-cased; of scripts without spaces, characters and pairs of them."""
    found: list[str] = []
    for piece in _PIECE.findall(unicodedata.normalize("NFKC", text).lower()):
        found += [piece[i : i + 2] for i in range(len(piece) - 1)] + list(piece) if _PAIRED.match(piece) else [piece]
    return found


# Words that ask or join: neither what a question names nor an answer.
COMMON = frozenset(
    terms(
        "a an the of in on at to and or for is are was were be been being by with as that which who whom what when "
        "where why how did does do has have had it its from this these those s he she they his her their not but also "
        "into than 的,了,在,是,和,与,有,被,为,从,到,对,于"
    )
)


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence goes on after this mark: after an abbreviation or an initial, or with a small letter."""
    if not end[0].startswith("."):
        return False
    following = text[end.end() : end.end() + 1]
    return following.islower() or _ABBREVIATION.search(text[start : end.start() + 1]) is not None
