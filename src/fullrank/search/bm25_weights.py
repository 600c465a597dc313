"""The formulas of BM25 and its relatives (Kamphuis et al. 2020, table 1).

score = sum over the query's terms of idf(N, df) f(tf), with K = k1 (1 - b + b dl / avgdl).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

Variant = Literal["robertson", "lucene", "atire", "bm25l", "bm25+"]


def inverse_document_frequency(variant: Variant, N: int, df: int) -> float:
    """idf of a term that df of N documents hold; that of "robertson" is cut off at 0, as libraries do."""
    match variant:
        case "robertson":
            return max(0.0, math.log((N - df + 0.5) / (df + 0.5)))
        case "lucene":
            return math.log(1 + (N - df + 0.5) / (df + 0.5))
        case "atire":
            return math.log(N / df)
        case "bm25l":
            return math.log((N + 1) / (df + 0.5))
        case "bm25+":
            return math.log((N + 1) / df)


def term_frequency(
    variant: Variant,
    tf: Float[np.ndarray, " postings"],
    norm: Float[np.ndarray, " postings"],
    k1: float | int,
    delta: float | int,
) -> Float[np.ndarray, " postings"]:
    """f(tf) of documents that hold the term; norm is 1 - b + b dl / avgdl."""
    match variant:
        case "robertson" | "lucene":
            return tf / (tf + k1 * norm)
        case "atire":
            return tf * (k1 + 1) / (tf + k1 * norm)
        case "bm25l":
            c = tf / norm
            return (k1 + 1) * (c + delta) / (k1 + c + delta)
        case "bm25+":
            return delta + tf * (k1 + 1) / (tf + k1 * norm)


def absent_frequency(variant: Variant, k1: float | int, delta: float | int) -> float:
    """f(0): what a document that lacks the term gets all the same."""
    match variant:
        case "bm25l":
            return (k1 + 1) * delta / (k1 + delta)
        case "bm25+":
            return delta
    return 0.0
