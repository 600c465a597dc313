"""Answers without a language model: the sentence, or the few words of it, that stand in the contexts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from fullrank.search.answer_spans import answer_span
from fullrank.search.answers import asked
from fullrank.search.dense import Encoder
from fullrank.search.protocols import Answer, Document
from fullrank.search.sentences import COMMON, sentences, terms

_K1, _B = 1.2, 0.4  # sentences differ in length less than documents do: a weak normalisation


class ExtractiveReader:
    """Answers with what stands in the contexts: their best sentence, or the words of it that answer.

    A sentence's worth is its BM25 score for the question among all sentences at hand (Lucene's form, k1 1.2, b 0.4), or
    the cosine of its vector with the question's where an encoder is given; divided by `log2(1 + rank) ** trust`, with
    the rank of its context.

    Args:
        unit: "sentence", or "span" for the part of it that is of the kind asked for (see `answer_span`).
        encoder: compares meanings in place of words, such as `load_encoder()`.
        trust: in the order of the contexts; 0 for none.

    Raises:
        ValueError: an unknown unit, or a trust below 0.
    """

    def __init__(
        self, unit: Literal["sentence", "span"] = "sentence", encoder: Encoder | None = None, trust: float = 0.5
    ) -> None:
        if unit not in ("sentence", "span"):
            raise ValueError(f'unit={unit!r} is not known; accepted: "sentence", "span"')
        if not trust >= 0:
            raise ValueError(f"trust={trust} is not accepted; it is 0 or more")
        self.unit, self.encoder, self.trust = unit, encoder, trust

    def answer(self, question: str, contexts: Sequence[Document]) -> Answer:
        """See `Generator.answer`; the source is the one context that the answer stands in.

        The answer is empty, without a source, where no sentence shares a term with the question. The metadata holds the
        whole `sentence` and its `score`.

        Raises:
            ValueError: a blank question, or an encoder that gives something else than one finite vector per text.
        """
        asked(question)
        found = [
            (sentence, rank, context)
            for rank, context in enumerate(contexts, 1)
            for sentence in sentences(context.text)
        ]
        if not found:
            return Answer("")
        texts = [sentence for sentence, _, _ in found]
        ranks = np.array([rank for _, rank, _ in found])
        scores = self._worth(question, texts) / np.log2(1 + ranks) ** self.trust
        best = int(scores.argmax())  # of equal ones the first: the better context, the earlier sentence
        if scores[best] <= 0:
            return Answer("")
        sentence, _, context = found[best]
        text = answer_span(question, sentence) if self.unit == "span" else sentence
        return Answer(text, (context.id,), {"sentence": sentence, "score": float(scores[best])})

    def _worth(self, question: str, texts: list[str]) -> Float[np.ndarray, " sentences"]:
        return bm25(question, texts) if self.encoder is None else _cosines(question, texts, self.encoder)


def bm25(question: str, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
    """BM25 of a few texts among themselves: sum_t q_t ln(1 + (N - n_t + 0.5) / (n_t + 0.5)) f_t / (f_t + K).

    Terms t of the question that only ask or join words (`COMMON`) do not count, if others are left.
    """
    counts = [Counter(terms(text)) for text in texts]
    lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
    norm = _K1 * (1 - _B + _B * lengths / max(lengths.mean(), 1))
    scores = np.zeros(len(texts))
    wanted = [term for term in terms(question) if term not in COMMON] or terms(question)
    for term, times in Counter(wanted).items():
        frequency = np.array([count[term] for count in counts], dtype=np.float64)
        holding = int(np.count_nonzero(frequency))
        weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        scores += times * weight * frequency / (frequency + norm)
    return scores


def _cosines(question: str, texts: list[str], encoder: Encoder) -> Float[np.ndarray, " sentences"]:
    vectors = np.asarray(encoder.encode([question, *texts]), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) + 1 or not np.isfinite(vectors).all():
        raise ValueError(
            f"encoder gave shape {vectors.shape} for {len(texts) + 1} texts; one finite vector each is needed"
        )
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[1:] @ vectors[0]
