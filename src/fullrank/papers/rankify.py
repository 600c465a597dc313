"""Rankify: A Comprehensive Python Toolkit for Retrieval, Re-Ranking, and Retrieval-Augmented Generation (Rankify)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial

_PRINT = "the package's own listings; a count of features, not a measurement"

PAPER = Paper(
    slug="rankify",
    title="Rankify: A Comprehensive Python Toolkit for Retrieval, Re-Ranking, and Retrieval-Augmented Generation",
    authors=5,
    published="2025-02-04",
    arxiv="2502.02464",
    position=33,
    repository="https://github.com/DataScienceUIBK/rankify",
    topics=("retrieval",),
    summary=(
        "A Python toolkit that puts retrieval, re-ranking and retrieval-augmented generation behind one "
        "interface. Many sparse and dense retrievers and re-rankers are included, with pre-retrieved data sets "
        "for fair comparison. It is on PyPI with documentation."
    ),
    methods=(
        "fullrank.search.BM25Retriever",
        "fullrank.search.HybridRetriever",
        "fullrank.search.reciprocal_rank_fusion",
        "fullrank.search.SlidingWindowReranker",
        "fullrank.order.evaluate",
    ),
    usage="""\
from fullrank.order import evaluate

qrels = {"q1": {"d1": 1, "d2": 0}}
run = {"q1": {"d2": 3.0, "d1": 2.0}}
print(evaluate(qrels, run, ["nDCG@10", "RR"]))  # fullrank index, search, rerank, evaluate, ask: the same as commands
""",
    notes=(
        "The toolkit has defects that ours is tested against: a sliding window that loses passages, answer "
        "pipelines that ignore the re-ranked order, metrics that break ties otherwise than trec_eval. Its main "
        "tables could not be read."
    ),
    claims=(
        Claim(
            id="inventory-first",
            says="40 pre-retrieved data sets, 7 retrievers and 24 re-rankers.",
            source="README, first version",
            paper_value={"data sets": 40, "retrievers": 7, "re-rankers": 24},
            needs=_PRINT,
        ),
        Claim(
            id="inventory-now",
            says="Over 40 data sets, 28 re-rankers with 44 methods, 6 generation methods, 4 language model back ends.",
            source="README",
            paper_value={"data sets": 40, "re-rankers": 28, "methods": 44, "generation methods": 6, "back ends": 4},
            needs=_PRINT,
        ),
        Claim(
            id="unified",
            says="One modular and lightweight framework for retrieval, re-ranking and generation.",
            source="abstract",
            needs=_PRINT,
        ),
        Claim(
            id="main-tables",
            says="Re-rankers raise top-k accuracy on NQ, WebQ and TriviaQA and nDCG@10 on DL19, DL20 and BEIR.",
            source="tables, not readable",
            needs="the pre-retrieved data sets and re-ranking models",
            confirmed=False,
        ),
        Claim(
            id="fusion-beats-both",
            says=(
                "Fusing lexical and dense retrieval by reciprocal rank beats either, on question answering and "
                "on abstracts."
            ),
            source="premise of hybrid retrieval",
            unit="nDCG@10",
            holds=lambda m: (
                m["xquad fused"] > max(m["xquad BM25"], m["xquad dense"])
                and m["vaswani fused"] > max(m["vaswani BM25"], m["vaswani dense"])
            ),
        ),
        Claim(
            id="stemming-helps",
            says="Stemming raises BM25 on short abstracts.",
            source="premise of lexical retrieval",
            unit="MAP",
            holds=lambda m: m["stemmed"] > m["plain"],
        ),
        Claim(
            id="fusion-is-significant",
            says="On the abstracts the gain of fusion over the better of both is more than chance (paired t-test).",
            source="our runs on Vaswani",
            unit="p",
            holds=lambda p: p < 0.05,
            kind="finding",
        ),
        Claim(
            id="windows-bear-noise",
            says="A judge that errs in a fifth of its comparisons still gains from windows that climb.",
            source="our oracle test",
            unit="nDCG@10",
            holds=lambda m: m["correct, noisy"] > m["first stage"] and m["correct, noisy"] >= m["original, noisy"],
            kind="finding",
        ),
        Claim(
            id="reranking-reaches-the-answer",
            says="Re-ranking changes what the answer is generated from, for a tenth of the questions at least.",
            source="the framework's premise",
            unit="share of questions",
            holds=lambda share: share >= 0.1,
        ),
        Claim(
            id="sliding-window-defect",
            says="With a perfect judge a correct sliding window reaches nDCG@10 of 1; the original's does not.",
            source="our oracle test",
            unit="nDCG@10",
            holds=lambda m: m["correct"] > 0.999 > m["original"],
            kind="finding",
        ),
    ),
)


@PAPER.study
def study(trial: Trial) -> None:
    """Retrieval and fusion on XQuAD and Vaswani; windows with an oracle; answers before and after re-ranking."""
    collections = {"xquad": _xquad(trial), "vaswani": _vaswani(trial)}
    rows: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    found: dict[tuple[str, str], Any] = {}
    for done, (name, (documents, queries, qrels)) in enumerate(collections.items()):
        trial.progress(done, 4, f"searching {name}")
        runs = _runs(trial, name, documents, queries)
        for system, run in runs.items():
            measured = _evaluated(qrels, run)
            found[name, system] = measured
            rows.append({"collection": name, "system": system, **dict(measured)})
            if system in ("BM25", "dense", "fused"):
                values[f"{name} {system}"] = measured["nDCG@10"]
    trial.table("retrieval", rows)
    trial.measure("fusion-beats-both", values)
    plain, stemmed = found["vaswani", "BM25, no stemming"], found["vaswani", "BM25"]
    trial.measure("stemming-helps", {"stemmed": stemmed["AP"], "plain": plain["AP"]})
    better = max(("BM25", "dense"), key=lambda system: values[f"vaswani {system}"])
    trial.measure("fusion-is-significant", _chance(found["vaswani", "fused"], found["vaswani", better]))
    trial.progress(2, 4, "sliding windows")
    _windows(trial)
    trial.progress(3, 4, "answers")
    _answers(trial, collections["xquad"][0])
    trial.progress(4, 4, "done")


def _xquad(trial: Trial) -> tuple[list[Any], dict[str, str], dict[str, dict[str, int]]]:
    from fullrank import data
    from fullrank.search import Document

    count = trial.pick(smoke=12, quick=None, full=None)
    passages = data.load("xquad", "passages-en")[:count]
    kept = {record["id"] for record in passages}
    questions = [record for record in data.load("xquad", "questions-en") if record["passage_id"] in kept]
    return (
        [Document(record["id"], record["text"]) for record in passages],
        {record["id"]: record["question"] for record in questions},
        {record["id"]: {record["passage_id"]: 1} for record in questions},
    )


def _vaswani(trial: Trial) -> tuple[list[Any], dict[str, str], dict[str, dict[str, int]]]:
    """The whole collection; at the smallest scale what is relevant for a few queries, and as much beside it."""
    from fullrank import data
    from fullrank.search import Document

    qrels: dict[str, dict[str, int]] = {}
    for record in data.load("vaswani", "qrels"):
        qrels.setdefault(record["query"], {})[record["document"]] = record["relevance"]
    queries = {record["id"]: record["text"] for record in data.load("vaswani", "queries")}
    corpus = data.load("vaswani", "corpus")
    if trial.scale == "smoke":
        queries = dict(list(queries.items())[:8])
        relevant = {document for query in queries for document in qrels.get(query, {})}
        corpus = [record for place, record in enumerate(corpus) if record["id"] in relevant or place % 200 == 0]
    kept = {record["id"] for record in corpus}
    return (
        [Document(record["id"], record["text"]) for record in corpus],
        queries,
        {q: {d: g for d, g in grades.items() if d in kept} for q, grades in qrels.items() if q in queries},
    )


def _runs(trial: Trial, name: str, documents: Sequence[Any], queries: Mapping[str, str]) -> dict[str, Any]:
    from fullrank.search import BM25Retriever, Run, reciprocal_rank_fusion

    stemmed = BM25Retriever(stemming="en").build(documents).search(queries, 1000)
    plain = BM25Retriever().build(documents).search(queries, 1000)
    vectors = trial.tensors(f"vectors of {name} {trial.scale}", partial(_vectors, documents, queries))
    scores = vectors["queries"] @ vectors["documents"].T
    depth = min(1000, len(documents))
    best, places = scores.topk(depth, dim=1)
    ids = [document.id for document in documents]
    dense = Run(
        {
            query: {ids[place]: score for place, score in zip(row, values, strict=True)}
            for query, row, values in zip(queries, places.tolist(), best.tolist(), strict=True)
        }
    )
    fused = reciprocal_rank_fusion([stemmed, dense])
    return {"BM25, no stemming": plain, "BM25": stemmed, "dense": dense, "fused": fused}


def _vectors(documents: Sequence[Any], queries: Mapping[str, str]) -> dict[str, Any]:
    """MiniLM's vectors of unit length."""
    import torch

    from fullrank.search import load_encoder

    encoder = load_encoder()
    texts = [document.searched for document in documents]
    return {
        "documents": torch.as_tensor(encoder.encode(texts, normalize_embeddings=True, batch_size=64)),
        "queries": torch.as_tensor(encoder.encode(list(queries.values()), normalize_embeddings=True)),
    }


