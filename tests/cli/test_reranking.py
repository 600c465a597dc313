"""Order a run anew from the command."""

from __future__ import annotations

import json
import string

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fullrank.search import Run, SESAMatcher, reranker
from fullrank.search.protocols import Document

TEXTS = {"a": "aa bb", "b": "cc", "c": "dd ee ff gg", "d": "hh"}


@pytest.fixture
def files(folders):
    lines = [json.dumps({"id": id, "text": text}) + "\n" for id, text in TEXTS.items()]
    (folders / "documents.jsonl").write_text("".join(lines))
    (folders / "queries.tsv").write_text("q1\taa cc\nq2\tee\n")
    Run({"q1": {"a": 4, "b": 3, "c": 2, "d": 1}, "q2": {"d": 2, "a": 1}}).save(folders / "run.trec")
    return folders


@pytest.fixture
def model(folders):
    """A cross-encoder of random weights, as a folder."""
    letters = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, num_labels=1)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folders / "model")
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folders / "model"
    )
    return "model"


GIVEN = ("--queries", "queries.tsv", "--documents", "documents.jsonl")


def test_a_cross_encoder_from_a_folder(fullrank, files, model):
    asked = ("rerank", "run.trec", *GIVEN, "--method", "cross-encoder", "--model", model, "--offline")
    outcome = fullrank(*asked, "-o", "better.trec")
    assert outcome.code == 0
    assert "wrote better.trec" in outcome.err
    better = Run.load(files / "better.trec")
    documents = [Document(id, text) for id, text in TEXTS.items()]
    expected = reranker("cross-encoder", "model").rerank("aa cc", documents)
    assert [id for id, _ in better.ranking("q1")] == [document.id for document in expected.documents]
    assert [score for _, score in better.ranking("q1")] == pytest.approx(expected.scores, abs=1e-5)
    assert set(better["q2"]) == {"d", "a"}
    fullrank(*asked, "-o", "some.jsonl", "-k", 1, "--batch-size", 2, "--max-length", 8)
    rows = [json.loads(line) for line in (files / "some.jsonl").read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == ["a", "b", "c", "d", "d", "a"]


def test_documents_of_an_index(fullrank, files, model):
    fullrank("index", "documents.jsonl", "--out", "idx")
    asked = ("rerank", "run.trec", "--queries", "queries.tsv", "--method", "cross-encoder", "--model", model)
    assert fullrank(*asked, "--documents", "idx", "-o", "one.trec").code == 0
    assert fullrank(*asked, "--documents", "documents.jsonl", "-o", "two.trec").code == 0
    assert (files / "one.trec").read_text() == (files / "two.trec").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run.trec", *GIVEN, "-o", "new", "--method", "monot6"), "did you mean monot5"),
        (("run.trec", *GIVEN, "-o", "new", "--method", "monot5"), "method='monot5' needs a model"),
        (("run.trec", *GIVEN, "-o", "queries.tsv"), "queries.tsv: File exists; name another one, or add --overwrite"),
        (("none.trec", *GIVEN, "-o", "new"), "none.trec: No such file"),
        (("run.trec", "--queries", "queries.tsv", "--documents", "none.jsonl", "-o", "new"), "none.jsonl: No such"),
        (("run.trec", "--queries", "queries.tsv", "--documents", ".", "-o", "new"), "holds no index"),
        (("run.trec", "--queries", "other.tsv", "--documents", "documents.jsonl", "-o", "new"), "has the query 'q2'"),
        (("run.trec", "--queries", "queries.tsv", "--documents", "few.jsonl", "-o", "new"), "document 'b' of the run"),
        (("run.trec", "--queries", "queries.tsv", "--documents", "twice.jsonl", "-o", "new"), "two documents have"),
        (
            ("run.trec", *GIVEN, "-o", "new", "--method", "upr", "--model", "nowhere", "--offline"),
            "model='nowhere' cannot be loaded",
        ),
    ],
)
def test_bad_input(fullrank, files, arguments, words):
    first = (files / "documents.jsonl").read_text().splitlines(keepends=True)[0]
    (files / "few.jsonl").write_text(first)
    (files / "twice.jsonl").write_text(first + first)
    (files / "other.tsv").write_text("q1\taa cc\n")
    assert words in fullrank("rerank", *arguments).complaint
    assert not (files / "new").exists()


def test_sesa_says_which_concepts_order_documents(fullrank, files):
    matcher = SESAMatcher(["letters", "numbers"], embedding=8, epochs=20, min_count=1)
    matcher.fit(["aa bb", "11 22"] * 8, ["aa cc", "22 33"] * 8, concepts_a=[[1.0, 0.0], [0.0, 1.0]] * 8)
    matcher.save_pretrained("skills")
    asked = ("rerank", "run.trec", *GIVEN, "--method", "sesa", "--model", "skills")
    told = fullrank(*asked, "-o", "better.trec", "--why", "--offline")
    assert told.code == 0
    assert "letters +" in told.out
    rows = fullrank(*asked, "-o", "better.trec", "--overwrite", "--why", "--json", "-k", 2).json
    assert [row["query"] for row in rows] == ["q1", "q1", "q2", "q2"]
    bias = float(matcher.model_.bias.detach())
    for row in rows:
        total = sum(part["contribution"] for part in row["why"]) + bias
        assert total == pytest.approx(row["score"], abs=1e-4)
        assert set(row["why"][0]) == {"concept", "contribution", "value_a", "value_b", "shared_absence"}
    refused = fullrank("rerank", "run.trec", *GIVEN, "-o", "new.trec", "--why")
    assert "the scores of bi-encoder have no parts to show; --method sesa has concepts" in refused.complaint
    assert not (files / "new.trec").exists()
    assert "sesa.json is missing" in fullrank(*asked[:-1], ".", "-o", "new.trec").complaint
