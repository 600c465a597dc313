from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import ColBERTEncoder, ColBERTRetriever, Document, Retriever, colbert_retriever, maxsim
from fullrank.search.colbert import ColBERT
from fullrank.search.colbert_encoder import QueryTokens
from fullrank.search.embedding_scorers import LateInteractionScorer
from fullrank.search.late_interaction import ragged_maxsim

from .conftest import HashEncoder, collection
from .tiny_models import bert_config, tokenizer

TEXTS = ["aa bb cc", "aa , dd .", "ee", "bb ee ff gg", "", "cc cc cc aa"]
QUERIES = ["aa dd", "bb", "aa aa ee cc"]


class Words:
    """One vector for every word, and for every query three."""

    def __init__(self, dim: int = 8) -> None:
        self.dim = dim

    def encode_documents(self, texts):
        found = [HashEncoder(self.dim).encode(text.split()) if text.strip() else [] for text in texts]
        return [torch.as_tensor(np.array(vectors), dtype=torch.float32).reshape(-1, self.dim) for vectors in found]

    def encode_queries(self, texts):
        three = [(text.split() + ["[MASK]"] * 3)[:3] for text in texts]
        vectors = torch.stack([torch.from_numpy(HashEncoder(self.dim).encode(words)) for words in three])
        return QueryTokens(vectors, torch.tensor([[word != "[MASK]" for word in words] for words in three]))


def model():
    torch.manual_seed(0)
    return ColBERT(bert_config(), dim=8).eval()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    queries=st.integers(1, 5),
    k=st.integers(1, 14),
    convention=st.sampled_from(["all", "masked", "mean"]),
    blocks=st.tuples(st.integers(1, 4), st.integers(1, 300), st.integers(1, 5)),
)
def test_it_is_exact_whatever_the_blocks_and_segments(lengths, queries, k, convention, blocks):
    texts = [" ".join(f"w{number}x{word}" for word in range(length)) for number, length in enumerate(lengths)]
    asked = [f"q{number} w0x0" for number in range(queries)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colbert_retriever, "_QUERIES", blocks[0])
        patch.setattr(colbert_retriever, "_PRODUCTS", blocks[1])
        patch.setattr(ColBERTRetriever, "segment_size", blocks[2])
        retriever = ColBERTRetriever(Words(), convention, "float32").build(collection(texts))
        run = retriever.search(asked, k)
    Q, words = Words().encode_queries(asked)
    for row, found in enumerate(run.values()):
        expected = {}
        for number, P in enumerate(Words().encode_documents(texts)):
            best = [float((P @ q).max()) if len(P) else 0.0 for q in Q[row]]
            counted = [value for value, word in zip(best, words[row].tolist(), strict=True) if word]
            expected[f"d{number}"] = {"all": sum(best), "masked": sum(counted), "mean": sum(best) / 2}[convention]
        assert len(found) == min(k, len(texts))
        assert found == pytest.approx({id: expected[id] for id in found}, abs=1e-4)
        assert min(found.values()) >= sorted(expected.values())[-len(found)] - 1e-4


def test_documents_without_padding_score_as_those_with():
    generator = torch.Generator().manual_seed(0)
    query, documents = (torch.randn(shape, generator=generator) for shape in ((3, 4, 5), (6, 7, 5)))
    lengths = torch.tensor([7, 3, 0, 1, 5, 2])
    mask = torch.arange(7) < lengths[:, None]
    words = torch.rand(3, 4, generator=generator) > 0.4
    for convention in ("all", "masked", "mean"):
        padded = maxsim(query, documents, words, mask, convention)
        assert torch.allclose(ragged_maxsim(query, documents[mask], lengths, words, convention), padded, atol=1e-5)


def test_it_finds_what_its_reranker_scores():
    options = {"query_length": 8, "batch_size": 2}
    retriever = ColBERTRetriever(ColBERTEncoder(model(), tokenizer(), **options), dtype="float32")
    run = retriever.build(collection(TEXTS)).search(QUERIES, 99)
    scorer = LateInteractionScorer(model(), tokenizer(), **options)
    for query, found in zip(QUERIES, run.values(), strict=True):
        scores = scorer.score(query, TEXTS)
        assert found == pytest.approx({f"d{number}": score for number, score in enumerate(scores)}, abs=1e-4)
    half = ColBERTRetriever(retriever.encoder).build(collection(TEXTS))
    assert half._segments[0].vectors.dtype == np.float16
    for found, rounded in zip(run.values(), half.search(QUERIES, 99).values(), strict=True):
        assert rounded == pytest.approx(found, abs=8 * 2e-3)


