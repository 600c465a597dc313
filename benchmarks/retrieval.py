"""BM25 against bm25s and rank-bm25, and dense retrieval against torch.matmul + topk and faiss, on the same data.

Data: Vaswani (11,429 abstracts, 93 queries) and 100,000 passages drawn by Zipf's law (`million_passages.py`). Index
time goes from texts to an index in memory; ours keeps the documents too, and counts terms as its analyzer finds them.
Queries go from texts to the ids of the 10 best. bm25s has its usual back end of NumPy and, where numba is installed,
the other one. Nobody cuts endings. Targets: 1.0 times the queries a second of bm25s, at most 1.5 times its index time,
0.9 times the speed of torch.matmul + topk.

Metrics are in `evaluation.py`, re-ranking in `reranking.py`, a million passages in `million_passages.py`.

    python benchmarks/retrieval.py                     everything
    python benchmarks/retrieval.py bm25                one comparison: bm25 or dense
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import bm25s
import numpy as np
import torch
from rank_bm25 import BM25Okapi

import million_passages
from _timing import Pairs, alternate, run_named, show
from fullrank import data
from fullrank.search import Analyzer, BM25Retriever, DenseRetriever, Document
from fullrank.search.dense import nearest

K, PASSAGES, SLOW = 10, 100_000, 20
K1, B = 1.2, 0.75
SIZES = ((11_429, 93), (100_000, 512), (100_000, 1))  # documents, queries of dense retrieval
Found = list[list[str]]
Ask = Callable[[list[str]], Found]
Collection = tuple[list[Document], list[str]]


def vaswani() -> Collection:
    documents = [Document(str(record["id"]), record["text"]) for record in data.load("vaswani", "corpus")]
    return documents, [record["text"] for record in data.load("vaswani", "queries")]


def synthetic() -> Collection:
    return list(million_passages.passages(PASSAGES)), list(million_passages.queries().values())


def ours(documents: list[Document]) -> Ask:
    retriever = BM25Retriever("lucene", K1, B).build(documents)
    return lambda queries: [list(found) for found in retriever.search(queries, K).values()]


def with_bm25s(backend: str) -> Callable[[list[Document]], Ask]:
    def indexed(documents: list[Document]) -> Ask:
        ids = np.array([document.id for document in documents])
        index: Any = bm25s.BM25(method="lucene", k1=K1, b=B, backend=backend)
        tokens = bm25s.tokenize([document.text for document in documents], stopwords="en", show_progress=False)
        index.index(tokens, show_progress=False)

        def ask(queries: list[str]) -> Found:
            asked = bm25s.tokenize(queries, stopwords="en", show_progress=False)
            return index.retrieve(asked, corpus=ids, k=K, show_progress=False).documents.tolist()

        return ask

    return indexed


def with_rank_bm25(documents: list[Document]) -> Ask:
    ids, analyzer = [document.id for document in documents], Analyzer()
    index = BM25Okapi([analyzer.terms(document.text) for document in documents], k1=K1, b=B)

    def ask(queries: list[str]) -> Found:
        best = [np.argsort(-index.get_scores(analyzer.terms(query)))[:K].tolist() for query in queries]
        return [[ids[number] for number in row] for row in best]

    return ask


def bm25() -> None:
    peers = {"bm25s": with_bm25s("numpy"), "bm25s, numba": with_bm25s("numba"), "rank-bm25": with_rank_bm25}
    if not find_spec("numba"):
        del peers["bm25s, numba"]
    for name, collection in (("Vaswani", vaswani), ("Zipf", synthetic)):
        documents, queries = collection()
        index_rows, search_rows = [], []
        for peer, index in peers.items():
            slow = peer == "rank-bm25"
            asked = queries[:SLOW] if slow else queries
            if peer != "bm25s, numba":  # its index is the same
                times = alternate(partial(ours, documents), partial(index, documents), 1 if slow else 3)
                index_rows.append([peer, *times.cells()])
            mine, theirs = ours(documents), index(documents)
            shared = np.mean([len({*a} & {*b}) / K for a, b in zip(mine(asked), theirs(asked), strict=True)])
            times = alternate(partial(mine, asked), partial(theirs, asked), 3 if slow else 7)
            search_rows.append([peer, *rates(times, len(asked)), f"{shared:.0%}"])
        title = f"{name}: {len(documents):,} documents, {len(queries)} queries"
        show(f"{title}: index (target: at least 0.67x)", ["peer", "ours", "peer", "faster", "min-max"], index_rows)
        columns = ["peer", "ours, queries/s", "peer, queries/s", "faster", "min-max", f"same of {K}"]
        show(f"{title}: search (target: at least 1x)", columns, search_rows)


def rates(times: Pairs, queries: int) -> list[str]:
    """As `Pairs.cells`, in queries a second."""
    each = [f"{queries / np.median(side):,.0f}" for side in (times.ours, times.peer)]
    return [*each, *times.cells()[2:]]


class Given:
    """An encoder that knows every text's vector: encoding is not what is measured."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors

    def encode(self, texts: list[str], /) -> np.ndarray:
        """See `Encoder.encode`."""
        return np.stack([self.vectors[text] for text in texts])


def dense() -> None:
    """Exact search in 384 dimensions, as of MiniLM: the matrix products alone, and the whole retriever."""
    rows = []
    for count, queries in SIZES:
        generator = torch.Generator().manual_seed(0)
        documents = torch.nn.functional.normalize(torch.randn(count, 384, generator=generator), dim=-1)
        asked = torch.nn.functional.normalize(torch.randn(queries, 384, generator=generator), dim=-1)

        def raw(asked: torch.Tensor = asked, documents: torch.Tensor = documents) -> tuple[torch.Tensor, torch.Tensor]:
            scores, places = torch.matmul(asked, documents.mT).topk(K)
            return scores, places

        texts = {f"t{number}": vector.numpy() for number, vector in enumerate([*documents, *asked])}
        retriever = DenseRetriever(Given(texts)).build([Document(f"d{n}", f"t{n}") for n in range(count)])
        names = [f"t{count + number}" for number in range(queries)]
        peers: dict[str, Callable[[], Any]] = {"matmul + topk": raw}
        if find_spec("faiss"):
            import faiss

            index: Any = faiss.IndexFlatIP(384)
            index.add(documents.numpy())
            faiss.omp_set_num_threads(torch.get_num_threads())
            peers["faiss, flat"] = lambda index=index, asked=asked: index.search(asked.numpy(), K)
        same = bool((nearest(asked, documents, K)[1] == raw()[1]).all())
        for peer, search in peers.items():
            for part, mine in {
                "search": lambda a=asked, d=documents: nearest(a, d, K),
                "retriever": lambda r=retriever, n=names: r.search(n, K),
            }.items():
                times = alternate(mine, search, 7)
                rows.append([f"{count:,} x {queries}, {part}, {peer}", *times.cells(), "yes" if same else "no"])
    columns = ["documents x queries, ours, peer", "ours", "peer", "faster", "min-max", "same as matmul"]
    show(f"dense, {torch.get_num_threads()} threads (target: at least 0.9x)", columns, rows)


if __name__ == "__main__":
    run_named([bm25, dense], sys.argv[1:])
