"""Evaluating runs against pytrec_eval (the C code of trec_eval) and ranx (numba), from dictionaries to means.

A query has 100 documents and 15 judgements, ten of which are of documents that were found; the measures are nDCG@10,
AP@100, RR and R@100. Runs are best first, as in a TREC file; shuffled; and of ten different scores, so that nearly all
documents tie. Target: at most twice the time of pytrec_eval, and 100,000 queries in seconds. ranx compiles before it is
timed; it orders ties otherwise, so there its values differ.

    python benchmarks/evaluation.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytrec_eval

from _timing import alternate, seconds, show, timed
from fullrank.order import evaluate

DOCUMENTS, JUDGED = 100, 15
#: Ours -> as pytrec_eval is asked, as it answers, and ranx's name.
MEASURES = {
    "nDCG@10": ("ndcg_cut.10", "ndcg_cut_10", "ndcg@10"),
    "AP@100": ("map_cut.100", "map_cut_100", "map@100"),
    "RR": ("recip_rank", "recip_rank", "mrr"),
    "R@100": ("recall.100", "recall_100", "recall@100"),
}
Grades = dict[str, dict[str, int]]
Scores = dict[str, dict[str, float]]


def collection(queries: int, kind: str) -> tuple[Grades, Scores]:
    """Judgements and a run over a million documents."""
    rng = np.random.default_rng(0)
    ids = [f"doc{number}" for number in range(1_000_000)]
    qrels: Grades = {}
    run: Scores = {}
    for query in range(queries):
        chosen = [ids[place] for place in rng.choice(len(ids), DOCUMENTS + 5, replace=False).tolist()]
        scores = rng.integers(0, 10, DOCUMENTS) / 10 if kind == "tied" else rng.random(DOCUMENTS)
        if kind == "best first":
            scores = -np.sort(-scores)
        judged = [*rng.permutation(chosen[:DOCUMENTS]).tolist()[: JUDGED - 5], *chosen[DOCUMENTS:]]
        run[f"q{query}"] = dict(zip(chosen, scores.tolist(), strict=False))
        qrels[f"q{query}"] = dict(zip(judged, rng.integers(0, 4, JUDGED).tolist(), strict=True))
    return qrels, run


def ours(qrels: Grades, run: Scores) -> list[float]:
    return list(evaluate(qrels, run, list(MEASURES)).values())


def with_pytrec_eval(qrels: Grades, run: Scores) -> list[float]:
    asked = {name for name, _, _ in MEASURES.values()}
    found = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    return [float(np.mean([values[name] for values in found.values()])) for _, name, _ in MEASURES.values()]


def with_ranx(qrels: Grades, run: Scores) -> list[float]:
    import ranx

    names = [name for _, _, name in MEASURES.values()]
    found: Any = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names)
    return [float(found[name]) for name in names]


def against(peer: Callable[[Grades, Scores], list[float]], pairs: int) -> list[list[str]]:
    rows = []
    for queries, kind in ((1000, "best first"), (1000, "shuffled"), (1000, "tied"), (10_000, "shuffled")):
        qrels, run = collection(queries, kind)
        difference = np.abs(np.subtract(ours(qrels, run), peer(qrels, run))).max()
        times = alternate(lambda q=qrels, r=run: ours(q, r), lambda q=qrels, r=run: peer(q, r), pairs)
        rows.append([f"{queries:,} queries, {kind}", *times.cells(), f"{difference:.0e}"])
    return rows


def main() -> None:
    warnings.filterwarnings("ignore", message="unsafe cast")
    for name, peer in (("pytrec_eval", with_pytrec_eval), ("ranx", with_ranx)):
        if find_spec(name) is None:
            print(f"{name} is not installed")
            continue
        columns = ["", "ours", name, "faster", "min-max", "difference"]
        show(f"evaluate against {name}", columns, against(peer, 7))
    qrels, run = collection(100_000, "shuffled")
    columns = ["", "ours", "pytrec_eval"]
    row = ["100,000 queries of 100", seconds(timed(lambda: ours(qrels, run)))]
    show("at scale (target: seconds)", columns, [[*row, seconds(timed(lambda: with_pytrec_eval(qrels, run)))]])


if __name__ == "__main__":
    main()
