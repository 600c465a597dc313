"""The data of Rankify: questions with their answers and ranked contexts, in and out as DPR writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullrank._files import to_json, write_json, write_text
from fullrank.search import protocols


@dataclass
class Question:
    """A question, as it is asked: nothing is added to it."""

    question: str

    def __post_init__(self) -> None:
        if not isinstance(self.question, str):
            raise TypeError(f"question={self.question!r} is {type(self.question).__name__}; text is needed")

    def __str__(self) -> str:
        return f"Question: {self.question}"


class Answer:
    """The right answers to a question.

    Args:
        answers: several, or one text or number; blank ones are none.

    Raises:
        TypeError: an answer that is neither text nor number.
    """

    def __init__(self, answers: Sequence[str | int | float] | str | int | float | None = None) -> None:
        several = [answers] if isinstance(answers, str | int | float) else answers or []
        self.answers: list[str] = [text for text in map(_answer, several) if text.strip()]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self.answers == other.answers

    def __repr__(self) -> str:
        return f"Answer({self.answers!r})"

    def __str__(self) -> str:
        return "\n".join(["Answer:", *(f"- {answer}" for answer in self.answers)])


@dataclass(init=False)
class Context:
    """One candidate for a question.

    Args:
        score: of whoever ranked it last; a number or its text.
        has_answer: whether it holds one of the answers.
        id: in its collection; text or a number.
        title: shown before the text.
        text: what is read.

    Raises:
        ValueError: a score that is no number.
    """

    score: float | None
    has_answer: bool | None
    id: str | int | None
    title: str | None
    text: str | None

    def __init__(
        self,
        score: float | int | str | None = None,
        has_answer: bool | None = None,
        id: str | int | None = None,
        title: str | None = None,
        text: str | None = None,
    ) -> None:
        try:
            self.score = None if score is None else float(score)
        except (TypeError, ValueError):
            raise ValueError(f"context {id!r}: score={score!r} is no number") from None
        self.has_answer, self.id, self.title, self.text = has_answer, id, title, text

    def to_dict(self, save_text: bool = False) -> dict[str, Any]:
        """Score, has_answer and id; with `save_text` text and title too."""
        row: dict[str, Any] = {"score": self.score, "has_answer": self.has_answer, "id": self.id}
        return {**row, "text": self.text, "title": self.title} if save_text else row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Context:
        """From such a dictionary; a corpus's `contents` is a text too, and other keys are ignored."""
        text = row.get("text", row.get("contents"))
        return cls(row.get("score"), row.get("has_answer"), row.get("id"), row.get("title"), text)

    def to_document(self) -> protocols.Document:
        """What retrievers, re-rankers and generators read; its id is text.

        Raises:
            ValueError: a context without id or text.
        """
        if self.id is None:
            raise ValueError(f"the context {(self.text or '')[:60]!r} has no id; contexts are told apart by their ids")
        if self.text is None:
            raise ValueError(f"context {self.id!r} has no text; load the passages, or save them with save_text=True")
        return protocols.Document(str(self.id), self.text, self.title or "")


