"""Files of Baidu-ULTR: sessions with what was shown and done, and documents that experts judged; read line by line.

Text is ids of tokens divided by the byte 0x01, columns are divided by tabs. A session is a line `qid, query, query
reformulation`, then a line for every document that was shown.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from fullrank.order.line_files import Source, lines_of

_DIVIDER = b"\x01"
_TOKEN_BYTES = b"0123456789\x01"
_SHOWN = 10  # of the first malformed lines that are told


class TokenText(bytes):
    """A text as the files hold it: ids of tokens in decimal digits, divided by the byte 0x01."""

    __slots__ = ()

    @classmethod
    def of(cls, ids: Iterable[int]) -> TokenText:
        """The text of these tokens.

        Raises:
            ValueError: a negative id.
        """
        tokens = list(ids)
        if min(tokens, default=0) < 0:
            raise ValueError(f"ids hold {min(tokens)}; ids of tokens are 0 or more")
        return cls(_DIVIDER.join(b"%d" % token for token in tokens))

    @property
    def ids(self) -> list[int]:
        """Ids of its tokens."""
        return [int(token) for token in self.split(_DIVIDER) if token]


class ShownDocument(NamedTuple):
    """A document of a result page and what was done with it; times in seconds, heights in pixels.

    Attributes:
        position: on the page, from 1.
        url: MD5 of its address.
        title: tokens.
        abstract: tokens.
        media_type: of the result, such as plain text or a video; a number that the publishers do not explain.
        click: 1 if it was clicked.
        skip: 1 if it was passed over.
        serp_height: of the result.
        displayed_time: on the screen.
        displayed_time_middle: in the middle of the screen.
        first_click: 1 for the first click of the session.
        displayed_count: how often it came onto the screen.
        max_show_height: the largest height that was seen.
        slipoff_count_after_click: how often it left the screen after a click.
        dwelling_time: on the page behind it.
        displayed_time_top: at the top of the screen.
        serp_to_top: distance to the top of the page.
        displayed_count_top: how often at the top of the screen.
        displayed_count_bottom: how often at the bottom.
        slipoff_count: how often it left the screen.
        final_click: 1 for the click that ended the search.
        displayed_time_bottom: at the bottom of the screen.
        click_count: clicks.
        displayed_count_2: the publishers' second count of displays.
        last_click: 1 for the last click of the session.
        reverse_display_count: how often it came back when scrolling up.
        displayed_count_middle: how often in the middle of the screen.
    """

    position: int
    url: str = ""
    title: TokenText = TokenText()
    abstract: TokenText = TokenText()
    media_type: int = 0
    click: int = 0
    skip: int = 0
    serp_height: float = 0.0
    displayed_time: float = 0.0
    displayed_time_middle: float = 0.0
    first_click: int = 0
    displayed_count: int = 0
    max_show_height: float = 0.0
    slipoff_count_after_click: int = 0
    dwelling_time: float = 0.0
    displayed_time_top: float = 0.0
    serp_to_top: float = 0.0
    displayed_count_top: int = 0
    displayed_count_bottom: int = 0
    slipoff_count: int = 0
    final_click: int = 0
    displayed_time_bottom: float = 0.0
    click_count: int = 0
    displayed_count_2: int = 0
    last_click: int = 0
    reverse_display_count: int = 0
    displayed_count_middle: int = 0


class Session(NamedTuple):
    """A query and its result page.

    Attributes:
        qid: of the query.
        query: tokens.
        reformulation: tokens of the query that followed; empty if none did.
        documents: as they were shown.
    """

    qid: str
    query: TokenText
    reformulation: TokenText
    documents: tuple[ShownDocument, ...]


class Annotation(NamedTuple):
    """A document that experts judged; about a twelfth of the qids come back with another query: group by query.

    Attributes:
        qid: of the query.
        query: tokens.
        title: tokens.
        abstract: tokens.
        grade: of relevance, 0 to 4.
        bucket: how often the query is asked, from 0 for the most frequent to 9.
    """

    qid: str
    query: TokenText
    title: TokenText
    abstract: TokenText
    grade: int
    bucket: int


class MalformedLines:
    """Counts lines that could not be read, and keeps what was wrong with the first ten.

    Attributes:
        count: how many there were.
        first: what was wrong with the first ten, by line.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, complaint: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(complaint)

    def __str__(self) -> str:
        more = [f"and {self.count - len(self.first)} more"] if self.count > len(self.first) else []
        return f"{self.count} malformed lines were left out: " + "; ".join([*self.first, *more])


