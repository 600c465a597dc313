"""DQ-LoRe: Dual Queries with Low Rank Approximation Re-ranking for In-Context Learning (DQ-LoRe)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import mean_and_spread

_MODEL = "a GPU, and a language model that can follow exemplars"
_GPT = "the commercial language models of the paper"

PAPER = Paper(
    slug="dq-lore",
    title="DQ-LoRe: Dual Queries with Low Rank Approximation Re-ranking for In-Context Learning",
    authors=13,
    published="2023-10-04",
    arxiv="2310.02954",
    position=5,
    repository="https://github.com/AI4fun/DQ-LoRe",
    venue="ICLR 2024",
    topics=(
        "retrieval",
        "language",
    ),
    summary=(
        "Good in-context examples for reasoning should match the reasoning, not only the question. DQ-LoRe asks"
        " the model for a first chain of thought, retrieves with question plus thought through a trained "
        "encoder, then projects the candidates to a few principal components and ranks again to drop redundant "
        "similarity. GPT-4 gains from 92.5 % to 94.2 % in the reported setting, more under distribution shift."
    ),
    methods=(
        "fullrank.search.dq_lore.LoReReranker",
        "fullrank.search.dual_query.DualQuerySelector",
        "fullrank.search.exemplar_retriever.ExemplarRetriever",
        "fullrank.search.exemplar_training.EPRTrainer",
        "fullrank.search.exemplar_training.CEILTrainer",
    ),
    usage="""\
import numpy as np
from fullrank.search import LoReReranker

