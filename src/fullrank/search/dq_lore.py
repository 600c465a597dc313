"""LoRe: candidates re-ranked by what tells them apart, in a common low-rank space (DQ-LoRe, arXiv 2310.02954).

X = [q; e_1; ...; e_M] is centred and reduced to its k leading principal components, Z = X V_k = U_k S_k; candidates are
compared with the query there. Every similarity depends on the Gram matrix alone, G = X X^T of (M + 1) x (M + 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fullrank.search.dense import Encoder
from fullrank.search.ordering import OrderReranker
from fullrank.search.protocols import Document, Ranking

Similarity = Literal["inner", "cosine", "rbf"]
Center = Literal["all", "candidates"]
_EPS = 1e-12


class LoReReranker(OrderReranker):
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
        whole = isinstance(n_components, int) and not isinstance(n_components, bool)
        if n_components is not None and not (whole and n_components >= 1):
            raise ValueError(
                f"n_components={n_components!r} is not accepted; a whole number from 1 to the number of candidates, or "
                "None for centring alone"
            )
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity={similarity!r} is not known; accepted: {', '.join(get_args(Similarity))}")
        if center not in (True, False, *get_args(Center)):
            raise ValueError(f"center={center!r} is not known; accepted: True, False, {', '.join(get_args(Center))}")
        if sigma != "median" and not sigma > 0:
            raise ValueError(f"sigma={sigma!r} is not accepted; a positive number, or 'median'")
        self.n_components, self.similarity, self.sigma, self.encoder = n_components, similarity, sigma, encoder
        self.center = "all" if center is True else center
        self.explained_variance_ratio_: Any = None
        self._warned = False

    def rank(self, query: Any, candidates: Any, k: int | None = None, mask: Any = None) -> tuple[Any, Any]:
        """Candidates in order, best first.

        Args:
            query: (d,), or (batch, d).
            candidates: (M, d), or (batch, M, d); numpy or torch.
            k: how many at most; default all.
            mask: (batch, M), False where there is no candidate; those come last, with a score of -inf.

        Returns:
            Indices and scores of shape (k,) or (batch, k), arrays or tensors as they came. Equal scores keep the
            order of the candidates.

        Raises:
            ValueError: no candidates, vectors that do not fit each other or are not finite (with the index).
        """
        arrays = not isinstance(query, Tensor)
        Q, C, valid, single = self._batched(query, candidates, mask)
        scores, keys = self._scores(Q, C, valid)
        order = torch.argsort(keys, dim=-1, descending=True, stable=True)[:, : C.shape[1] if k is None else k]
        best = scores.gather(-1, order)
        order, best = (order[0], best[0]) if single else (order, best)
        return (order.cpu().numpy(), best.cpu().numpy()) if arrays else (order, best)

    def transform(self, X: Any) -> Any:
        """Z of the rows of X, (rows, k) or (batch, rows, k): principal components, their signs arbitrary.

        Afterwards `explained_variance_ratio_` holds the share of the variance of every component, (k,) or (batch, k).
        """
        arrays = not isinstance(X, Tensor)
        U, values, total = self._components(_as_float(X))
        Z, ratio = U * values.sqrt().unsqueeze(-2), values / total.unsqueeze(-1).clamp(min=_EPS)
        self.explained_variance_ratio_ = ratio.cpu().numpy() if arrays else ratio
        return Z.cpu().numpy() if arrays else Z

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """A permutation of texts, best first.

        Raises:
            ValueError: no texts, or no encoder.
        """
        if self.encoder is None:
            raise ValueError("encoder=None: LoReReranker(encoder=...) is needed to order texts")
        vectors = np.asarray(self.encoder.encode([query, *texts]))
        return [int(place) for place in self.rank(vectors[0], vectors[1:])[0]]

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`."""
        if not documents:
            return Ranking(query, (), ())
        return super().rerank(query, documents)

    def reduced_gram(
        self, X: Float[Tensor, "batch rows d"], valid: Bool[Tensor, "batch rows"] | None = None
    ) -> Float[Tensor, "batch rows rows"]:
        """Z Z^T of centred and reduced rows, which does not depend on the signs of singular vectors.

        Args:
            X: row 0 is the query.
            valid: which rows there are.
        """
        rows = _centred(X, valid, self.center) if self.center else X
        G = rows @ rows.mT
        k = self.n_components
        if k is None or k >= min(X.shape[-2] - (1 if self.center else 0), X.shape[-1]):
            return G
        values, U = torch.linalg.eigh(G)
        values, U = values[..., -k:].clamp(min=0), U[..., -k:]
        return (U * values.unsqueeze(-2)) @ U.mT

    def _components(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U_k, the squares of S_k, and the sum of all squares."""
        rows = _centred(X, None, self.center) if self.center else X
        values, U = torch.linalg.eigh(rows @ rows.mT)
        k = min(self.n_components or X.shape[-2], *X.shape[-2:])
        return U[..., -k:].flip(-1), values[..., -k:].flip(-1).clamp(min=0), rows.square().sum((-1, -2))

    def _scores(
        self, Q: Float[Tensor, "batch d"], C: Float[Tensor, "batch M d"], valid: Bool[Tensor, "batch M"]
    ) -> tuple[Float[Tensor, "batch M"], Float[Tensor, "batch M"]]:
        """Similarities, and what orders the candidates: for "rbf" the distance, since the kernel underflows."""
        X = torch.cat([Q.unsqueeze(1), C], dim=1)
        present = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        self._tell(C)
        if C.shape[1] == 1:  # centred, query and candidate are opposite: the similarity would say nothing
            scores = (Q.unsqueeze(1) * C).sum(-1).masked_fill(~valid, -torch.inf)
            return scores, scores
        H = self.reduced_gram(X, present)
        inner, norms = H[:, 0, 1:], H.diagonal(dim1=-2, dim2=-1)
        if self.similarity == "inner":
            keys = scores = inner
        elif self.similarity == "cosine":
            keys = scores = inner / (norms[:, :1] * norms[:, 1:]).clamp(min=_EPS).sqrt()
        else:
            squared = (norms[:, :1] + norms[:, 1:] - 2 * inner).clamp(min=0)
            keys = -squared
            scores = torch.exp(-squared / (2 * self._widths(H, present).unsqueeze(-1).square()))
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
        return distances.nanmedian(dim=-1).values.clamp(min=_EPS)

    def _tell(self, C: Tensor) -> None:
        if C.shape[1] == 1 and not self._warned:
            self._warned = True
            warnings.warn("one candidate: its centred similarity says nothing, so the plain inner product is given",
                          stacklevel=4)  # fmt: skip
        limit = min(C.shape[1], C.shape[2])
        if self.n_components is not None and self.n_components >= limit > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"n_components={self.n_components} of {C.shape[1]} candidates with {C.shape[2]} numbers: nothing is "
                "dropped, and the order is that of the centred vectors; give fewer components",
                stacklevel=4,
            )

    def _batched(self, query: Any, candidates: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor, bool]:
        Q, C = _as_float(query), _as_float(candidates)
        single = Q.ndim == 1
        Q, C = (Q.unsqueeze(0), C.unsqueeze(0)) if single else (Q, C)
        if Q.ndim != 2 or C.ndim != 3 or len(Q) != len(C) or Q.shape[-1] != C.shape[-1]:
            raise ValueError(
                f"query of shape {tuple(np.shape(query))} and candidates of shape {tuple(np.shape(candidates))} do not "
                "fit: (d,) and (M, d), or (batch, d) and (batch, M, d)"
            )
        if C.shape[1] == 0:
            raise ValueError("there are no candidates to rank; give at least one")
        if Q.device != C.device:
            raise ValueError(f"query is on {Q.device}, the candidates are on {C.device}: move one of them")
        dtype = torch.promote_types(Q.dtype, C.dtype)
        valid = torch.ones(C.shape[:2], dtype=torch.bool, device=C.device) if mask is None else torch.as_tensor(mask)
        valid = valid.unsqueeze(0) if valid.ndim == 1 else valid
        if valid.shape != C.shape[:2]:
            raise ValueError(f"mask has shape {tuple(valid.shape)}; {tuple(C.shape[:2])} is needed")
        C = C.to(dtype).masked_fill(~valid.to(C.device).unsqueeze(-1), 0)
        _check_finite(Q, C)
        return Q.to(dtype), C, valid.to(C.device), single


def _as_float(X: Any) -> Tensor:
    """At least float32: half precision would tie what differs."""
    tensor = X.detach() if isinstance(X, Tensor) else torch.from_numpy(np.asarray(X))
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_finite(Q: Tensor, C: Tensor) -> None:
    if not Q.isfinite().all():
        raise ValueError(f"query {int((~Q.isfinite()).any(-1).nonzero()[0])} is not finite")
    if not C.isfinite().all():
        batch, place = (~C.isfinite()).any(-1).nonzero()[0].tolist()
        raise ValueError(f"candidate {place} of query {batch} is not finite")


def _centred(X: Tensor, valid: Tensor | None, center: str | bool) -> Tensor:
    """Rows less their mean; rows that are not there become 0."""
    weight = torch.ones(X.shape[:-1], dtype=X.dtype, device=X.device) if valid is None else valid.to(X.dtype)
    counted = weight.clone()
    if center == "candidates":
        counted[..., 0] = 0
    mean = (X * counted.unsqueeze(-1)).sum(-2, keepdim=True) / counted.sum(-1).clamp(min=1)[..., None, None]
    return (X - mean) * weight.unsqueeze(-1)
