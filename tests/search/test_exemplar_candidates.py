"""Candidates of a retriever's training, and the likelihoods that order them."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from fullrank.search.determinantal import dpp_kernel
from fullrank.search.exemplar_candidates import (
    rank_candidates,
    rank_sets,
    sampled_sets,
    score_candidates,
    solution_neighbours,
)
from fullrank.search.exemplars import PROMPT, Exemplar, numbered_solution

from .tiny_models import gpt2, tokenizer

POOL = [Exemplar(f"e{n}", f"a{letter} bb", f"cc {letter}{letter}\n#### {n}") for n, letter in enumerate("abcdef")]


def test_scores_are_means_of_log_likelihoods():
    lm, words = gpt2(), tokenizer()
    prompts, targets = ["aa bb cc", "dd", "aa bb", "ee ff gg hh ii"], ["xx yy", "zz", "xx", "yy zz xx"]
    scores = score_candidates(lm, words, prompts, targets, batch_size=3)
    for prompt, target, score in zip(prompts, targets, scores, strict=True):
        first, said = words(prompt).input_ids, words(target, add_special_tokens=False).input_ids
        with torch.no_grad():
            logs = lm(torch.tensor([[*first, *said]])).logits[0].log_softmax(-1)
        known = [float(logs[len(first) + t - 1, token]) for t, token in enumerate(said)]
        assert score == pytest.approx(np.mean(known), abs=1e-5)  # a mean: long solutions do not lose by their length
    assert score_candidates(lm, words, prompts, targets, batch_size=1) == pytest.approx(scores, abs=1e-5)
    assert score_candidates(lm, words, [], []) == []


def test_what_prompts_begin_with_is_read_once():
    lm, words = gpt2(), tokenizer()
    exemplars = ["aa bb cc dd ee ff gg hh " * 3, "hh gg ff ee dd cc bb aa " * 3]
    prompts = [exemplars[n % 2] + question for n, question in enumerate(["xx", "yy zz", "zz xx yy", "xx xx", "yy"] * 2)]
    prompts += ["aa bb", "cc"]
    targets = [["xx yy", "zz"][n % 2] for n in range(len(prompts))]
    read: list[int] = []
    hook = lm.get_input_embeddings().register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    scores = score_candidates(lm, words, prompts, targets)
    hook.remove()
    tokens = sum(map(len, words([f"{a} {b}" for a, b in zip(prompts, targets, strict=True)]).input_ids))
    assert sum(read) < tokens / 2
    alone = [score_candidates(lm, words, [a], [b])[0] for a, b in zip(prompts, targets, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)


def test_candidates_are_asked_for_exemplar_by_exemplar(monkeypatch):
    calls = []

    def score(prompts: list[str], targets: list[str]) -> list[float]:
        calls.append(prompts)
        return [float(len(prompt)) for prompt in prompts]

    monkeypatch.setattr("fullrank.search.exemplar_candidates._SCORED", 3)
    candidates = [[[1, 2], [3]], [[2], [0, 1]], [[1], []], [[0], [2]]]
    ranked = rank_sets(POOL, candidates, score)
    assert [len(prompts) for prompts in calls] == [3, 4, 1]
    prompts = [
        [PROMPT([POOL[p] for p in places], POOL[n].question) for places in row] for n, row in enumerate(candidates)
    ]
    assert sorted(itertools.chain(*calls)) == sorted(itertools.chain(*prompts))
    assert [sorted(row) for row in ranked] == [sorted(row) for row in candidates]
    assert ranked[0] == [[1, 2], [3]]
    assert ranked[2] == [[1], []]


def test_candidates_are_ordered_by_what_they_do_for_the_samples_own_solution():
    score = partial(score_candidates, gpt2(), tokenizer())
    ranked = rank_candidates(POOL, [[1, 2, 3, 4], [0, 3]], score)
    prompts = [PROMPT([POOL[place]], POOL[0].question) for place in ranked[0]]
    values = score(prompts, [numbered_solution(POOL[0].solution)] * 4)
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert (sorted(ranked[0]), sorted(ranked[1])) == ([1, 2, 3, 4], [0, 3])
    (sets,) = rank_sets(POOL, [[[1, 2], [3, 1], [4, 5]]], score)
    prompts = [PROMPT([POOL[place] for place in places], POOL[0].question) for places in sets]
    values = score(prompts, [numbered_solution(POOL[0].solution)] * 3)
    assert values == sorted(values, reverse=True)
    assert sorted(sets) == [[1, 2], [3, 1], [4, 5]]


def test_neighbours_share_words_of_the_solution_but_no_marks():
    pool = [
        Exemplar("a", "one", "apples are 2*3=<<2*3=6>>6\n#### 6"),
        Exemplar("b", "one", "pears <<2*3=6>> <<2*3=6>> <<2*3=6>>"),
        Exemplar("c", "two", "apples and plums"),
        Exemplar("d", "three", "plums"),
    ]
    near = solution_neighbours(pool, 2)
    assert near[0][0] == 2
    assert near[3][0] == 2
    assert all(len(row) == 2 and place not in row for place, row in enumerate(near))


def test_sets_are_drawn_by_their_determinants():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(9, 6, generator=generator)
    neighbours = [[1, 3, 5, 7], [0, 2, 4, 8]]
    (sets, other) = sampled_sets(vectors[:2], vectors, neighbours, 2, count=250, scale=0.5)
    assert all(len(set(places)) == 2 and set(places) <= {1, 3, 5, 7} for places in sets)
    assert {place for places in other for place in places} <= {0, 2, 4, 8}
    kernel = dpp_kernel(vectors[0], vectors[neighbours[0]], 0.5)
    volumes = {
        (neighbours[0][a], neighbours[0][b]): float(torch.det(kernel[[a, b]][:, [a, b]]))
        for a in range(4)
        for b in range(a + 1, 4)
    }
    seen = Counter(tuple(sorted(places)) for places in sets)
    for places, volume in volumes.items():
        assert seen[places] / 250 == pytest.approx(volume / sum(volumes.values()), abs=0.1)
    again = sampled_sets(vectors[:2], vectors, neighbours, 2, count=250, scale=0.5)
    assert again == [sets, other]
    assert sampled_sets(vectors[:2], vectors, neighbours, 2, count=250, scale=0.5, seed=1) != again


def test_bad_calls(unchecked):
    lm, words, vectors = gpt2(64), tokenizer(), torch.eye(3)
    for call, message in [
        (lambda: score_candidates(lm, words, ["aa"], []), "0 targets for 1 prompts"),
        (lambda: score_candidates(lm, words, ["aa"], [""]), "target 0 has no tokens"),
        (lambda: score_candidates(lm, words, ["aa"], ["bb"], 0), "batch_size=0"),
        (lambda: score_candidates(lm, words, ["aa " * 64], ["bb"]), r"prompt 0 and its target have \d+ tokens"),
        (lambda: rank_candidates(POOL[:1], [[0], [0]], lambda p, t: [0.0]), "candidates of 2 samples for 1 exemplars"),
        (lambda: sampled_sets(vectors, vectors, [[0, 1]], 1), "neighbours of 1 samples for 3 queries"),
        (lambda: sampled_sets(vectors[:1], vectors, [[0, 1]], 3), "n=3 is above the kernel's rank of 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    lm.train()
    try:
        with pytest.raises(ValueError, match="the model is in training mode"):
            score_candidates(lm, words, ["aa"], ["bb"])
    finally:
        lm.eval()
