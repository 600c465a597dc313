"""Prompts that quoted text can neither break nor escape, cut until they fit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fullrank.search.protocols import Document

# What ends a line anywhere becomes \n, so that no line of a passage passes for a line of the prompt.
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Unseen characters that change what is read: controls, reordering of text, tags, halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
# "<passage 1>", "</passage", "<|im_start|>": fences of prompts, ours and those of chat models.
_FENCE = re.compile(r"<(?=[^\w<]{0,20}passage\b|\s*\|)", re.IGNORECASE)
_BRACKET = re.compile("[<＜﹤]")
# "Question:", "> Final Answer :", "Search[": lines with which a prompt is told apart.
_LABEL = re.compile(
    r"[\W_]*(?:final\s+answer|question|answer|thought|action|search|observation|title|passage|q|a|system|user|human"
    r"|assistant)[\W_]*\d*\s*[:\[]",
    re.IGNORECASE,
)
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: what the model reads.
        documents: whose text is in it.
    """

    text: str
    documents: tuple[Document, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Ids of the documents."""
        return tuple(document.id for document in self.documents)


def quoted(text: str) -> str:
    """A text that can stand inside a prompt: readable as before, but no part of the prompt's frame.

    Line ends become \\n, unseen control characters are written out ("\\x1b"), the bracket of an imitated fence becomes
    "‹", and a line that imitates a label such as "Question:" gets a backslash before it.
    """
    text = _UNSEEN.sub(_written_out, _LINE_ENDS.sub("\n", text))
    return "\n".join(_harmless(line) for line in text.split("\n"))


def passages(documents: Sequence[Document], first: int = 1) -> str:
    """Documents as numbered, fenced quotations."""
    return "\n\n".join(_passage(number, document) for number, document in enumerate(documents, first))


def filled(template: str, question: str, documents: Sequence[Document] = ()) -> Prompt:
    """A prompt of a template.

    Args:
        template: its `{contexts}` and `{question}` are replaced; all other braces, and those in what is inserted, are
            text.
        question: inserted as `quoted`.
        documents: inserted as `passages`.
    """
    text = inserted(template, contexts=passages(documents) or "(no passages)", question=quoted(question))
    return Prompt(text, tuple(documents))


def inserted(template: str, **parts: str) -> str:
    """A template with parts in place of their names in braces; all other braces are text, those in the parts too."""
    return _PLACE.sub(lambda place: parts.get(place[1], place[0]), template)


def first_words(text: str, count: int) -> str:
    """The beginning of a text, words apart by single spaces; "-" for a text without words."""
    return " ".join(text.split()[:count]) or "-"


def fitted(
    template: str,
    question: str,
    documents: Sequence[Document],
    count: Callable[[str], int],
    limit: int | None,
    keep: Literal["start", "end"] = "start",
) -> Prompt:
    """The longest prompt that fits: documents leave from the tail; then the first one's text is cut.

    Args:
        template: see `filled`.
        question: see `filled`.
        documents: best first.
        count: tokens of a text.
        limit: tokens that the prompt may have; None for any number.
        keep: which end of the first one's text stays, if even that one is too long.

    Raises:
        ValueError: not even the prompt without documents fits.
    """
    if limit is None:
        return filled(template, question, documents)
    bare = count(filled(template, question).text)
    if bare > limit:
        raise ValueError(
            f"max_input_tokens={limit} is too small: the question and its frame alone have {bare} tokens; allow more, "
            f"or ask in fewer words"
        )

    def fits(prompt: Prompt) -> bool:
        return count(prompt.text) <= limit

    kept = _last(len(documents), lambda number: fits(filled(template, question, documents[:number])))
    if kept or not documents:
        return filled(template, question, documents[:kept])
    first = documents[0]
    length = _last(len(first.text), lambda length: fits(filled(template, question, [_cut(first, length, keep)])))
    return filled(template, question, [_cut(first, length, keep)] if length else [])


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `most` for which something holds that holds for all smaller ones; 0 is never asked."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _cut(document: Document, length: int, keep: Literal["start", "end"]) -> Document:
    return replace(document, text=document.text[:length] if keep == "start" else document.text[-length:])


def _passage(number: int, document: Document) -> str:
    title = " ".join(quoted(document.title).split())
    head = f"Title: {title}\n" if title else ""
    return f"<passage {number}>\n{head}{quoted(document.text)}\n</passage {number}>"


def _written_out(unseen: re.Match[str]) -> str:
    return unseen[0].encode("unicode_escape", "surrogatepass").decode()


def _harmless(line: str) -> str:
    looks = unicodedata.normalize("NFKC", line)  # wide and small forms of characters look the same
    if _FENCE.search(looks):
        line = _BRACKET.sub("‹", line)
    return f"\\{line}" if _LABEL.match(looks) else line
