"""The functions under re-rankers, against the original code and by their definitions."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from fullrank.order import evaluate
from fullrank.search import Document
from fullrank.search.language_model_scores import continuation_likelihoods, first_step_logits, sequence_likelihoods
from fullrank.search.late_interaction import maxsim
from fullrank.search.learned_sparse import splade_pooling
from fullrank.search.listwise import SlidingWindowReranker, TournamentReranker, completed, parse_permutation, windows


def tiny(kind, config, known, prefix):
    model = kind(config).eval()
    state = {name.removeprefix(prefix): tensor for name, tensor in known.items() if name.startswith(prefix)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    model.tie_weights()
    assert all("embed" in name or "lm_head" in name for name in missing), missing
    return model


@pytest.mark.golden("rankify", kind="neural scoring functions")
def test_agrees_with_the_original_scores(case):
    spec, known = case.spec, case.tensors
    close = {"rtol": spec["tolerance"], "atol": spec["tolerance"]}
    t5 = tiny(T5ForConditionalGeneration, T5Config(**spec["t5_config"]), known, "t5.")
    ids, mask, query = known["t5_input_ids"], known["t5_attention_mask"], known["t5_query_ids"]
    scores = sequence_likelihoods(t5, ids, mask, query)
    torch.testing.assert_close(scores, known["upr_t5_scores"], **close)
    assert scores.argsort(descending=True).tolist() == known["upr_t5_order"].tolist()
    torch.testing.assert_close(
        first_step_logits(t5, ids, mask, [5, 7]).log_softmax(-1)[:, 1], known["monot5_scores"], **close
    )
    gpt2 = tiny(GPT2LMHeadModel, GPT2Config(**spec["gpt2_config"]), known, "gpt2.")
    prompts = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    said = [[*query.tolist(), 1]] * len(prompts)
    torch.testing.assert_close(continuation_likelihoods(gpt2, prompts, said), known["upr_gpt_scores"], **close)
    one = torch.cat([continuation_likelihoods(gpt2, [prompt], said[:1]) for prompt in prompts])
    torch.testing.assert_close(one, known["upr_gpt_scores"], **close)
    vectors = known["colbert_q"], known["colbert_d"], known["colbert_q_mask"], known["colbert_d_mask"]
    for convention, name in (("all", "all_sum"), ("masked", "masked_sum"), ("mean", "official")):
        torch.testing.assert_close(maxsim(*vectors, convention), known[f"colbert_{name}"], **close)
    logits = known["splade_logits"].clone().requires_grad_()
    pooled = splade_pooling(logits, known["splade_mask"])
    torch.testing.assert_close(pooled.detach(), known["splade_vectors"], **close)
    pooled.sum().backward()
    torch.testing.assert_close(logits.grad, known["splade_grad"], **close)


@pytest.mark.golden("rankify", kind="listwise sliding window")
def test_agrees_with_the_recommended_windows(case):
    for known in case.spec["cases"]:
        n = known["n"]
        assert [list(pair) for pair in windows(n, known["window"], known["step"])] == known["recommended_windows"]
        calls = iter(known["recommended_calls"])

        def answer(query, texts, calls=calls):
            call = next(calls)
            assert [int(text) for text in texts] == call["window"]
            return parse_permutation(call["response"], len(texts))

        reranker = SlidingWindowReranker(answer, known["window"], known["step"])
        assert reranker.order("q", [str(place) for place in range(n)]) == known["recommended_order"]
        assert reranker.calls == len(known["recommended_calls"])


def by_relevance(relevance):
    return lambda query, texts: sorted(range(len(texts)), key=lambda place: -relevance[int(texts[place])])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(0, 10), st.randoms(use_true_random=False))
def test_a_perfect_judge_brings_all_relevant_passages_to_the_top(n, relevant, random):
    relevance = [1] * min(relevant, n) + [0] * (n - min(relevant, n))
    random.shuffle(relevance)
    texts = [str(place) for place in range(n)]
    order = SlidingWindowReranker(by_relevance(relevance), 20, 10).order("q", texts)
    assert sorted(order) == list(range(n))
    if sum(relevance):
        run = {"q": {str(place): float(n - rank) for rank, place in enumerate(order)}}
        qrels = {"q": {str(place): grade for place, grade in enumerate(relevance)}}
        assert evaluate(qrels, run, "nDCG@10")["nDCG@10"] == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(2, 6), st.data(), st.randoms(use_true_random=False))
def test_a_tournament_finds_the_best_in_order(n, group, data, random):
    winners = data.draw(st.integers(1, group - 1))
    worth = list(range(n))
    random.shuffle(worth)
    texts = [str(place) for place in range(n)]
    reranker = TournamentReranker(by_relevance(worth), group, winners, top_k=10)
    order = reranker.order("q", texts)
    assert sorted(order) == list(range(n))
    assert [worth[place] for place in order[:10]] == sorted(worth, reverse=True)[:10]


def test_a_tournament_asks_less_than_windows_of_its_size():
    texts = [str(place) for place in range(100)]
    worth = [(37 * place) % 101 for place in range(100)]
    tournament = TournamentReranker(by_relevance(worth))
    tournament.order("q", texts)
    assert tournament.calls < 100


@pytest.mark.parametrize(
    ("response", "order"),
    [
        ("[2] > [1] > [3]", [1, 0, 2]),
        ("3, 3, 9, 0, 1", [2, 0, 1]),
        ("I cannot say.", [0, 1, 2]),
        ("", [0, 1, 2]),
        ("[3]", [2, 0, 1]),
        ("３ ２", [2, 1, 0]),
        ("[2-3]", [1, 2, 0]),
        ("[0002]\n[12345678901234567890]", [1, 0, 2]),
    ],
)
def test_answers_of_models(response, order):
    assert parse_permutation(response, 3) == order


def test_malformed_orders_are_completed_and_counted():
    reranker = SlidingWindowReranker(lambda query, texts: [1, 1, 7], 3, 2)
    documents = [Document(f"d{place}", "text") for place in range(3)]
    ranking = reranker.rerank("q", documents)
    assert [document.id for document in ranking.documents] == ["d1", "d0", "d2"]
    assert ranking.scores == (3, 2, 1)
    assert (reranker.calls, reranker.n_malformed) == (1, 1)
    assert reranker.rerank("q", []).documents == ()
    assert completed([], 2) == [0, 1]


def test_maxsim_by_its_definition_in_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    Q, D = torch.randn(2, 3, 4, generator=generator), torch.randn(5, 6, 4, generator=generator)
    mask = torch.rand(5, 6, generator=generator) < 0.5
    mask[2] = False
    expected = torch.zeros(2, 5)
    for q, d in itertools.product(range(2), range(5)):
        if mask[d].any():
            expected[q, d] = (Q[q] @ D[d][mask[d]].T).amax(1).sum()
    torch.testing.assert_close(maxsim(Q, D, document_mask=mask), expected)
    monkeypatch.setattr("fullrank.search.late_interaction._BYTES", 1)
    torch.testing.assert_close(maxsim(Q, D, document_mask=mask), expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SlidingWindowReranker(len, window=1), "window=1"),
        (lambda: SlidingWindowReranker(len, step=21), "step=21 is not accepted; it lies between 1 and window=20"),
        (lambda: SlidingWindowReranker(len, passes=0), "passes=0"),
        (lambda: TournamentReranker(len, group=1), "group=1"),
        (lambda: TournamentReranker(len, winners=5), "winners=5"),
        (lambda: TournamentReranker(len, top_k=0), "top_k=0"),
        (lambda: maxsim(torch.ones(1, 2, 3), torch.ones(1, 2, 3), convention="sum"), "convention='sum'"),
        (lambda: maxsim(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 3)), "query_mask has shape (1, 3)"),
        (lambda: continuation_likelihoods(None, [[]], [[1]]), "prompt 0 is empty"),
        (lambda: continuation_likelihoods(None, [[1]], []), "0 continuations for 1 prompts"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
    with pytest.raises(TypeError, match="an object with order"):
        SlidingWindowReranker(3)