pool = np.random.default_rng(0).normal(size=(64, 384))     # vectors of the candidates, not normalised
order, scores = LoReReranker(16).rank(pool[3], pool, k=8)  # 16 principal components of the candidates
print(order)
""",
    notes=(
        "The official projection takes the first coordinates of the singular vectors as if they were the items, so its "
        "scores flip with the signs of the vectors; ours follows the paper. The code keeps 128 components of 16 "
        "candidates, where reduction drops nothing and the order is that of centred inner products; a low-rank effect "
        "needs fewer components than candidates. Its training scores leave out the reference solution and are sorted "
        "in ascending order, and its accuracy divides by the parsable answers only. Embeddings are not normalised; on "
        "normalised ones re-ranking changes little."
    ),
    claims=(
        Claim(
            id="gsm8k-gpt4",
            says="With GPT-4 on GSM8K accuracy rises from 92.5 % (CEIL, the best retrieval baseline) to 94.2 %.",
            source="abstract (that the baseline is CEIL: a secondary summary of Table 2)",
            paper_value={"CEIL": 92.5, "DQ-LoRe": 94.2},
            unit="%",
            needs=_GPT,
        ),
        Claim(
            id="svamp-shift",
            says="Trained on GSM8K and tested on SVAMP, GPT-3.5-turbo reaches 90.0 %, clearly above EPR and CEIL.",
            source="secondary summary",
            paper_value=90.0,
            unit="%",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="gsm8k-aqua-best",
            says="DQ-LoRe is the best of EPR, CEIL, Auto-CoT and Complex-CoT on GSM8K and AQUA.",
            source="secondary summary",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="svamp-iid-epr",
            says="On SVAMP itself EPR is better than DQ-LoRe, because of word overlap.",
            source="secondary summary",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="farthest-exemplars",
            says="With the eight farthest exemplars text-davinci-003 reaches only 48.1 % on GSM8K.",
            source="secondary summary",
            paper_value=48.1,
            unit="%",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="initial-exemplars",
            says=(
                "As initial exemplars random is below Complex-CoT, which is below Socratic-CoT; EPR and CEIL "
                "beat random."
            ),
            source="secondary summary",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="gsm8k-gpt35",
            says=(
                "With gpt-3.5-turbo-16k on GSM8K DQ-LoRe reaches 80.7 % (CoT 77.0, Complex-CoT 79.3, EPR 77.3, "
                "CEIL 79.4)."
            ),
            source="recalled",
            paper_value={"CoT": 77.0, "Complex-CoT": 79.3, "EPR": 77.3, "CEIL": 79.4, "DQ-LoRe": 80.7},
            unit="%",
            needs=_GPT,
            confirmed=False,
        ),
        Claim(
            id="dual-query",
            says=(
                "A query of question and draft solution finds more useful exemplars than the question alone, "
                "and both more than chance."
            ),
            source="abstract, with overlap of arithmetic operators as stand-in for usefulness",
            unit="operator similarity",
            holds=lambda m: m["dual"] > m["question"] > m["random"],
        ),
        Claim(
            id="lore-on-raw-embeddings",
            says=(
                "On unnormalised embeddings low-rank re-ranking finds more useful exemplars than the plain "
                "inner product."
            ),
            source="abstract, with overlap of arithmetic operators as stand-in for usefulness",
            unit="operator similarity",
            holds=lambda m: m["LoRe"] > m["inner product"],
        ),
        Claim(
            id="lore-on-a-cone",
            says=(
                "Where all embeddings share one dominant direction LoRe recovers the true neighbours and the "
                "plain inner product stays near chance."
            ),
            source="abstract, on synthetic candidates",
            unit="recall, 8 of 64",
            holds=lambda m: m["LoRe"] >= 0.9 and m["inner product"] <= 0.3,
        ),
        Claim(
            id="normalised-hardly-gain",
            says="On normalised vectors LoRe changes little.",
            source="our pilot on GSM8K with MiniLM",
            unit="operator similarity",
            holds=lambda m: abs(m["LoRe"] - m["inner product"]) < 0.01,
            kind="finding",
        ),
        Claim(
            id="training-helps",
            says="The retriever trained by contrast finds more useful exemplars than the untrained encoder.",
            source="abstract (trained retriever), with operator similarity in place of a language model's score",
            unit="operator similarity",
            holds=lambda m: m["trained"] > m["untrained"],
        ),
        Claim(
            id="likelihood-order",
            says=(
                "The likelihood of the reference solution given the eight exemplars rises from random over BM25, EPR "
                "and the dual query to the dual query with LoRe."
            ),
            source="ordering of the results on GSM8K (secondary summary)",
            unit="log-likelihood per token",
            needs=_MODEL,
            confirmed=False,
        ),
        Claim(
            id="likelihood-under-shift",
            says=(
                "With the retriever trained on GSM8K, exemplars for SVAMP make the reference solution more likely when "
                "chosen by the dual query with LoRe than by EPR or CEIL."
            ),
            source="ordering of the results under shift (secondary summary)",
            unit="log-likelihood per token",
            needs=_MODEL,
            confirmed=False,
        ),
        Claim(
            id="many-components-only-centre",
            says=(
                "With at least as many components as candidates, as in the official code (128 of 16), LoRe gives "
                "exactly the order of centred inner products."
            ),
            source="rank of the centred matrix",
            unit="share of equal orders",
            holds=lambda share: share == 1.0,
            kind="finding",
        ),
        Claim(
            id="official-projection-depends-on-signs",
            says=(
                "The official projection's order changes when singular vectors change their arbitrary sign; the "
                "paper's does not."
            ),
            source="official code",
            unit="share of queries whose order changes",
            holds=lambda m: m["official"] > 0 and m["paper"] == 0,
            kind="finding",
        ),
    ),
)

_OPERATORS = re.compile(r"<<[^<>]*?=[^<>]*>>")
_SIGNS = re.compile(r"[+\-*/]")


@PAPER.study
def study(trial: Trial) -> None:
    """Exemplars for GSM8K by MiniLM: one query, two queries, LoRe; a trained head; a synthetic cone."""
    train_count, test_count = trial.pick(smoke=(80, 12), quick=(1200, 200), full=(2000, 500))
    pool, tests = _problems("train", train_count), _problems("test", test_count)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_components=.*nothing is dropped")
        trial.progress(0, 5, "encoding")
        vectors = _vectors(trial, pool, tests)
        usefulness = _usefulness(pool, tests)
        trial.progress(1, 5, "selecting")
        chosen = _selections(trial, pool, tests, vectors)
        scores = {name: _mean_usefulness(usefulness, places) for name, places in chosen.items()}
        trial.progress(2, 5, "training")
        trained = _trained_heads(trial, pool, vectors, usefulness)
        trial.progress(3, 5, "a cone")
        cone = _cone(trial.seeds if trial.scale == "smoke" else tuple(range(5)))
        trial.progress(4, 5, "signs")
        signs = _signs(vectors, chosen["dual, inner product"])
        centred = _centred_orders(vectors, chosen["candidates"])
    trial.measure(
        "dual-query",
        {"random": scores["random"], "question": scores["question"], "dual": scores["dual"]},
    )
    trial.measure(
        "lore-on-raw-embeddings",
        {"inner product": scores["dual, inner product"], "LoRe": scores["dual, inner product + LoRe (inner)"]},
    )
    trial.measure("lore-on-a-cone", *mean_and_spread(cone))
    trial.measure("normalised-hardly-gain", {"inner product": scores["dual"], "LoRe": scores["dual + LoRe (inner)"]})
    trial.measure("training-helps", *mean_and_spread({name: trained[name] for name in ("trained", "untrained")}))
    trial.measure("many-components-only-centre", centred)
    trial.measure("official-projection-depends-on-signs", signs)
    oracle = [sorted(range(len(row)), key=lambda place, row=row: -row[place])[:8] for row in usefulness]
    rows = [{"exemplars": name, "operator similarity": value} for name, value in scores.items() if name != "candidates"]
    rows += [{"exemplars": name, "operator similarity": _average(values)} for name, values in trained.items()]
    rows.append({"exemplars": "oracle", "operator similarity": _mean_usefulness(usefulness, oracle)})
    trial.table("selections", rows)
    halves = _halves(usefulness, chosen)
    trial.note(
        f"In {halves} of 3 bootstrap halves of the test problems the dual query is above the question, and that above "
        "chance. The draft of the first call is the reference solution without its marks, so the dual query has the "
        "best draft there is; with 30 % of its sentences from other problems it keeps "
        f"{scores['dual, corrupted draft']:.3f} of {scores['dual']:.3f}."
    )
    trial.progress(5, 5, "done")


def _problems(split: str, count: int) -> list[Any]:
    from fullrank import data
    from fullrank.search.exemplars import Exemplar

    return [Exemplar(str(r["id"]), r["question"], r["answer"]) for r in data.load("gsm8k-mini", split)[:count]]


def _vectors(trial: Trial, pool: Sequence[Any], tests: Sequence[Any]) -> dict[str, Any]:
    """MiniLM's means of token vectors, not normalised."""
    import numpy as np
    import torch

    from fullrank.search import load_encoder
    from fullrank.search.exemplars import plain_solution

    encoder = load_encoder()
    pooled = torch.nn.Sequential(*list(encoder)[:2]) if len(list(encoder)) > 2 else encoder
    rng = np.random.default_rng(0)
    sentences = [line for e in pool for line in plain_solution(e.solution).splitlines()]

    def corrupted(exemplar: Any) -> str:
        lines = plain_solution(exemplar.solution).splitlines()
        return "\n".join(sentences[int(rng.integers(len(sentences)))] if rng.random() < 0.3 else x for x in lines)

    texts = {
        "pool": [e.text for e in pool],
        "pool questions": [e.question for e in pool],
        "questions": [e.question for e in tests],
        "dual": [e.text for e in tests],
        "corrupted": [f"{e.question}\t{corrupted(e)}" for e in tests],
    }
    encode = type(encoder)(modules=list(pooled)).encode

    def encoded(part: list[str]) -> dict[str, Any]:
        return {"vectors": torch.as_tensor(encode(part, show_progress_bar=False))}

    found = {name: trial.tensors(f"{len(part)} {name}", partial(encoded, part)) for name, part in texts.items()}
    return {name: part["vectors"] for name, part in found.items()}


