"""The hub's database: jobs, and the papers' full text, in one SQLite file."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fullrank.papers import Paper

Kind = Literal["run", "analysis", "adaptation", "comparison", "compression", "frontier"]
JobState = Literal["waiting", "running", "finished", "failed", "cancelled", "interrupted"]

# What leads from every layout of the database to the next; an empty file has layout 0.
_LAYOUTS = (
    """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    title TEXT NOT NULL,
    scale TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    run TEXT NOT NULL DEFAULT '',
    created TEXT NOT NULL,
    ended TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
""",
    """
ALTER TABLE jobs ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
UPDATE jobs SET options = json_object('scale', scale) WHERE kind = 'run';
ALTER TABLE jobs DROP COLUMN scale;
""",
)
_PAPERS = """
DROP TABLE IF EXISTS papers;
CREATE VIRTUAL TABLE papers USING fts5 (slug UNINDEXED, title, summary, topics, claims, tokenize = 'porter unicode61');
"""
_NUMBERS = 2**63  # SQLite has none beyond
_WEIGHTS = "bm25(papers, 0.0, 4.0, 2.0, 2.0, 1.0)"  # a word of the title says more than one of a claim


@dataclass(frozen=True)
class Job:
    """Something a visitor asked for that takes long.

    Attributes:
        id: its number.
        kind: "run" (a paper's study), "analysis" (of a model), "adaptation" (of a model to data), "comparison" (of
            adapter methods), "compression" (of a model) or "frontier" (of compressors).
        subject: slug of the paper, or path of the model.
        title: what people read: of the paper, or the model.
        options: what else was asked for, as plain data: the scale of a run, the data and method of an adaptation.
        state: where it stands.
        reason: why it failed; empty otherwise.
        run: name of the run's folder, once it has one.
        created, ended: ISO times in UTC; `ended` is empty before.
    """

    id: int
    kind: Kind
    subject: str
    title: str
    options: dict[str, Any]
    state: JobState
    reason: str
    run: str
    created: str
    ended: str

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")


@dataclass(frozen=True)
class TextHit:
    """A paper whose words match.

    Attributes:
        slug: of the paper.
        score: BM25, larger is better.
        passage: the best passage, the matching words between U+0002 and U+0003.
    """

    slug: str
    score: float
    passage: str


class Store:
    """One SQLite file; every call has a connection of its own, so any thread may call.

    Raises:
        ValueError: the file was made by a newer Fullrank, or is no database.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._connection() as connection:
                layout = connection.execute("PRAGMA user_version").fetchone()[0]
                if layout > len(_LAYOUTS):
                    raise ValueError(
                        f"{file} was made by a newer Fullrank (layout {layout}; this one reads up to {len(_LAYOUTS)}): "
                        "pip install --upgrade fullrank, or give --runs another folder"
                    )
                connection.execute("PRAGMA journal_mode = WAL")
                for number, script in enumerate(_LAYOUTS[layout:], layout + 1):  # each whole or not at all
                    connection.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{file} cannot be used as the hub's database ({error}); move it away") from error

    def index(self, papers: Iterable[Paper]) -> None:
        """Index the papers' text anew."""
        rows = [
            (
                paper.slug,
                paper.title,
                paper.summary,
                " ".join((*paper.topics, paper.slug)),
                " ".join(claim.says for claim in paper.claims),
            )
            for paper in papers
        ]
        with self._connection() as connection:
            connection.executescript(_PAPERS)
            connection.executemany("INSERT INTO papers VALUES (?, ?, ?, ?, ?)", rows)

    def find_text(self, query: str, count: int, every: bool = True) -> list[TextHit]:
        """Papers that hold words of the query, best first; the last word may be unfinished.

        Args:
            query: words; quoted ones are a phrase.
            count: how many at most.
            every: whether all words must occur, or any.
        """
        expression = _expression(query, every)
        if not expression:
            return []
        with self._connection() as connection:
            rows = connection.execute(
                f"SELECT slug, -{_WEIGHTS} AS score, snippet(papers, -1, char(2), char(3), '…', 24) AS passage "
                "FROM papers WHERE papers MATCH ? ORDER BY score DESC, slug LIMIT ?",
                (expression, count),
            )
            return [TextHit(row["slug"], row["score"], row["passage"]) for row in rows]

    def add(self, kind: Kind, subject: str, title: str, options: Mapping[str, Any] | None = None) -> Job:
        """A new job, waiting; its options are data that JSON knows."""
        with self._connection() as connection:
            cursor = connection.execute(
                "INSERT INTO jobs (kind, subject, title, options, state, created) VALUES (?, ?, ?, ?, 'waiting', ?)",
                (kind, subject, title, json.dumps(dict(options or {})), _now()),
            )
            number = cursor.lastrowid
        assert number is not None  # sqlite gives every inserted row one
        return self.job(number)

    def job(self, id: int) -> Job:
        """The job of that number.

        Raises:
            LookupError: there is none.
        """
        found = self._jobs("WHERE id = ?", id) if abs(id) < _NUMBERS else []
        if not found:
            raise LookupError(f"there is no job {id}")
        return found[0]

    def jobs(self, kind: Kind | None = None, states: Iterable[JobState] = (), count: int = 100) -> list[Job]:
        """Jobs, newest first."""
        wanted = list(states)
        marks = ",".join("?" * len(wanted))
        conditions = ["kind = ?"] * (kind is not None) + [f"state IN ({marks})"] * bool(wanted)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        values = ([kind] if kind is not None else []) + wanted
        return self._jobs(f"{where} ORDER BY id DESC LIMIT ?", *values, count)

    def move(self, id: int, state: JobState, reason: str = "") -> None:
        """Put a job into another state."""
        ended = "" if state in ("waiting", "running") else _now()
        with self._connection() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, reason = ?, ended = ? WHERE id = ?", (state, reason, ended, id)
            )

    def name_run(self, id: int, run: str) -> None:
        """Note the folder of a job's run."""
        with self._connection() as connection:
            connection.execute("UPDATE jobs SET run = ? WHERE id = ?", (run, id))

    def interrupt_running(self) -> None:
        """Jobs that ran when the hub ended are interrupted: their workers ended with it."""
        with self._connection() as connection:
            connection.execute("UPDATE jobs SET state = 'interrupted', ended = ? WHERE state = 'running'", (_now(),))

    def _jobs(self, clause: str, *values: Any) -> list[Job]:
        with self._connection() as connection:
            rows = connection.execute(f"SELECT * FROM jobs {clause}", values)
            return [Job(**dict(row) | {"options": json.loads(row["options"])}) for row in rows]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.file, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            with connection:
                yield connection
        finally:
            connection.close()


def _expression(query: str, every: bool) -> str:
    """The query in FTS5's language, every word quoted so that none of it is an operator."""
    parts = re.findall(r'"([^"]*)"|(\S+)', query)
    words = [f'"{word}"' for phrase, plain in parts if (word := (phrase or plain).replace('"', "").strip())]
    words = [word for word in words if re.search(r"\w", word)]
    if not words:
        return ""
    if not query.rstrip().endswith('"'):
        words[-1] += "*"
    return (" AND " if every else " OR ").join(words)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
