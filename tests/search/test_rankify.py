"""The names of Rankify: its data, its stages, and each of its defects done right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fullrank.search import (
    BM25Retriever,
    DenseRetriever,
    PairwiseReranker,
    Ranking,
    SlidingWindowReranker,
    protocols,
)
from fullrank.search.rankify import (
    Answer,
    Context,
    Dataset,
    Document,
    Generator,
    Question,
    Reranking,
    Retriever,
    pipeline,
)

CORPUS = [
    {"id": "fr", "title": "France", "contents": "The capital of France is Paris."},
    {"id": "de", "title": "Germany", "text": "Berlin is the capital of Germany."},
    {"id": 3, "title": None, "text": "Vienna lies on the Danube, and is the capital of Austria."},
    {"id": "x", "text": "Cats sleep most of the day."},
]


class Letters:
    """An encoder that counts letters."""

    def encode(self, texts, /):
        return np.array([[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz "] for text in texts])


class Reverses:
    """A re-ranker that turns every ranking around."""

    def rerank(self, query, documents):
        turned = tuple(reversed(documents))
        return Ranking(query, turned, tuple(10.0 - place for place in range(len(turned))))


class Network:
    """A model of transformers, so far as its name goes."""

    def __call__(self, ids): ...

    def generate(self, ids): ...


def asked(question="What is the capital of Germany?", answers="Berlin", id="q1"):
    return Document(Question(question), Answer(answers), id=id)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("text", ["text"]),
        (["Paris", "Lyon"], ["Paris", "Lyon"]),
        (42, ["42"]),
        ([1914, 3.5, "x"], ["1914", "3.5", "x"]),
        (("a", "b"), ["a", "b"]),
        ("", []),
        ([""], []),
        (None, []),
        ([], []),
        (0, ["0"]),
    ],
)
def test_answers_are_kept(given, kept):
    assert Answer(given).answers == kept


def test_a_question_stays_as_it_is():
    for text in ("capital of France", "Name a city.", "Who?", "", "谁？"):
        assert Question(text).question == text
        assert Document(text).question.question == text


def test_an_id_of_none_stays_none():
    assert Document("q", "a").id is None
    assert Document("q", "a", id=7).id == 7
    assert Document.from_dict({"question": "q", "ctxs": []}).id is None
    assert "query_id" not in Document("q", "a").to_dict()


def test_texts_make_a_document():
    document = Document("q", "a", [Context(id=1, text="t", score="0.5")])
    assert document.answers == Answer(["a"])
    assert document.contexts[0].score == 0.5
    assert document.reorder_contexts is None
    assert document.final_contexts == document.contexts
    assert "Question: q" in str(document)
    assert "- a" in str(document)
    assert repr(document) == "Document('q', ['a'], 1 contexts, id=None)"


@pytest.mark.parametrize(("name", "content"), [("a.json", '[{"question": "q"}]'), ("a.jsonl", '{"question": "q"}\r\n')])
def test_files_that_begin_with_a_byte_order_mark_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content, "utf-8-sig")
    assert [document.question.question for document in Dataset.load_dataset(tmp_path / name)] == ["q"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_files_of_dpr_go_round(tmp_path, suffix):
    first = Document(
        "谁写的？",
        ["莎士比亚", "Shakespeare"],
        [Context(1.5, True, 1, "Title", "line\u2028one"), Context(None, None, "b", None, "two")],
        id=9,
    )
    first.reorder_contexts = first.contexts[::-1]
    second = Document("no contexts", "x")
    path = tmp_path / f"new/folder{suffix}"
    Dataset("bm25", "mine", documents=[first, second]).save_dataset(path, save_reranked=True, save_text=True)
    one, two = Dataset.load_dataset(path)
    assert (one.question, one.answers, one.id) == (first.question, first.answers, 9)
    assert one.contexts == first.contexts
    assert one.reorder_contexts == first.reorder_contexts
    assert (two.contexts, two.reorder_contexts, two.id) == ([], None, None)
    (cut, _) = Dataset.load_dataset(path, n_docs=1)
    assert (len(cut.contexts), len(cut.reorder_contexts or [])) == (1, 1)
    assert [document.contexts for document in Dataset.load_dataset_qa(path)] == [[], []]
    Dataset.save_documents([first], path)
    (bare,) = Dataset.load_dataset(path)
    assert bare.reorder_contexts is None
    assert bare.contexts == [Context(1.5, True, 1), Context(None, None, "b")]


def test_files_as_rankify_writes_them(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(
        json.dumps(
            [
                {
                    "question": "q",
                    "answers": ["a"],
                    "ctxs": [{"id": 5, "score": "1.25", "has_answer": True, "psg_id": "ignored"}],
                },
                {"question": "r", "answer": "one"},
            ]
        )
    )
    one, two = Dataset.load_dataset(path)
    assert one.contexts == [Context(1.25, True, 5)]
    assert two.answers == Answer("one")
    data = Dataset(documents=[one, two])
    assert (len(data), data[1], list(data)) == (2, two, [one, two])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", "[]", "is of no known kind; accepted: .json and .jsonl"),
        ("a.json", "[{", "is damaged: "),
        ("a.json", "{}", "holds a dict; a list of questions is needed"),
        ("a.jsonl", '{"question": "q"}\n{"ctxs": []}', "entry 2: the entry has no question, only ctxs"),
        ("a.json", "[3]", "entry 1: "),
        ("a.json", '[{"question": "q", "ctxs": [{"score": "high"}]}]', "score='high' is no number"),
        ("a.json", '[{"question": null}]', "question=None is NoneType; text is needed"),
        ("a.json", '[{"question": "q", "answers": [{}]}]', r"answers hold \{\}, which is dict"),
        ("a.json", b"\xff\xfe", "is damaged: "),
    ],
)
def test_bad_files(tmp_path, unchecked, name, content, complaint):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=complaint):
        Dataset.load_dataset(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Dataset.load_dataset(tmp_path / "none.json")


@pytest.mark.parametrize("method", ["bm25", "BM25", "dense", "bge", "hybrid"])
def test_retrieval_keeps_ids_and_says_what_has_an_answer(method):
    retriever = Retriever(method, n_docs=3, encoder_name=Letters()).index(CORPUS)
    documents = [asked(), asked("zebra", None, "q2"), Document("Where does Vienna lie?", "the Danube")]
    found = retriever.retrieve(documents)
    assert [document.id for document in found] == ["q1", "q2", None]
    assert found[0] is documents[0]
    first = found[0].contexts[0]
    assert (first.id, first.title, first.text, first.has_answer) == (
        "de",
        "Germany",
        "Berlin is the capital of Germany.",
        True,
    )
    assert {context.has_answer for context in found[0].contexts[1:]} == {False}
    assert all(context.has_answer is None for context in found[1].contexts)
    assert any(context.has_answer for context in found[2].contexts)
    assert all(a.score >= b.score for a, b in zip(found[0].contexts, found[0].contexts[1:], strict=False))


def test_reranking_fills_the_new_order_and_leaves_the_old():
    (document,) = Retriever(n_docs=3).index(CORPUS).retrieve([asked()])
    before = list(document.contexts)
    (same,) = Reranking(Reverses()).rank([document])
    assert same is document
    assert document.contexts == before
    assert [context.id for context in document.reorder_contexts] == [context.id for context in before[::-1]]
    assert [context.score for context in document.reorder_contexts] == [10.0, 9.0, 8.0]
    assert [context.has_answer for context in document.reorder_contexts] == [c.has_answer for c in before[::-1]]
    assert Reranking(Reverses()).rank([Document("q")])[0].reorder_contexts == []


def test_answers_come_from_the_reranked_order_cut_at_top_k():
    prompts = []
    generator = Generator("basic-rag", lambda prompt: prompts.append(prompt) or "x", n_contexts=1)
    (document,) = Retriever(n_docs=3).index(CORPUS).retrieve([asked()])
    assert generator.answers([document])[0].sources == ("de",)
    Reranking(Reverses()).rank([document])
    assert generator.answers([document])[0].sources == (document.reorder_contexts[0].id,) != ("de",)
    assert generator.generate([document]) == ["x"]
    assert prompts[0] != prompts[1]
    assert prompts[0].count("<passage 1>") == 1
    assert "<passage 2>" not in prompts[1]


@pytest.mark.parametrize(
    "method", ["zero-shot", "basic-rag", "chain-of-thought-rag", "self-consistency-rag", "in-context-ralm", "react-rag"]
)
def test_every_method_by_name(method):
    retriever = Retriever(n_docs=3).index(CORPUS)
    generator = Generator(method, lambda prompt: "Final Answer: Berlin", retriever=retriever)
    (answer,) = generator.generate(retriever.retrieve([asked()]))
    assert answer.endswith("Berlin")


def test_react_searches_for_its_own_words():
    said = ["Search[Danube]", "Final Answer: Vienna"]
    retriever = Retriever(n_docs=3).index(CORPUS)
    generator = Generator("react-rag", lambda prompt: said.pop(0), retriever=retriever)
    (answer,) = generator.answers([asked("Which city?", "Vienna")])
    assert answer.metadata["searches"] == ("Danube",)
    assert "3" in answer.sources


def test_pipelines():
    found = pipeline("search", n_docs=2)("capital of Germany", CORPUS)
    assert found.query == "capital of Germany"
    assert found.documents[0].contexts[0].id == "de"
    assert found.answers is None
    turned = pipeline("rerank", reranker=Reverses(), top_k=1)("capital of Germany", CORPUS)
    assert len(turned.documents[0].reorder_contexts) == 1
    assert turned.documents[0].reorder_contexts[0].id == turned.documents[0].contexts[-1].id
    answered = pipeline("rag", top_k=1)("What is the capital of Germany?", CORPUS)
    assert answered.answers == ["Berlin is the capital of Germany."]
    assert answered.metadata == {"task": "rag", "sources": ("de",)}
    other = pipeline("rag", reranker=Reverses(), top_k=1)("What is the capital of Germany?", CORPUS)
    assert other.metadata["sources"] == (other.documents[0].reorder_contexts[0].id,) != ("de",)


def test_the_stages_of_a_pipeline_one_by_one():
    rag = pipeline("rag", Retriever(n_docs=3).index(CORPUS), Reverses())
    assert [context.id for context in rag.retrieve("capital of Germany", 1)] == ["de"]
    assert [context.id for context in rag.rerank("q", ["one", {"text": "two"}, Context(id="c", text="three")], 2)] == [
        "c",
        1,
    ]
    assert rag.generate("Where is Rome?", ["Paris is in France.", "Rome is in Italy."]) == "Rome is in Italy."
    search = pipeline("search")
    with pytest.raises(ValueError, match="has no re-ranker"):
        search.rerank("q", ["a"])
    with pytest.raises(ValueError, match="has no generator"):
        search.generate("q", ["a"])


def test_an_index_on_disk(tmp_path):
    documents = [protocols.Document("fr", "Paris is in France."), protocols.Document("it", "Rome is in Italy.")]
    BM25Retriever().build(documents).save(tmp_path)
    found = pipeline("rag", index_folder=tmp_path)("Where is Rome?")
    assert (found.answers, found.metadata["sources"]) == (["Rome is in Italy."], ("it",))
    DenseRetriever(Letters()).build(documents).save(tmp_path / "meaning")
    for method in ("dense", "hybrid"):
        retriever = Retriever(method, 1, tmp_path, Letters())
        (document,) = retriever.retrieve([Document("Rome is in Italy.", "Italy")])
        assert [(context.id, context.has_answer) for context in document.contexts] == [("it", True)]
    with pytest.raises(ValueError, match="is searched; for a corpus make another Retriever"):
        retriever.index(["a"])
    with pytest.raises(FileNotFoundError, match="holds no index"):
        Retriever(index_folder=tmp_path / "none")


def test_rerankers_by_name():
    (document,) = Retriever(n_docs=3).index(CORPUS).retrieve([asked()])
    Reranking("sentence_transformer_reranker", Letters()).rank([document])
    assert sorted(context.id for context in document.reorder_contexts) == sorted(c.id for c in document.contexts)
    Reranking("rankgpt", lambda prompt: "[2] > [1]").rank([document])
    assert document.reorder_contexts[0].id == document.contexts[1].id
    with pytest.raises(ValueError, match=r"method='monot6' is not known; .*did you mean monot5"):
        Reranking("monot6", "x")
    with pytest.raises(ValueError, match="method='prp' needs a model"):
        Reranking("prp-api")


def test_prompted_rerankers_take_names_of_models(tmp_path):
    pytest.importorskip("openai")
    far = Reranking("rankgpt-api", "gpt", api_key="k")
    assert isinstance(far.reranker, SlidingWindowReranker)
    near = Reranking("rankgpt", "m", base_url="http://localhost:1/v1")
    assert isinstance(near.reranker, SlidingWindowReranker)
    assert isinstance(Reranking("prp", tmp_path).reranker, PairwiseReranker)


def test_a_pipeline_answers_many_and_searches_what_is_indexed():
    rag = pipeline("rag", Retriever(n_docs=5).index(CORPUS), generator="basic-rag", generator_model=lambda p: "y")
    results = rag.run(["capital of France", "Danube"])
    assert [result.answers for result in results] == [["y"], ["y"]]
    assert results[1].documents[0].contexts[0].id == "3"


def test_documents_are_a_corpus_too_and_their_answers_are_known():
    documents = Retriever(n_docs=3).index(CORPUS).retrieve([asked(), asked("Where is Paris?", "France", "q2")])
    result = pipeline("rag")("Where is Paris?", documents)
    assert result.documents[0].contexts[0].id == "fr"
    assert result.documents[0].contexts[0].has_answer is True
    react = pipeline("rag", generator="react-rag", generator_model=lambda prompt: "Final Answer: z")
    assert react("Where is Paris?", ["Paris is in France.", "Rome is in Italy."]).answers == ["z"]


def test_servers_by_name():
    pytest.importorskip("openai")
    local = Generator("basic-rag", "m", "vllm", base_url="http://localhost:1/v1")
    assert repr(local.generator.model) == "ServerModel('http://localhost:1/v1', model='m')"
    far = Generator("basic-rag", "m", "openai", api_keys=["k"])
    assert far.generator.model.base_url == "https://api.openai.com/v1"
    with pytest.raises(ValueError, match="backend='vllm' is a server: say where it is"):
        Generator("basic-rag", "m", "vllm")


def test_names_that_are_none(unchecked):
    with pytest.raises(ValueError, match=r"method='bm52' is not known; accepted: .*did you mean bm25"):
        Retriever("bm52")
    with pytest.raises(ValueError, match=r"method='basic' is not known; .*did you mean basic-rag"):
        Generator("basic", str)
    with pytest.raises(ValueError, match="backend='hugging' is not known"):
        Generator("basic-rag", "m", "hugging")
    with pytest.raises(ValueError, match="task='answer' is not known; accepted: search, retrieval, rerank, rag"):
        pipeline("answer")
    with pytest.raises(ValueError, match="method='basic-rag' needs a model"):
        Generator("basic-rag")
    with pytest.raises(ValueError, match="method='react-rag' searches: give it an indexed one"):
        Generator("react-rag", str)
    with pytest.raises(ValueError, match="method='extractive' uses no model"):
        pipeline("rag", device="cpu")
    with pytest.raises(TypeError, match="a Network reads no text: TransformersModel"):
        Generator("basic-rag", Network())
    with pytest.raises(ValueError, match="method='fid' with a model object needs its tokenizer"):
        Generator("fid", Network())
    with pytest.raises(ValueError, match="n_docs=0 is not accepted"):
        Retriever(n_docs=0)
    with pytest.raises(RuntimeError, match=r"nothing is indexed yet: call index\(corpus\) first"):
        Retriever().retrieve([asked()])


def test_contexts_that_cannot_be_read():
    nothing = Document("q", "a", [Context(id=5, score=1)])
    with pytest.raises(ValueError, match="context 5 has no text; load the passages"):
        Reranking(Reverses()).rank([nothing])
    with pytest.raises(ValueError, match="context 5 has no text"):
        Generator("extractive").generate([nothing])
    with pytest.raises(ValueError, match="the context 'text' has no id"):
        Reranking(Reverses()).rank([Document("q", "a", [Context(text="text")])])
    twice = Document("q", "a", [Context(id=1, text="a"), Context(id="1", text="b")])
    with pytest.raises(ValueError, match="two documents have the id '1'"):
        Reranking(Reverses()).rank([twice])
    with pytest.raises(ValueError, match="leaves nothing to index"):
        Retriever().index([])
    with pytest.raises(ValueError, match="two documents have the id 'fr'"):
        Retriever().index([CORPUS[0], CORPUS[0]])


def test_any_form_of_corpus():
    for corpus in (
        ["Paris is in France.", "Rome is in Italy."],
        [protocols.Document("0", "Paris is in France."), protocols.Document("1", "Rome is in Italy.")],
        [Context(id=0, text="Paris is in France."), Context(id=1, text="Rome is in Italy.")],
    ):
        (document,) = Retriever(n_docs=1).index(corpus).retrieve([Document("Rome", "Italy")])
        assert [(context.id, context.has_answer) for context in document.contexts] == [("1", True)]
