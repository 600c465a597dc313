"""LoRe: candidates re-ranked by what tells them apart, in a common low-rank space (DQ-LoRe, arXiv 2310.02954).

X = [q; e_1; ...; e_M] is centred and reduced to its k leading principal components, Z = X V_k = U_k S_k; candidates are
compared with the query there. Every similarity depends on the Gram matrix alone, G = X X^T of (M + 1) x (M + 1).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fullrank.search.dense import Encoder, as_float, encoded
from fullrank.search.protocols import Document, Ranking
from fullrank.search.run import at_least_one

Similarity = Literal["inner", "cosine", "rbf"]
Center = Literal["all", "candidates"]
_EPS = 1e-12
_SCRATCH = 2**24  # bytes of query and candidates that are centred at a time: what a core's cache holds
_LOG = logging.getLogger(__name__)


class LoReReranker:
    """Orders candidates by their similarity with a query after a common principal component analysis.

    Args:
        n_components: k; None for centring alone. From rank(X) = min(M, d) on it changes nothing.
        similarity: "inner" z_0 . z_j, "cosine", or "rbf" exp(-||z_0 - z_j||^2 / (2 sigma^2)).
        center: subtract the mean of query and candidates ("all", True), of the "candidates" alone, or nothing (False).
        sigma: of "rbf"; "median" is the median distance between two of the reduced vectors. The order never depends on
            it.
        encoder: for `order` and `rerank`, which are given texts; an object with `encode`.

    Raises:
        ValueError: n_components below 1 or no whole number, an unknown similarity or centring, or sigma not positive.
    """

    def __init__(
        self,
        n_components: int | None = 16,
        similarity: Similarity = "inner",
        center: bool | Center = True,
        sigma: float | int | Literal["median"] = "median",
        encoder: Encoder | None = None,
    ) -> None:
        whole = isinstance(n_components, Integral) and not isinstance(n_components, bool)
        if n_components is not None and not (whole and n_components >= 1):
            raise ValueError(
                f"n_components={n_components!r} is not accepted; a whole number from 1 to the number of candidates, or "
                "None for centring alone"
            )
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity={similarity!r} is not known; accepted: {', '.join(get_args(Similarity))}")
        if center not in (True, False, *get_args(Center)):
            raise ValueError(f"center={center!r} is not known; accepted: True, False, {', '.join(get_args(Center))}")
        if sigma != "median" and not (isinstance(sigma, Real) and sigma > 0):
            raise ValueError(f"sigma={sigma!r} is not accepted; a positive number, or 'median'")
        self.n_components, self.similarity, self.sigma, self.encoder = n_components, similarity, sigma, encoder
        self.center = "all" if center is True else center
        self.explained_variance_ratio_: Any = None
        self._told: set[str] = set()

    def rank(self, query_emb: Any, cand_emb: Any, k: int | None = None, mask: Any = None) -> tuple[Any, Any]:
        """Candidates in order, best first.

        Args:
            query_emb: (d,), or (batch, d).
            cand_emb: (M, d), or (batch, M, d); numpy or torch.
            k: how many at most; default all.
            mask: (batch, M), False where there is no candidate; those come last, with a score of -inf, and what their
                rows hold does not matter.

        Returns:
            Indices and scores of shape (k,) or (batch, k), arrays or tensors as they came. Equal scores keep the
            order of the candidates.

        Raises:
            ValueError: no candidates, vectors that do not fit each other or are not finite (with the index), or k below
                1.
        """
        if k is not None:
            at_least_one(k)
        arrays = not isinstance(query_emb, Tensor)
        Q, C, valid, single = _batched(query_emb, cand_emb, mask)
        if self.n_components is not None and self.n_components >= min(C.shape[1:]) > 1:
            self._tell(
                "components",
                f"n_components={self.n_components} of {C.shape[1]} candidates with {C.shape[2]} numbers: nothing is "
                "dropped, and the order is that of the centred vectors; give fewer components",
            )
        if (valid.sum(1) == 1).any():
            self._tell(
                "alone", "one candidate: its centred similarity says nothing, so the plain inner product is given"
            )
        at_a_time = max(1, _SCRATCH // (C.element_size() * max(1, C[:1].numel())))
        blocks = zip(Q.split(at_a_time), C.split(at_a_time), valid.split(at_a_time), strict=True)
        parts = [self._scores(q, c, present, at_a_time * n) for n, (q, c, present) in enumerate(blocks)]
        scores, keys = (torch.cat(part) for part in zip(*parts, strict=True))
        order = torch.argsort(keys, dim=-1, descending=True, stable=True)[:, : C.shape[1] if k is None else k]
        best = scores.gather(-1, order)
        order, best = (order[0], best[0]) if single else (order, best)
        return (order.cpu().numpy(), best.cpu().numpy()) if arrays else (order, best)

    def transform(self, X: Any) -> Any:
        """Z of the rows of X, (rows, k) or (batch, rows, k): principal components, their signs arbitrary.

        Afterwards `explained_variance_ratio_` holds the share of the variance of every component, (k,) or (batch, k).

        Raises:
            ValueError: X is no matrix and no batch of matrices, or not finite.
        """
        arrays = not isinstance(X, Tensor)
        rows = as_float(X).detach()
        if rows.ndim not in (2, 3):
            raise ValueError(f"X has shape {tuple(rows.shape)}; (rows, d) or (batch, rows, d) is needed")
        if not rows.isfinite().all():
            raise ValueError(f"row {(~rows.isfinite()).any(-1).nonzero()[0].tolist()} of X is not finite")
        G = self._gram(rows, None)
        values, U = (part.flip(-1) for part in _leading(G, min(self.n_components or rows.shape[-2], *rows.shape[-2:])))
        total = G.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        Z, ratio = U * values.sqrt().unsqueeze(-2), values / total.clamp(min=_EPS)
        self.explained_variance_ratio_ = ratio.cpu().numpy() if arrays else ratio
        return Z.cpu().numpy() if arrays else Z

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """A permutation of texts, best first.

        Raises:
            ValueError: no texts, or no encoder.
        """
        return [int(place) for place in self._ranked(query, texts)[0]]

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; scores are similarities in the reduced space."""
        if not documents:
            return Ranking(query, (), ())
        order, scores = self._ranked(query, [document.searched for document in documents])
        return Ranking(query, tuple(documents[place] for place in order), tuple(float(score) for score in scores))

    def reduced_gram(
        self, X: Float[Tensor, "batch rows d"], valid: Bool[Tensor, "batch rows"] | None = None
    ) -> Float[Tensor, "batch rows rows"]:
        """Z Z^T of centred and reduced rows, which does not depend on the signs of singular vectors.

        Args:
            X: row 0 is the query.
            valid: which rows there are.
        """
        G, k = self._gram(X, valid), self.n_components
        if k is None or k >= min(X.shape[-2] - (1 if self.center else 0), X.shape[-1]):
            return G  # rank(X) <= k: nothing to drop
        values, U = _leading(G, k)
        return (U * values.unsqueeze(-2)) @ U.mT

    def _gram(self, X: Tensor, valid: Tensor | None) -> Tensor:
        rows = _centred(X, valid, self.center) if self.center else X
        return rows @ rows.mT

    def _ranked(self, query: str, texts: Sequence[str]) -> tuple[Any, Any]:
        if self.encoder is None:
            raise ValueError("encoder=None: LoReReranker(encoder=...) is needed to order texts")
        vectors = encoded(self.encoder, [query, *texts])
        return self.rank(vectors[0], vectors[1:])

    def _scores(
        self, Q: Float[Tensor, "batch d"], C: Float[Tensor, "batch M d"], valid: Bool[Tensor, "batch M"], first: int
    ) -> tuple[Float[Tensor, "batch M"], Float[Tensor, "batch M"]]:
        """Similarities, and what orders the candidates: for "rbf" the distance, since the kernel underflows.

        `first` is the number of the first query.
        """
        X = torch.cat([Q.unsqueeze(1), C], dim=1)
        present = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        everywhere = bool(valid.all())
        if not everywhere:
            X.masked_fill_(~present.unsqueeze(-1), 0)
        _check_finite(X, first)
        H = self.reduced_gram(X, None if everywhere else present)
        inner, norms = H[:, 0, 1:], H.diagonal(dim1=-2, dim2=-1)
        if self.similarity == "inner":
            keys = scores = inner
        elif self.similarity == "cosine":
            keys = scores = inner / (norms[:, :1] * norms[:, 1:]).clamp(min=_EPS).sqrt()
        else:
            squared = (norms[:, :1] + norms[:, 1:] - 2 * inner).clamp(min=0)
            keys = -squared
            scores = torch.exp(-squared / (2 * self._widths(H, present).unsqueeze(-1).square()))
        alone = valid.sum(1, keepdim=True) == 1
        if alone.any():  # centred, query and candidate are opposite, and their similarity says nothing
            plain = (X[:, :1] * X[:, 1:]).sum(-1)
            scores, keys = torch.where(alone, plain, scores), torch.where(alone, plain, keys)
        return scores.masked_fill(~valid, -torch.inf), keys.masked_fill(~valid, -torch.inf)

    def _widths(
        self, H: Float[Tensor, "batch rows rows"], present: Bool[Tensor, "batch rows"]
    ) -> Float[Tensor, " batch"]:
        if self.sigma != "median":
            return torch.full((len(H),), float(self.sigma), dtype=H.dtype, device=H.device)
        norms = H.diagonal(dim1=-2, dim2=-1)
        squared = (norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * H).clamp(min=0)
        pairs = torch.triu(present.unsqueeze(-1) & present.unsqueeze(-2), diagonal=1)
        distances = squared.sqrt().masked_fill(~pairs, torch.nan).flatten(1)
        lower, upper = distances.nanmedian(dim=-1).values, -(-distances).nanmedian(dim=-1).values
        return ((lower + upper) / 2).clamp(min=_EPS)  # of an even number of distances, torch gives the lower one

    def _tell(self, reason: str, words: str) -> None:
        """Warn, once for every reason."""
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(words, stacklevel=3)


