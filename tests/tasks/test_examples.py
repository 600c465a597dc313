from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from fullrank.tasks import load_examples
from fullrank.tasks.examples import bundled_tasks

from ..adapt.folders import labelled_file, table

ROWS = [{"text": f"sentence {row}", "label": "ab"[row % 2]} for row in range(10)]


@pytest.fixture(params=[".tsv", ".csv", ".jsonl", ".parquet"])
def file(request, tmp_path):
    path = tmp_path / f"train{request.param}"
    if request.param == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    elif request.param == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        table(path, ROWS)
    return path


def test_every_format_gives_the_same_examples(file):
    examples = load_examples(file)
    assert (examples.task, examples.labels, examples.target, examples.outputs) == (
        "classification",
        ("a", "b"),
        "label",
        2,
    )
    assert len(examples.train) == 8
    assert sorted(record["text"] for record in (*examples.train, *examples.test)) == sorted(row["text"] for row in ROWS)


def test_the_held_out_part_depends_on_the_seed_alone(file):
    parts = [{record["text"] for record in load_examples(file, seed=seed).test} for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_a_file_to_test_on(tmp_path):
    train, test = labelled_file(tmp_path / "train.tsv", 20), labelled_file(tmp_path / "test.tsv", 6)
    examples = load_examples(train, test=test)
    assert (len(examples.train), len(examples.test)) == (20, 6)
    assert (
        len(load_examples(train, test=test, limit=4).train),
        len(load_examples(train, test=test, limit=4).test),
    ) == (4, 4)


@pytest.mark.parametrize(
    ("fields", "task", "target"),
    [
        ({"text": "a", "score": 1}, "regression", "score"),
        ({"first": "a", "second": "b", "score": 1}, "pairs", "score"),
        ({"text": "a"}, "causal-lm", None),
    ],
)
def test_the_fields_pose_the_task(fields, task, target, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(fields)] * 6))
    examples = load_examples(path)
    assert (examples.task, examples.target, examples.outputs) == (task, target, 1)


def test_pairs_with_labels_are_classes(tmp_path):
    rows = [{"first": "a", "second": "b", "label": label} for label in ("same", "other") * 3]
    examples = load_examples(table(tmp_path / "rows.tsv", rows))
    assert (examples.task, examples.labels) == ("pairs", ("other", "same"))


def test_one_text_is_cut_at_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {row}, of some length and with words\n" for row in range(100)))
    examples = load_examples(path)
    assert examples.task == "causal-lm"
    assert all(len(record["text"]) <= 600 and record["text"].endswith("\n") for record in examples.train)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("sst2", "classification"),
        ("agnews", "classification"),
        ("rt-polarity", "classification"),
        ("stsb", "pairs"),
        ("gsm8k-mini", "causal-lm"),
        ("tinyshakespeare", "causal-lm"),
        ("wikitext2", "causal-lm"),
    ],
)
def test_bundled_data_sets(name, task):
    examples = load_examples(name, limit=20)
    assert examples.task == task
    assert len(examples.train) == len(examples.test) == 20


def test_documents_to_rank_are_no_language_to_learn():
    assert "lambdarank" not in bundled_tasks()
    with pytest.raises(ValueError, match=r"data='lambdarank' holds no examples to train on; .*sst2"):
        load_examples("lambdarank")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text\tlabel\nonly text\n", "line 2: it has not as many fields as the header"),
        ("text\tlabel\na\tb\tc\n", "line 2: it has not as many fields as the header"),
        ("text\tlabel\na\tx\nb\tx\nc\tx\n", "every label is 'x'; at least two classes"),
        ("words\tclass\na\tx\n", "the fields class, words, which pose no task: name them text, label for classif"),
        ("text\tscore\na\t1\nb\tmany\n", "score 'many' of record . is no number"),
        ("text\tlabel\n", "holds no records"),
    ],
)
def test_a_file_that_cannot_be_understood(content, words, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=words) as raised:
        load_examples(path)
    assert str(path) in str(raised.value)


def test_broken_json(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": \n')
    with pytest.raises(ValueError, match="line 2: no JSON"):
        load_examples(path)
    path.write_text('["a", 1]\n')
    with pytest.raises(ValueError, match="line 1: a list; one object a line"):
        load_examples(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.tsv", b"text\tlabel\nna\xefve\tx\n", "cannot be read as text .*UTF-8 is accepted"),
        ("train.csv", b"text,label\n" + b"a" * 200_000 + b",x\n", "cannot be read as text .*field larger than"),
        ("train.parquet", b"PAR1, but no more", "is no Parquet file, or damaged"),
        ("train.parquet", b"", "is no Parquet file, or damaged"),
        ("train.jsonl", b'{"text": "a", "label": {"x": 1}}', "record 1: label is {'x': 1}; a text or number is needed"),
        ("train.jsonl", b'{"text": null, "label": "x"}', "record 1: text is None; a text or number is needed"),
    ],
)
def test_a_damaged_file(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{words}"):
        load_examples(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\n" + "a,x\nb,y\n" * 5),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n'),
    ],
)
def test_the_mark_that_spreadsheets_put_before_a_text_belongs_to_no_field(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert load_examples(tmp_path / name).task == "classification"


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_task():
    with pytest.raises(ValueError, match="task='ranking' is not known; accepted: classification"):
        load_examples("sst2", "ranking")


def test_other_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="limit=1: at least 2"):
        load_examples("sst2", limit=1)
    with pytest.raises(LookupError, match="did you mean sst2"):
        load_examples("sst")
    with pytest.raises(ValueError, match=r"train\.xlsx names no format"):
        load_examples(tmp_path / "train.xlsx")
    with pytest.raises(FileNotFoundError):
        load_examples(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="record 1: task 'regression' needs the field 'score'; it has text, label"):
        load_examples(labelled_file(tmp_path / "train.tsv"), "regression")
    with pytest.raises(ValueError, match="holds no examples to train on"):
        load_examples("vaswani")
