"""LETOR and SVMlight files: `grade qid:Q feature:value ... # comment`, read line by line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fullrank.order.line_files import lines_of
from fullrank.order.ultr_ranker import places_within


class JudgedDocument(NamedTuple):
    """One line.

    Attributes:
        grade: of relevance.
        qid: of the query.
        features: value by number.
    """

    grade: int
    qid: str
    features: dict[int, float]


class JudgedSet(NamedTuple):
    """A whole file.

    Attributes:
        features: (documents, features), feature 1 in column 0.
        grades: (documents,).
        qid: (documents,), number of the query.
    """

    features: Float[np.ndarray, "documents features"]
    grades: Int[np.ndarray, " documents"]
    qid: Int[np.ndarray, " documents"]

    def lists(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features (queries, ranks, features), grades and mask (queries, ranks), in the file's order."""
        places = places_within(self.qid)
        shape = (int(self.qid.max()) + 1, int(places.max()) + 1)
        features = np.zeros((*shape, self.features.shape[1]), dtype=np.float32)
        grades, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        features[self.qid, places], grades[self.qid, places], mask[self.qid, places] = self.features, self.grades, True
        return features, grades, mask


def read_svmlight(source: str | Path | Iterable[str] | Iterable[bytes]) -> Iterator[JudgedDocument]:
    """Documents one after another.

    Args:
        source: a path, of a plain or a gzip file; a file that is open; or lines.

    Raises:
        ValueError: a malformed line, by its number; or a gzip file that is cut off or damaged.
    """
    with lines_of(source) as (lines, where):
        yield from _parsed(lines, where)


def load_svmlight(source: str | Path | Iterable[str] | Iterable[bytes], features: int | None = None) -> JudgedSet:
    """A whole file as arrays.

    Args:
        source: see `read_svmlight`.
        features: how many there are; default the largest number that occurs.

    Raises:
        ValueError: a malformed line, no document, or a feature beyond `features`.
    """
    documents = list(read_svmlight(source))
    if not documents:
        raise ValueError("the file holds no document")
    largest = max((number for document in documents for number in document.features), default=0)
    width = largest if features is None else features
    if largest > width:
        raise ValueError(f"a document has feature {largest}, features={features}; allow more")
    X = np.zeros((len(documents), width), dtype=np.float32)
    for row, document in enumerate(documents):
        X[row, [number - 1 for number in document.features]] = list(document.features.values())
    names = {qid: number for number, qid in enumerate(dict.fromkeys(document.qid for document in documents))}
    return JudgedSet(
        X,
        np.array([document.grade for document in documents], dtype=np.int64),
        np.array([names[document.qid] for document in documents], dtype=np.int64),
    )


def _parsed(lines: Iterable[Any], where: str) -> Iterator[JudgedDocument]:
    for number, given in enumerate(lines, 1):
        line = given if isinstance(given, str) else given.decode(errors="replace")  # comments are in any encoding
        words = line.removeprefix("\ufeff").partition("#")[0].split()
        if not words:
            continue
        try:
            grade, (key, _, qid), *rest = float(words[0]), words[1].partition(":"), *words[2:]
            pairs = (word.split(":") for word in rest)
            features = {int(name): float(value) for name, value in pairs}
            if key != "qid" or not qid or grade < 0 or not grade.is_integer() or min(features, default=1) < 1:
                raise ValueError("a whole grade of at least 0, qid:..., and features from 1 are needed")
            if len(features) < len(rest):
                raise ValueError("a feature stands twice")
        except (ValueError, IndexError) as error:
            raise ValueError(f"{where}line {number} is malformed ({error}): {line[:80]!r}") from error
        yield JudgedDocument(int(grade), qid, features)