def _evaluated(qrels: Any, run: Any) -> Any:
    """Measures of a run that went through a TREC file."""
    from fullrank.order import evaluate
    from fullrank.search import Run

    names = ["nDCG@10", "AP", "RR", "R@100", "Success@1", "Success@5"]
    measured = evaluate(qrels, Run.from_trec(run.to_trec()), names, missing="zero")
    if dict(measured) != dict(evaluate(qrels, run, names, missing="zero")):
        raise RuntimeError("a run measures otherwise after it was written and read")
    return measured


def _chance(first: Any, second: Any) -> float:
    from fullrank.order import paired_test

    return paired_test(first.per_query["nDCG@10"], second.per_query["nDCG@10"]).p


def _windows(trial: Trial) -> None:
    """Lists of 100 with 8 relevant passages anywhere; a judge that is perfect, and one that errs."""
    import numpy as np

    from fullrank.order import evaluate

    lists = trial.pick(smoke=4, quick=200, full=1000)
    rng = np.random.default_rng(0)
    grades = [rng.permutation([1] * 8 + [0] * 92) for _ in range(lists)]
    qrels = {str(n): {str(place): int(g) for place, g in enumerate(row)} for n, row in enumerate(grades)}
    rows, scores = [], {}
    for noise in (0.0, 0.1, 0.2, 0.3):
        for name, order in (("correct", _climbing), ("original", _standing)):
            judge_rng = np.random.default_rng(1)
            run = {str(n): _descending(order(_judge(row, noise, judge_rng), len(row))) for n, row in enumerate(grades)}
            value = evaluate(qrels, run, "nDCG@10")["nDCG@10"]
            rows.append({"windows": name, "noise": noise, "nDCG@10": value})
            scores[name, noise] = value
    first = {str(n): _descending(range(len(row))) for n, row in enumerate(grades)}
    before = evaluate(qrels, first, "nDCG@10")["nDCG@10"]
    trial.table("windows", [{"windows": "none (first stage)", "noise": 0.0, "nDCG@10": before}, *rows])
    trial.measure("sliding-window-defect", {name: scores[name, 0.0] for name in ("correct", "original")})
    trial.measure(
        "windows-bear-noise",
        {
            "first stage": before,
            "correct, noisy": scores["correct", 0.2],
            "original, noisy": scores["original", 0.2],
        },
    )


