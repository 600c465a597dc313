"""The columns of TREC files: ASCII white space between them, one entry a line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

_WORD = re.compile(r"[^ \t\n\v\f\r]+")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")

Entries = TypeVar("Entries")


def read(path: str | Path, parse: Callable[[str], Entries]) -> Entries:
    """Parse a UTF-8 file; errors name it.

    Raises:
        ValueError: a malformed line, or bytes that are not UTF-8.
    """
    try:
        return parse(Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


def columns(text: str, count: int, names: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns of every line that is not blank.

    Raises:
        ValueError: a line has another number of columns.
    """
    for number, line in enumerate(text.split("\n"), 1):
        words = _WORD.findall(line)
        if not words:
            continue
        if len(words) != count:
            raise ValueError(f"line {number} has {len(words)} columns, {count} are expected ({names}): {line[:80]!r}")
        yield number, words


def word(text: str) -> str:
    """A text that can be one column.

    Raises:
        ValueError: it is empty or holds white space.
    """
    if _WORD.fullmatch(text) is None:
        raise ValueError(f"{text!r} cannot stand in a TREC file, whose columns are divided by white space")
    return text


def score(text: str, line: int) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        value = float(text.replace("_", "?"))  # Python alone reads 1_000
    except ValueError:
        raise ValueError(f"line {line}: score {text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"line {line}: score {text!r} has no place in a ranking; scores are finite")
    return value


def grade(text: str, line: int) -> int:
    """A whole number.

    Raises:
        ValueError: it is none.
    """
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise ValueError(f"line {line}: grade {text!r} is not a whole number")
    return int(text)


def put(entries: dict[str, Any], document: str, value: Any, line: int) -> None:
    """Enter a document of one query.

    Raises:
        ValueError: it is there already.
    """
    if document in entries:
        raise ValueError(f"line {line}: document {document!r} stands twice in its query")
    entries[document] = value