def _usefulness(pool: Sequence[Any], tests: Sequence[Any]) -> list[list[float]]:
    """Normalised edit similarity of the sequences of operators, (tests, pool)."""
    known = [_operators(e.solution) for e in pool]
    return [[_similarity(_operators(test.solution), other) for other in known] for test in tests]


def _operators(solution: str) -> str:
    return "".join(_SIGNS.findall("".join(mark.partition("=")[0] + " " for mark in _OPERATORS.findall(solution))))


def _similarity(first: str, second: str) -> float:
    """1 - edit distance / the longer length."""
    if not first and not second:
        return 1.0
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return 1 - row[-1] / max(len(first), len(second))


def _selections(trial: Trial, pool: Any, tests: Any, vectors: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Places in the pool of eight exemplars for every test problem, by method; and the 64 candidates."""
    import numpy as np
    from torch.nn.functional import normalize

    from fullrank.search import LoReReranker
    from fullrank.search.exemplar_selection import complex_exemplars, gram_schmidt_order, lexical_exemplars

    place = {exemplar.id: number for number, exemplar in enumerate(pool)}
    rng = np.random.default_rng(0)
    unit = {name: normalize(part, dim=-1) for name, part in vectors.items()}
    found: dict[str, list[list[int]]] = {
        "random": [rng.permutation(len(pool))[:8].tolist() for _ in tests],
        "BM25": [[place[e.id] for e in row] for row in lexical_exemplars(pool, [t.question for t in tests], 8)],
        "Complex-CoT": [[place[e.id] for e in complex_exemplars(pool, 8)]] * len(tests),
        "question": _nearest(unit["questions"], unit["pool questions"], 8),
        "dual": _nearest(unit["dual"], unit["pool"], 8),
        "dual, corrupted draft": _nearest(unit["corrupted"], unit["pool"], 8),
        "dual, inner product": _nearest(vectors["dual"], vectors["pool"], 8),
        "candidates": _nearest(vectors["dual"], vectors["pool"], 64),
    }
    for name, lore in (("inner", LoReReranker(16)), ("rbf", LoReReranker(16, "rbf"))):
        found[f"dual, inner product + LoRe ({name})"] = _reranked(lore, vectors, found["candidates"])
        near = _nearest(unit["dual"], unit["pool"], 64)
        found[f"dual + LoRe ({name})"] = _reranked(lore, unit, near)
    near = _nearest(unit["questions"], unit["pool questions"], 64)
    found["MGS"] = [[row[item] for item in gram_schmidt_order(unit["pool questions"][row], 8)] for row in near]
    found["farthest"] = _nearest(-unit["questions"], unit["pool questions"], 8)
    return found


def _nearest(queries: Any, pool: Any, k: int) -> list[list[int]]:
    return (queries @ pool.T).topk(min(k, len(pool)), dim=1).indices.tolist()


def _reranked(lore: Any, vectors: dict[str, Any], candidates: list[list[int]]) -> list[list[int]]:
    import torch

    rows = torch.tensor(candidates)
    order, _ = lore.rank(vectors["dual"], vectors["pool"][rows], 8)
    return rows.gather(1, order).tolist()


def _mean_usefulness(usefulness: Any, places: list[list[int]]) -> float:
    return _average([usefulness[n][place] for n, row in enumerate(places) for place in row[:8]])


def _average(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def _halves(usefulness: Any, chosen: dict[str, list[list[int]]]) -> int:
    """In how many of three random halves of the test problems the order of the dual-query claim holds."""
    import numpy as np

    held = 0
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(len(usefulness))[: len(usefulness) // 2].tolist()
        means = [
            _mean_usefulness([usefulness[n] for n in rows], [chosen[name][n] for n in rows])
            for name in ("dual", "question", "random")
        ]
        held += means[0] > means[1] > means[2]
    return held


def _trained_heads(trial: Trial, pool: Any, vectors: dict[str, Any], usefulness: Any) -> dict[str, list[float]]:
    """Linear heads on frozen vectors, trained with operator similarity in place of a language model's score."""
    from fullrank.search.exemplar_candidates import sampled_sets, solution_neighbours

    limit = trial.pick(smoke=60, quick=600, full=2000)
    scale = vectors["pool"].norm(dim=-1).mean()
    parts = {name: part / scale for name, part in vectors.items()}
    near = solution_neighbours(pool)[:limit]
    known = [_operators(e.solution) for e in pool]
    worth = [{n: _similarity(known[sample], known[n]) for n in row} for sample, row in enumerate(near)]
    ranked = [sorted(row, key=lambda n, of=of: -of[n]) for row, of in zip(near, worth, strict=True)]
    questions = parts["pool questions"]
    drawn = trial.step(
        f"sets of {len(near)}", partial(sampled_sets, questions[: len(near)], questions, near, 8, count=10)
    )
    sets = [
        sorted(row, key=lambda places, of=of: -sum(of[n] for n in places)) for row, of in zip(drawn, worth, strict=True)
    ]
    found: dict[str, list[float]] = {}
    for seed in trial.seeds if trial.scale != "smoke" else trial.seeds[:1]:
        for name, places in trial.step(
            f"heads of {len(near)} seed {seed}", partial(_with_heads, parts, ranked, sets, seed)
        ).items():
            found.setdefault(name, []).append(_mean_usefulness(usefulness, places))
    return found


def _with_heads(
    parts: dict[str, Any], ranked: list[list[int]], sets: list[list[list[int]]], seed: int
) -> dict[str, list[list[int]]]:
    """DQ-LoRe's head, for questions with solutions, and those of EPR and CEIL, for questions alone."""
    import torch

    from fullrank.search import LoReReranker
    from fullrank.search.exemplar_training import CEILTrainer, EPRTrainer

    options = {"lr": 2e-3, "epochs": 20, "seed": seed}
    dual, epr, ceil = (_head(parts["pool"].shape[1], seed) for _ in range(3))
    EPRTrainer(dual, **options).fit(parts["pool"], ranked)
    EPRTrainer(epr, **options).fit(parts["pool questions"], ranked)
    CEILTrainer(ceil, **options).fit(parts["pool questions"], sets)
    with torch.no_grad():
        projected = {name: dual(parts[name]) for name in ("pool", "dual")}
        asked = {name: epr(parts[name]) for name in ("pool questions", "questions")}
        various = {name: ceil(parts[name]) for name in ("pool questions", "questions")}
    candidates = _nearest(projected["dual"], projected["pool"], 64)
    return {
        "untrained": _nearest(parts["dual"], parts["pool"], 8),
        "trained": [row[:8] for row in candidates],
        "trained + LoRe": _reranked(LoReReranker(16, "rbf"), projected, candidates),
        "EPR, untrained": _nearest(parts["questions"], parts["pool questions"], 8),
        "EPR, trained": _nearest(asked["questions"], asked["pool questions"], 8),
        "CEIL, untrained": _most_various(parts),
        "CEIL, trained": _most_various(various),
    }


def _head(width: int, seed: int) -> Any:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Linear(width, 128, bias=False)


def _most_various(parts: dict[str, Any]) -> list[list[int]]:
    """CEIL's eight of the 64 nearest questions: the set of the largest determinant, found greedily."""
    from torch.nn.functional import normalize

    from fullrank.search.determinantal import dpp_kernel, greedy_map

    queries, pool = (normalize(parts[name], dim=-1) for name in ("questions", "pool questions"))
    near = _nearest(queries, pool, 64)
    return [
        [row[item] for item in greedy_map(dpp_kernel(query, pool[row]), 8)]
        for query, row in zip(queries, near, strict=True)
    ]


def _cone(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Candidates c + a small informative part: how many of the eight true neighbours are among the first eight."""
    import numpy as np

    from fullrank.search import LoReReranker

    found: dict[str, list[float]] = {"inner product": [], "LoRe": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        direction = rng.standard_normal(128)
        direction *= 200 / np.linalg.norm(direction)
        basis = np.linalg.qr(np.column_stack([direction, rng.standard_normal((128, 8))]))[0][:, 1:]
        near = np.zeros(64)
        near[rng.permutation(64)[:8]] = 1
        parts = rng.standard_normal((64, 8))
        target = rng.standard_normal(8) * 3
        parts[near > 0] = target + 0.3 * rng.standard_normal((8, 8))
        rows = direction * (1 + 0.005 * rng.standard_normal((64, 1))) + parts @ basis.T
        query = direction + target @ basis.T
        wanted = set(np.flatnonzero(near).tolist())
        lore = LoReReranker(9, "rbf")
        plain = LoReReranker(None, center=False)
        for name, ranker in (("inner product", plain), ("LoRe", lore)):
            found[name].append(len(wanted & set(ranker.rank(query, rows, 8)[0].tolist())) / 8)
    return found


def _centred_orders(vectors: dict[str, Any], candidates: list[list[int]]) -> float:
    """Share of queries for which 128 components of 16 candidates give the order of centred inner products."""
    from fullrank.search import LoReReranker

    same = 0
    for query, row in zip(vectors["dual"], candidates, strict=True):
        near = vectors["pool"][row[:16]]
        many = LoReReranker(128).rank(query, near)[0]
        centred = LoReReranker(None).rank(query, near)[0]
        same += many.tolist() == centred.tolist()
    return same / len(candidates)


def _signs(vectors: dict[str, Any], places: list[list[int]]) -> dict[str, float]:
    """Share of queries whose order changes when half of the singular vectors change their sign."""
    import torch

    changed = {"official": 0, "paper": 0}
    projections: dict[str, Callable[[Any, Any, Any], Any]] = {"official": _official, "paper": _paper}
    for query, row in zip(vectors["dual"], places, strict=True):
        X = torch.cat([query[None], vectors["pool"][row]]).double()
        X = X - X.mean(0)
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
        flip = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(S))[: len(S)]
        for name, project in projections.items():
            orders = [_order(project(*parts)) for parts in ((U, S, Vh), (U * flip, S, flip[:, None] * Vh))]
            changed[name] += orders[0] != orders[1]
    return {name: count / len(places) for name, count in changed.items()}


def _official(U: Any, S: Any, Vh: Any) -> Any:
    """The first four coordinates of the singular vectors, row i taken as item i."""
    return Vh[:, :4]


def _paper(U: Any, S: Any, Vh: Any) -> Any:
    return U[:, :4] * S[:4]


def _order(Z: Any) -> list[int]:
    return (Z[1:] @ Z[0]).argsort(descending=True).tolist()
