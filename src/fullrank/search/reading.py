"""Documents, queries and runs from files that people have: JSON lines, TSV, Parquet, TREC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullrank._files import parquet_rows, write_bytes, write_text
from fullrank.search import trec
from fullrank.search.protocols import Document, whole_characters
from fullrank.search.run import Qrels, Run

_KEPT_COMPLAINTS = 20


@dataclass
class Complaints:
    """Lines that could not be read.

    Attributes:
        count: how many.
        examples: the first of them, in words.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count a line."""
        self.count += 1
        if len(self.examples) < _KEPT_COMPLAINTS:
            self.examples.append(text)


def read_documents(path: str | Path, complaints: Complaints | None = None) -> Iterator[Document]:
    """Documents one after another.

    JSON lines and Parquet have id, contents (or text) and perhaps title; other fields become metadata. TSV has id and
    text, or id, title and text.

    Args:
        path: ends in .jsonl, .json, .tsv, .txt or .parquet.
        complaints: takes the lines that cannot be read, which are left out; without, the first one is an error.

    Raises:
        ValueError: a malformed line, or another kind of file.
        FileNotFoundError: there is no such file.
    """
    for number, record in _records(Path(path), complaints):
        try:
            yield _document(record)
        except (ValueError, TypeError, KeyError) as error:
            _complain(complaints, f"{path}, line {number}: {error}", error)


def read_queries(path: str | Path) -> dict[str, str]:
    """Texts by query id: TSV of id and text, or JSON lines and Parquet with id and query (or text).

    Raises:
        ValueError: a malformed line, or an id twice.
    """
    queries: dict[str, str] = {}
    for number, record in _records(Path(path), None):
        text = next((record[name] for name in ("query", "question", "text", "contents") if name in record), None)
        if "id" not in record or not isinstance(text, str):
            raise ValueError(f"{path}, line {number}: id and query are needed: {str(record)[:80]}")
        if str(record["id"]) in queries:
            raise ValueError(f"{path}, line {number}: the query {str(record['id'])!r} stands twice")
        queries[str(record["id"])] = text
    if not queries:
        raise ValueError(f"{path} holds no query")
    return queries


def read_run(path: str | Path) -> Run:
    """A run: TREC, or JSON lines and Parquet with query_id, doc_id and score.

    Raises:
        ValueError: a malformed line.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        return Run.load(path)
    return Run(_by_query(path, "score"))


def read_qrels(path: str | Path) -> Qrels:
    """Judgements: TREC, or JSON lines and Parquet with query_id, doc_id and relevance; or TSV of the three.

    Raises:
        ValueError: a malformed line.
    """
    path = Path(path)
    if path.suffix in (".jsonl", ".parquet"):
        return Qrels(_by_query(path, "relevance"))
    if path.suffix == ".tsv":
        return trec.read(path, lambda text: Qrels.from_trec("\n".join(map(_four_columns, text.split("\n")))))
    return Qrels.load(path)


def write_run(path: str | Path, run: Run) -> Path:
    """Write a run atomically: .jsonl or .parquet as a table, any other name as TREC."""
    path = Path(path)
    rows = [
        {"query_id": query, "doc_id": document, "rank": rank, "score": score}
        for query in run
        for rank, (document, score) in enumerate(run.ranking(query), 1)
    ]
    if path.suffix == ".jsonl":
        return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if path.suffix == ".parquet":
        return write_bytes(path, _parquet(rows))
    return run.save(path)


def _records(path: Path, complaints: Complaints | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and fields."""
    match path.suffix.lower():
        case ".parquet":
            yield from enumerate(parquet_rows(path), 1)
        case ".jsonl" | ".json" | ".ndjson":
            yield from _json_lines(path, complaints)
        case ".tsv" | ".txt":
            yield from _tab_separated_lines(path, complaints)
        case _:
            raise ValueError(f"{path}: files that end in .jsonl, .tsv, .txt or .parquet are read")


def _json_lines(path: Path, complaints: Complaints | None) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"an object is needed, not {type(record).__name__}")
            except (ValueError, RecursionError) as error:
                _complain(complaints, f"{path}, line {number} is no JSON object: {line[:60]!r}", error)
                continue
            yield number, record


def _tab_separated_lines(path: Path, complaints: Complaints | None) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                _complain(complaints, f"{path}, line {number} is not UTF-8: {line[:60]!r}", error)
                continue
            if text.strip():
                yield number, _tab_separated(text.rstrip("\r\n").split("\t"))


def _tab_separated(columns: list[str]) -> dict[str, Any]:
    if len(columns) == 2:
        return {"id": columns[0], "text": columns[1]}
    if len(columns) == 3:
        return {"id": columns[0], "title": columns[1], "text": columns[2]}
    return {"columns": len(columns)}


def _document(record: dict[str, Any]) -> Document:
    fields = dict(record)
    if "columns" in fields and "id" not in fields:
        raise ValueError(f"{fields['columns']} columns; id and text, or id, title and text, are needed")
    if fields.get("id") is None:
        raise ValueError(f"no id; id and contents (or text) are needed: {str(record)[:60]}")
    id = whole_characters(str(fields.pop("id")))
    text = next((fields.pop(name) for name in ("contents", "text") if name in fields), None)
    if not isinstance(text, str):
        raise ValueError(f"document {id!r} has no text: contents or text is {text!r}")
    title = fields.pop("title", None)
    return Document(id, whole_characters(text), title=whole_characters(str(title)) if title else "", metadata=fields)


def _by_query(path: Path, value: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, record in _records(path, None):
        missing = [name for name in ("query_id", "doc_id", value) if name not in record]
        if missing:
            raise ValueError(f"{path}, line {number} has no {', '.join(missing)}; query_id, doc_id, {value} are needed")
        documents = found.setdefault(str(record["query_id"]), {})
        if str(record["doc_id"]) in documents:
            raise ValueError(f"{path}, line {number}: document {str(record['doc_id'])!r} stands twice in its query")
        documents[str(record["doc_id"])] = record[value]
    return found


def _four_columns(line: str) -> str:
    words = line.split()
    return f"{words[0]} 0 {words[1]} {words[2]}" if len(words) == 3 else line


def _complain(complaints: Complaints | None, text: str, error: Exception) -> None:
    if complaints is None:
        raise ValueError(text) from error
    complaints.add(text)


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()
