"""What a retriever of exemplars learns from: candidates, and how likely they make the known solution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.search.determinantal import dpp_kernel, k_dpp_sample
from fullrank.search.exemplar_selection import lexical_exemplars
from fullrank.search.exemplars import PROMPT, Exemplar, Template, numbered_solution, plain_solution
from fullrank.search.language_model_scores import common_start, continuation_likelihoods
from fullrank.search.pretrained import Pretrained

Score = Callable[[list[str], list[str]], Sequence[float]]

# Prompts are scored together where so many have at least this share of their tokens in common, from the start on.
_FAMILY, _COMMON_SHARE = 4, 0.25
# Prompts that are made and scored at a time, at least.
_SCORED = 4096


def solution_neighbours(pool: Sequence[Exemplar], n: int = 49) -> list[list[int]]:
    """For every exemplar the places of the n others that share the most words with its solution, by BM25.

    The candidates of EPR and DQ-LoRe; the marks of a calculator are no words of a solution.
    """
    place = {exemplar.id: number for number, exemplar in enumerate(pool)}
    solutions = [plain_solution(exemplar.solution) for exemplar in pool]
    found = lexical_exemplars(pool, solutions, n + 1, lambda exemplar: plain_solution(exemplar.solution))
    return [
        [place[other.id] for other in row if other.id != exemplar.id][:n]
        for exemplar, row in zip(pool, found, strict=True)
    ]


def sampled_sets(
    queries: Float[Tensor, "samples d"],
    vectors: Float[Tensor, "pool d"],
    neighbours: Sequence[Sequence[int]],
    n: int,
    count: int = 50,
    scale: float = 0.1,
    seed: int = 0,
) -> list[list[list[int]]]:
    """Sets of every sample's neighbours, drawn from a determinantal point process: CEIL's candidates.

    Args:
        queries: vectors of the samples.
        vectors: of the pool.
        neighbours: of every sample, places in the pool, such as `solution_neighbours` gives.
        n: exemplars in a set.
        count: sets for a sample.
        scale: see `dpp_kernel`.
        seed: of the draws.

    Raises:
        ValueError: neighbours of another number of samples, or n below 1 or above what the neighbours span.
    """
    if len(queries) != len(neighbours):
        raise ValueError(f"neighbours of {len(neighbours)} samples for {len(queries)} queries; one each is needed")
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for query, row in zip(queries, neighbours, strict=True):
        kernel = dpp_kernel(query, vectors[list(row)], scale)
        drawn = [k_dpp_sample(kernel, n, generator) for _ in range(count)]
        sets.append([[row[item] for item in items] for items in drawn])
    return sets


def score_candidates(
    lm: Any, tokenizer: Any, prompts: Sequence[str], targets: Sequence[str], batch_size: int = 16
) -> list[float]:
    """Mean log-likelihood per token of every target behind its prompt, in batches of like length.

    Prompts that begin alike, such as those with the same exemplars in front, are batched together, and what they begin
    with is read once a batch.

    Args:
        lm: a decoder of transformers, in evaluation mode.
        tokenizer: of the model.
        prompts: such as a candidate exemplar and the question.
        targets: such as the reference solution.
        batch_size: pairs at a time.

    Raises:
        ValueError: another number of targets, an empty prompt or target, more tokens than the model has positions, a
            model in training mode, or batch_size below 1.
    """
    if len(prompts) != len(targets):
        raise ValueError(f"{len(targets)} targets for {len(prompts)} prompts; one each is needed")
    pretrained = Pretrained(lm, tokenizer, kind="AutoModelForCausalLM", batch_size=batch_size)
    if not prompts:
        return []
    heads, tails = tokenizer(list(prompts)).input_ids, pretrained.tokens(targets)
    rows = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
    _check(tails, rows, getattr(pretrained.model.config, "max_position_embeddings", None))
    scores = [0.0] * len(rows)
    for family in _families(rows):
        for places in pretrained.batches([rows[number] for number in family]):
            numbers = [family[place] for place in places]
            sums = continuation_likelihoods(lm, [heads[n] for n in numbers], [tails[n] for n in numbers])
            for number, value in zip(numbers, sums.tolist(), strict=True):
                scores[number] = value / len(tails[number])
    return scores


def rank_candidates(
    pool: Sequence[Exemplar], candidates: Sequence[Sequence[int]], score: Score, template: Template = PROMPT
) -> list[list[int]]:
    """Candidates of every sample, most helpful first: what `EPRTrainer` learns from; see `rank_sets`.

    Args:
        pool: exemplars; the first of them are the samples.
        candidates: of every sample, places in the pool, each of which is one shot before the sample's question.
        score: see `rank_sets`.
        template: see `rank_sets`.
    """
    ranked = rank_sets(pool, [[[place] for place in row] for row in candidates], score, template)
    return [[place for (place,) in row] for row in ranked]


def rank_sets(
    pool: Sequence[Exemplar], sets: Sequence[Sequence[Sequence[int]]], score: Score, template: Template = PROMPT
) -> list[list[list[int]]]:
    """Candidate sets of every sample, most helpful first: what `CEILTrainer` learns from.

    A set stands before the sample's question; its worth is the score of the sample's own solution, compared within the
    sample alone.

    Args:
        pool: exemplars; the first of them are the samples.
        sets: of every sample, sets of places in the pool, such as `sampled_sets` gives.
        score: from prompts and targets to scores, such as `partial(score_candidates, lm, tokenizer)`.
        template: of the prompts.

    Raises:
        ValueError: more samples than exemplars.
    """
    if len(sets) > len(pool):
        raise ValueError(
            f"candidates of {len(sets)} samples for {len(pool)} exemplars; the first exemplars are sampled"
        )
    scores = [[0.0] * len(row) for row in sets]
    for asked in _asked(sets):
        prompts = [template([pool[place] for place in sets[n][number]], pool[n].question) for n, number in asked]
        found = score(prompts, [numbered_solution(pool[n].solution) for n, _ in asked])
        for (n, number), value in zip(asked, found, strict=True):
            scores[n][number] = value
    orders = [sorted(range(len(row)), key=lambda number, row=row: -row[number]) for row in scores]
    return [[list(row[number]) for number in order] for row, order in zip(sets, orders, strict=True)]


def _asked(sets: Sequence[Sequence[Sequence[int]]]) -> Iterator[list[tuple[int, int]]]:
    """Samples and the numbers of their sets, those with the same exemplar in front next to each other."""
    by_first = sorted(
        (places[0] if places else -1, n, number) for n, row in enumerate(sets) for number, places in enumerate(row)
    )
    asked: list[tuple[int, int]] = []
    for _, same in itertools.groupby(by_first, key=lambda found: found[0]):
        asked += [(n, number) for _, n, number in same]
        if len(asked) >= _SCORED:
            yield asked
            asked = []
    if asked:
        yield asked


def _families(rows: Sequence[list[int]]) -> list[list[int]]:
    """Numbers of the rows that begin alike, family by family, and at last of all those that are in none."""
    order = sorted(range(len(rows)), key=lambda number: rows[number])
    starts = [
        place for place, pair in enumerate(itertools.pairwise(order), 1) if not _begin_alike(*(rows[n] for n in pair))
    ]
    families = [order[start:end] for start, end in itertools.pairwise([0, *starts, len(order)])]
    alone = [number for family in families if len(family) < _FAMILY for number in family]
    return [*(family for family in families if len(family) >= _FAMILY), alone]


def _begin_alike(row: Sequence[int], other: Sequence[int]) -> bool:
    return common_start([row, other]) >= _COMMON_SHARE * max(len(row), len(other))


def _check(tails: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], limit: int | None) -> None:
    empty = next((n for n, tail in enumerate(tails) if not tail), None)
    if empty is not None:
        raise ValueError(f"target {empty} has no tokens; give some words")
    long = next((n for n, row in enumerate(rows) if limit is not None and len(row) > limit), None)
    if long is not None:
        raise ValueError(f"prompt {long} and its target have {len(rows[long])} tokens; the model takes {limit}")
