"""Baidu-ULTR as arrays: how documents match their query for rankers of features, what was clicked for click models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fullrank.order.baidu_format import Annotation, Session, ShownDocument
from fullrank.order.click_sessions import ClickSessions

#: What `match_features` gives, in its order.
MATCH_FEATURES = (
    "query length",
    *(f"{field} {name}" for field in ("title", "abstract") for name in (
        "length", "share of the query found", "share of matching words", "Jaccard index", "pairs found", "early match",
    )),
)  # fmt: skip


class FeatureRows(NamedTuple):
    """Documents with features, in the order of the arguments of `ULTRRanker.fit`.

    Attributes:
        features: see `match_features`.
        labels: clicks or grades.
        qid: which list each is in.
        positions: from 1; of judged documents the place in the file.
    """

    features: Float[np.ndarray, "documents features"]
    labels: Int[np.ndarray, " documents"]
    qid: Int[np.ndarray, " documents"]
    positions: Int[np.ndarray, " documents"]


def match_features(query: Sequence[int], title: Sequence[int], abstract: Sequence[int]) -> list[float]:
    """How a document matches a query, by tokens; see `MATCH_FEATURES`.

    Of title and abstract each: log(1 + length), which share of the query's words it has, which share of its words are
    the query's, common words over all words, which share of the query's neighbours stand together, and 1 / place of the
    first match.
    """
    return [float(np.log1p(len(query))), *_field_features(query, title), *_field_features(query, abstract)]


def session_features(sessions: Iterable[Session]) -> FeatureRows:
    """What was shown and clicked, one list a session.

    Raises:
        ValueError: no session has a document.
    """
    rows = [
        (match_features(session.query.ids, shown.title.ids, shown.abstract.ids), shown.click, number, shown.position)
        for number, session in enumerate(sessions)
        for shown in session.documents
    ]
    if not rows:
        raise ValueError("no session has a document")
    features, *others = zip(*rows, strict=True)
    return FeatureRows(np.array(features, dtype=np.float32), *(np.array(part, dtype=np.int64) for part in others))


def annotation_features(annotations: Iterable[Annotation]) -> FeatureRows:
    """What experts judged, one list a text of a query.

    Raises:
        ValueError: there is no document.
    """
    numbers: dict[bytes, int] = {}
    counts: dict[bytes, int] = {}
    rows = []
    for judged in annotations:
        query = numbers.setdefault(judged.query, len(numbers))
        counts[judged.query] = counts.get(judged.query, 0) + 1
        features = match_features(judged.query.ids, judged.title.ids, judged.abstract.ids)
        rows.append((features, judged.grade, query, counts[judged.query]))
    if not rows:
        raise ValueError("no document was judged")
    features, *others = zip(*rows, strict=True)
    return FeatureRows(np.array(features, dtype=np.float32), *(np.array(part, dtype=np.int64) for part in others))


def click_sessions_of(sessions: Iterable[Session], list_size: int = 10) -> ClickSessions:
    """Sessions for click models: `model.fit(*click_sessions_of(read_baidu_sessions(path)))`.

    Args:
        sessions: those without a document at the first position are left out.
        list_size: positions; documents shown below are left out, and those below a position that is missing.

    Raises:
        ValueError: no document was shown within `list_size`, or two at one position of a session.
    """
    kept = [
        (session.query, shown)
        for number, session in enumerate(sessions)
        if (shown := _from_the_top(session, number, list_size))
    ]
    if not kept:
        raise ValueError(f"no document was shown within list_size={list_size}")
    ranks = max(document.position for _, shown in kept for document in shown)
    clicks, mask = (np.zeros((len(kept), ranks), dtype=bool) for _ in range(2))
    documents = np.full((len(kept), ranks), "", dtype=f"U{max(len(d.url) for _, shown in kept for d in shown) or 1}")
    for row, (_, shown) in enumerate(kept):
        for document in shown:
            place = document.position - 1
            clicks[row, place], mask[row, place] = bool(document.click), True
            documents[row, place] = document.url
    return ClickSessions(clicks, documents, np.array([query.decode() for query, _ in kept]), mask)


def _from_the_top(session: Session, number: int, list_size: int) -> list[ShownDocument]:
    """The documents of a session down to the first position that is missing."""
    shown: list[ShownDocument] = []
    for document in sorted(session.documents, key=lambda each: each.position):
        if shown and document.position == shown[-1].position:
            raise ValueError(f"session {number} (qid {session.qid}) has two documents at position {document.position}")
        if document.position > list_size or document.position > len(shown) + 1:
            break
        shown.append(document)
    return shown


def _field_features(query: Sequence[int], field: Sequence[int]) -> list[float]:
    asked, found = set(query), set(field)
    common = len(asked & found)
    matches = [place for place, token in enumerate(field, 1) if token in asked]
    neighbours = set(pairwise(query))
    together = len(neighbours & set(pairwise(field)))
    return [
        float(np.log1p(len(field))),
        common / max(len(asked), 1),
        len(matches) / max(len(field), 1),
        common / max(len(asked | found), 1),
        together / max(len(neighbours), 1),
        1 / matches[0] if matches else 0.0,
    ]
