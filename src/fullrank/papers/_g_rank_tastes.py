"""What similarity is for, and what it is not: communities of taste, strangers, and attackers that copy their victim."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from fullrank.papers._repeats import mean_and_spread
from fullrank.papers._trial import Trial

if TYPE_CHECKING:
    import numpy as np

    from fullrank.search import GRank

_NEVER = 100_000  # clicks


class Size(NamedTuple):
    """Of the networks of the study."""

    nodes: int
    steps: int
    every: int


def measure_communities(trial: Trial, size: Size, seeds: Any) -> None:
    """A third of the peers has another taste; share of queries that begin with the favourite of the asker's side."""
    runs = [
        trial.step(f"communities {size} seed={seed}", partial(_community, size, seed))
        for seed in trial.track(seeds, "communities")
    ]
    means, spreads = mean_and_spread({name: [run[name] for run in runs] for name in runs[0]})
    trial.measure(
        "communities-gain",
        {"G-Rank": means["G-Rank, F = 0"], "popularity": means["popularity"]},
        {"G-Rank": spreads["G-Rank, F = 0"], "popularity": spreads["popularity"]},
    )
    rows = [{"ranking": name, "own favourite first": means[name], "spread": spreads[name]} for name in means]
    trial.table("communities", rows)


def _community(size: Size, seed: int) -> dict[str, float]:
    import numpy as np

    from fullrank.search import GRank, P2PSimulation
    from fullrank.search.catalogue import synthetic_catalogue

    catalogue, rng = synthetic_catalogue(seed=seed), np.random.default_rng([seed, 1])
    favourites = {term: rng.permutation(np.array(catalogue.items_of(term)))[:2].tolist() for term in catalogue.terms}

    def click(node: int, term: Any, items: list[Any]) -> Any:
        """Four of five clicks go to the favourite of the community, the others to what is shown on top."""
        return favourites[term][node % 3 == 0] if rng.random() < 0.8 else items[0]

    simulation = P2PSimulation(size.nodes, catalogue, F=0, steps=size.steps, seed=seed, click=click)
    simulation.run(size.steps)
    hits: dict[str, list[float]] = {}
    for node in range(size.nodes):
        peer = simulation.peers[node]
        rows = peer.ranker.log.rows
        counts = _counts(rows)
        own = np.zeros(len(counts))
        own[rows.vocabulary.nodes.find(node) or 0] = 1
        code = GRank(variant="code", node_id=node, catalogue=catalogue).fit(rows)
        code_weights = {rows.vocabulary.nodes.find(name): weight for name, weight in code.similarity().items()}
        weights = {
            "G-Rank, F = 0": peer.ranker.weights(),
            "G-Rank, F = 1": peer.ranker.weights() + 1,
            "G-Rank, square as in the code": np.array([code_weights.get(n, 0.0) for n in range(len(counts))]),
            "user-kNN, cosine": _cosines(counts, own),
            "popularity": np.ones(len(counts)),
            "own clicks only": own,
            "metadata only": np.zeros(len(counts)),
        }
        for name, weight in weights.items():
            scores = np.tensordot(weight[: len(counts)], counts, 1)
            found = [
                _first(scores, rows.vocabulary, term, catalogue.items_of(term)) == favourites[term][node % 3 == 0]
                for term in catalogue.terms
            ]
            hits.setdefault(name, []).append(float(np.mean(found)))
    return {name: float(np.mean(shares)) for name, shares in hits.items()}


def _counts(rows: Any) -> np.ndarray:
    """Rows by node, term and item: (nodes, terms, items)."""
    import numpy as np

    shape = tuple(len(words) for words in rows.vocabulary)
    flat = np.ravel_multi_index(tuple(rows.columns[:3]), shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(float)


def _cosines(counts: np.ndarray, own: np.ndarray) -> np.ndarray:
    import numpy as np

    flat = counts.reshape(len(counts), -1)
    norms = np.linalg.norm(flat, axis=1)
    return flat @ (own @ flat) / np.maximum(norms * norms[own > 0], 1e-12)


def _first(scores: np.ndarray, vocabulary: Any, term: Any, items: list[Any]) -> Any:
    """The item of a term that scores best; the first one of equal ones."""
    row = vocabulary.terms.find(term)
    columns = [vocabulary.items.find(item) for item in items]
    found = [0.0 if row is None or column is None else float(scores[row, column]) for column in columns]
    return max(zip(items, found, strict=True), key=lambda pair: (round(pair[1], 9), -pair[0]))[0]


def measure_robustness(trial: Trial, size: Size, seeds: Any) -> None:
    """How many clicks under a term one attacker needs until a victim's top item is the attacker's."""
    runs = [
        trial.step(f"robustness {size} seed={seed}", partial(_moving_clicks, size, seed))
        for seed in trial.track(seeds, "robustness")
    ]
    means, spreads = mean_and_spread({name: [run[name] for run in runs] for name in runs[0]})
    for claim, kind in (("strangers-need-more-clicks", "stranger"), ("mimics-need-few-clicks", "mimic")):
        trial.measure(
            claim,
            *({f"F={F}": found[f"{kind}, F = {F}"] for F in (0, 1)} for found in (means, spreads)),
        )
    rows = [{"attacker": name, "share of clicks": means[name], "spread": spreads[name]} for name in means]
    trial.table("clicks-that-move-the-top-item", rows)


def _moving_clicks(size: Size, seed: int) -> dict[str, float]:
    """Mean over victims and terms of the share of an attacker's clicks among all under the term."""
    import numpy as np

    from fullrank.search import GRank, P2PSimulation
    from fullrank.search.catalogue import synthetic_catalogue

    catalogue, rng = synthetic_catalogue(seed=seed), np.random.default_rng([seed, 2])
    simulation = P2PSimulation(size.nodes, catalogue, F=1, steps=size.steps, seed=seed)
    simulation.run(size.steps)
    found: dict[str, list[float]] = {}
    for node in rng.choice(size.nodes, 4, replace=False).tolist():
        rows = simulation.peers[node].ranker.log.rows
        own = [(row.term, row.item) for row in rows if row.node == node]
        for term in rng.permutation(np.array(catalogue.terms))[:5].tolist():
            honest = sum(row.term == term for row in rows)
            target = catalogue.items_of(term)[-1]
            for kind, copied in (("stranger", []), ("mimic", own)):
                attacker = [("attacker", *pair) for pair in copied]
                for F in (0, 1):
                    ranker = GRank(isolation=F, node_id=node).fit(rows).partial_fit(attacker)
                    needed = _needed(ranker, term, target)
                    found.setdefault(f"{kind}, F = {F}", []).append(needed / (needed + honest))
    return {name: float(np.mean(shares)) for name, shares in found.items()}


def _needed(ranker: GRank, term: Any, target: Any) -> int:
    """The attacker's clicks on the target that make it the victim's top item; `_NEVER` where it does not count."""
    needed = 0
    while needed < _NEVER:
        scores = ranker.score(term)
        best = max((score for item, score in scores.items() if item != target), default=0.0)
        missing = best - scores.get(target, 0.0)
        if missing <= 0:
            return needed
        more = 1  # the first click changes the similarity
        if needed:
            weight = ranker.similarity("attacker") + ranker.isolation
            if weight == 0:
                break
            more = min(max(1, int(missing / weight)), _NEVER - needed)
        ranker.partial_fit([("attacker", term, target)] * more)
        needed += more
    return _NEVER
