"""The order of trec_eval: by score as a 32-bit float, descending; ties by document id, descending by bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def trec_order(
    ids: Sequence[str], scores: Sequence[float] | Float[np.ndarray, " documents"]
) -> Int[np.ndarray, " documents"]:
    """Positions of the documents of one query, best first.

    Args:
        ids: of the documents, each once.
        scores: in the order of `ids`.

    Raises:
        ValueError: a score is NaN; the message names its document.
    """
    values = as_float32(scores)
    check_numbers(values, ids)
    order = np.argsort(-values, kind="stable")
    _break_ties(order, values[order], ids, np.zeros(0, dtype=np.int64))
    return order


def flat_trec_order(
    queries: Int[np.ndarray, " documents"], ids: Sequence[str], values: Float[np.ndarray, " documents"]
) -> Int[np.ndarray, " documents"]:
    """Positions of the documents of many queries: query by query, best first.

    Args:
        queries: number of each document's query, ascending.
        ids: of the documents.
        values: their scores as float32.
    """
    # IEEE floats sort like their bits, those of negative numbers backwards; + 0 makes -0 the 0 that it equals.
    bits = (values + np.float32(0)).view(np.int32)
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    order = np.argsort((queries.astype(np.int64) << 32) - ascending, kind="stable")
    starts = np.flatnonzero(np.diff(queries)) + 1
    _break_ties(order, values[order], ids, starts)
    return order


def as_float32(scores: Sequence[float] | Float[np.ndarray, " documents"]) -> Float[np.ndarray, " documents"]:
    """Scores as trec_eval holds them; what is beyond float32 is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(scores, dtype=np.float64).astype(np.float32)


def check_numbers(values: Float[np.ndarray, " documents"], ids: Sequence[str]) -> None:
    """Raise ValueError for the first score that is NaN."""
    if np.isnan(values).any():
        raise ValueError(f"the score of {ids[int(np.isnan(values).argmax())]!r} is NaN")


def _break_ties(
    order: Int[np.ndarray, " documents"],
    values: Float[np.ndarray, " documents"],
    ids: Sequence[str],
    starts: Int[np.ndarray, " queries"],
) -> None:
    """Order equal neighbours of one query by id, in place."""
    equal = np.zeros(len(order) + 1, dtype=bool)  # entry i: document i ties with the one before
    equal[1:-1] = values[1:] == values[:-1]
    equal[starts] = False
    begins = np.flatnonzero(~equal[:-1] & equal[1:])
    ends = np.flatnonzero(equal[:-1] & ~equal[1:]) + 1
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        tied: list[int] = order[begin:end].tolist()
        order[begin:end] = sorted(tied, key=ids.__getitem__, reverse=True)  # UTF-8 sorts as its characters do
