"""Explicit semantic analysis: texts by their similarity with texts of concepts (Gabrilovich and Markovitch 2007)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

from fullrank.search.run import at_least_one


class ESA(TransformerMixin, BaseEstimator):
    """e_k = tfidf(x) . c_k / |c_k|: a text's similarity with the text vector of every concept.

    Args:
        concepts: names of the concepts, in their order; numbered without.
        top: so many largest values are kept of every text; default all.
        max_features: words that are counted.
    """

    def __init__(
        self,
        concepts: Sequence[str] | np.ndarray | None = None,
        top: int | None = None,
        max_features: int | None = None,
    ) -> None:
        self.concepts = concepts
        self.top = top
        self.max_features = max_features

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def fit(self, texts: Sequence[str], weights: Any = None) -> ESA:
        """Learn the concepts' vectors.

        Args:
            texts: one of every concept; or any number of tagged texts.
            weights: (texts, concepts), dense or sparse: how much each text is about each concept; a concept is the
                weighted mean of its texts. Without, every text is a concept.

        Raises:
            ValueError: no texts, weights of another shape, another number of names than of concepts, or `top` below 1.
        """
        if self.top is not None:
            at_least_one(self.top, "top")
        if not len(texts):
            raise ValueError("texts=[] leaves nothing to learn from; give at least one")
        self.vectorizer_ = TfidfVectorizer(max_features=self.max_features, sublinear_tf=True, stop_words="english")
        vectors: Any = self.vectorizer_.fit_transform(texts)
        if weights is not None:
            W: Any = weights if sparse.issparse(weights) else np.asarray(weights, dtype=np.float64)
            if W.ndim != 2 or W.shape[0] != len(texts):
                raise ValueError(f"weights have shape {W.shape}; ({len(texts)}, concepts) is needed")
            vectors = sparse.csr_matrix(W.T) @ vectors
        self.centroids_: Any = normalize(vectors)
        if self.concepts is not None and len(self.concepts) != self.centroids_.shape[0]:
            raise ValueError(f"{len(self.concepts)} names for {self.centroids_.shape[0]} concepts; one each is needed")
        return self

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Texts as concepts, (texts, concepts), sparse."""
        check_is_fitted(self, "centroids_")
        if not len(texts):
            return sparse.csr_matrix((0, self.centroids_.shape[0]))
        found: Any = self.vectorizer_.transform(texts) @ self.centroids_.T
        found = sparse.csr_matrix(found)
        return found if self.top is None else _largest(found, self.top)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the concepts."""
        check_is_fitted(self, "centroids_")
        every = range(self.centroids_.shape[0])
        names = [f"concept{k}" for k in every] if self.concepts is None else self.concepts
        return np.array(names, dtype=object)


def _largest(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """The `count` largest values of every row; of equal ones, those of the first columns."""
    rows: Any = matrix
    each = np.diff(rows.indptr)
    order = np.lexsort((rows.indices, -rows.data, np.repeat(np.arange(len(each)), each)))
    places = np.arange(len(order)) - np.repeat(rows.indptr[:-1], each)
    kept = order[places < count]
    starts = np.concatenate([[0], np.minimum(each, count).cumsum()])
    return sparse.csr_matrix((rows.data[kept], rows.indices[kept], starts), shape=rows.shape)
