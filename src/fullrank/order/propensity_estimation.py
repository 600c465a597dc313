"""How much of each rank is examined, from a click log: what inverse propensities correct clicks by."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Shaped

from fullrank.order.click_models_by_place import PBM
from fullrank.order.click_sessions import Pairs, checked_clicks, checked_lists
from fullrank.order.examination_hypothesis import factorise_clicks

Method = Literal["randomization", "shuffle", "swap", "harvest", "adjacent", "em", "dla"]
_FLOOR = 1e-3
_DOUBTFUL = 1.5  # examination over that of the first rank
_MOST_STEPS = 10_000
_GAIN = 1e-12


def estimate_propensities(
    clicks: Shaped[np.ndarray, "sessions ranks"],
    documents: Shaped[np.ndarray, "sessions ranks"] | None = None,
    queries: Shaped[np.ndarray, " sessions"] | None = None,
    mask: Bool[np.ndarray, "sessions ranks"] | None = None,
    method: Method = "harvest",
    swapped: Shaped[np.ndarray, " sessions"] | None = None,
    random_state: int = 0,
) -> Float[np.ndarray, " ranks"]:
    """Examination of every rank over that of the first, as `IPS` and `make_objective("ips", ...)` take it.

    Every method supposes that a click is an examined rank and a relevant document. They differ in what tells the two
    apart:

    - "randomization", or "shuffle": lists were shown in random order. e_k / e_1 is the ratio of the clicks at k and
      at 1.
    - "swap": the first document changed places with that of a random rank (Joachims et al. 2017). Both documents are
      seen at both ranks, and the ratio is that of their click rates.
    - "harvest": several rankers ordered the same documents, without any intervention (Agarwal et al. 2019). All pairs
      of ranks at which one document was seen are weighed in one likelihood.
    - "adjacent": the same, from the ratios of neighbouring ranks alone, multiplied down to each rank.
    - "em": expectation maximisation of the position-based model, `PBM`.
    - "dla": the dual learning algorithm, `DLA`, with a score for every document of a query. It needs lists that differ
      as "harvest" does, but compares what one list shows: an attractive query, or a user who clicks a lot, does not
      count as relevance.

    A ranker that learns examination together with relevance from features has its own: `objective_.propensities()`
    after "rem", "dla" or "two-tower".

    Args:
        clicks: 0 or 1.
        documents: as they were shown, for "harvest", "adjacent", "em" and "dla".
        queries: of the sessions; without, a document is as relevant in all of them.
        mask: where there is a document; a list is filled from the top.
        method: see above.
        swapped: for "swap": the rank (from 1) that each session's first document was shown at; 1 for no swap.
        random_state: seed of "dla".

    Returns:
        Values in [0.001, 1]: sampling errors beyond are cut, for no weight is to be below 1 or without bound.

    Raises:
        ValueError: an unknown method, something that it needs and is not given, arrays that do not fit each other,
            ranks that nothing connects with the first, or no click to compare with.

    Warns:
        UserWarning: a rank appears to be examined more than 1.5 times as much as the first, which is hardly position
            bias: too few clicks, or lists that are not what the method supposes.
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not known; accepted: {', '.join(get_args(Method))}")
    if method in ("randomization", "shuffle", "swap"):
        documents = np.zeros(np.shape(clicks), dtype=np.int64)  # which ones they are does not matter
    elif documents is None:
        raise ValueError(f"method={method!r} needs documents: what was shown at which rank")
    documents, queries, mask = checked_lists(documents, queries, mask)
    clicks = checked_clicks(clicks, mask)
    match method:
        case "randomization" | "shuffle":
            relative = _shuffled(clicks, mask)
        case "swap":
            relative = _swapped(clicks, mask, swapped)
        case "em":
            relative = PBM().fit(clicks, documents, queries, mask).propensities()
        case "harvest":
            relative = _all_pairs(_interventions(clicks, documents, queries, mask))
        case "adjacent":
            relative = _adjacent(_interventions(clicks, documents, queries, mask))
        case "dla":
            relative = _dual(clicks, documents, queries, mask, random_state)
    return _bounded(relative)


def _shuffled(clicks: np.ndarray, mask: np.ndarray) -> Float[np.ndarray, " ranks"]:
    """Clicks at k over clicks at 1, in the lists that are long enough."""
    first = (clicks[:, :1] & mask).sum(0)
    if not first.all():
        rank = int(np.argmin(first)) + 1
        raise ValueError(f"no list of {rank} documents or more has a click at rank 1, to compare rank {rank} with")
    return clicks.sum(0) / first