def _batched(query: Any, candidates: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Queries (batch, d), candidates (batch, M, d), which of them there are, and whether there was no batch."""
    Q, C = as_float(query).detach(), as_float(candidates).detach()
    single = Q.ndim == 1
    Q, C = (Q.unsqueeze(0), C.unsqueeze(0)) if single else (Q, C)
    if Q.ndim != 2 or C.ndim != 3 or len(Q) != len(C) or Q.shape[-1] != C.shape[-1]:
        raise ValueError(
            f"query_emb of shape {tuple(np.shape(query))} and cand_emb of shape {tuple(np.shape(candidates))} do not "
            "fit: (d,) and (M, d), or (batch, d) and (batch, M, d)"
        )
    if C.shape[1] == 0:
        raise ValueError("there are no candidates to rank; give at least one")
    if Q.device != C.device:
        raise ValueError(f"query is on {Q.device}, the candidates are on {C.device}: move one of them")
    valid = torch.ones(C.shape[:2], dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
    valid = (valid.unsqueeze(0) if valid.ndim == 1 else valid).to(C.device)
    if valid.shape != C.shape[:2]:
        raise ValueError(f"mask has shape {tuple(valid.shape)}; {tuple(C.shape[:2])} is needed")
    dtype = torch.promote_types(Q.dtype, C.dtype)
    return Q.to(dtype), C.to(dtype), valid, single


def _leading(G: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of Gram matrices, ascending, and their vectors.

    Where the cut parts equal values, the vectors are one choice of many, and other libraries may make another.
    """
    if not G.isfinite().all():
        raise ValueError("the squares of the vectors are not finite: give vectors of moderate length")
    values, U = torch.linalg.eigh(G)
    if k < values.shape[-1] and _LOG.isEnabledFor(logging.DEBUG):
        ties = values[..., -k] - values[..., -k - 1] < 1e-6 * values[..., -1]
        _LOG.debug("%d of %d sets have equal singular values at component %d", int(ties.sum()), ties.numel(), k)
    return values[..., -k:].clamp(min=0), U[..., -k:]


def _check_finite(X: Tensor, first: int) -> None:
    """Rows of a batch, 0 the query; the sum of numbers that are not finite is not finite either."""
    if X.sum().isfinite():
        return
    bad = (~X.isfinite()).any(-1).nonzero()
    if not len(bad):
        return  # finite numbers whose sum overflows
    batch, row = bad[0].tolist()
    what = f"candidate {row - 1} of query {first + batch}" if row else f"query {first + batch}"
    raise ValueError(f"{what} is not finite; leave it out, or mask it")


def _centred(X: Tensor, valid: Tensor | None, center: str | bool) -> Tensor:
    """Rows less their mean; rows that are not there become 0."""
    first = 1 if center == "candidates" else 0
    if valid is None:
        return X - X[..., first:, :].mean(-2, keepdim=True)
    weight = valid.to(X.dtype).unsqueeze(-1)
    counted = weight[..., first:, :]
    mean = (X[..., first:, :] * counted).sum(-2, keepdim=True) / counted.sum(-2, keepdim=True).clamp(min=1)
    return (X - mean) * weight
