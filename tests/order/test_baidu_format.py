"""Sessions and judgements of Baidu-ULTR, written, read, damaged."""

from __future__ import annotations

import gzip

import pytest

from fullrank.order.baidu_format import (
    Annotation,
    MalformedLines,
    Session,
    ShownDocument,
    TokenText,
    read_baidu_annotations,
    read_baidu_sessions,
    write_baidu_annotations,
    write_baidu_sessions,
)

QUERY = TokenText.of([3, 21999, 0])


def session(qid="q1", documents=3):
    shown = [
        ShownDocument(position, f"md5-{position}", TokenText.of([position, 7]), TokenText(), 2, int(position == 2), 1,
                      80.5, 2.25, 1.0, 1, 3, 90.0, 4, 12.5, 0.5, 640.0, 5, 6, 7, 1, 0.75, 8, 9, 1, 10, 11)
        for position in range(1, documents + 1)
    ]  # fmt: skip
    return Session(qid, QUERY, TokenText.of([5]), tuple(shown))


def lines(*sessions, tmp_path):
    return write_baidu_sessions(tmp_path / "lines.tsv", sessions).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("name", ["part-00000.tsv", "part-00000.gz"])
def test_sessions_come_back(tmp_path, name):
    sessions = [session("q1"), session("q2", 0), session("q1", 2)]
    path = write_baidu_sessions(tmp_path / name, iter(sessions))
    assert list(read_baidu_sessions(path)) == sessions
    moved = path.rename(tmp_path / "no suffix")
    assert list(read_baidu_sessions(moved)) == sessions
    assert QUERY.ids == [3, 21999, 0]


def test_fields_stand_in_the_columns_of_the_files(tmp_path):
    columns = lines(session(documents=2), tmp_path=tmp_path)[2].rstrip(b"\n").split(b"\t")
    assert len(columns) == 32
    assert columns[:6] == [b"2", b"md5-2", b"2\x017", b"", b"2", b"1"]
    assert [columns[place] for place in (6, 7, 22, 27, 31)] == [b""] * 5
    said = {16: b"12.5", 21: b"7", 23: b"1", 24: b"0.75", 25: b"8", 26: b"9", 28: b"1", 29: b"10", 30: b"11"}
    assert {place: columns[place] for place in said} == said


def test_columns_that_are_left_out_are_zero():
    found = list(read_baidu_sessions([b"q\t3\t-\n", b"1\tmd5\t4\t5\t\t1\t\n"]))
    assert found == [
        Session(
            "q", TokenText(b"3"), TokenText(), (ShownDocument(1, "md5", TokenText(b"4"), TokenText(b"5"), click=1),)
        )
    ]


def test_annotations_come_back(tmp_path):
    annotations = [Annotation("q", QUERY, TokenText(b"1"), TokenText(b"2\x013"), grade, 9) for grade in range(5)]
    path = write_baidu_annotations(tmp_path / "nips_annotation.txt.gz", annotations)
    assert list(read_baidu_annotations(path)) == annotations


def test_malformed_lines_are_counted_and_shown(tmp_path):
    good = lines(session("q1"), session("q2"), session("q3"), tmp_path=tmp_path)
    good[2] = b"0" + good[2][1:]  # a position of 0
    good[4] = b"q2\twords\t\n"  # a query of words, and with it its three documents
    malformed = MalformedLines()
    found = list(read_baidu_sessions([*good, b"a\tb\n"], malformed))
    assert [(each.qid, len(each.documents)) for each in found] == [("q1", 2), ("q3", 3)]
    assert malformed.count == 6
    assert malformed.first[0].startswith("line 3 is malformed (position 0 is not accepted; positions count from 1)")
    assert "its query could not be read" in malformed.first[2]
    assert "it has 2 columns" in malformed.first[-1]
    for _ in range(20):
        malformed.add("more")
    assert str(malformed).startswith("26 malformed lines were left out: line 3")
    assert str(malformed).endswith("and 16 more")


def test_bad_lines_and_files(tmp_path, unchecked):
    good = lines(session(), tmp_path=tmp_path)
    shown = good[1].rstrip(b"\n").split(b"\t")

    def with_column(place, value):
        return [good[0], b"\t".join([*shown[:place], value, *shown[place + 1 :]])]

    for source, words in [
        ([b"q\t1\n"], "line 1 is malformed .it has 2 columns; a query has 3, a document more than 6"),
        ([b"q\t\t\n"], "the query or its qid is empty"),
        ([good[1]], "line 1 is malformed .no query stands above it"),
        (with_column(5, b"2"), "line 2 is malformed .b'2' is no click; 0 or 1"),
        (with_column(2, b"word"), "b'word' is no text"),
        (with_column(10, b"long"), "line 2 is malformed .could not convert"),
    ]:
        with pytest.raises(ValueError, match=words):
            list(read_baidu_sessions(source))
    for line, words in [
        (b"q\t1\t2\t3\t5\t0\n", "label 5 and bucket 0"),
        (b"q\t\t2\t3\t1\t0\n", "the query is empty"),
        (b"q\t1\t2\t3\t1\n", "it has 5 columns"),
    ]:
        with pytest.raises(ValueError, match=words):
            list(read_baidu_annotations([line]))
        malformed = MalformedLines()
        assert list(read_baidu_annotations([line], malformed)) == []
        assert malformed.count == 1
    packed = write_baidu_sessions(tmp_path / "whole.gz", [session(documents=30)])
    (tmp_path / "cut.gz").write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        list(read_baidu_sessions(tmp_path / "cut.gz"))
    content = bytearray(packed.read_bytes())
    content[40:60] = bytes(20)
    (tmp_path / "wrong.gz").write_bytes(content)
    with pytest.raises(ValueError, match="is cut off or damaged"):
        list(read_baidu_sessions(tmp_path / "wrong.gz"))
    with packed.open("rb") as file:
        assert list(read_baidu_sessions(file)) == list(read_baidu_sessions(packed))
    with gzip.open(packed, "rt") as file, pytest.raises(TypeError, match="line 1 is str; open the file for bytes"):
        list(read_baidu_sessions(file))
    with pytest.raises(TypeError, match="a path, an open file, or a list of lines"):
        list(read_baidu_sessions(b"q\t1\t\n"))
    with pytest.raises(ValueError, match="ids of tokens are 0 or more"):
        TokenText.of([-1])


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sessions.gz"
    with pytest.raises(ValueError, match="holds a tab"):
        write_baidu_sessions(path, [session(), session("a\tb")])
    assert list(tmp_path.iterdir()) == []
    write_baidu_sessions(path, [session()])
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_baidu_sessions(path, [])
    assert path.read_bytes() == before
    assert gzip.decompress(before).count(b"\n") == 4
