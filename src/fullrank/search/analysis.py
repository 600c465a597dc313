"""From texts to the terms that are indexed: words in any script, stop words, stems."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fullrank._optional import require

#: What stands on, under or beside a letter and is no letter itself, as most vowels of India's scripts.
_MARKS = "".join(
    mark
    for block in (range(0x300, 0x2E80), range(0xA4D0, 0xAC00))
    for mark in map(chr, block)
    if unicodedata.category(mark)[0] == "M"
)
#: Letters and marks of Thai, Lao, Burmese and Khmer, which are written without spaces.
SOUTH_EAST_ASIA = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109d\u1780-\u17d3\u17d7"
    "\u17dc\u17dd"
)
_SPACELESS = f"\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f{SOUTH_EAST_ASIA}"


def word_pattern(letter: str) -> str:
    """The pattern of a word of these letters, with their marks."""
    return rf"{letter}+(?:[{_MARKS}]+{letter}*)*"


_LETTER = rf"[^\W{_SPACELESS}]"
_PIECE = re.compile(f"[{_SPACELESS}]+|{word_pattern(_LETTER)}")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_PAIRED = re.compile(f"[\u2e80-\U0010ffff{SOUTH_EAST_ASIA}]")
STEMMERS = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "porter", "es": "spanish", "fi": "finnish",
    "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sv": "swedish", "tr": "turkish",
}  # fmt: skip


@dataclass(frozen=True)
class Analyzer:
    """Words, lower-cased; of scripts without spaces, pairs of neighbouring characters.

    Args:
        stopwords: language of the words to leave out, such as "en" or "de"; None for none.
        stemming: language whose endings are cut, such as "en" (Porter), "de" or "fr"; None for none.
        min_length: shorter words are left out; characters of scripts without spaces are not.

    Raises:
        ValueError: a language that is not known.
        MissingExtra: bm25s (lists of stop words) or PyStemmer is not installed.
    """

    stopwords: str | None = "en"
    stemming: str | None = None
    min_length: int = 2

    def __post_init__(self) -> None:
        if self.stemming is not None and self.stemming not in STEMMERS:
            raise ValueError(f"stemming={self.stemming!r} is not known; accepted: {', '.join(STEMMERS)}, or None")
        self.__dict__["_excluded"] = self._stopwords()

    def __getstate__(self) -> dict[str, Any]:
        """Without the stemmer, which cannot be pickled and is made anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_stemmer"}

    def terms(self, text: str) -> list[str]:
        """The terms of one text, in their order."""
        words = self.words(text)
        return words if self._stemmer is None else self._stemmer.stemWords(words)

    def words(self, text: str) -> list[str]:
        """The words of a text before their endings are cut."""
        excluded, least = self._excluded, self.min_length
        if text.isascii():  # which is quicker: nothing to fold, and no script without spaces
            words = _ASCII_WORD.findall(text.lower())
            return [word for word in words if len(word) >= least and word not in excluded]
        found: list[str] = []
        for piece in _PIECE.findall(unicodedata.normalize("NFKC", text).lower()):
            if _PAIRED.match(piece):
                found += [piece[i : i + 2] for i in range(len(piece) - 1)] or [piece]
            elif len(piece) >= least and piece not in excluded:
                found.append(piece)
        return found

    @cached_property
    def _stemmer(self) -> Any:
        if self.stemming is None:
            return None
        return require("Stemmer", "search").Stemmer(STEMMERS[self.stemming])

    _excluded: frozenset[str] = frozenset()

    def _stopwords(self) -> frozenset[str]:
        if self.stopwords is None:
            return frozenset()
        require("bm25s", "search")
        lists: Any = require("bm25s.tokenization", "search")
        try:
            return frozenset(lists._infer_stopwords(self.stopwords))
        except ValueError as error:
            raise ValueError(f"stopwords={self.stopwords!r} is not known: {error}") from error


def term_counts(terms: Sequence[str]) -> dict[str, int]:
    """How often each term stands in a text, in the order of their first place."""
    counts: dict[str, int] = {}
    for term in terms:
        counts[term] = counts.get(term, 0) + 1
    return counts