def read_baidu_sessions(source: Source, malformed: MalformedLines | None = None) -> Iterator[Session]:
    """Sessions one after another, in constant memory.

    Args:
        source: a path, of a plain or a gzip file; a file of bytes that is open; or lines, as bytes.
        malformed: takes the lines that cannot be read; a document is left out alone, a query with its documents.
            Without it the first one raises.

    Raises:
        ValueError: a malformed line, by its number; or a gzip file that is cut off or damaged.
        TypeError: lines of text.
    """
    query: tuple[str, TokenText, TokenText] | None = None
    documents: list[ShownDocument] = []
    orphans = False  # whether the documents that follow belong to a query that could not be read
    with lines_of(source) as (lines, where):
        for number, line, columns in _numbered(lines):
            try:
                if len(columns) > 6:
                    if query is None:
                        raise ValueError("its query could not be read" if orphans else "no query stands above it")
                    documents.append(_shown(columns))
                    continue
                if query is not None:
                    yield Session(*query, tuple(documents))
                query, documents, orphans = None, [], True
                query = _query(columns)
            except ValueError as error:
                _complain(malformed, f"{where}line {number}", line, error)
        if query is not None:
            yield Session(*query, tuple(documents))


def read_baidu_annotations(source: Source, malformed: MalformedLines | None = None) -> Iterator[Annotation]:
    """Judged documents one after another; see `read_baidu_sessions`.

    Raises:
        ValueError: a malformed line, by its number.
    """
    with lines_of(source) as (lines, where):
        for number, line, columns in _numbered(lines):
            try:
                found = _annotation(columns)
            except ValueError as error:
                _complain(malformed, f"{where}line {number}", line, error)
                continue
            yield found


def write_baidu_sessions(path: str | Path, sessions: Iterable[Session]) -> Path:
    """Write sessions one after another; gzip if the name ends in .gz.

    Raises:
        FileExistsError: the file is there.
        ValueError: a session without a query, or a document that could not be read again.
    """
    return _written(Path(path), (line for session in sessions for line in _session_lines(session)))


def write_baidu_annotations(path: str | Path, annotations: Iterable[Annotation]) -> Path:
    """Write judged documents; see `write_baidu_sessions`.

    Raises:
        FileExistsError: the file is there.
        ValueError: an annotation that could not be read again.
    """
    return _written(Path(path), (_annotation_line(annotation) for annotation in annotations))


def _tokens(column: bytes) -> TokenText:
    if column.translate(None, _TOKEN_BYTES):
        raise ValueError(f"{column[:40]!r} is no text: ids of tokens divided by byte 1 are accepted")
    return TokenText(column)


def _whole(column: bytes) -> int:
    return int(column) if column else 0


def _number(column: bytes) -> float:
    return float(column) if column else 0.0


def _flag(column: bytes) -> int:
    if column in (b"", b"0"):
        return 0
    if column != b"1":
        raise ValueError(f"{column[:40]!r} is no click; 0 or 1 is accepted")
    return 1


def _position(column: bytes) -> int:
    position = int(column)
    if position < 1:
        raise ValueError(f"position {position} is not accepted; positions count from 1")
    return position


class _WholeNumbers(dict[bytes, int]):
    """Whole numbers by their digits: nearly all are small, and to look one up takes a quarter of parsing it."""

    def __missing__(self, column: bytes) -> int:
        return int(column)


_SMALL = _WholeNumbers({b"%d" % number: number for number in range(1000)})
#: Where each field of `ShownDocument` stands, in its order, and how it is read. Columns 6, 7, 22, 27 and 31 are unused.
_COLUMNS: tuple[tuple[int, Callable[[bytes], Any]], ...] = (
    (0, _position), (1, bytes.decode), (2, _tokens), (3, _tokens), (4, _whole), (5, _flag), (8, _whole), (9, _number),
    (10, _number), (11, _number), (12, _whole), (13, _whole), (14, _number), (15, _whole), (16, _number),
    (17, _number), (18, _number), (19, _whole), (20, _whole), (21, _whole), (23, _whole), (24, _number), (25, _whole),
    (26, _whole), (28, _whole), (29, _whole), (30, _whole),
)  # fmt: skip
_URL = 1
_KINDS = tuple(
    tuple(column for column, read in _COLUMNS if read in kind)
    for kind in ((_position, _flag, _whole), (_number,), (_tokens,))
)
_wholes, _numbers, _texts = (itemgetter(*columns) for columns in _KINDS)
_GROUPED = (*chain.from_iterable(_KINDS), _URL)
_IN_ORDER = itemgetter(*(_GROUPED.index(column) for column, _ in _COLUMNS))
_WIDTH = 32