class Document:
    """A question with its answers and its ranked contexts.

    Args:
        question: a `Question`, or its text.
        answers: an `Answer`, or what makes one.
        contexts: best first, as they were retrieved.
        id: of the question; None if it has none.

    Attributes:
        reorder_contexts: in the re-ranker's order, once there is one; `contexts` stays as it is.
    """

    def __init__(
        self,
        question: Question | str,
        answers: Answer | Sequence[str | int | float] | str | int | float | None = None,
        contexts: Sequence[Context] | None = None,
        id: str | int | None = None,
    ) -> None:
        self.question = question if isinstance(question, Question) else Question(question)
        self.answers = answers if isinstance(answers, Answer) else Answer(answers)
        self.contexts: list[Context] = list(contexts or [])
        self.reorder_contexts: list[Context] | None = None
        self.id = id

    def __repr__(self) -> str:
        asked, known = self.question.question, self.answers.answers
        return f"Document({asked!r}, {known!r}, {len(self.contexts)} contexts, id={self.id!r})"

    def __str__(self) -> str:
        parts = [str(self.question), str(self.answers), "Contexts:", *map(str, self.contexts)]
        if self.reorder_contexts is not None:
            parts += ["Reordered contexts:", *map(str, self.reorder_contexts)]
        return "\n\n".join(parts)

    @property
    def final_contexts(self) -> list[Context]:
        """The re-ranked contexts if there are any, else those that were retrieved."""
        return self.contexts if self.reorder_contexts is None else self.reorder_contexts

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], n_docs: int = 100) -> Document:
        """From a dictionary as DPR writes it, with the first `n_docs` contexts.

        Its keys are question, answers (or answer), ctxs, and perhaps reranked_ctxs and query_id (or id).

        Raises:
            ValueError: no question.
        """
        if "question" not in data:
            raise ValueError(f"the entry has no question, only {', '.join(map(str, data)) or 'nothing'}")
        answers = data.get("answers", data.get("answer", data.get("golden_answers")))
        contexts = _contexts(data.get("ctxs"), n_docs)
        document = cls(data["question"], answers, contexts, data.get("query_id", data.get("id")))
        if data.get("reranked_ctxs") is not None:
            document.reorder_contexts = _contexts(data["reranked_ctxs"], n_docs)
        return document

    def to_dict(self, save_reranked: bool = False, save_text: bool = False) -> dict[str, Any]:
        """What `from_dict` reads."""
        row: dict[str, Any] = {"question": self.question.question, "answers": self.answers.answers}
        if self.id is not None:
            row["query_id"] = self.id
        row["ctxs"] = [context.to_dict(save_text) for context in self.contexts]
        if save_reranked and self.reorder_contexts is not None:
            row["reranked_ctxs"] = [context.to_dict(save_text) for context in self.reorder_contexts]
        return row


class Dataset:
    """Documents, and files of them: a JSON list, or JSON lines.

    Args:
        retriever: what found the contexts.
        dataset_name: whose questions they are.
        n_docs: contexts per question, at most, of what is loaded.
        documents: what it holds.
    """

    def __init__(
        self,
        retriever: str = "",
        dataset_name: str = "",
        n_docs: int = 1000,
        documents: Sequence[Document] = (),
    ) -> None:
        self.retriever, self.dataset_name, self.n_docs = retriever, dataset_name, n_docs
        self.documents = list(documents)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Document:
        return self.documents[index]

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    @classmethod
    def load_dataset(cls, filepath: str | Path, n_docs: int = 100) -> list[Document]:
        """The documents of a .json or .jsonl file, with `n_docs` contexts each at most.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is of another kind, damaged, or an entry has no question (the message tells which).
        """
        documents: list[Document] = []
        for number, entry in enumerate(_entries(Path(filepath)), 1):
            try:
                documents.append(Document.from_dict(entry, n_docs))
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{filepath}, entry {number}: {error}") from error
        return documents

    @classmethod
    def load_dataset_qa(cls, filepath: str | Path) -> list[Document]:
        """Questions and answers alone.

        Raises:
            FileNotFoundError, ValueError: see `load_dataset`.
        """
        return cls.load_dataset(filepath, n_docs=0)

    def save_dataset(self, output_path: str | Path, save_reranked: bool = False, save_text: bool = False) -> None:
        """Write the documents; see `save_documents`."""
        self.save_documents(self.documents, output_path, save_reranked, save_text)

    @staticmethod
    def save_documents(
        documents: Sequence[Document], output_path: str | Path, save_reranked: bool = False, save_text: bool = False
    ) -> None:
        """Write documents, atomically, as a .json or .jsonl file that `load_dataset` reads.

        Raises:
            ValueError: another kind of file.
            OSError: it cannot be written.
        """
        path = Path(output_path)
        rows = [document.to_dict(save_reranked, save_text) for document in documents]
        if _kind(path) == ".json":
            write_json(path, rows)
        else:
            write_text(path, "".join(to_json(row, indent=None) + "\n" for row in rows))


def _answer(answer: Any) -> str:
    if not isinstance(answer, str | int | float):
        raise TypeError(f"answers hold {answer!r}, which is {type(answer).__name__}; an answer is a text or a number")
    return str(answer)


def _contexts(rows: Sequence[Mapping[str, Any]] | None, n_docs: int) -> list[Context]:
    return [Context.from_dict(row) for row in (rows or [])[:n_docs]]


def _kind(path: Path) -> str:
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path} is of no known kind; accepted: .json and .jsonl")
    return path.suffix


def _entries(path: Path) -> list[Any]:
    kind = _kind(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [text] if kind == ".json" else [line for line in text.split("\n") if line.strip()]
        read = [json.loads(line) for line in lines]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    entries = read[0] if kind == ".json" else read
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}; a list of questions is needed")
    return entries