def test_no_texts_give_no_vectors():
    encoder = ColBERTEncoder(model(), tokenizer())
    assert encoder.encode_documents([]) == []
    vectors, words = encoder.encode_queries([])
    assert vectors.shape == (0, 32, 8)
    assert words.shape == (0, 32)


def test_a_saved_index_names_its_encoder(tmp_path):
    model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    encoder = ColBERTEncoder(tmp_path / "model", query_length=6, dim=8, max_length=30)
    built = ColBERTRetriever(encoder, "mean").build(collection(TEXTS))
    loaded = ColBERTRetriever.load(built.save(tmp_path / "index"))
    assert loaded.search(QUERIES) == built.search(QUERIES)
    assert loaded.encoder.description == encoder.description
    assert isinstance(loaded._segments[0].vectors, np.memmap)


def test_an_index_that_grew_and_shrank_is_one_that_was_built_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ColBERTRetriever, "segment_size", 3)
    every = collection([f"a{number} b" for number in range(10)])
    grown = ColBERTRetriever(Words()).build(iter(every[:4]), scratch=tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").iterdir())) == 2
    grown.save(tmp_path / "index")
    grown = ColBERTRetriever.load(tmp_path / "index", Words()).add([Document("d1", "zz"), *every[4:]])
    grown.delete(["d1", "d5"]).save(tmp_path / "index")
    kept = [document for document in every if document.id not in ("d1", "d5")]
    built = ColBERTRetriever(Words()).build(kept)
    for retriever in (grown, ColBERTRetriever.load(tmp_path / "index", Words())):
        assert len(retriever) == 8
        assert retriever.search(["a3 b", "a9"], 99) == built.search(["a3 b", "a9"], 99)


def test_it_is_a_retriever_and_a_blank_query_finds_nothing():
    retriever = ColBERTRetriever(Words(), "masked").build(collection(["aa bb", "cc"]))
    assert isinstance(retriever, Retriever)
    with pytest.warns(UserWarning, match="query 'x' has no tokens"):
        run = retriever.search({"x": " \n", "y": "aa"}, 1)
    assert run["x"] == {}
    assert set(run["y"]) == {"d0"}


def test_bad_inputs(tmp_path, unchecked):
    retriever = ColBERTRetriever(Words())
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        retriever.search("aa")
    with pytest.raises(ValueError, match="leaves nothing to index"):
        retriever.build([])
    with pytest.raises(ValueError, match="two documents have the id 'x'"):
        retriever.build([Document("x", "a"), Document("x", "b")])
    folder = retriever.build(collection(["aa", "bb"])).save(tmp_path)
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        retriever.search("aa", 0)
    with pytest.raises(LookupError, match="the index has no document 'y'; it has 2"):
        retriever.delete(["y"])
    with pytest.raises(LookupError, match="built with an encoder object; give it again"):
        ColBERTRetriever.load(folder)
    with pytest.raises(ValueError, match="device: options of an encoder, but it is an object that is made already"):
        ColBERTRetriever.load(folder, Words(), device="cpu")
    with pytest.raises(TypeError, match=r"encoder=3 is int; an object with encode_documents\(texts\)"):
        ColBERTRetriever.load(folder, 3)
    with pytest.raises(ValueError, match="convention='some' is not known; accepted: all, masked, mean"):
        ColBERTRetriever(Words(), "some")
    with pytest.raises(ValueError, match="dtype='int8' is not accepted; accepted: float16, float32"):
        ColBERTRetriever(Words(), dtype="int8")
    other = ColBERTRetriever.load(folder, Words(4))
    with pytest.raises(ValueError, match=r"gave shape \(1, 3, 4\) for 1 queries, the index holds 8 numbers a token"):
        other.search("aa")
    with pytest.raises(ValueError, match="the encoder gives 4 numbers a token, the index holds 8"):
        other.add(collection(["cc"]))


def test_vectors_that_are_none():
    class Broken(Words):
        def encode_documents(self, texts):
            return [torch.full((1, 8), torch.nan) for _ in texts]

    retriever = ColBERTRetriever(Words()).build(collection(["aa"]))
    retriever.encoder = Broken()
    with pytest.raises(ValueError, match="encoder gave a vector that is not finite for the text 'bb'"):
        retriever.add([Document("new", "bb")])
    retriever.encoder = Words()
    assert set(retriever.search("aa")["0"]) == {"d0"}
    with pytest.raises(ValueError, match="query_length=3"):
        ColBERTEncoder(model(), tokenizer(), query_length=3)
