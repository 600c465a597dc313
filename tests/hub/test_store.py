"""The hub's database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fullrank import papers
from fullrank.hub.store import Store

SMOKE = {"scale": "smoke"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "hub.sqlite")
    store.index(papers.catalogue())
    return store


def test_jobs_are_kept_newest_first(store: Store) -> None:
    first = store.add("run", "rankme", "RankMe", SMOKE)
    second = store.add("analysis", "/models/tiny", "tiny")
    assert [job.id for job in store.jobs()] == [second.id, first.id]
    assert [job.id for job in store.jobs("run")] == [first.id]
    assert first.active
    assert first.state == "waiting"
    assert not first.ended


def test_a_job_moves_and_ends(store: Store) -> None:
    job = store.add("run", "rankme", "RankMe", SMOKE)
    store.move(job.id, "running")
    store.name_run(job.id, "2026-01-01T00-00-00-000000Z")
    store.move(job.id, "failed", "no room")
    moved = store.job(job.id)
    assert (moved.state, moved.reason, moved.run) == ("failed", "no room", "2026-01-01T00-00-00-000000Z")
    assert moved.ended
    assert not moved.active


def test_running_jobs_are_interrupted_by_a_restart_and_waiting_ones_wait_on(store: Store) -> None:
    running, waiting = (store.add("run", slug, slug, SMOKE) for slug in ("rankme", "gradient-spectra"))
    store.move(running.id, "running")
    Store(store.file).interrupt_running()
    assert store.job(running.id).state == "interrupted"
    assert store.job(waiting.id).state == "waiting"


def test_an_unknown_job_is_named(store: Store) -> None:
    with pytest.raises(LookupError, match="no job 99"):
        store.job(99)


@pytest.mark.parametrize(
    "query", ['"', "AND", "OR NOT", "a*b(c)", 'title:"', "-", "; DROP TABLE papers", "é", "NEAR(a b)"]
)
def test_no_query_is_an_operator(store: Store, query: str) -> None:
    store.find_text(query, 10)
    assert store.find_text("rank", 100)


def test_text_search_finds_words_phrases_and_unfinished_words(store: Store) -> None:
    assert store.find_text("hyperspectral", 5)[0].slug == "less-vit"
    assert store.find_text('"singular value"', 5)
    assert {hit.slug for hit in store.find_text("wavel", 5)} & {"wara"}
    assert store.find_text("hyperspectral zzzz", 5) == []
    assert store.find_text("hyperspectral zzzz", 5, every=False)
    assert "\x02" in store.find_text("hyperspectral", 1)[0].passage


_FIRST_LAYOUT = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject TEXT NOT NULL, title TEXT NOT NULL,
    scale TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', run TEXT NOT NULL DEFAULT '',
    created TEXT NOT NULL, ended TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_by_state ON jobs (state);
INSERT INTO jobs (kind, subject, title, scale, state, created) VALUES
    ('run', 'rankme', 'RankMe', 'quick', 'waiting', '2026-01-01T00:00:00+00:00'),
    ('analysis', '/models/tiny', 'tiny', '', 'finished', '2026-01-02T00:00:00+00:00');
PRAGMA user_version = 1;
"""


def test_a_database_of_the_first_layout_still_opens(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "hub.sqlite") as connection:
        connection.executescript(_FIRST_LAYOUT)
    connection.close()
    Store(tmp_path / "hub.sqlite")
    store = Store(tmp_path / "hub.sqlite")  # and again, as it is now
    analysis, run = store.jobs()
    assert (run.subject, run.options, run.state) == ("rankme", {"scale": "quick"}, "waiting")
    assert (analysis.title, analysis.options, analysis.state) == ("tiny", {}, "finished")
    added = store.add("adaptation", "/models/tiny", "tiny", {"data": "sst2", "size": None, "methods": ["lora"]})
    assert store.job(added.id).options == {"data": "sst2", "size": None, "methods": ["lora"]}


def test_a_newer_database_is_refused(store: Store) -> None:
    with sqlite3.connect(store.file) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(ValueError, match="newer Fullrank"):
        Store(store.file)


def test_a_damaged_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "hub.sqlite"
    file.write_bytes(b"not a database, but long enough to be read as one" * 10)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="move it away"):
        Store(file)
    assert file.read_bytes() == before
