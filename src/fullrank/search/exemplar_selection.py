"""Rival ways to choose exemplars: by chance, length, words, nearness, distance, variety.

Those of one set for all questions give a list of exemplars; those that look at the question take questions (or
questions with drafts) and give a list for each. Either is a first choice for `DualQuerySelector`, the latter by
`functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.search.bm25 import BM25Retriever
from fullrank.search.determinantal import dpp_kernel, greedy_map
from fullrank.search.empty_queries import gathered_empty
from fullrank.search.exemplar_retriever import ExemplarRetriever
from fullrank.search.exemplars import Exemplar
from fullrank.search.protocols import Document


def random_exemplars(pool: Sequence[Exemplar], n: int, seed: int = 0) -> list[Exemplar]:
    """n of a pool, each set equally likely."""
    order = np.random.default_rng(seed).permutation(len(pool))[:n]
    return [pool[place] for place in order.tolist()]


def complex_exemplars(pool: Sequence[Exemplar], n: int) -> list[Exemplar]:
    """Those whose solutions have the most steps (Complex-CoT, Fu et al. 2023); ties in the pool's order."""
    return sorted(pool, key=lambda exemplar: -exemplar.steps)[:n]


def longest_exemplars(pool: Sequence[Exemplar], n: int) -> list[Exemplar]:
    """Those with the most words in question and solution; ties in the pool's order."""
    return sorted(pool, key=lambda exemplar: -len(exemplar.text.split()))[:n]


def clustered_exemplars(retriever: ExemplarRetriever, n: int, seed: int = 0) -> list[Exemplar]:
    """The exemplar nearest to the centre of each of n clusters (Auto-CoT, Zhang et al. 2023), largest cluster first.

    Auto-CoT clusters questions, so the retriever is indexed by them: `index(pool, lambda e: e.question)`.

    Raises:
        ValueError: more clusters than exemplars.
    """
    from sklearn.cluster import KMeans  # slow to load, and few cluster

    vectors = retriever.vectors.numpy()
    if not 1 <= n <= len(vectors):
        raise ValueError(f"n={n} is not accepted; a number of clusters from 1 to the {len(vectors)} exemplars is")
    fitted: Any = KMeans(n, n_init="auto", random_state=seed).fit(vectors)
    centres, cluster_of = fitted.cluster_centers_, fitted.labels_
    distances = np.linalg.norm(vectors - centres[cluster_of], axis=1)
    chosen = []
    for cluster in np.argsort(-np.bincount(cluster_of, minlength=n), kind="stable"):
        members = np.flatnonzero(cluster_of == cluster)
        chosen.append(retriever.exemplars[int(members[distances[members].argmin()])])
    return chosen


def lexical_exemplars(
    pool: Sequence[Exemplar],
    texts: Sequence[str],
    n: int,
    by: Callable[[Exemplar], str] = lambda exemplar: exemplar.question,
) -> list[list[Exemplar]]:
    """Those that share the most words with every text, by BM25; where too few share any, the pool's first follow.

    Args:
        pool: to choose from.
        texts: questions, or what `by` gives of them.
        n: how many.
        by: the text of an exemplar that is searched.
    """
    retriever = BM25Retriever().build([Document(exemplar.id, by(exemplar)) for exemplar in pool])
    by_id = {exemplar.id: exemplar for exemplar in pool}
    with gathered_empty():  # a text without words is followed by the pool's first
        run = retriever.search(list(texts), n)
    chosen = []
    for number in range(len(texts)):
        found = [id for id, _ in run.ranking(str(number), n)]
        chosen_already = set(found)
        rest = (exemplar.id for exemplar in pool if exemplar.id not in chosen_already)
        found += [id for id, _ in zip(rest, range(n - len(found)), strict=False)]
        chosen.append([by_id[id] for id in found])
    return chosen


def nearest_exemplars(retriever: ExemplarRetriever, texts: Sequence[str], n: int) -> list[list[Exemplar]]:
    """Those with the largest inner product; EPR's choice if the encoder was trained so."""
    return _of(retriever, retriever.places(retriever.encode(texts), n))


def farthest_exemplars(retriever: ExemplarRetriever, texts: Sequence[str], n: int) -> list[list[Exemplar]]:
    """Those with the smallest inner product, smallest first."""
    every = retriever.places(retriever.encode(texts), len(retriever.exemplars))
    return _of(retriever, [(places[::-1][:n], scores[::-1][:n]) for places, scores in every])


def diverse_exemplars(
    retriever: ExemplarRetriever, texts: Sequence[str], n: int, n_candidates: int = 64, scale: float = 0.1
) -> list[list[Exemplar]]:
    """The likeliest set of a determinantal point process among the nearest, greedily: CEIL's choice.

    Args:
        retriever: over the pool.
        texts: questions.
        n: how many; fewer where no more add volume.
        n_candidates: nearest exemplars that are looked at.
        scale: see `dpp_kernel`.
    """
    return _among(retriever, texts, n_candidates, lambda q, C: greedy_map(dpp_kernel(q, C, scale), n))


def orthogonal_exemplars(
    retriever: ExemplarRetriever, texts: Sequence[str], n: int, n_candidates: int = 64
) -> list[list[Exemplar]]:
    """The nearest, then always the one least spanned by those before, by modified Gram-Schmidt (MGS)."""
    return _among(retriever, texts, n_candidates, lambda q, C: gram_schmidt_order(C, n))


def gram_schmidt_order(candidates: Float[Tensor, "M d"], n: int) -> list[int]:
    """The first candidate, then always the one with the largest part of its direction outside of the others' span.

    Fewer than n where all of the rest lie in the span.
    """
    rest = torch.nn.functional.normalize(candidates.double(), dim=-1)
    chosen = [0]
    while len(chosen) < min(n, len(rest)):
        direction = torch.nn.functional.normalize(rest[chosen[-1]], dim=-1)
        rest = rest - (rest @ direction).unsqueeze(-1) * direction
        outside = rest.norm(dim=-1)
        outside[chosen] = 0
        if outside.max() < 1e-6:
            break
        chosen.append(int(outside.argmax()))
    return chosen


def _among(
    retriever: ExemplarRetriever,
    texts: Sequence[str],
    n_candidates: int,
    choose: Callable[[Tensor, Tensor], list[int]],
) -> list[list[Exemplar]]:
    queries = retriever.encode(texts)
    chosen = []
    for query, (places, _) in zip(queries, retriever.places(queries, n_candidates), strict=True):
        picked = choose(query, retriever.vectors[places])
        chosen.append([retriever.exemplars[places[item]] for item in picked])
    return chosen


def _of(retriever: ExemplarRetriever, found: Sequence[tuple[list[int], list[float]]]) -> list[list[Exemplar]]:
    return [[retriever.exemplars[place] for place in places] for places, _ in found]
