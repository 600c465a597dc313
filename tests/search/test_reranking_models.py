"""Models that score passages one by one, against the formulas of their papers; batches, cuts and errors."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from fullrank.search import PointwiseReranker, reranker
from fullrank.search.colbert import ColBERT
from fullrank.search.duo_t5 import DuoT5Scorer
from fullrank.search.embedding_scorers import EncoderScorer, LateInteractionScorer, SparseScorer
from fullrank.search.exemplar_encoder import ExemplarEncoder
from fullrank.search.language_model_scores import continuation_likelihoods, decoder_logits, next_token_logits
from fullrank.search.layerwise import LayerwiseScorer, shallower
from fullrank.search.model_scorers import CrossEncoderScorer, MonoT5Scorer, RankT5Scorer, TwolarScorer
from fullrank.search.query_likelihood import QueryLikelihoodScorer

from .conftest import HashEncoder, collection
from .tiny_models import bert_config, classifier, gpt2, hybrid, llama, masked, sliding, stateful, t5, tokenizer

TEXTS = ["aa bb cc", "dd", "ee ff gg hh ii jj kk", "aa", "mm nn oo pp"]


@pytest.mark.parametrize("labels", [1, 2])
def test_cross_encoders_score_as_one_text_at_a_time(labels):
    model = classifier(labels)
    scores = CrossEncoderScorer(model, tokenizer(), batch_size=2).score("aa dd", TEXTS)
    for text, score in zip(TEXTS, scores, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer()("aa dd", text, return_tensors="pt")).logits[0]
        expected = logits[0] if labels == 1 else logits.log_softmax(-1)[1]
        assert score == pytest.approx(float(expected), abs=1e-5)
    short = CrossEncoderScorer(model, tokenizer(), max_length=6).score("aa dd", ["ee ff gg hh", "bb"])
    assert short == pytest.approx(CrossEncoderScorer(model, tokenizer()).score("aa dd", ["ee", "bb"]), abs=1e-6)
    long = CrossEncoderScorer(model, tokenizer()).score("aa dd", ["bb " * 100])  # 64 positions
    assert long == pytest.approx(CrossEncoderScorer(model, tokenizer()).score("aa dd", ["bb " * 59]), abs=1e-6)
    with pytest.raises(ValueError, match="max_length=4 leaves no room for a passage beside 4 tokens of the query"):
        CrossEncoderScorer(model, tokenizer(), max_length=4).score("aa dd", ["ee ff"])


def test_positions_that_begin_behind_the_filling_are_not_read(tmp_path):
    config = bert_config(num_labels=1).to_dict() | {"model_type": "roberta", "pad_token_id": 0}
    model = RobertaForSequenceClassification(RobertaConfig(**config)).eval()  # 64 positions, of which 63 are of tokens
    long = CrossEncoderScorer(model, tokenizer()).score("aa dd", ["bb " * 100])
    assert long == pytest.approx(CrossEncoderScorer(model, tokenizer()).score("aa dd", ["bb " * 58]), abs=1e-6)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert ExemplarEncoder(str(tmp_path), local_files_only=True).encode(["bb " * 100]).shape == (1, 16)


def test_cross_encoders_of_sentence_transformers_agree_and_plug_in(tmp_path):
    classifier(1).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    peer = CrossEncoder(str(tmp_path), activation_fn=torch.nn.Identity(), max_length=64, device="cpu")
    scores = reranker("cross-encoder", str(tmp_path), local_files_only=True, dtype=torch.float32).rerank(
        "aa dd", collection(TEXTS)
    )
    plugged = PointwiseReranker(peer).rerank("aa dd", collection(TEXTS))
    assert [document.id for document in plugged.documents] == [document.id for document in scores.documents]
    assert plugged.scores == pytest.approx(scores.scores, abs=1e-5)
    assert reranker("cross-encoder", peer).rerank("aa dd", collection(TEXTS)).scores == plugged.scores
    assert PointwiseReranker(peer).rerank("q", []).documents == ()


def first_logits(prompt, words):
    """Of the tokens at the first step, straight from the model."""
    ids = tokenizer()(f"{prompt} </s>", add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        out = t5()(input_ids=ids.input_ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    return out.logits[0, 0, tokenizer().convert_tokens_to_ids(words)]


def test_words_at_the_first_step():
    words = ["▁false", "▁true"]
    mono = MonoT5Scorer(t5(), tokenizer(), batch_size=2).score("aa", TEXTS)
    twolar = TwolarScorer(t5(), tokenizer(), batch_size=2).score("aa", TEXTS)
    ranked = RankT5Scorer(t5(), tokenizer(), batch_size=2).score("aa", TEXTS)
    for place, text in enumerate(TEXTS):
        logits = first_logits(f"Query: aa Document: {text} Relevant:", words)
        assert mono[place] == pytest.approx(float(logits.log_softmax(-1)[1]), abs=1e-5)
        assert twolar[place] == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)
        own = first_logits(f"Query: aa Document: {text}", ["<extra_id_10>"])
        assert ranked[place] == pytest.approx(float(own[0]), abs=1e-5)


def test_the_document_is_cut_and_never_the_prompt():
    whole = MonoT5Scorer(t5(), tokenizer())
    assert MonoT5Scorer(t5(), tokenizer(), max_length=8).score("aa", ["bb cc dd"]) == whole.score("aa", ["bb cc dd"])
    assert MonoT5Scorer(t5(), tokenizer(), max_length=6).score("aa", ["bb cc dd"]) == whole.score("aa", ["bb"])
    assert RankT5Scorer(t5(), tokenizer(), max_length=5).score("aa", ["bb cc dd"]) == pytest.approx(
        RankT5Scorer(t5(), tokenizer()).score("aa", ["bb"]), abs=1e-6
    )
    with pytest.raises(ValueError, match="max_length=4 leaves no room for a passage"):
        MonoT5Scorer(t5(), tokenizer(), max_length=4).score("aa", ["bb"])


def test_words_belong_to_the_checkpoint():
    for name, words in [
        ("castorini/monot5-base-msmarco", ("▁false", "▁true")),
        ("unicamp-dl/mt5-base-mmarco-v2", ("▁no", "▁yes")),
        ("unicamp-dl/mt5-3B-mmarco-en-pt", ("▁", "▁true")),
        ("unicamp-dl/ptt5-base-pt-msmarco-10k-v2", ("▁não", "▁sim")),
        ("unicamp-dl/monoptt5-base", ("▁Não", "▁Sim")),
    ]:
        assert MonoT5Scorer(name).words == words  # nothing is loaded for it
    with pytest.raises(ValueError, match="has no token '▁sim'"):
        MonoT5Scorer(t5(), tokenizer(), words=("▁false", "▁sim")).score("aa", ["bb"])
    with pytest.raises(ValueError, match=r"has no token '<extra_id_7>'.*word=\.\.\."):
        RankT5Scorer(t5(), tokenizer(), word="<extra_id_7>").score("aa", ["bb"])


@pytest.mark.parametrize("causal", [False, True])
def test_query_likelihood_of_many_queries_together(causal):
    model = gpt2() if causal else t5()
    scorer = QueryLikelihoodScorer(model, tokenizer(), causal=causal, batch_size=3)
    queries = ["aa bb", "cc", "dd ee ff", "aa bb", "cc"]
    together = scorer.score_pairs(queries, TEXTS)
    single = [scorer.score(query, [text])[0] for query, text in zip(queries, TEXTS, strict=True)]
    assert together == pytest.approx(single, abs=1e-4)
    assert all(score < 0 for score in together)
    assert scorer.score("aa", []) == []


@pytest.mark.parametrize("causal", [False, True])
def test_query_likelihood_by_its_definition(causal):
    model, ids_of = (gpt2() if causal else t5()), tokenizer().convert_tokens_to_ids
    scorer = QueryLikelihoodScorer(model, tokenizer(), causal=causal, instruction="relevant Yes", query_length=2,
                                   max_length=6)  # fmt: skip
    said = ids_of(["aa", "bb", "</s>"])
    for text, kept in (("cc", ["cc"]), ("dd " * 50, ["dd"] * (3 if causal else 2))):
        ids = ids_of(["Passage:", *kept, "relevant", "Yes", *([] if causal else ["</s>"])])
        with torch.no_grad():
            if causal:
                logits = model(torch.tensor([ids + said])).logits[0, len(ids) - 1 : -1]
            else:
                before = torch.tensor([[0, *said[:-1]]])
                logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=before).logits[0]
        expected = float(logits.log_softmax(-1)[range(3), said].sum())
        assert scorer.score("aa bb cc dd", [text]) == pytest.approx([expected], abs=1e-4)


def test_encoder_states_of_passages_are_kept_for_the_next_query(monkeypatch):
    kept = QueryLikelihoodScorer(t5(), tokenizer(), keep=3, batch_size=2)
    plain = QueryLikelihoodScorer(t5(), tokenizer())
    for query in ("aa bb", "cc", "dd ee ff"):
        assert kept.score(query, TEXTS) == pytest.approx(plain.score(query, TEXTS), abs=1e-4)
    assert len(kept.states) == 3
    kept.score("aa", TEXTS[:2])
    monkeypatch.setattr(t5().get_encoder(), "forward", lambda **_: pytest.fail("the encoder ran again"))
    assert kept.score("bb", TEXTS[:2])
    with pytest.raises(ValueError, match="keep=2 with causal=True"):
        QueryLikelihoodScorer(gpt2(), tokenizer(), causal=True, keep=2)
    with pytest.raises(ValueError, match="keep=-1"):
        QueryLikelihoodScorer(t5(), tokenizer(), keep=-1)


def test_a_decoder_with_few_positions_reads_less_of_the_passage():
    short = QueryLikelihoodScorer(gpt2(positions=16), tokenizer(), causal=True)
    assert np.isfinite(short.score("aa bb cc", ["dd " * 50])).all()
    with pytest.raises(ValueError, match="leaves no room for a passage"):
        short.score("aa " * 12, ["dd"])
    endless = copy.deepcopy(tokenizer())
    endless.eos_token = None
    with pytest.raises(ValueError, match="query='' has no tokens"):
        QueryLikelihoodScorer(gpt2(), endless, causal=True).score("", ["dd"])


@pytest.mark.parametrize("model", [gpt2, llama])
def test_a_common_start_is_read_once_and_changes_nothing(model, monkeypatch):
    start = list(range(10, 40))
    rows = [[*start, *behind] for behind in ([50, 51, 52], [53], [54, 55])]
    single = torch.stack([model()(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]).detach()
    torch.testing.assert_close(next_token_logits(model(), rows, range(20)), single[:, :20], atol=1e-5, rtol=1e-5)
    continued = continuation_likelihoods(model(), [start] * 3, [[50, 51, 52], [53], [54, 55]])
    read: list[int] = []
    hook = model().get_input_embeddings().register_forward_pre_hook(lambda _, ids: read.append(ids[0].numel()))
    again = continuation_likelihoods(model(), [start] * 3, [[50, 51, 52], [53], [54, 55]])
    hook.remove()
    assert sum(read) == 29 + 3 * 4  # the start once, then what follows, padded
    monkeypatch.setattr("fullrank.search.language_model_scores._WORTH_SHARING", 1000)
    unshared = continuation_likelihoods(model(), [start] * 3, [[50, 51, 52], [53], [54, 55]])
    torch.testing.assert_close(continued, unshared, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, unshared, atol=1e-4, rtol=1e-4)
    assert continuation_likelihoods(model(), [[5], [6]], [[], []]).tolist() == [0, 0]
    assert decoder_logits(model(), rows, [0, 2]).shape[:2] == (3, 2)


@pytest.mark.parametrize("model", [sliding, hybrid, stateful])
def test_a_common_start_longer_than_a_window_or_before_a_state_changes_nothing(model):
    start = list(range(10, 60))
    rows = [[*start, *behind] for behind in ([50, 51, 52], [53], [54, 55])]
    with torch.no_grad():
        single = torch.stack([model()(input_ids=torch.tensor([row])).logits[0, -1] for row in rows])
    torch.testing.assert_close(next_token_logits(model(), rows, range(20)), single[:, :20], atol=1e-5, rtol=1e-5)


def test_duo_t5_sums_preferences():
    scorer = DuoT5Scorer(t5(), tokenizer())
    p = scorer.preferences("aa", TEXTS[:3]).exp()
    off = ~torch.eye(3, dtype=torch.bool)
    logits = first_logits(f"Query: aa Document0: {TEXTS[2]} Document1: {TEXTS[0]} Relevant:", ["▁false", "▁true"])
    assert float(p[2, 0]) == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-5)
    expected = [float(sum(p[i, j] + 1 - p[j, i] for j in range(3) if j != i)) for i in range(3)]
    assert scorer.score("aa", TEXTS[:3]) == pytest.approx(expected, abs=1e-5)
    assert DuoT5Scorer(t5(), tokenizer(), aggregate="log").score("aa", TEXTS[:3]) == pytest.approx(
        (p.log() * off).sum(1).tolist(), abs=1e-5
    )
    assert DuoT5Scorer(t5(), tokenizer(), aggregate="prob").score("aa", TEXTS[:1]) == [0.0]
    shares = scorer.compare_pairs("aa", [(TEXTS[0], TEXTS[1]), (TEXTS[1], TEXTS[0])])
    assert shares[0] == pytest.approx(float(p[0, 1] + 1 - p[1, 0]) / 2, abs=1e-5)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    cut = DuoT5Scorer(t5(), tokenizer(), max_length=8).preferences("aa", ["bb", "cc dd ee"])
    torch.testing.assert_close(cut, DuoT5Scorer(t5(), tokenizer()).preferences("aa", ["bb", "cc"]))
    # What the shorter passage leaves, the longer one takes.
    cut = DuoT5Scorer(t5(), tokenizer(), max_length=10).preferences("aa", ["cc dd ee ff gg", "bb"])
    torch.testing.assert_close(cut, DuoT5Scorer(t5(), tokenizer()).preferences("aa", ["cc dd ee", "bb"]))
    with pytest.raises(ValueError, match="max_length=7 leaves no room for passages"):
        DuoT5Scorer(t5(), tokenizer(), max_length=7).score("aa", ["bb", "cc"])


def test_a_bi_encoder_encodes_every_text_once():
    class Counting(HashEncoder):
        seen: tuple[str, ...] = ()

        def encode(self, texts, /):
            self.seen += tuple(texts)
            return super().encode(texts)

    encoder = Counting()
    together = EncoderScorer(encoder).score_pairs(["q", "r", "q"], ["x", "x", "y"])
    assert sorted(encoder.seen) == ["q", "r", "x", "y"]
    vectors = {
        text: vector / np.linalg.norm(vector) for text, vector in zip("qrxy", encoder.encode([*"qrxy"]), strict=True)
    }
    expected = [vectors[q] @ vectors[t] for q, t in ("qx", "rx", "qy")]
    assert together == pytest.approx(expected, abs=1e-6)


def test_late_interaction_by_its_definition(tmp_path):
    torch.manual_seed(0)
    model = ColBERT(bert_config(), dim=8).eval()
    scorer = LateInteractionScorer(model, tokenizer(), query_length=8, batch_size=2)
    texts = [*TEXTS, "aa , bb ."]
    scores = scorer.score_pairs(["aa dd"] * 5 + ["cc"], texts)

    def vectors(ids, present):
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([present]))[0]
        return torch.nn.functional.normalize(out, dim=-1)

    def ids_of(text):
        return tokenizer().convert_tokens_to_ids(text.split())

    for query, text, score in zip(["aa dd"] * 5 + ["cc"], texts, scores, strict=True):
        q = ids_of(f"[CLS] [unused0] {query} [SEP]")
        Q = vectors([*q, *ids_of("[MASK]") * (8 - len(q))], [1] * len(q) + [0] * (8 - len(q)))
        d = ids_of(f"[CLS] [unused1] {text} [SEP]")
        words = [place for place, word in enumerate(f"[CLS] [unused1] {text} [SEP]".split()) if word not in ",."]
        D = vectors(d, [1] * len(d))[words]
        assert score == pytest.approx(float((Q @ D.T).amax(1).sum()), abs=1e-4)
    long = scorer.score("aa dd aa dd aa dd aa", ["bb " * 100])  # 8 tokens of a query, 64 positions
    assert long == pytest.approx(scorer.score("aa dd aa dd aa", ["bb " * 61]), abs=1e-4)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = LateInteractionScorer(str(tmp_path), query_length=8, dim=8, local_files_only=True)
    assert loaded.score("aa dd", TEXTS) == pytest.approx(scores[:5], abs=1e-4)
    with pytest.raises(ValueError, match="has no token '<Q>'"):
        LateInteractionScorer(model, tokenizer(), markers=("<Q>", "<D>")).score("aa", ["bb"])
    with pytest.raises(ValueError, match="query_length=3"):
        LateInteractionScorer(model, tokenizer(), query_length=3)


def test_sparse_vectors_by_their_definition():
    scorer = SparseScorer(masked(), tokenizer(), batch_size=2)
    queries = ["aa dd", "cc", "aa dd", "cc", "aa dd"]
    scores = scorer.score_pairs(queries, TEXTS)

    def vector(text):
        with torch.no_grad():
            logits = masked()(**tokenizer()(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
        return torch.log1p(logits.relu()).amax(0)

    expected = [float(vector(query) @ vector(text)) for query, text in zip(queries, TEXTS, strict=True)]
    assert scores == pytest.approx(expected, rel=1e-4)
    assert scorer.score("aa", []) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_over_vectors_of_half_precision_make_no_ties(dtype):
    model = copy.deepcopy(masked()).to(dtype)
    torch.manual_seed(0)
    texts = [" ".join(f"{a}{b}" for a, b in zip("abcdefgh", random, strict=True)) for random in permutations(200)]
    late = LateInteractionScorer(ColBERT(bert_config(), dim=8).to(dtype).eval(), tokenizer()).score("aa dd", texts)
    sparse = SparseScorer(model, tokenizer()).score("aa dd", texts)
    for scores in (late, sparse):
        rounded = torch.tensor(scores).to(dtype).float()
        assert len(set(rounded.tolist())) < 150 < 190 < len(set(scores))


def permutations(count):
    generator = torch.Generator().manual_seed(0)
    return ["".join("abcdefgh"[n] for n in torch.randperm(8, generator=generator)) for _ in range(count)]


def test_layerwise_logits():
    model, ask = llama(), "relevant Yes"
    scorer = LayerwiseScorer(model, tokenizer(), instruction=ask, batch_size=2)
    lower = LayerwiseScorer(model, tokenizer(), instruction=ask, layer=2)
    yes = tokenizer().convert_tokens_to_ids("Yes")
    tops, lows = scorer.score("aa", TEXTS), lower.score("aa", TEXTS)
    for text, top, low in zip(TEXTS, tops, lows, strict=True):
        ids = tokenizer()(f"A: aa B: {text} {ask}", add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True)
            below = model.lm_head(model.model.norm(out.hidden_states[2]))[0, -1, yes]
        assert top == pytest.approx(float(out.logits[0, -1, yes]), abs=1e-5)
        assert low == pytest.approx(float(below), abs=1e-5)
    assert len(model.model.layers) == 3  # the model itself keeps its layers
    assert model.config.num_hidden_layers == 3
    deep = LayerwiseScorer(gpt2(), tokenizer(), instruction=ask, layer=2).score("aa", TEXTS)
    assert deep == pytest.approx(LayerwiseScorer(gpt2(), tokenizer(), instruction=ask).score("aa", TEXTS), abs=1e-5)
    half = LayerwiseScorer(model, tokenizer(), instruction=ask, max_length=8)
    assert half.score("aa " * 50, ["bb " * 50]) == pytest.approx(scorer.score("aa " * 5, ["bb"]), abs=1e-5)
    cut = LayerwiseScorer(model, tokenizer(), instruction=ask, max_length=8).score("aa", ["bb " * 50])
    assert cut == pytest.approx(scorer.score("aa", ["bb " * 5]), abs=1e-5)
    with pytest.raises(ValueError, match="layer=9 is not accepted; the model has 3 layers"):
        LayerwiseScorer(model, tokenizer(), layer=9).score("aa", ["bb"])
    with pytest.raises(ValueError, match="layer=0"):
        LayerwiseScorer(model, tokenizer(), layer=0)
    with pytest.raises(ValueError, match="max_length=6 leaves no room"):
        LayerwiseScorer(model, tokenizer(), max_length=6).score("aa", ["bb"])
    with pytest.raises(ValueError, match="has no list of 1 layers"):
        shallower(Headless(), 1)


class Headless(torch.nn.Module):
    """A decoder without a list of layers."""

    class config:  # noqa: N801
        num_hidden_layers = 1

    @property
    def base_model(self):
        return self


class OwnHeads(torch.nn.Module):
    """A decoder with a head at every layer, as bge-reranker-v2-minicpm-layerwise: the layer times the last token."""

    class config:  # noqa: N801
        max_position_embeddings = 64

    device = torch.device("cpu")

    def forward(self, input_ids, attention_mask, cutoff_layers=None, return_dict=True):
        return ([layer * input_ids.float() for layer in cutoff_layers],)


def test_a_model_with_heads_of_its_own_is_asked_for_a_layer():
    scores = LayerwiseScorer(OwnHeads().eval(), tokenizer(), layer=3, instruction="bb Yes").score("aa", TEXTS)
    assert scores == [3.0 * tokenizer().convert_tokens_to_ids("Yes")] * len(TEXTS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MonoT5Scorer(t5()), "tokenizer=None with a model object"),
        (lambda: MonoT5Scorer(t5(), tokenizer(), dtype="auto"), "dtype: options for loading"),
        (lambda: MonoT5Scorer(t5(), tokenizer(), batch_size=0), "batch_size=0"),
        (lambda: DuoT5Scorer(t5(), tokenizer(), aggregate="mean"), "aggregate='mean'"),
        (lambda: CrossEncoderScorer(classifier(3), tokenizer()).score("aa", ["bb"]), "the model has 3 labels"),
        (lambda: CrossEncoderScorer(trained(), tokenizer()).score("aa", ["bb"]), "the model is in training mode"),
    ],
)
def test_bad_calls(call, words, unchecked):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def trained():
    return BertForSequenceClassification(bert_config(num_labels=1)).train()


def test_names_are_loaded_at_first_use():
    scorer = CrossEncoderScorer("/nowhere/model", local_files_only=True)
    assert PointwiseReranker(scorer).rerank("q", []).documents == ()
    with pytest.raises(OSError, match="model='/nowhere/model' cannot be loaded"):
        scorer.score("q", ["x"])
