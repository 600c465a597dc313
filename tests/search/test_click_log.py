"""Click logs: rows come once, keys cost little, and bytes from anybody are read with care."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import ClickLog
from fullrank.search import click_log as module
from fullrank.search.click_rows import Click, ClickRows, Vocabulary

NAMES = st.one_of(st.integers(-3, 3), st.text("ab", max_size=2))
ROWS = st.lists(st.tuples(NAMES, NAMES, NAMES, st.integers(0, 9), st.integers(-70_000, 70_000)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(1, 5))
def test_a_log_is_a_dictionary_by_key_that_keeps_the_first(rows, parts):
    log, first, conflicts = ClickLog(), {}, 0
    for part in range(parts):
        log.merge(rows[part::parts])
        for row in rows[part::parts]:
            conflicts += first.setdefault((row[0], row[3]), row)[1:3] != row[1:3]
    assert list(log) == [Click(*row) for row in first.values()]
    assert log.n_conflicts == conflicts
    assert log.merge(log) == 0
    assert log.n_conflicts == conflicts


@settings(max_examples=30, deadline=None)
@given(ROWS, st.integers(0, 40))
def test_a_log_survives_its_forms(rows, position):
    log = ClickLog()
    log.merge(rows)
    again = ClickLog.from_bytes(log.to_bytes())
    assert list(again) == list(log)
    assert again.to_bytes() == log.to_bytes()
    part = ClickRows.from_bytes(log.since(position).to_bytes())
    assert list(part) == list(log)[position:]


def test_positions_stay_when_rows_are_forgotten():
    log = ClickLog()
    log.merge([("me", "t", number) for number in range(10)])
    assert [click.item for click in log.forget(np.arange(10) % 2 == 0)] == [0, 2, 4, 6, 8]
    assert [click.item for click in log.since(6)] == [7, 9]
    assert [click.item for click in log.since(2, most=2)] == [3, 5]
    assert log.position_after(2, 2) == 7
    assert log.position_after(2, 9) == log.position == 10
    assert log.forgotten == {"me": 9}
    assert log.merge([("me", "t", 0, 0), ("me", "t", 9, 9)]) == 0
    assert log.n_stale == 1
    log.append("me", "t", "new")
    assert next(iter(log.since(10))).number == 10


@pytest.mark.parametrize("rows", [2_000, 5_000, 12_345, 20_000])
def test_a_row_costs_less_than_fifty_bytes(rows):
    log = ClickLog()
    for start in range(0, rows, 100):  # as it comes: in parts
        log.merge([(n % 100, n % 39, n % 256) for n in range(start, min(start + 100, rows))])
    assert log.nbytes < 50 * rows
    assert len(log.to_bytes()) < 10 * rows


def test_shared_words_and_words_of_ones_own():
    words = Vocabulary.empty()
    one, two, alone = ClickLog(words), ClickLog(words), ClickLog()
    two.append("x", "y", "z")
    one.append("me", ("t", "u"), "a")
    for other in (two, alone):
        other.merge(one)
    assert list(alone) == list(one)
    assert list(two)[1:] == list(one)
    assert alone.rows.nodes == ["me"]
    assert len(alone.vocabulary.nodes) == 1


@pytest.mark.parametrize("name", ["log.jsonl", "log.clicks"])
def test_a_log_on_disk(name, tmp_path):
    log = ClickLog()
    log.merge([("me", "t", "a", 0), ("you", ["u", "v"], "b", 7, 12)])
    assert list(ClickLog.load(log.save(tmp_path / name))) == list(log)


def test_lines_of_others_are_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"node": 1, "term": "a\u2028b", "item": "x"}\n\n{"node": 1, "term": ["c"], "item": 2}\n', "utf-8")
    log = ClickLog.load(path)
    assert [click.term for click in log] == ["a\u2028b", ("c",)]
    log.append(np.int64(2), "t", np.int64(3))
    assert list(ClickLog.load(log.save(path))) == list(log)


def test_a_log_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"node": 1, "term": "t", "item": "x"}\r\n', "utf-8-sig")
    assert [click.item for click in ClickLog.load(path)] == ["x"]


def test_a_log_as_a_table(tmp_path):
    from pyarrow import parquet

    log = ClickLog()
    log.merge([("me", "t", "a", 0), ("you", "u", "b", 7, 12)])
    table = parquet.read_table(log.save(tmp_path / "log.parquet"))
    assert table.to_pylist() == log.to_rows() == [click._asdict() for click in log]
    assert log.save(tmp_path / "log.csv").read_text().splitlines()[1] == "me,t,a,0,0"


def test_bad_calls(tmp_path, unchecked):
    log = ClickLog()
    with pytest.raises(ValueError, match="item is missing"):
        log.append(1, "t", None)
    with pytest.raises(ValueError, match="number=-1 is no whole number from 0"):
        log.append(1, "t", "a", -1)
    with pytest.raises(ValueError, match=r"time=1\.5 is no whole number"):
        log.append(1, "t", "a", 0, 1.5)
    with pytest.raises(ValueError, match="row 1 is "):
        log.merge([(1, "t", "a", 0), (1, "t")])
    with pytest.raises(ValueError, match="unhashable"):
        log.merge([(1, "t", {"a": 1})])
    with pytest.raises(ValueError, match="position=-1"):
        log.since(-1)
    with pytest.raises(ValueError, match=r"names no format: \.clicks"):
        log.save(tmp_path / "log.pickle")
    (tmp_path / "log.jsonl").write_text('{"node": 1, "term": 2, "item": 3, "number": 0}\n{"node": 1}\n')
    with pytest.raises(ValueError, match=r"line 2 is no row: .*term is missing"):
        ClickLog.load(tmp_path / "log.jsonl")
    for text in ("{\n", "[]\n"):
        (tmp_path / "log.jsonl").write_text(text)
        with pytest.raises(ValueError, match="line 1 is no row"):
            ClickLog.load(tmp_path / "log.jsonl")


def test_more_rows_than_can_be_counted(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 3)
    log = ClickLog()
    log.merge([(1, "t", "a")] * 3)
    with pytest.raises(OverflowError, match="at most 3 rows; 3 came, 1 are too many"):
        log.append(2, "t", "a")
    assert len(log) == 3


def content(words, rows=1, columns=b"\1\0" * 5, version=1, size=None):
    text = json.dumps(words).encode() if not isinstance(words, bytes) else words
    return struct.pack("<4sHII", b"FRCR", version, rows, len(text) if size is None else size) + text + columns


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"zip", "no click log"),
        (content([["a"], ["t"], ["i"]], version=2), "format 2, this version of Fullrank reads 1"),
        (content([["a"], ["t"], ["i"]], rows=2**31), "do not fit into"),
        (content([["a"], ["t"], ["i"]], size=2**31), "words cannot be read|do not fit"),
        (content([["a"], ["t"], ["i"]], columns=b"\1\0" * 4), "do not fit|cut short"),
        (content([["a"], ["t"], ["i"]], columns=b"\3\0\0" * 5), "unknown width"),
        (content([["a"], ["t"], ["i"]], columns=b"\1\0" * 6), "2 bytes are left over"),
        (content([["a"], ["t"], ["i"]], columns=b"\1\1" + b"\1\0" * 4), "a node outside of the 1 words"),
        (content([["a"], ["t"], ["i"]], columns=b"\1\0" * 3 + b"\4\xff\xff\xff\xff" + b"\1\0"), "negative number"),
        (content([["a"], ["t"]]), "words cannot be read"),
        (content([["a"], ["t"], [1.5]]), "words cannot be read"),
        (content([["a"], ["t"], [True]]), "words cannot be read"),
        (content([["a"], ["t"], [[["i"]]]]), "words cannot be read"),
        (content([["a", "a"], ["t"], ["i"]]), "a word stands twice"),
        (content([["a" * 5000], ["t"], ["i"]]), "words cannot be read"),
        (content(b"[" * 100_000), "words cannot be read"),
        (content(b"\xff\xfe"), "words cannot be read"),
    ],
)
def test_bytes_from_anybody(damaged, words):
    with pytest.raises(ValueError, match=words):
        ClickRows.from_bytes(damaged)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place, value):
    log = ClickLog()
    log.merge([("me", "t", "a"), ("you", "t", "b", 300), ("you", "u", "b", 70_000)])
    changed = bytearray(log.to_bytes())
    changed[place % len(changed)] = value
    try:
        rows = ClickRows.from_bytes(bytes(changed))
    except ValueError:
        return
    ClickLog().merge(rows)
