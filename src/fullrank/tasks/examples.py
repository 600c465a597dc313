"""What a model is adapted to: examples read from a file or a bundled data set, and the task that they pose."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fullrank import data
from fullrank._files import parquet_rows

Task = Literal["classification", "regression", "pairs", "causal-lm"]
TASKS: tuple[Task, ...] = get_args(Task)
Record = Mapping[str, Any]

#: Fields that a record of each task needs; a pair may carry a label or a score.
FIELDS: dict[Task, tuple[str, ...]] = {
    "classification": ("text", "label"),
    "regression": ("text", "score"),
    "pairs": ("first", "second", "score"),
    "causal-lm": ("text",),
}
_HELD_OUT = 0.2
# The characters of a block when one long text is cut into examples; about 128 to 200 tokens.
_BLOCK = 600
_TEXT = "utf-8-sig"  # with the mark that spreadsheets put in front, or without


@dataclass(frozen=True)
class Examples:
    """Training and test records of one task.

    Attributes:
        source: the file or data set they come from.
        task: "classification" (text, label), "regression" (text, score), "pairs" (first, second, and score or label) or
            "causal-lm" (text).
        train, test: the records.
        labels: the classes in sorted order; empty where a number or text is predicted.
    """

    source: str
    task: Task
    train: tuple[Record, ...]
    test: tuple[Record, ...]
    labels: tuple[Any, ...]

    @property
    def target(self) -> str | None:
        """The field to predict: "label", "score", or None for text."""
        return None if self.task == "causal-lm" else "label" if self.labels else "score"

    @property
    def outputs(self) -> int:
        """Numbers a head has to give."""
        return len(self.labels) or 1


def load_examples(
    source: str | Path,
    task: Task | None = None,
    test: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Examples:
    """Read examples.

    Args:
        source: name of a bundled data set ("sst2", "trec-questions", "agnews", "rt-polarity", "stsb", "gsm8k-mini",
            "tinyshakespeare", "wikitext2"), or a file: .tsv or .csv with a header line, .jsonl, .parquet, or .txt.
        task: default the one that the fields pose.
        test: file to evaluate on; default the data set's own test part, or a fifth of the records, drawn with `seed`.
        limit: at most so many training records (and test records), drawn with `seed`; default all.
        seed: seed of the draws.

    Raises:
        ValueError: an unknown task or suffix, fields that fit no task, fewer than two records or classes, or a score
            that is no number.
        LookupError: neither a file nor a data set.
        OSError: a file cannot be read.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"task={task!r} is not known; accepted: {', '.join(TASKS)}")
    if limit is not None and limit < 2:
        raise ValueError(f"limit={limit}: at least 2 examples are needed")
    train, held_out = _bundled(str(source)) if _is_bundled(source) else (read_records(source), [])
    if test is not None:
        held_out = read_records(test)
    posed = task or _task_of(train, str(source))
    for place, records in ((source, train), (test or source, held_out)):
        _check(records, posed, str(place))
    shuffled = random.Random(seed).sample(train, len(train))
    if not held_out:
        cut = max(1, int(_HELD_OUT * len(shuffled)))
        held_out, shuffled = shuffled[:cut], shuffled[cut:]
    labels = _labels(posed, [*shuffled, *held_out], str(source))
    return Examples(
        str(source),
        posed,
        tuple(shuffled[:limit]),
        tuple(held_out if limit is None else random.Random(seed).sample(held_out, min(limit, len(held_out)))),
        labels,
    )


