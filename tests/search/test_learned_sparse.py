from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertForTokenClassification

from fullrank.search import (
    BM25Retriever,
    Document,
    LearnedSparseRetriever,
    Retriever,
    SpladeEncoder,
    TokenWeightEncoder,
)
from fullrank.search.embedding_scorers import SparseScorer
from fullrank.search.learned_sparse import sparse_encoder
from fullrank.search.unicoil import UniCOIL

from .conftest import collection
from .tiny_models import bert_config, masked, tokenizer

TEXTS = ["aa bb cc", "aa aa dd", "ee", "bb ee ff gg", "cc cc cc aa"]
QUERIES = ["aa dd", "bb", "aa aa ee"]


class Given:
    """Weights that are written in the text: `term=weight` between blanks."""

    def encode_documents(self, texts):
        return [{pair.split("=")[0]: float(pair.split("=")[1]) for pair in text.split()} for text in texts]

    encode_queries = encode_documents


def unicoil(dim: int = 1):
    torch.manual_seed(1)
    model = UniCOIL(bert_config()).eval()
    model.tok_proj = torch.nn.Linear(16, dim)
    torch.nn.init.constant_(model.tok_proj.bias, 0.5)
    return model


weights = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3).map(float), max_size=5)


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
@settings(max_examples=40, deadline=None)
@given(found=st.lists(weights, min_size=1, max_size=12), query=weights, k=st.integers(1, 14), size=st.integers(1, 5))
def test_products_are_exact_whatever_the_segments(found, query, k, size):
    written = [" ".join(f"{term}={weight}" for term, weight in terms.items()) for terms in (query, *found)]
    expected = {
        f"d{number}": sum(query[term] * terms.get(term, 0) for term in query) for number, terms in enumerate(found)
    }
    positive = {id: score for id, score in expected.items() if score > 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearnedSparseRetriever, "segment_size", size)
        retriever = LearnedSparseRetriever(Given())
        if not any(weight for terms in found for weight in terms.values()):
            with pytest.raises(ValueError, match=r"gave none of the .* documents a term that weighs more than 0"):
                retriever.build(collection(written[1:]))
            return
        run = retriever.build(collection(written[1:])).search(written[0], k)
    best = sorted(positive, key=lambda name: (positive[name], name), reverse=True)[:k]
    assert list(run["0"].items()) == [(id, positive[id]) for id in best]


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
@pytest.mark.parametrize("queries", [QUERIES, ["", "  "]])
def test_splade_finds_what_its_reranker_scores(queries):
    encoder = SpladeEncoder(masked(), tokenizer(), batch_size=2)
    run = LearnedSparseRetriever(encoder).build(collection(TEXTS)).search(queries, 99)
    assert list(run) == [str(number) for number in range(len(queries))]
    for query, found in zip(queries, run.values(), strict=True):
        if not query.strip():
            assert found == {}
            continue
        scores = SparseScorer(masked(), tokenizer()).score(query, TEXTS)
        assert found == pytest.approx({f"d{n}": score for n, score in enumerate(scores)}, rel=1e-5)


def test_splade_expands_queries_and_documents_or_documents_alone():
    learned = SpladeEncoder(masked(), tokenizer()).encode_queries(["aa dd"])[0]
    assert len(learned) > 100
    counted = SpladeEncoder(masked(), tokenizer(), query_weights="tokens")
    assert counted.encode_queries(["aa dd aa"]) == [{"aa": 2.0, "dd": 1.0}]
    retriever = LearnedSparseRetriever(counted).build(collection(TEXTS))
    weights = counted.encode_documents(TEXTS)
    expected = {f"d{n}": 2 * found.get("aa", 0) + found.get("dd", 0) for n, found in enumerate(weights)}
    assert retriever.search("aa dd aa")["0"] == pytest.approx({id: s for id, s in expected.items() if s})


def test_no_texts_give_no_weights():
    encoder = SpladeEncoder(masked(), tokenizer())
    assert encoder.vectors([]).shape == (0, masked().config.vocab_size)
    assert encoder.encode_documents([]) == []


