"""Tables of text: comma-separated files and their kin."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from packformer.corpus.documents import OWN_FILE, RECORD_BYTES, RECORD_LIMIT, Form, Raw
from packformer.corpus.left_out import Reason
from packformer.corpus.readers.compression import Content, name_inside
from packformer.corpus.wording import missing
from packformer.counted import counted

QUOTINGS = ("auto", "double", "none")
"""Whether a field may stand in double quotes. ``auto``: it may where columns are not separated by
tabs, and what looks like the other is refused."""
_SEPARATORS = (",", "\t", ";", "|")
_SWALLOWED = 3  # lines in a quoted field that look like rows, where a column holds numbers
_SWALLOWED_WORDS = 12  # else
_LINES_KEPT = 256
_NUMBER = re.compile(r"[-+]?[0-9][0-9.eE+-]*")


class _Dialect(NamedTuple):
    separator: str
    is_quoted: bool

    def rows(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(
            lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.is_quoted else csv.QUOTE_NONE,
            strict=True,
        )


def read_table(shown: str, content: Content, field: str, quoting: str) -> Iterator[Raw]:
    """Each row's column of that name. The first line names the columns.

    Raises:
        ValueError: if there is no such column, or quotes do not match: what comes after that cannot
            be told.
    """
    csv.field_size_limit(2**31 - 1)
    # What is no UTF-8 goes through as it is, to be found in its row.
    stream = io.TextIOWrapper(content.stream, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        lines = _Lines(shown, stream)
        if first := next(lines, None):
            default = "\t" if name_inside(shown).endswith(".tsv") else ","
            dialect = _dialect(first, field, quoting, default)
            lines.push_back(first)
            table = _Table(shown, field, lines, dialect, quoting == "auto")
            for raw in table.documents():
                yield raw._replace(read=content.raw.tell())
    finally:
        stream.detach()


class _Lines:
    """Lines of a table; keeps the first line of the current row for inspection.

    Attributes:
        row: lines since ``begin_row``, up to ``_LINES_KEPT``.
        count: how many there are.
        begin: number of the first of them.
    """

    def __init__(self, shown: str, stream: io.TextIOWrapper) -> None:
        self._shown = shown
        self._stream = stream
        self._pushed = ""
        self._size = 0
        self.row: list[str] = []
        self.count = 0
        self.begin = 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, self._pushed = self._pushed or self._stream.readline(RECORD_BYTES), ""
        if not line:
            raise StopIteration
        self.count += 1
        if len(self.row) < _LINES_KEPT:
            self.row.append(line)
        self._size += len(line)
        if self._size >= RECORD_BYTES:
            raise ValueError(
                f"{self._shown}, line {self.begin}, begins a row that is {RECORD_LIMIT}: "
                f"look for a quote that is not closed, or {OWN_FILE}"
            )
        return line

    def push_back(self, line: str) -> None:
        """Gives the first line once more."""
        self._pushed, self.row, self.count, self._size = line, [], 0, 0

    def begin_row(self) -> None:
        self.begin += self.count
        self.row, self.count, self._size = [], 0, 0


def _dialect(first: str, field: str, quoting: str, default: str) -> _Dialect:
    """The separator with which the first line names the column, else that of the file's name."""

    def of(separator: str) -> _Dialect:
        return _Dialect(separator, quoting == "double" or quoting == "auto" and separator != "\t")

    for separator in sorted(_SEPARATORS, key=lambda separator: separator != default):
        try:
            if field in next(of(separator).rows(iter([first])), ()):
                return of(separator)
        except csv.Error:  # a name that has more than one line
            continue
    return of(default)