def read_records(path: str | Path) -> list[Record]:
    """The records of a file: .tsv or .csv with a header line, .jsonl, .parquet, or .txt (one text, in blocks).

    Raises:
        ValueError: another suffix, a broken line, or no records.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"{path} names no format: a name that ends in {', '.join(_READERS)} is accepted")
    try:
        records = _READERS[path.suffix.lower()](path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as text ({error}); UTF-8 is accepted") from error
    if not records:
        raise ValueError(f"{path} holds no records")
    return records


def bundled_tasks() -> dict[str, Task]:
    """The bundled data sets whose records pose a task, and which."""
    found = {}
    for item in data.datasets():
        split = _training_split(item)
        if split is not None:
            record = _text(dict.fromkeys(item.splits[split].format.fields))
            found[item.name] = _task_of([record], item.name)
    return found


def _is_bundled(source: str | Path) -> bool:
    return Path(source).suffix == "" and not Path(source).exists()


def _bundled(name: str) -> tuple[list[Record], list[Record]]:
    found = data.dataset(name)
    train = _training_split(found)
    if train is None:
        raise ValueError(f"data={name!r} holds no examples to train on; {', '.join(bundled_tasks())} do")
    test = found.splits.get("test")
    held_out = [] if train == "test" or test is None or not test.shipped else data.load(name, "test")
    return _texts(data.load(name, train)), _texts(held_out)


def _training_split(found: data.Dataset) -> str | None:
    """The split of a data set that is trained on; none where its records are no examples."""
    shipped = [split for split, file in found.splits.items() if file.shipped]
    split = next((split for split in ("train", "all", "valid", "test") if split in shipped), None)
    if split is None or not set(found.splits[split].format.fields) & {"text", "question", "first"}:
        return None
    return None if found.splits[split].name.endswith(".svmlight") else split  # a text of numbers, and no language


def _texts(records: Sequence[Record]) -> list[Record]:
    """Records with the fields of a task; one long text is cut into blocks."""
    if len(records) == 1 and set(records[0]) == {"text"}:
        return _blocks(records[0]["text"])
    return [_text(record) for record in records]


def _text(record: Record) -> Record:
    if "question" in record:
        return {"text": f"{record['question']}\n{record['answer']}"}
    if "title" in record:
        return {"text": f"{record['title']}. {record['text']}", "label": record["label"]}
    return record


def _blocks(text: str) -> list[Record]:
    """Pieces of whole lines."""
    blocks: list[str] = [""]
    for line in text.splitlines(keepends=True):
        if blocks[-1] and len(blocks[-1]) + len(line) > _BLOCK:
            blocks.append("")
        blocks[-1] += line
    return [{"text": block} for block in blocks if block.strip()]


def _separated(delimiter: str) -> Callable[[Path], list[Record]]:
    def read(path: Path) -> list[Record]:
        with path.open(encoding=_TEXT, newline="") as file:
            quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, restkey="", restval=None)
            return [_whole(record, path, reader.line_num) for record in reader]

    return read


def _whole(record: dict[str, Any], path: Path, line: int) -> Record:
    if "" in record or None in record.values():
        raise ValueError(f"{path}, line {line}: it has not as many fields as the header")
    return record


def _json_lines(path: Path) -> list[Record]:
    return list(_parsed(path))


def _parsed(path: Path) -> Iterator[Record]:
    for number, line in enumerate(path.read_text(encoding=_TEXT).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error.msg}); one object a line is expected") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: a {type(record).__name__}; one object a line is expected")
        yield record


_READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".tsv": _separated("\t"),
    ".csv": _separated(","),
    ".jsonl": _json_lines,
    ".parquet": lambda path: list(parquet_rows(path)),
    ".txt": lambda path: _blocks(path.read_text(encoding=_TEXT)),
}
#: Suffixes of the files that can be read.
SUFFIXES: tuple[str, ...] = tuple(_READERS)


def _task_of(records: Sequence[Record], source: str) -> Task:
    fields = set(records[0])
    for task in ("pairs", "classification", "regression", "causal-lm"):
        if not _missing(fields, task):
            return task
    raise ValueError(
        f"{source} has the fields {', '.join(sorted(map(str, fields)))}, which pose no task: name them "
        + "; ".join(f"{', '.join(names)} for {task}" for task, names in FIELDS.items())
    )


def _missing(fields: set[str], task: Task) -> list[str]:
    either = {"score"} if task == "pairs" and "label" in fields else set()
    return [name for name in FIELDS[task] if name not in fields | either]


def _check(records: Sequence[Record], task: Task, source: str) -> None:
    for number, record in enumerate(records, 1):
        if missing := _missing(set(record), task):
            raise ValueError(
                f"{source}, record {number}: task {task!r} needs the field {missing[0]!r}; it has "
                f"{', '.join(map(str, record))}"
            )
        for name in _words(task, record):
            if not isinstance(record[name], str | int | float):
                raise ValueError(f"{source}, record {number}: {name} is {record[name]!r}; a text or number is needed")


def _words(task: Task, record: Record) -> list[str]:
    """The fields that are words, or names of classes."""
    either = ["label"] if task == "pairs" and "score" not in record else []
    return [name for name in (*FIELDS[task], *either) if name != "score"]


def _labels(task: Task, records: Sequence[Record], source: str) -> tuple[Any, ...]:
    """The classes; none where a score is predicted, which has to be a number everywhere."""
    if task == "causal-lm":
        return ()
    if task == "classification" or (task == "pairs" and "score" not in records[0]):
        labels = sorted({record["label"] for record in records}, key=str)
        if len(labels) < 2:
            raise ValueError(f"{source}: every label is {records[0]['label']!r}; at least two classes are needed")
        return tuple(labels)
    for number, record in enumerate(records, 1):
        if not _is_number(record["score"]):
            raise ValueError(f"{source}: score {record['score']!r} of record {number} is no number")
    return ()


def _is_number(value: Any) -> bool:
    try:
        return float(value) == float(value)
    except (TypeError, ValueError):
        return False