def test_a_vocabulary_that_is_wider_than_the_tokenizer():
    model = masked()
    width = len(tokenizer())

    class Padded(torch.nn.Module):
        config = model.config
        device = model.device

        def forward(self, input_ids, attention_mask):
            out = model(input_ids=input_ids, attention_mask=attention_mask)
            out.logits = torch.nn.functional.pad(out.logits, (0, 2), value=1.0)
            return out

    found = SpladeEncoder(Padded().eval(), tokenizer()).encode_documents(["aa"])[0]
    assert found[f"[{width}]"] == found[f"[{width + 1}]"] == pytest.approx(math.log(2))


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
def test_token_weights_by_their_definition():
    model = unicoil()
    encoder = TokenWeightEncoder(model, tokenizer(), batch_size=2)
    run = LearnedSparseRetriever(encoder).build(collection(TEXTS)).search(QUERIES, 99)

    def tokens(text):
        ids = tokenizer()(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            weights = model(**ids).relu()[0, :, 0].tolist()
        return list(zip(text.split(), weights[1:-1], strict=True))

    assert sum(word == "aa" and weight > 0 for word, weight in tokens(QUERIES[2])) == 2
    for query, found in zip(QUERIES, run.values(), strict=True):
        expected = {
            f"d{number}": sum(
                weight * max((other for word, other in tokens(text) if word == term), default=0)
                for term, weight in tokens(query)
            )
            for number, text in enumerate(TEXTS)
        }
        assert found == pytest.approx({id: score for id, score in expected.items() if score}, rel=1e-5)
    assert any(len(found) > 0 for found in run.values())


def test_a_token_classifier_weighs_tokens_too_and_queries_count_theirs():
    torch.manual_seed(0)
    encoder = TokenWeightEncoder(
        BertForTokenClassification(bert_config(num_labels=1)).eval(), tokenizer(), query_weights="tokens"
    )
    found = encoder.encode_documents(["aa bb", "aa"])
    assert set(found[0]) <= {"aa", "bb"}
    assert encoder.encode_queries(["aa bb aa", "zz"]) == [{"aa": 2.0, "bb": 1.0}, {"zz": 1.0}]
    with pytest.raises(ValueError, match=r"model gave shape \(1, 4, 3\) for 1 texts of 4 tokens; one number a token"):
        TokenWeightEncoder(unicoil(3), tokenizer()).encode_documents(["aa bb"])


def test_a_saved_index_names_its_encoder(tmp_path):
    for name, model in (("splade", masked()), ("unicoil", unicoil())):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
        built = LearnedSparseRetriever(sparse_encoder(name, tmp_path / name, query_weights="tokens", max_length=20))
        built.build(collection(TEXTS)).save(tmp_path / "index")
        loaded = LearnedSparseRetriever.load(tmp_path / "index")
        assert loaded.search(QUERIES) == built.search(QUERIES)
        assert loaded.encoder.description == built.encoder.description
        assert loaded.documents["d3"] == Document("d3", "bb ee ff gg")
        loaded.delete(["d0"]).add([Document("new", "aa zz")]).save(tmp_path / "index")
        again = LearnedSparseRetriever.load(tmp_path / "index", SpladeEncoder(masked(), tokenizer()))
        assert set(again.documents) == {"new", "d1", "d2", "d3", "d4"}


def test_an_encoder_object_is_given_again(tmp_path, unchecked):
    folder = LearnedSparseRetriever(Given()).build(collection(["a=1 b=2", "b=1"])).save(tmp_path)
    with pytest.raises(LookupError, match=r"built with an encoder object; give it again: load\(folder, encoder=...\)"):
        LearnedSparseRetriever.load(folder)
    with pytest.raises(TypeError, match=r"encoder='x' is str; an object with encode_documents\(texts\)"):
        LearnedSparseRetriever.load(folder, "x")
    with pytest.raises(ValueError, match="device: options of an encoder, but it is an object that is made already"):
        LearnedSparseRetriever.load(folder, Given(), device="cpu")
    assert LearnedSparseRetriever.load(folder, Given()).search("b=3")["0"] == {"d0": 6.0, "d1": 3.0}
    with pytest.raises(ValueError, match="is an index of LearnedSparseRetriever, not of BM25Retriever"):
        BM25Retriever.load(folder)


def test_it_is_a_retriever_that_explains():
    retriever = LearnedSparseRetriever(Given()).build(collection(["a=1 b=2", "b=1"]))
    assert isinstance(retriever, Retriever)
    assert retriever.explain("a=2 b=3 c=4", "d0") == {"b": 6.0, "a": 2.0}
    assert retriever.search({"q": "b=1"}, 1) == {"q": {"d0": 2.0}}


def test_an_index_that_grew_and_shrank_is_one_that_was_built_at_once():
    every = collection([f"a={number} b=1" for number in range(1, 8)])
    grown = LearnedSparseRetriever(Given()).build(every[:3]).add([Document("d1", "a=9"), *every[3:]])
    grown.delete(["d1", "d5"])
    kept = [document for document in every if document.id not in ("d1", "d5")]
    assert grown.search("a=1 b=1", 99) == LearnedSparseRetriever(Given()).build(kept).search("a=1 b=1", 99)


@pytest.mark.parametrize("weight", ["nan", "inf", "-1"])
def test_weights_that_are_none(weight):
    retriever = LearnedSparseRetriever(Given()).build(collection(["a=1"]))
    with pytest.raises(ValueError, match=f"encoder gave the term 'b' the weight .* in the text 'a=1 b={weight}'"):
        retriever.add([Document("x", f"a=1 b={weight}")])
    assert set(retriever.search("a=1")["0"]) == {"d0"}
    with pytest.raises(ValueError, match="encoder gave the term 'b' the weight"):
        retriever.search(f"b={weight}")


def test_bad_inputs(unchecked):
    retriever = LearnedSparseRetriever(Given())
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        retriever.search("a=1")
    with pytest.raises(ValueError, match="leaves nothing to index"):
        retriever.build([])
    with pytest.raises(ValueError, match="two documents have the id 'x'"):
        retriever.build([Document("x", "a=1"), Document("x", "a=1")])
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        retriever.build(collection(["a=1"])).search("a=1", 0)
    with pytest.raises(ValueError, match="query_weights='none' is not known; accepted: model, tokens"):
        SpladeEncoder(masked(), tokenizer(), query_weights="none")
    with pytest.raises(ValueError, match="method='deep' is not known; accepted: splade, unicoil"):
        sparse_encoder("deep", "x")

    class Half(Given):
        def encode_documents(self, texts):
            return super().encode_documents(texts)[:1]

    with pytest.raises(ValueError, match="encoder gave weights for 1 texts of 2; one dictionary each is needed"):
        LearnedSparseRetriever(Half()).build(collection(["a=1", "b=1"]))
