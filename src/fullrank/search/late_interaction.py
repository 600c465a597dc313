"""Late interaction: every query token finds its best passage token (ColBERT, Khattab and Zaharia 2020)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Convention = Literal["all", "masked", "mean"]
_BYTES = 256 * 2**20  # of products held at a time


def maxsim(
    query: Float[Tensor, "queries query_tokens dim"],
    documents: Float[Tensor, "documents document_tokens dim"],
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    convention: Convention = "all",
) -> Float[Tensor, "queries documents"]:
    """s = sum_i max_{j unmasked} Q_i . P_j.

    Args:
        query: token vectors, of unit length by custom.
        documents: token vectors.
        query_mask: which query tokens are words; the others are [MASK] tokens that augment the query.
        document_mask: which document tokens there are.
        convention: "all" sums over all query tokens, as ColBERT does; "masked" over words alone; "mean" sums over all
            and divides by the number of words, as Rankify does.

    Returns:
        Scores, in single precision at least; 0 for a document without tokens.

    Raises:
        ValueError: an unknown convention, or masks of another shape.
    """
    check_convention(convention)
    words = _mask(query_mask, query, "query_mask")
    present = _mask(document_mask, documents, "document_mask")
    # Products in half precision tie, and so do their sums.
    dtype = torch.promote_types(torch.promote_types(query.dtype, documents.dtype), torch.float32)
    query = query.to(dtype)
    per_token = max(query.shape[0] * query.shape[1], query.shape[2])  # products, or the vector itself
    per_document = max(1, per_token * documents.shape[1] * query.element_size())
    chunk = max(1, _BYTES // per_document)
    parts = [
        _best(query, documents[start : start + chunk].to(dtype), present[start : start + chunk])
        for start in range(0, len(documents), chunk)
    ]
    best = torch.cat(parts, dim=1) if parts else query.new_zeros(query.shape[0], 0, query.shape[1])
    return _summed(best, words, convention)


def ragged_maxsim(
    query: Float[Tensor, "queries query_tokens dim"],
    tokens: Float[Tensor, "document_tokens dim"],
    lengths: Int[Tensor, " documents"],
    query_mask: Tensor | None = None,
    convention: Convention = "all",
) -> Float[Tensor, "queries documents"]:
    """`maxsim` of documents whose token vectors stand one behind the other, without padding.

    Args:
        query: see `maxsim`.
        tokens: vectors of all documents.
        lengths: tokens of every document.
        query_mask: see `maxsim`.
        convention: see `maxsim`.

    Returns:
        Scores; 0 for a document without tokens.

    Raises:
        ValueError: see `maxsim`.
    """
    check_convention(convention)
    words = _mask(query_mask, query, "query_mask")
    products = tokens @ query.flatten(0, 1).mT
    highest = torch.segment_reduce(products, "max", lengths=lengths, axis=0).masked_fill((lengths == 0)[:, None], 0)
    return _summed(highest.unflatten(1, query.shape[:2]).transpose(0, 1), words, convention)


def check_convention(convention: str) -> None:
    """Raise ValueError for one that `maxsim` does not know."""
    if convention not in get_args(Convention):
        raise ValueError(f"convention={convention!r} is not known; accepted: {', '.join(get_args(Convention))}")


def _summed(
    best: Float[Tensor, "queries documents query_tokens"], words: Tensor, convention: Convention
) -> Float[Tensor, "queries documents"]:
    if convention == "masked":
        return (best * words.unsqueeze(1)).sum(-1)
    total = best.sum(-1)
    return total / words.sum(-1, keepdim=True).clamp(min=1) if convention == "mean" else total


def _best(query: Tensor, documents: Tensor, present: Tensor) -> Float[Tensor, "queries documents query_tokens"]:
    products = torch.einsum("qid,njd->qnij", query, documents)
    highest = products.masked_fill(~present[None, :, None, :], -torch.inf).amax(-1)
    return highest.masked_fill(~present.any(-1)[None, :, None], 0)


def _mask(mask: Tensor | None, vectors: Tensor, name: str) -> Tensor:
    if mask is None:
        return torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
    if mask.shape != vectors.shape[:2]:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; {tuple(vectors.shape[:2])} is needed")
    return mask.bool()
