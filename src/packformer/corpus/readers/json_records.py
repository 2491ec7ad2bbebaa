"""JSON objects: one per line, or one after another, possibly in an array."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO

from packformer.corpus.documents import RECORD_BYTES, TOO_LONG, Form, Raw
from packformer.corpus.left_out import Reason
from packformer.corpus.readers.compression import Content
from packformer.corpus.readers.json_layout import is_cut_short
from packformer.corpus.wording import not_json, unreadable_as

_LINES_PER_TELL = 256
_READ = 2**20
_SPACE = re.compile(r"[ \t\r\n]*")


def read_lines(shown: str, content: Content) -> Iterator[Raw]:
    """Each line that is not blank."""
    done = number = 0
    while line := content.stream.readline(RECORD_BYTES + 1):
        number += 1
        if number % _LINES_PER_TELL == 0:
            done = content.raw.tell()
        place = f"{shown}, line {number},"
        if len(line) > RECORD_BYTES and not line.endswith(b"\n"):
            yield Raw(TOO_LONG.encode(), place, Form.INVALID, read=done, invalid=Reason.TOO_LONG)
            _skip_line(content.stream)
        elif line.strip():
            yield Raw(line, place, Form.JSON, read=done)


def _skip_line(stream: IO[bytes]) -> None:
    while (rest := stream.readline(_READ)) and not rest.endswith(b"\n"):
        pass


def read_objects(shown: str, content: Content, *, is_array: bool) -> Iterator[Raw]:
    """Each value of an array, or of those that stand one after another.

    Raises:
        ValueError: at the first place that is no JSON: what comes after it cannot be told.
    """
    text = _Text(shown, content.stream)
    decoder = json.JSONDecoder()
    if is_array:
        text.take("[")
    number = 0
    while (next_one := text.next_one()) and not (is_array and next_one == "]"):
        if is_array and number:
            text.take(",")
        number += 1
        data = text.value(decoder).encode(errors="surrogateescape")
        place, done = f"{shown}, record {number},", content.raw.tell()
        if len(data) > RECORD_BYTES:
            yield Raw(TOO_LONG.encode(), place, Form.INVALID, read=done, invalid=Reason.TOO_LONG)
        else:
            yield Raw(data, place, Form.JSON, read=done)
    if is_array:
        text.take("]")
        if text.next_one():
            raise text.error(unreadable_as("JSON", "there is more after the array"))


class _Text:
    """Text that is read as far as it is wanted, ``RECORD_BYTES`` at most at a time."""

    def __init__(self, shown: str, stream: IO[bytes]) -> None:
        self._shown = shown
        self._stream = stream
        # What is no UTF-8 goes through as it is, to be found in its record.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text = ""
        self._place = 0
        self._line = 1
        self._is_whole = False
        self._read(_READ)

    def _read(self, size: int) -> None:
        data = self._stream.read(size)
        self._is_whole = not data
        self._line += self._text.count("\n", 0, self._place)
        self._text = self._text[self._place :] + self._decoder.decode(data, final=not data)
        self._place = 0

    def next_one(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._place)
            assert found is not None
            self._place = found.end()
            if self._place < len(self._text) or self._is_whole:
                return self._text[self._place : self._place + 1]
            self._read(_READ)

    def take(self, character: str) -> None:
        """Continues after it."""
        if self.next_one() != character:
            raise self.error(unreadable_as("JSON", f"{character!r} is missing"))
        self._place += 1

    def value(self, decoder: json.JSONDecoder) -> str:
        """The text of the value that begins after white space."""
        self.next_one()
        while True:
            try:
                _, end = decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if self._is_whole or not is_cut_short(error):
                    raise self.error(not_json(error, place=False), error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self.error(not_json(error)) from error
            else:
                if end < len(self._text) or self._is_whole:  # else a number may continue
                    found = self._text[self._place : end]
                    self._place = end
                    return found
            if len(self._text) - self._place > RECORD_BYTES:
                raise self.error(TOO_LONG)
            self._read(max(_READ, len(self._text) - self._place))

    def error(self, words: str, place: int | None = None) -> ValueError:
        """That names the line of a place in the text; by default of where reading is."""
        line = self._line_of(self._place if place is None else place)
        return ValueError(f"{self._shown}, line {line}, {words}")

    def _line_of(self, place: int) -> int:
        return self._line + self._text.count("\n", 0, place)
