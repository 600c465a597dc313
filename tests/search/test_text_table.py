"""Texts in files, found by bisection."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullrank.search.text_table import TextTable, encoded

LISTS = st.lists(st.text(max_size=12), max_size=30)


@given(LISTS, LISTS)
def test_every_text_is_found_and_no_other(texts, others):
    table = TextTable.of([encoded(text) for text in texts])
    with tempfile.TemporaryDirectory() as folder:
        table.write(Path(folder), "texts")
        read = TextTable.read(Path(folder), "texts")
    assert list(read) == texts == read[:]
    assert [read[number] for number in range(len(read))] == texts
    order = read.order()
    assert [read[number] for number in order.tolist()] == sorted(texts, key=encoded)
    for text in texts + others:
        number = read.find(text, order)
        assert (number is None) == (text not in texts)
        assert number is None or read[number] == text


@given(st.sets(st.text(max_size=8)), st.data())
def test_sorted_texts_need_no_order_and_some_can_be_kept(texts, data):
    names = sorted(texts)
    table = TextTable.of([encoded(name) for name in names])
    assert [table.find(name) for name in names] == list(range(len(names)))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))), dtype=bool)
    assert list(table.kept(keep)) == [name for name, kept in zip(names, keep, strict=True) if kept]


def test_half_a_surrogate_pair_is_stored():
    half = json.loads('"\\ud800"')
    table = TextTable.of([encoded(half)])
    assert table[0] == half
    assert table.find(half) == 0


def test_arrays_that_do_not_fit_are_noticed():
    with pytest.raises(ValueError, match="2 texts of 3 bytes do not fit each other"):
        TextTable(np.zeros(3, np.uint8), np.array([0, 1, 2]))
