"""Choosing exemplars: retrieval, the dual query, training, prompts and answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fullrank.search.dq_lore import LoReReranker
from fullrank.search.dual_query import DualQuerySelector, EPRTrainer
from fullrank.search.exemplars import (
    Exemplar,
    ExemplarRetriever,
    accuracy,
    complex_exemplars,
    final_answer,
    lexical_exemplars,
    numbered_solution,
    prompt_of,
    random_exemplars,
)

from .conftest import HashEncoder

POOL = [Exemplar(f"e{n}", f"question {n}", "\n".join(["step"] * (n % 4 + 1)) + f"\n#### {n}") for n in range(20)]


def retriever(dim=8):
    return ExemplarRetriever(HashEncoder(dim)).index(POOL)


def test_the_nearest_are_found_and_saved(tmp_path):
    made = retriever()
    found = made.search(POOL[3].text, 5)
    vector = made.encode([POOL[3].text])[0]
    scores = made.vectors @ vector
    assert [exemplar.id for exemplar, _ in found] == [f"e{place}" for place in scores.topk(5).indices.tolist()]
    assert "e3" not in [exemplar.id for exemplar, _ in made.search(POOL[3].text, 19, exclude_ids=["e3"])]
    again = ExemplarRetriever.load(made.save(tmp_path), HashEncoder(8))
    assert again.search("a text", 4) == made.search("a text", 4)


def test_the_dual_query_searches_with_the_draft():
    asked = []

    def generate(prompts):
        asked.extend(prompts)
        return ["a draft" if "question x" in prompt.splitlines()[-2] else " " for prompt in prompts]

    made = retriever()
    selector = DualQuerySelector(generate, made, n_shots=3, n_candidates=10, reranker=None)
    with pytest.warns(UserWarning, match="1 of 2 drafts are empty"):
        first, second = selector.select(["question x", "question y"])
    assert list(first.exemplars) == [e for e, _ in made.search("question x\ta draft", 3)]
    assert list(second.exemplars) == [e for e, _ in made.search("question y", 3)]
    assert first.draft == "a draft"
    assert first.prompt.endswith("Question: question x\nLet's think step by step.\n")
    assert asked[0].count("Question:") == 4
    lore = LoReReranker(2)
    reranked = DualQuerySelector(generate, made, lore, n_shots=3, n_candidates=10).select(["question x"])[0]
    assert set(reranked.exemplars) <= {e for e, _ in made.search("question x\ta draft", 10)}
    small = ExemplarRetriever(HashEncoder(8)).index(POOL[:2])
    selector = DualQuerySelector(lambda prompts: ["draft"] * len(prompts), small, reranker=None)
    with pytest.warns(UserWarning, match="the pool has 2 exemplars"):
        chosen = selector.select(["q"])[0]
    assert len(chosen.exemplars) == 2


def test_training_brings_what_helps_near():
    vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    hidden = vectors[:, :2]
    ranked = []
    for n in range(30):
        near = (hidden @ hidden[n]).argsort(descending=True).tolist()
        ranked.append([place for place in near if place != n])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(6, 4)
    losses = EPRTrainer(head, top=3, lr=0.03, epochs=15).fit(vectors, ranked)
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(ValueError, match="sample 0 has 3 candidates; 2 x top=10"):
        EPRTrainer(head).fit(vectors[:1], [[0, 1, 2]])


def test_baselines():
    assert [e.steps for e in complex_exemplars(POOL, 5)] == [5] * 5
    assert random_exemplars(POOL, 4, seed=1) == random_exemplars(POOL, 4, seed=1) != random_exemplars(POOL, 4, seed=2)
    chosen = lexical_exemplars(POOL, ["question 7", "nothing"], 3)
    assert all(len(row) == 3 for row in chosen)


def test_prompts_and_answers():
    solution = "She has 2*3=<<2*3=6>>6 eggs.\nSo 6 + 1 = 7.\n#### 7"
    assert numbered_solution(solution) == "1. She has 2*3=6 eggs.\n2. So 6 + 1 = 7.\nThe answer is 7"
    assert prompt_of([Exemplar("a", "How many?", solution)], "And now?").count("think step by step") == 2
    assert final_answer("so 5 then #### 1,234") == "1234"
    assert final_answer("The answer is 42.") == "42"
    assert final_answer("first 3, then -4.5") == "-4.5"
    assert final_answer("none") is None
    assert accuracy(["#### 7", "no idea"], ["#### 7.0", "#### 1"]) == 0.5


def test_bad_calls(unchecked):
    for call, words in [
        (lambda: ExemplarRetriever(HashEncoder()).index([]), r"exemplars=\[\]"),
        (lambda: ExemplarRetriever(HashEncoder()).index([POOL[0], POOL[0]]), "the same id"),
        (lambda: DualQuerySelector(list, retriever(), n_shots=0), "n_shots=0"),
        (lambda: DualQuerySelector(lambda prompts: [], retriever()).select(["q"]), "0 completions for 1 prompts"),
        (lambda: EPRTrainer(nn.Identity(), top=0), "top=0"),
        (lambda: accuracy([], []), "0 references for 0 outputs"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        ExemplarRetriever(HashEncoder()).search("x", 1)
