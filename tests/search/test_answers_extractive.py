"""Answers that stand in the contexts, in English and in Chinese."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import Document, Generator
from fullrank.search.answer_spans import answer_span
from fullrank.search.extractive import ExtractiveReader, bm25
from fullrank.search.sentences import sentences, terms

from .conftest import HashEncoder

PARIS = Document("fr", "France lies in Europe. Its capital is Paris, on the Seine. It has 68 million inhabitants.")
VIENNA = Document("at", "Vienna is the capital of Austria. Mr. A. B. Smith visited the U.S. in 1914.")
BEIJING = Document("cn", "中国位于亚洲。北京是中国的首都，人口约2189万。长城很长！“真的？”他说。")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. No met Mr. A. B. Smith. They left.", ["Dr. No met Mr. A. B. Smith.", "They left."]),
        ("It cost 3.5 million, i.e. much. Yes.", ["It cost 3.5 million, i.e. much.", "Yes."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("你好。再见！好吗？好", ["你好。", "再见！", "好吗？", "好"]),
        ("他说：“走吧。”然后走了。", ["他说：“走吧。”", "然后走了。"]),
        ("A head\n\nA text that\ngoes on.", ["A head", "A text that\ngoes on."]),
        ("The U.S. Army came.", ["The U.S. Army came."]),
        (" \n ", []),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet='aB .!?。！\n"”京', max_size=40))
def test_sentences_keep_every_character(text):
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence in text for sentence in found)


def test_terms():
    assert terms("The U.S.-based Café") == ["the", "u", "s", "based", "café"]
    assert terms("北京2008年") == ["北京", "北", "京", "2008", "年"]
    assert terms("ＡＢＣ") == ["abc"]
    assert terms("हिन्दी में_भाषा") == ["हिन्दी", "में", "भाषा"]
    assert terms("ภา") == ["ภา", "ภ", "า"]


def test_bm25_by_its_formula():
    texts = ["k m m", "k n", "the"]
    scores = bm25("what is the m, m of k and z?", texts)
    mean = 2.0

    def part(f, n, length):
        weight = math.log(1 + (3 - n + 0.5) / (n + 0.5))
        return weight * f / (f + 1.2 * (1 - 0.4 + 0.4 * length / mean))

    expected = [2 * part(2, 1, 3) + part(1, 2, 3), part(1, 2, 2), 0.0]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert bm25("what is the?", texts)[2] > 0  # common words count where there are no others


def test_the_best_sentence_with_its_source():
    reader = ExtractiveReader()
    assert isinstance(reader, Generator)
    answer = reader.answer("Which capital lies on the Seine?", [PARIS, VIENNA])
    assert (answer.text, answer.sources) == ("Its capital is Paris, on the Seine.", ("fr",))
    answer = reader.answer("What is the capital of Austria?", [PARIS, VIENNA])
    assert (answer.text, answer.sources) == ("Vienna is the capital of Austria.", ("at",))
    answer = reader.answer("中国的首都是哪里？", [VIENNA, BEIJING])
    assert (answer.text, answer.sources) == ("北京是中国的首都，人口约2189万。", ("cn",))


def test_the_order_of_the_contexts_counts():
    twice = [Document("a", "The capital is Bern."), Document("b", "The capital is Rome.")]
    assert ExtractiveReader().answer("Which capital?", twice).sources == ("a",)
    assert ExtractiveReader().answer("Which capital?", twice[::-1]).sources == ("b",)
    later = [
        Document("x", "A capital of old."),
        *[Document(f"n{n}", "Nothing.") for n in range(8)],
        Document("y", "The capital of old and new capital ways."),
    ]
    assert ExtractiveReader(trust=5.0).answer("Which is the capital?", later).sources == ("x",)
    assert ExtractiveReader(trust=0.0).answer("Which is the capital?", later).sources == ("y",)


@pytest.mark.parametrize(
    ("question", "sentence", "expected"),
    [
        ("When was it built?", "It was built on 3 May 1914 by the Romans.", "3 May 1914"),
        ("How many people live there?", "Of 27 towns, people live in 1,200 houses there.", "1,200"),
        ("Who led the army?", "The army was led by General John Smith in spring.", "General John Smith"),
        ("北京有多少人口？", "北京是首都，人口约2189万。", "2189万"),
        ("战争是哪年开始的？", "战争于1914年开始。", "1914年"),
        ("谁写了这本书？", "这本书是威廉·莎士比亚写的。", "威廉·莎士比亚"),
        ("Why did they leave?", "They did leave, because of heavy rain and wind.", "because of heavy rain and wind"),
    ],
)
def test_the_words_that_answer(question, sentence, expected):
    found = answer_span(question, sentence)
    assert expected in found or found in sentence
    assert expected in found


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["When?", "How many?", "Who is it?", "谁？", "Why?"]), st.text(min_size=1, max_size=60))
def test_a_span_stands_in_the_sentence(question, sentence):
    assert answer_span(question, sentence) in sentence


def test_spans_as_answers():
    answer = ExtractiveReader("span").answer("How many inhabitants does it have, in million?", [PARIS])
    assert answer.text == "68 million"
    assert answer.metadata["sentence"] == "It has 68 million inhabitants."
    assert answer.metadata["score"] > 0


def test_an_encoder_compares_meanings():
    class Meaning:
        def encode(self, texts, /):
            return np.array([[1.0, 0.0] if "Seine" in text or "river" in text else [0.0, 1.0] for text in texts])

    assert (
        ExtractiveReader(encoder=Meaning()).answer("which river?", [PARIS]).text
        == "Its capital is Paris, on the Seine."
    )
    assert ExtractiveReader(encoder=HashEncoder()).answer(PARIS.text, [Document("d", PARIS.text)]).sources == ("d",)


def test_nothing_found_is_no_answer():
    for contexts in ([], [Document("e", "")], [VIENNA]):
        answer = ExtractiveReader().answer("zebra?", contexts)
        assert (answer.text, answer.sources) == ("", ())


def test_bad_inputs(unchecked):
    with pytest.raises(ValueError, match="unit='word' is not known"):
        ExtractiveReader("word")  # pyright: ignore[reportArgumentType]
    for trust in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"trust=.* is not accepted"):
            ExtractiveReader(trust=trust)
    with pytest.raises(ValueError, match="asks for nothing"):
        ExtractiveReader().answer("", [PARIS])

    class Broken:
        def encode(self, texts, /):
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(ValueError, match="one finite vector each is needed"):
        ExtractiveReader(encoder=Broken()).answer("q", [PARIS])