def _judge(grades: Any, noise: float, rng: Any) -> Callable[[str, Sequence[str]], list[int]]:
    """Orders passages by comparisons of neighbours, of which a share is wrong."""

    def order(query: str, texts: Sequence[str]) -> list[int]:
        places = list(range(len(texts)))
        for done in range(len(places)):
            for at in range(len(places) - 1, done, -1):
                lower, upper = grades[int(texts[places[at]])], grades[int(texts[places[at - 1]])]
                wrong = noise > 0 and rng.random() < noise
                if (lower > upper) != (wrong and lower != upper):
                    places[at - 1], places[at] = places[at], places[at - 1]
        return places

    return order


def _climbing(judge: Any, count: int) -> list[int]:
    from fullrank.search import SlidingWindowReranker

    return SlidingWindowReranker(judge, 20, 10).order("q", [str(place) for place in range(count)])


def _standing(judge: Any, count: int) -> list[int]:
    """The original's loop: every window is read from the FIRST order and written into the result."""
    from fullrank.search.listwise import windows

    result = list(range(count))
    for start, end in windows(count, 20, 10):
        original = list(range(start, end))
        order = judge("q", [str(place) for place in original])
        result[start:end] = [original[place] for place in order]
    return list(dict.fromkeys(result)) + [place for place in range(count) if place not in set(result)]


def _descending(order: Sequence[int]) -> dict[str, float]:
    return {str(place): float(-rank) for rank, place in enumerate(order)}


def _answers(trial: Trial, documents: Sequence[Any]) -> None:
    """An extractive reader over the best passage of BM25, and after re-ranking ten by MiniLM."""
    from fullrank import data
    from fullrank.search import BM25Retriever, ExtractiveReader, answer_questions, load_encoder, reranker
    from fullrank.search.answer_measures import contains, exact_match

    reorder = reranker("bi-encoder", load_encoder())
    limit = trial.pick(smoke=6, quick=200, full=None)
    rows, changed, asked = [], 0, 0
    for language, stopwords in (("en", "en"), ("zh", None)):
        kept = {document.id for document in documents}
        passages = [r for r in data.load("xquad", f"passages-{language}") if r["id"] in kept]
        collection = [_document(record) for record in passages]
        questions = [r for r in data.load("xquad", f"questions-{language}") if r["passage_id"] in kept][:limit]
        retriever = BM25Retriever(stopwords=stopwords).build(collection)
        texts = {record["id"]: record["question"] for record in questions}
        answered = {
            name: answer_questions(
                texts, retriever, collection, ExtractiveReader("span"), reranker=again, n_docs=10, top_k=1
            )
            for name, again in (("BM25", None), ("re-ranked", reorder))
        }
        for name, answers in answered.items():
            pairs = [(answers[r["id"]].answer, r["answers"]) for r in questions]
            rows.append(
                {
                    "language": language,
                    "contexts": name,
                    "exact match %": 100 * sum(exact_match(a.text, g) for a, g in pairs) / len(pairs),
                    "answer in the sentence %": 100
                    * sum(contains(a.metadata.get("sentence", ""), g) for a, g in pairs)
                    / len(pairs),
                }
            )
        firsts = [[answered[name][r["id"]].ranking.documents[:1] for r in questions] for name in answered]
        changed += sum(one != other for one, other in zip(*firsts, strict=True))
        asked += len(questions)
    trial.table("answers", rows)
    trial.measure("reranking-reaches-the-answer", changed / asked)


def _document(record: Mapping[str, Any]) -> Any:
    from fullrank.search import Document

    return Document(record["id"], record["text"])