def _shown(columns: list[bytes]) -> ShownDocument:
    """A document; columns that a file leaves out at its end are 0."""
    if len(columns) < _WIDTH:
        columns = columns + [b""] * (_WIDTH - len(columns))
    try:  # nearly every line has a number in every column: a kind of columns is read at a time
        wholes, numbers = map(_SMALL.__getitem__, _wholes(columns)), map(float, _numbers(columns))
        texts = map(_tokens, _texts(columns))
        found = ShownDocument._make(_IN_ORDER((*wholes, *numbers, *texts, columns[_URL].decode())))
    except ValueError:
        return ShownDocument._make([read(columns[column]) for column, read in _COLUMNS])
    if found.position < 1 or not 0 <= found.click <= 1:
        _position(columns[0])
        _flag(columns[5])
    return found


def _query(columns: list[bytes]) -> tuple[str, TokenText, TokenText]:
    if len(columns) != 3:
        raise ValueError(f"it has {len(columns)} columns; a query has 3, a document more than 6")
    qid, query, reformulation = columns[0].decode(), _tokens(columns[1]), columns[2]
    if not qid or not query:
        raise ValueError("the query or its qid is empty")
    return qid, query, TokenText() if reformulation == b"-" else _tokens(reformulation)


def _annotation(columns: list[bytes]) -> Annotation:
    if len(columns) != 6:
        raise ValueError(f"it has {len(columns)} columns; qid, query, title, abstract, label and bucket are needed")
    query, title, abstract = map(_tokens, columns[1:4])
    grade, bucket = int(columns[4]), int(columns[5])
    if not query:
        raise ValueError("the query is empty")
    if not 0 <= grade <= 4 or not 0 <= bucket <= 9:
        raise ValueError(f"label {grade} and bucket {bucket}: 0 to 4 and 0 to 9 are accepted")
    return Annotation(columns[0].decode(), query, title, abstract, grade, bucket)


def _session_lines(session: Session) -> Iterator[bytes]:
    line = b"\t".join((_field(session.qid), session.query, session.reformulation))
    _query(line.split(b"\t"))
    yield line
    for document in session.documents:
        columns = [b""] * _WIDTH
        for (column, _), value in zip(_COLUMNS, document, strict=True):
            columns[column] = value if isinstance(value, TokenText) else _field(value)
        _shown(columns)
        yield b"\t".join(columns)


def _annotation_line(annotation: Annotation) -> bytes:
    line = b"\t".join(value if isinstance(value, TokenText) else _field(value) for value in annotation)
    _annotation(line.split(b"\t"))
    return line


def _field(value: object) -> bytes:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    if any(mark in text for mark in "\t\r\n"):
        raise ValueError(f"{text!r} holds a tab or the end of a line, which divide columns and lines")
    return text.encode()


def _written(path: Path, lines: Iterable[bytes]) -> Path:
    """Write lines to a file that appears when it is whole."""
    if path.exists():
        raise FileExistsError(17, "File exists; name another one", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with gzip.open(partial, "wb") if path.suffix == ".gz" else partial.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
        return partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """Number, from 1, and columns of every line that is not empty."""
    for number, line in enumerate(lines, 1):
        if not isinstance(line, bytes):
            raise TypeError(f"line {number} is {type(line).__name__}; open the file for bytes, with mode 'rb'")
        columns = line.rstrip(b"\r\n").split(b"\t")
        if columns != [b""]:
            yield number, line, columns


def _complain(malformed: MalformedLines | None, where: str, line: bytes, error: ValueError) -> None:
    """Count a malformed line, or raise."""
    complaint = f"{where} is malformed ({error}): {line[:80]!r}"
    if malformed is None:
        raise ValueError(complaint) from error
    malformed.add(complaint)
