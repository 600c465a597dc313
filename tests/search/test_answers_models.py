"""Language models of transformers, tiny and untrained: what goes in comes out right."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AddedToken,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from fullrank.search import Document
from fullrank.search.answers import BasicRAG, InContextRALM
from fullrank.search.fusion_in_decoder import FusionInDecoder
from fullrank.search.language_model import LanguageModel, Measured
from fullrank.search.local_model import TransformersModel, plain
from fullrank.search.pretrained import padded

SENTENCE = """<pad> </s> <unk> <s> question : title context who what where the capital of france germany is paris berlin
vienna a river passage 1 2 < > / answer . , danube"""
WORDS = SENTENCE.split()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models as small as these lose more time to waking threads than they have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return model


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=48, n_embd=16, n_layer=2, n_head=2)
    config.eos_token_id = config.bos_token_id = 1
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


PROMPTS = ["who is the capital", "what river", "where is the capital of france , a river of the danube", "paris"]


def greedy(model, ids, count):
    """The likeliest continuation, one token after the other."""
    seq2seq = model.config.is_encoder_decoder
    out = [0] if seq2seq else []
    for _ in range(count):
        inputs = (
            {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([out])}
            if seq2seq
            else {"input_ids": torch.tensor([ids + out])}
        )
        token = int(model(**inputs).logits[0, -1].argmax())
        out.append(token)
        if token == 1:
            break
    return out[1:] if seq2seq else out


@pytest.mark.parametrize("kind", ["t5", "gpt"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_continues_every_prompt_as_if_alone(kind, batch_size, tokenizer, request):
    network = request.getfixturevalue(kind)
    model = TransformersModel(network, tokenizer, batch_size=batch_size)
    assert isinstance(model, LanguageModel)
    assert isinstance(model, Measured)
    with torch.inference_mode():
        expected = [
            tokenizer.decode(greedy(network, tokenizer(p).input_ids, 4), skip_special_tokens=True) for p in PROMPTS
        ]
    assert len(set(expected)) > 1  # the answers tell the prompts apart
    assert model.complete(PROMPTS, max_new_tokens=4) == expected
    assert model.complete([]) == []


def test_samples_follow_the_seed_and_leave_the_generator_alone(gpt, tokenizer):
    model = TransformersModel(gpt, tokenizer)
    state = torch.get_rng_state()
    first = model.complete(["who is"] * 4, max_new_tokens=4, temperature=1.0, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == model.complete(["who is"] * 4, max_new_tokens=4, temperature=1.0, seed=3)
    assert first != model.complete(["who is"] * 4, max_new_tokens=4, temperature=1.0, seed=4)
    assert len(set(first)) > 1


def test_a_stop_ends_generation(gpt, tokenizer, monkeypatch):
    model = TransformersModel(gpt, tokenizer)
    (whole,) = model.complete(["what river"], max_new_tokens=8)
    third = whole.split()[2]
    made = []
    decode = tokenizer.batch_decode
    monkeypatch.setattr(tokenizer, "batch_decode", lambda ids, **more: made.append(ids.shape[1]) or decode(ids, **more))
    (stopped,) = model.complete(["what river"], max_new_tokens=8, stop=[third])
    assert stopped == whole[: whole.index(third)]
    assert max(made) <= 3  # nothing was generated beyond it


def test_special_tokens_in_a_prompt_are_text(t5, tokenizer):
    assert plain("a </s> b <pad><unk>", tokenizer) == "a < /s> b < pad>< unk>"
    model = TransformersModel(t5, tokenizer)
    assert 1 not in model._encoded("paris </s> berlin")[:-1]
    assert model.count_tokens("the capital") == 3


def test_tokens_that_end_a_turn_are_text_too(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens([AddedToken("<end_of_turn>", special=True), AddedToken("<plain>", special=False)])
    assert "<end_of_turn>" not in chat.all_special_tokens
    assert plain("a <end_of_turn><start> <plain>", chat) == "a < end_of_turn><start> <plain>"


def test_a_conversation_uses_the_template(gpt, tokenizer):
    tokenizer.chat_template = (
        "{% for message in messages %}<s> {{ message['content'] }} </s>{% endfor %}"
        "{% if add_generation_prompt %} answer :{% endif %}"
    )
    try:
        ids = TransformersModel(gpt, tokenizer)._encoded("paris </s> berlin")
        assert TransformersModel(gpt, tokenizer, chat=True)._encoded("paris </s> berlin") == ids
        assert TransformersModel(gpt, tokenizer, chat=False).count_tokens("paris") == 2
    finally:
        tokenizer.chat_template = None
    assert tokenizer.decode(ids).split()[:2] == ["<s>", "paris"]
    assert ids.count(1) == 1
    assert ids[-2:] == [WORDS.index("answer"), WORDS.index(":")]


def test_limits(gpt, t5, tokenizer):
    model = TransformersModel(gpt, tokenizer)
    assert model.input_limit(8) == 40
    assert TransformersModel(t5, tokenizer).input_limit(8) is None
    assert TransformersModel(gpt, tokenizer, max_input_tokens=5).input_limit(8) == 5
    with pytest.raises(ValueError, match="prompt 1 has 42 tokens; the model takes 40: shorten it"):
        model.complete(["who", "the " * 41], max_new_tokens=8)
    answer = InContextRALM(model).answer("where is paris", [Document("d", "the river " * 80)])
    assert answer.sources == ("d",)
    with pytest.raises(ValueError, match="max_input_tokens=-16 is too small"):
        BasicRAG(model).answer("where is paris", [])


def test_bad_models(gpt, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="tokenizer=None with a model object"):
        TransformersModel(gpt)
    with pytest.raises(ValueError, match="dtype: options for loading, but the model is an object"):
        TransformersModel(gpt, tokenizer, dtype="auto")
    with pytest.raises(ValueError, match="batch_size=0 is not accepted"):
        TransformersModel(gpt, tokenizer, batch_size=0)
    nowhere = TransformersModel(tmp_path / "none", local_files_only=True)  # nothing is loaded yet
    with pytest.raises(OSError, match=r"model='.*none' cannot be loaded: "):
        nowhere.complete(["who"])
    gpt.train()
    with pytest.raises(ValueError, match=r"in training mode.*model\.eval\(\)"):
        TransformersModel(gpt, tokenizer).complete(["who"])
    gpt.eval()


@pytest.mark.parametrize("kind", ["t5", "gpt"])
def test_a_folder_is_loaded_at_first_use(kind, tokenizer, tmp_path, request):
    network = request.getfixturevalue(kind)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = TransformersModel(tmp_path, local_files_only=True, dtype=torch.float32)
    assert model._model is None
    whole = TransformersModel(network, tokenizer)
    assert model.complete(PROMPTS, max_new_tokens=5) == whole.complete(PROMPTS, max_new_tokens=5)


CONTEXTS = [
    Document("fr", "paris is the capital of france", "france"),
    Document("de", "berlin is the capital of germany , a river is the danube", "germany"),
    Document("at", "vienna"),
]


def test_fusion_in_decoder_encodes_alone_and_decodes_together(t5, tokenizer):
    reader = FusionInDecoder(t5, tokenizer, max_new_tokens=6, batch_size=2)
    texts = [f"question: who title: {d.title} context: {d.text}" for d in CONTEXTS]
    with torch.inference_mode():
        alone = [t5.encoder(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0] for text in texts]
        states, mask = reader.encode("who", CONTEXTS)
        torch.testing.assert_close(states, torch.cat(alone)[None])
        assert mask.shape == states.shape[:2]
        out = [0]
        while len(out) <= 6 and out[-1] != 1:
            step = t5(encoder_outputs=(torch.cat(alone)[None],), decoder_input_ids=torch.tensor([out]))
            out.append(int(step.logits[0, -1].argmax()))
    answer = reader.answer("who", CONTEXTS)
    assert answer.text == tokenizer.decode(out[1:], skip_special_tokens=True)
    assert answer.sources == ("fr", "de", "at")


def test_fusion_in_decoder_does_not_mind_the_order(t5, tokenizer):
    reader = FusionInDecoder(t5, tokenizer, max_new_tokens=1)
    with torch.inference_mode():
        logits = []
        for contexts in (CONTEXTS, CONTEXTS[::-1]):
            states, _ = reader.encode("who", contexts)
            logits.append(t5(encoder_outputs=(states,), decoder_input_ids=torch.tensor([[0]])).logits)
    torch.testing.assert_close(*logits)


def test_fusion_in_decoder_cuts_contexts_never_the_question(t5, tokenizer):
    reader = FusionInDecoder(t5, tokenizer, n_contexts=2, passage_length=8)
    rows = reader._rows("who is paris", CONTEXTS)
    assert all(row[:5] == tokenizer("question : who is paris").input_ids[:5] for row in rows)
    assert max(map(len, rows)) == 8
    assert reader.answer("who is paris", CONTEXTS).sources == ("fr", "de")
    assert reader.answer("who is paris", []).sources == ()
    with pytest.raises(ValueError, match="the question has 14 tokens and leaves no place"):
        reader.answer("who " * 11, CONTEXTS)


def test_fusion_in_decoder_bad_inputs(t5, gpt, tokenizer):
    with pytest.raises(ValueError, match="a GPT2LMHeadModel has no encoder"):
        FusionInDecoder(gpt, tokenizer)
    with pytest.raises(ValueError, match="passage_length=0 is not accepted"):
        FusionInDecoder(t5, tokenizer, passage_length=0)
    with pytest.raises(ValueError, match="asks for nothing"):
        FusionInDecoder(t5, tokenizer).answer("", CONTEXTS)
    t5.train()
    with pytest.raises(ValueError, match="in training mode"):
        FusionInDecoder(t5, tokenizer).answer("who", CONTEXTS)
    t5.eval()


def test_filling_on_either_side():
    ids, mask = padded([[1, 2], [3]], 0)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2], [3, 0]], [[1, 1], [1, 0]])
    ids, mask = padded([[1, 2], [3]], 9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2], [9, 3]], [[1, 1], [0, 1]])
