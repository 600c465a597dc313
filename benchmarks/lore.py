"""DQ-LoRe's steps beside plain ones: re-ranking in low rank, scoring of candidates, the likeliest set.

Re-ranking orders 64 candidates of 768 numbers for each of 200 queries; the peer fits scikit-learn's PCA for every
query (target: at least 5 times faster, in the same order; and 1,000 queries below 0.5 s on two cores). Scoring reads
24 candidates of a problem of GSM8K with a decoder of 6 layers of 384 numbers and random weights; the peer reads pair
by pair, with the logits of all places (target: at least 3 times faster; one pair keeps a core busy already, so there
only the logits that are left out are won). The likeliest set of 8 of 64 is found greedily; the peer takes the
determinant of every set that is one larger.

    python benchmarks/lore.py [THREADS]      (1 by default)
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

from _timing import alternate, seconds, show, timed
from fullrank import data
from fullrank.search import Exemplar, LoReReranker, PromptTemplate, load_encoder, score_candidates
from fullrank.search.determinantal import dpp_kernel, greedy_map
from fullrank.search.exemplar_candidates import solution_neighbours
from fullrank.search.exemplars import numbered_solution

QUERIES, CANDIDATES, WIDTH, COMPONENTS = 200, 64, 768, 16
COLUMNS = ["", "ours", "peer", "faster", "min-max", "agreement"]


def by_pca(queries: Any, candidates: Any, k: int) -> list[list[int]]:
    """Orders of all queries' candidates, a PCA for each."""
    orders = []
    for query, rows in zip(queries, candidates, strict=True):
        Z = PCA(k, svd_solver="full").fit_transform(np.concatenate([query[None], rows]))
        orders.append((-(Z[1:] @ Z[0])).argsort(kind="stable").tolist())
    return orders


def reranking(pairs: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((QUERIES, WIDTH), dtype=np.float32)
    candidates = rng.standard_normal((QUERIES, CANDIDATES, WIDTH), dtype=np.float32)
    rows = []
    for k, name in ((COMPONENTS, f"{COMPONENTS} components"), (CANDIDATES, "as many as candidates")):
        lore = LoReReranker(k)
        same = np.mean(lore.rank(queries, candidates)[0] == np.array(by_pca(queries, candidates, k)))
        times = alternate(lambda r=lore: r.rank(queries, candidates), lambda k=k: by_pca(queries, candidates, k), pairs)
        rows.append([f"{QUERIES} queries, {name}", *times.cells(), f"{same:.2%} of places"])
    many, sets = np.tile(queries, (5, 1)), np.tile(candidates, (5, 1, 1))
    rows.append(
        [
            f"{len(many):,} queries, {COMPONENTS} components",
            seconds(timed(lambda: LoReReranker(COMPONENTS).rank(many, sets))),
        ]
    )
    return rows


def pair_by_pair(lm: Any, tokenizer: Any, prompts: list[str], targets: list[str]) -> list[float]:
    """Mean log-likelihood per token of every target, one forward pass each."""
    scores = []
    for prompt, target in zip(prompts, targets, strict=True):
        head, tail = tokenizer(prompt).input_ids, tokenizer(target, add_special_tokens=False).input_ids
        with torch.no_grad():
            logs = lm(torch.tensor([[*head, *tail]])).logits[0].log_softmax(-1)
        scores.append(float(logs[len(head) - 1 : -1].gather(1, torch.tensor(tail)[:, None]).mean()))
    return scores


def scoring(pairs: int) -> list[list[str]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer: Any = load_encoder().tokenizer
    torch.manual_seed(0)
    tokenizer.model_max_length = 1024
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=384, n_layer=6, n_head=6, n_positions=1024,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    lm = GPT2LMHeadModel(config).eval()
    pool = [Exemplar(str(row["id"]), row["question"], row["answer"]) for row in data.load("gsm8k-mini", "train")[:500]]
    # As `rank_candidates` asks them, exemplar by exemplar; every one is a candidate of about 24 questions.
    near = solution_neighbours(pool, 24)
    asked = sorted((place, sample) for sample, row in enumerate(near) for place in row)[:96]
    prompts = [PromptTemplate()([pool[place]], pool[sample].question) for place, sample in asked]
    targets = [numbered_solution(pool[sample].solution) for _, sample in asked]
    tokens = sum(map(len, tokenizer([a + b for a, b in zip(prompts, targets, strict=True)]).input_ids))
    ours, peer = score_candidates(lm, tokenizer, prompts, targets), pair_by_pair(lm, tokenizer, prompts, targets)
    times = alternate(
        lambda: score_candidates(lm, tokenizer, prompts, targets),
        lambda: pair_by_pair(lm, tokenizer, prompts, targets),
        pairs,
    )
    speeds = [f"{tokens / sorted(side)[len(side) // 2]:,.0f} tokens/s" for side in (times.ours, times.peer)]
    name = f"{len(prompts)} pairs, {tokens:,} tokens"
    return [[name, *speeds, *times.cells()[2:], f"{np.abs(np.subtract(ours, peer)).max():.0e} apart"]]


def by_determinants(kernel: torch.Tensor, n: int) -> list[int]:
    """The greedy set, with the determinant of every set that is one larger."""
    chosen: list[int] = []
    for _ in range(n):
        rest = [item for item in range(len(kernel)) if item not in chosen]
        sets = torch.tensor([[*chosen, item] for item in rest])
        parts = kernel[sets.unsqueeze(-1), sets.unsqueeze(-2)]
        chosen.append(rest[int(torch.linalg.det(parts).argmax())])
    return chosen


def likeliest_sets(pairs: int) -> list[list[str]]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(50, WIDTH, generator=generator, dtype=torch.float64)
    candidates = torch.randn(50, CANDIDATES, WIDTH, generator=generator, dtype=torch.float64)
    kernels = list(dpp_kernel(queries, candidates))
    same = np.mean([greedy_map(kernel, 8) == by_determinants(kernel, 8) for kernel in kernels])
    times = alternate(
        lambda: [greedy_map(kernel, 8) for kernel in kernels], lambda: [by_determinants(k, 8) for k in kernels], pairs
    )
    return [[f"8 of {CANDIDATES}, {len(kernels)} kernels", *times.cells(), f"{same:.0%} of sets"]]


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="n_components=.*nothing is dropped")  # nothing is to be, in one row
    show(f"re-ranking against scikit-learn's PCA, {threads} threads", COLUMNS, reranking(3))
    show("scoring against one pass a pair", COLUMNS, scoring(3))
    show("greedy likeliest set against determinants", COLUMNS, likeliest_sets(5))


if __name__ == "__main__":
    main()