def _swapped(clicks: np.ndarray, mask: np.ndarray, swapped: Any) -> Float[np.ndarray, " ranks"]:
    """Rates of both documents at k over those at 1, each seen at either rank."""
    if swapped is None:
        raise ValueError("method='swap' needs swapped: the rank that each session's first document was shown at")
    swapped = np.asarray(swapped)
    lengths = mask.sum(1)
    if swapped.shape != lengths.shape or swapped.dtype.kind not in "iu":
        raise ValueError(f"swapped is {swapped.dtype} of shape {swapped.shape}; a rank for each session is needed")
    wrong = np.flatnonzero((swapped < 1) | (swapped > np.maximum(lengths, 1)))
    if len(wrong):
        session = int(wrong[0])
        raise ValueError(f"swapped[{session}] is {swapped[session]}; a rank from 1 to the list's {lengths[session]}")
    relative = np.ones(mask.shape[1])
    for k in range(1, mask.shape[1]):
        as_ranked, changed = (swapped == 1) & mask[:, k], swapped == k + 1
        if not as_ranked.any() or not changed.any():
            raise ValueError(f"rank {k + 1} needs sessions with and without a swap; there are {int(changed.sum())} and "
                             f"{int(as_ranked.sum())}")  # fmt: skip
        below, above = (clicks[as_ranked, rank].mean() + clicks[changed, rank].mean() for rank in (k, 0))
        if not above:
            raise ValueError(f"no click at rank 1 to compare rank {k + 1} with")
        relative[k] = below / above
    return relative


def _interventions(
    clicks: np.ndarray, documents: np.ndarray, queries: np.ndarray | None, mask: np.ndarray
) -> tuple[Float[np.ndarray, "ranks ranks"], Float[np.ndarray, "ranks ranks"]]:
    """Over the documents that were seen at both k and k': the sum of their click rates at k, and how many they are."""
    pairs = Pairs.of(documents, queries, mask)
    numbers = pairs.numbers(documents, queries, mask)
    shape = (len(pairs), mask.shape[1])
    cell = (numbers * shape[1] + np.arange(shape[1]))[mask]
    views = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    clicked = np.bincount(cell, clicks[mask], shape[0] * shape[1]).reshape(shape)
    seen = (views > 0).astype(np.float64)
    return (clicked / np.maximum(views, 1)).T @ seen, seen.T @ seen


def _all_pairs(interventions: tuple[np.ndarray, np.ndarray]) -> Float[np.ndarray, " ranks"]:
    """Maximise sum_kk' c_k log(e_k r_kk') + (n - c_k) log(1 - e_k r_kk'), r_kk' = r_k'k: an item for each two ranks."""
    clicked, count = interventions
    ranks = len(count)
    _check_connected(count)
    k, other = np.nonzero((count > 0) & ~np.eye(ranks, dtype=bool))
    two, item = np.unique(np.minimum(k, other) * ranks + np.maximum(k, other), return_inverse=True)
    c = clicked[k, other]
    if ranks == 1:
        return np.ones(1)
    if not c[k == 0].any():
        raise ValueError("no document that was also seen at another rank was clicked at rank 1, to compare with")
    found = factorise_clicks(k, item, c, count[k, other] - c, ranks, len(two), 0.0, _MOST_STEPS, _GAIN)
    return found.examination / found.examination[0]


def _adjacent(interventions: tuple[np.ndarray, np.ndarray]) -> Float[np.ndarray, " ranks"]:
    """e_{k+1} / e_k, multiplied from the first rank down."""
    clicked, count = interventions
    k = np.arange(len(count) - 1)
    for rank in k[(count[k, k + 1] == 0) | (clicked[k, k + 1] == 0)].tolist():
        what = "clicked at the first of them" if count[rank, rank + 1] else "seen at both"
        raise ValueError(f"ranks {rank + 1} and {rank + 2}: no document was {what}; method='harvest' compares others")
    return np.concatenate([[1.0], np.cumprod(clicked[k + 1, k] / clicked[k, k + 1])])


def _dual(
    clicks: np.ndarray, documents: np.ndarray, queries: np.ndarray | None, mask: np.ndarray, random_state: int
) -> Float[np.ndarray, " ranks"]:
    """What the dual learning algorithm finds."""
    from fullrank.order.dual_learning import learned_examination  # PyTorch is slow to load

    _check_connected(_interventions(clicks, documents, queries, mask)[1])
    if not clicks[:, 0].any():
        raise ValueError("no document was clicked at rank 1, to compare with")
    pairs = Pairs.of(documents, queries, mask).numbers(documents, queries, mask)
    return learned_examination(clicks, pairs, random_state)


def _check_connected(count: np.ndarray) -> None:
    """Raise ValueError where no chain of documents leads from a rank to the first."""
    reached = np.zeros(len(count), dtype=bool)
    reached[0] = True
    for _ in range(len(count)):
        reached |= (count[reached] > 0).any(0)
    if not reached.all():
        alone = ", ".join(str(rank + 1) for rank in np.flatnonzero(~reached))
        raise ValueError(
            f"no documents connect rank {alone} with rank 1: the log needs rankers that show one document at several "
            "ranks, or fewer ranks"
        )


def _bounded(relative: np.ndarray) -> Float[np.ndarray, " ranks"]:
    """Within what inverse propensities accept."""
    if relative.max() > _DOUBTFUL:
        warnings.warn(
            f"rank {int(relative.argmax()) + 1} appears to be examined {relative.max():.2f} times as much as the "
            "first; 1 is used",
            stacklevel=3,
        )
    return np.clip(relative, _FLOOR, 1.0)