class _Table:
    def __init__(
        self, shown: str, field: str, lines: _Lines, dialect: _Dialect, is_wary: bool
    ) -> None:
        self._shown = shown
        self._field = field
        self._lines = lines
        self._dialect = dialect
        self._is_wary = is_wary
        self._rows = dialect.rows(lines)

    def documents(self) -> Iterator[Raw]:
        names = self._next_row() or []
        column = self._column(names)
        while (row := self._next_row()) is not None:
            place = f"{self._shown}, line {self._lines.begin},"
            if not row and len(names) > 1:  # a blank line
                continue
            if len(row or [""]) != len(names):
                yield Raw(
                    self._wrong_number(row, names).encode(),
                    place,
                    Form.INVALID,
                    invalid=Reason.COLUMNS,
                )
                continue
            value = row[column] if row else ""
            if self._is_wary:
                self._check_quotes(row, column, place)
            yield Raw(value.encode(errors="surrogateescape"), place, Form.TEXT)

    def _next_row(self) -> list[str] | None:
        self._lines.begin_row()
        try:
            return next(self._rows, None)
        except csv.Error as error:
            begin, end = self._lines.begin, self._lines.begin + self._lines.count - 1
            where = f"line {begin}" if begin == end else f"lines {begin} to {end}"
            raise ValueError(
                f"{self._shown} has a quote in {where} that is not closed as CSV wants it "
                f"({error}): mend it, or set quoting to none if quotes are part of the text"
            ) from error

    def _column(self, names: list[str]) -> int:
        if self._field not in names:
            if not names:
                raise ValueError(
                    f"{self._shown} has no column {self._field!r}, its first line is empty: name "
                    "the columns there"
                )
            raise ValueError(f"{self._shown} {missing('column', self._field, names)}")
        if names.count(self._field) > 1:
            raise ValueError(
                f"{self._shown} has the column {self._field!r} more than once: keep one"
            )
        return names.index(self._field)

    def _wrong_number(self, row: list[str], names: list[str]) -> str:
        if not self._dialect.is_quoted and sum(line.count('"') for line in self._lines.row) % 2:
            advice = "set quoting to double if fields in quotes may have several lines"
        elif len(row) < len(names):
            advice = "add what is missing"
        elif self._dialect.is_quoted:
            advice = "quote a field that has the separator in it"
        else:
            advice = "remove the separator from the field that has it"
        found = counted(len(row), "column")
        return f"has {found}, but the first line names {len(names):,}: {advice}"

    def _check_quotes(self, row: list[str], column: int, place: str) -> None:
        """Refuses a table that looks as if its quotes were meant the other way.

        Raises:
            ValueError: naming the settings for either meaning.
        """
        if self._dialect.is_quoted and len(self._lines.row) > _SWALLOWED:
            others = [_is_number(cell) for cell in row[:column] + row[column + 1 :]]
            least = _SWALLOWED if any(others) else _SWALLOWED_WORDS
            following = self._lines.row[1:]
            if len(following) >= least and all(self._looks_like_a_row(x, row) for x in following):
                raise ValueError(
                    f"{place} has a field in quotes that goes on for "
                    f"{counted(self._lines.count - 1, 'line')} "
                    "which look like rows: set quoting to none if quotes are part of the text, or "
                    "to double if the field is right"
                )
        elif not self._dialect.is_quoted and _looks_quoted(row[column] if row else ""):
            raise ValueError(
                f"{place} has a field that looks quoted: set quoting to double if it is, or to "
                "none if quotes are part of the text"
            )

    def _looks_like_a_row(self, line: str, row: list[str]) -> bool:
        cells = line.rstrip("\r\n").split(self._dialect.separator)
        column = row.index(max(row, key=len))
        return len(cells) == len(row) > 1 and all(
            number == column or _is_number(cell) == _is_number(like)
            for number, (cell, like) in enumerate(zip(cells, row, strict=True))
        )


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell.strip()) is not None


def _looks_quoted(value: str) -> bool:
    """Whether it stands in quotes and every quote in it is doubled."""
    inner = value[1:-1]
    return (
        len(value) > 1
        and value[0] == value[-1] == '"'
        and '""' in inner
        and '"' not in inner.replace('""', "")
    )
