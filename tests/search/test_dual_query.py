"""Exemplars from a pool: retrieved, by two queries, and by the rivals' ways."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from transformers import BertModel

from fullrank.search.dq_lore import LoReReranker
from fullrank.search.dual_query import DualQuerySelector
from fullrank.search.exemplar_encoder import ExemplarEncoder
from fullrank.search.exemplar_retriever import ExemplarRetriever
from fullrank.search.exemplar_selection import (
    clustered_exemplars,
    complex_exemplars,
    diverse_exemplars,
    farthest_exemplars,
    gram_schmidt_order,
    lexical_exemplars,
    longest_exemplars,
    nearest_exemplars,
    orthogonal_exemplars,
    random_exemplars,
)
from fullrank.search.exemplars import PROMPT, Exemplar, PromptTemplate, final_answer
from fullrank.search.language_model import before
from fullrank.search.local_model import TransformersModel

from .conftest import HashEncoder
from .tiny_models import bert_config, gpt2, tokenizer

POOL = [Exemplar(f"e{n}", f"question item{n}", "\n".join(["step"] * (n % 4 + 1)) + f"\n#### {n}") for n in range(20)]


def retriever(dim=8):
    return ExemplarRetriever(HashEncoder(dim)).index(POOL)


def ids(exemplars):
    return [exemplar.id for exemplar in exemplars]


class Words:
    """A tokenizer of words, and an encoder that reads three of them."""

    max_seq_length = 3

    def tokenizer(self, texts, **options):
        return {"input_ids": [text.split() for text in texts]}

    def encode(self, texts):
        return HashEncoder(4).encode([" ".join(text.split()[:3]) for text in texts])


def test_the_nearest_are_found_and_saved(tmp_path):
    made = retriever()
    found = made.search(POOL[3].text, 5)
    scores = made.vectors @ made.encode([POOL[3].text])[0]
    assert ids(e for e, _ in found) == [f"e{place}" for place in scores.topk(5).indices.tolist()]
    assert "e3" not in ids(e for e, _ in made.search(POOL[3].text, 19, exclude_ids=["e3", "elsewhere"]))
    places = made.places(made.vectors[:2], 20, [["e0"], ["e1", "e2"]])
    assert [len(row) for row, _ in places] == [19, 18]
    again = ExemplarRetriever.load(made.save(tmp_path), HashEncoder(8))
    assert again.search("a text", 4) == made.search("a text", 4)
    halved = ExemplarRetriever(HashEncoder(8), normalize=True, transform=lambda x: x[:, :4]).index(POOL)
    assert halved.vectors.shape == (20, 4)
    torch.testing.assert_close(halved.vectors.norm(dim=1), torch.ones(20))
    assert ids(nearest_exemplars(made, ["a text"], 4)[0]) == ids(e for e, _ in made.search("a text", 4))


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivf"])
def test_an_index_of_faiss_finds_what_is_exact(index, tmp_path):
    pytest.importorskip("faiss")
    exact, made = retriever(8), ExemplarRetriever(HashEncoder(8), index=index).index(POOL)
    found = made.search("question", 3, exclude_ids=["e1"])
    expected = exact.search("question", 3, exclude_ids=["e1"])
    assert [exemplar for exemplar, _ in found] == [exemplar for exemplar, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)
    loaded = ExemplarRetriever.load(made.save(tmp_path), HashEncoder(8))
    assert loaded.backend == index
    assert loaded.search("question", 3, exclude_ids=["e1"]) == found
    assert made.index(POOL[:2]).search("question", 9)[0][0] in POOL[:2]


def test_what_an_encoder_leaves_out_is_counted():
    made = ExemplarRetriever(Words())
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 3 tokens"):
        made.index([Exemplar("a", "one two", "three"), Exemplar("b", "one two", "three four")])
    made.encode(["one two three four", "five"])
    assert made.truncated == 2


def test_the_dual_query_searches_with_the_draft():
    asked = []

    def generate(prompts):
        asked.extend(prompts)
        return ["a draft" if "question x" in prompt.splitlines()[-2] else " " for prompt in prompts]

    made = retriever()
    selector = DualQuerySelector(generate=generate, retriever=made, reranker=None, n_shots=3, n_candidates=10)
    with pytest.warns(UserWarning, match="1 of 2 drafts are empty"):
        first, second = selector.select(["question x", "question y"])
    assert list(first.exemplars) == [e for e, _ in made.search("question x\ta draft", 3)]
    assert list(second.exemplars) == [e for e, _ in made.search("question y", 3)]
    assert (first.draft, second.draft) == ("a draft", "")
    assert first.prompt.endswith("Question: question x\nLet's think step by step.\n")
    assert first.first_prompt == asked[0] == selector.template(complex_exemplars(POOL, 3), "question x")
    assert selector.select([]) == []

    lore = LoReReranker(2)
    reranked = DualQuerySelector(generate, made, lore, n_shots=3, n_candidates=10).select(["question x"])[0]
    near = [e for e, _ in made.search("question x\ta draft", 10)]
    vector = made.encode(["question x\ta draft"])[0]
    order, scores = lore.rank(vector, made.encode([e.text for e in near]), 3)
    assert list(reranked.exemplars) == [near[place] for place in order.tolist()]
    assert list(reranked.scores) == pytest.approx(scores.tolist(), rel=1e-5)


class Client:
    """A client of a language model that notes what it is asked, and answers more than it should."""

    def __init__(self, answer="1. a step\nThe answer is 3\nQuestion: another\n1. nonsense"):
        self.answer, self.asked, self.options = answer, [], []

    def complete(self, prompts, *, max_new_tokens=128, temperature=0.0, stop=(), seed=0):
        self.asked.append(list(prompts))
        self.options.append((max_new_tokens, temperature))
        return [before(self.answer, stop) for _ in prompts]


def test_a_client_is_asked_once_for_all_drafts():
    client, made = Client(), retriever()
    chosen = DualQuerySelector(client, made, LoReReranker(4, "rbf"), n_candidates=12).select(["one", "two", "three"])
    assert [len(prompts) for prompts in client.asked] == [3]
    assert client.options == [(300, 0.0)]
    assert {selection.draft for selection in chosen} == {"1. a step\nThe answer is 3"}
    for question, selection in zip(["one", "two", "three"], chosen, strict=True):
        assert len({exemplar.id for exemplar in selection.exemplars}) == 8
        assert selection.prompt == PROMPT(selection.exemplars, question)
        near = ids(exemplar for exemplar, _ in made.search(f"{question}\t{selection.draft}", 12))
        assert set(ids(selection.exemplars)) <= set(near)


def test_a_model_of_transformers_from_questions_to_answers(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ExemplarEncoder(BertModel(bert_config()), tokenizer(), max_length=32)
    pool = [Exemplar(f"e{n}", f"a{a} b{b}", f"{a} {b}\n#### {n}") for n, (a, b) in enumerate(product("abcd", "xyz"))]
    made = ExemplarRetriever(encoder).index(pool)
    model = TransformersModel(gpt2(), tokenizer())
    template = PromptTemplate("A: {question}\nB:")
    selector = DualQuerySelector(
        model, made, LoReReranker(2), n_shots=2, n_candidates=6, template=template, max_new_tokens=8
    )
    first, second = selector.select(["aa bx", "ac by"])
    assert first.first_prompt == template(complex_exemplars(pool, 2), "aa bx")
    assert first.draft == model.complete([first.first_prompt], max_new_tokens=8, stop=["\nQuestion:"])[0].strip()
    assert first.draft
    vector = made.encode([f"aa bx\t{first.draft}"])[0]
    near = [e for e, _ in made.search(f"aa bx\t{first.draft}", 6)]
    order, _ = LoReReranker(2).rank(vector, made.encode([e.text for e in near]), 2)
    assert list(first.exemplars) == [near[place] for place in order.tolist()]
    assert len(model.complete([first.prompt, second.prompt], max_new_tokens=4)) == 2
    again = ExemplarRetriever.load(made.save(tmp_path), encoder)
    assert (
        DualQuerySelector(model, again, LoReReranker(2), n_shots=2, n_candidates=6, template=template, max_new_tokens=8)
        .select(["aa bx"])[0]
        .exemplars
        == first.exemplars
    )


def test_what_a_trained_encoder_leaves_out_is_counted():
    made = ExemplarRetriever(ExemplarEncoder(BertModel(bert_config()), tokenizer(), max_length=6))
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 6 tokens"):
        made.index([Exemplar("a", "aa bb", "cc"), Exemplar("b", "aa bb", "cc dd ee")])
    assert made.truncated == 1
    cut, whole = made.encode(["aa bb\tcc dd ff", "aa bb\tcc dd"])  # the question stays, and the solution's head
    torch.testing.assert_close(cut, whole)


def test_first_shots_and_exclusions():
    asked = []

    def generate(prompts):
        asked[:] = prompts
        return ["draft"] * len(prompts)

    made = retriever()

    def select(first_shots, **options):
        return DualQuerySelector(generate, made, None, first_shots, n_shots=4).select(
            ["step item3", "step item5"], **options
        )

    select(POOL[:2])
    assert [prompt.count("Question:") for prompt in asked] == [3, 3]
    select(partial(lexical_exemplars, POOL, n=1))
    assert "Question: question item3" in asked[0]
    assert "Question: question item5" in asked[1]
    chosen = select(None, exclude_ids=[["e3"], []])
    assert "Question: question item3\n" not in asked[0]
    assert "Question: question item3\n" in asked[1]
    assert [prompt.count("Question:") for prompt in asked] == [5, 5]
    assert "e3" not in ids(chosen[0].exemplars)
    with pytest.raises(ValueError, match="first_shot_selector gave 1 lists for 2 questions"):
        select(lambda questions: [POOL])
    with pytest.raises(ValueError, match="exclude_ids has 1 entries for 2 questions"):
        select(None, exclude_ids=[["e3"]])


def test_a_small_pool_is_used_up():
    small = ExemplarRetriever(HashEncoder(8)).index(POOL[:2])
    selector = DualQuerySelector(lambda prompts: ["draft"] * len(prompts), small, LoReReranker(1))
    with pytest.warns(UserWarning, match="n_shots=8, but the pool leaves 2 exemplars"):
        chosen = selector.select(["q"])[0]
    assert len(chosen.exemplars) == 2


def test_choices_without_the_question():
    assert [e.steps for e in complex_exemplars(POOL, 5)] == [4] * 5
    assert ids(longest_exemplars(POOL, 2)) == ["e3", "e7"]
    assert random_exemplars(POOL, 4, seed=1) == random_exemplars(POOL, 4, seed=1) != random_exemplars(POOL, 4, seed=2)
    made = retriever()
    made.vectors = torch.tensor([[10.0 * (n // 5), n % 5 - 2] for n in range(20)])
    assert set(ids(clustered_exemplars(made, 4))) == {"e2", "e7", "e12", "e17"}


def test_choices_by_the_question():
    found = lexical_exemplars(POOL, ["question item7", "nothing"], 3)
    assert found[0][0].id == "e7"
    assert ids(found[1]) == ["e0", "e1", "e2"]
    made = retriever()
    scores = made.vectors @ made.encode(["a text"])[0]
    assert ids(farthest_exemplars(made, ["a text"], 3)[0]) == [f"e{n}" for n in scores.argsort()[:3].tolist()]
    for choose in (diverse_exemplars, orthogonal_exemplars):
        (chosen,) = choose(made, ["a text"], 3, n_candidates=6)
        assert len(set(ids(chosen))) == 3
        assert set(ids(chosen)) <= set(ids(nearest_exemplars(made, ["a text"], 6)[0]))


def test_gram_schmidt_takes_what_is_least_spanned():
    candidates = torch.tensor([[1.0, 0, 0], [5, 0.1, 0], [1, 1, 0], [0.1, 0, 3], [2, 0, 0]])
    assert gram_schmidt_order(candidates, 3) == [0, 3, 2]
    assert gram_schmidt_order(candidates, 5) == [0, 3, 2]  # the rest lies in their span
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((9, 6)))
    unit = X / X.norm(dim=1, keepdim=True)
    chosen = [0]
    for item in gram_schmidt_order(X, 5)[1:]:
        volume = {n: float(torch.linalg.det(unit[[*chosen, n]] @ unit[[*chosen, n]].T)) for n in range(9)}
        assert item == max((n for n in volume if n not in chosen), key=volume.__getitem__)
        chosen.append(item)


def test_bad_calls(unchecked):
    made = retriever()

    class Broken:
        def encode(self, texts):
            return np.full((len(texts), 2), np.nan)

    class Flat:
        def encode(self, texts):
            return np.zeros(len(texts))

    for call, words in [
        (lambda: ExemplarRetriever(HashEncoder(), index="annoy"), "index='annoy' is not known; accepted: exact, flat"),
        (lambda: ExemplarRetriever(HashEncoder()).index([]), r"exemplars=\[\]"),
        (lambda: ExemplarRetriever(HashEncoder()).index([POOL[0], POOL[0]]), "the same id 'e0'"),
        (
            lambda: ExemplarRetriever(Broken()).index(POOL[:2]),
            r"encoder gave a vector that is not finite for text 0, 'question item0\\t",
        ),
        (lambda: ExemplarRetriever(Flat()).index(POOL[:2]), r"encoder gave shape \(2,\) for 2 texts"),
        (lambda: made.places(torch.ones(1, 3), 2), "a query has 3 numbers, the index holds 8"),
        (lambda: made.places(torch.ones(2, 8), 2, [[]]), "exclude_ids has 1 entries for 2 queries"),
        (lambda: made.search("x", 0), "k=0"),
        (lambda: clustered_exemplars(made, 21), "n=21 is not accepted; a number of clusters from 1 to the 20"),
        (lambda: DualQuerySelector(list, made, None, n_shots=0), "n_shots=0"),
        (lambda: DualQuerySelector(list, made, None, n_candidates=0), "n_candidates=0"),
        (lambda: DualQuerySelector(list, made, None, max_new_tokens=0), "max_new_tokens=0"),
        (lambda: DualQuerySelector(lambda prompts: [], made, None).select(["q"]), "0 completions for 1 prompts"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match=r"GPT2LMHeadModel reads no text: TransformersModel\(model, tokenizer\) does"):
        DualQuerySelector(gpt2(), made, None)
    with pytest.raises(TypeError, match="model=3 cannot be asked"):
        DualQuerySelector(3, made, None)
    for call in (ExemplarRetriever(HashEncoder()).save, lambda _: ExemplarRetriever(HashEncoder()).search("x", 1)):
        with pytest.raises(RuntimeError, match="nothing is indexed yet"):
            call("folder")
    assert final_answer("") is None


def test_a_damaged_folder_is_named(tmp_path):
    folder = retriever().save(tmp_path)
    next(folder.rglob("vectors.safetensors")).write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        ExemplarRetriever.load(folder, HashEncoder(8))
    with pytest.raises(FileNotFoundError, match="holds no index"):
        ExemplarRetriever.load(tmp_path / "elsewhere", HashEncoder(8))
