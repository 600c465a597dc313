"""The hub's database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fullrank import papers
from fullrank.hub.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "hub.sqlite")
    store.index(papers.catalogue())
    return store


def test_jobs_are_kept_newest_first(store: Store) -> None:
    first = store.add("run", "rankme", "RankMe", "smoke")
    second = store.add("analysis", "/models/tiny", "tiny")
    assert [job.id for job in store.jobs()] == [second.id, first.id]
    assert [job.id for job in store.jobs("run")] == [first.id]
    assert first.active
    assert first.state == "waiting"
    assert not first.ended


def test_a_job_moves_and_ends(store: Store) -> None:
    job = store.add("run", "rankme", "RankMe", "smoke")
    store.move(job.id, "running")
    store.name_run(job.id, "2026-01-01T00-00-00-000000Z")
    store.move(job.id, "failed", "no room")
    moved = store.job(job.id)
    assert (moved.state, moved.reason, moved.run) == ("failed", "no room", "2026-01-01T00-00-00-000000Z")
    assert moved.ended
    assert not moved.active


def test_running_jobs_are_interrupted_by_a_restart_and_waiting_ones_wait_on(store: Store) -> None:
    running, waiting = (store.add("run", slug, slug, "smoke") for slug in ("rankme", "gradient-spectra"))
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
