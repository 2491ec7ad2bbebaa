"""Chooses the format a file is read as: by its suffix, or by its content if the suffix is open."""

from __future__ import annotations

from pathlib import Path

from packformer.corpus.readers.compression import name_inside, open_content
from packformer.corpus.readers.json_layout import (
    HEAD,
    Layout,
    holds_records,
    holds_strings,
    layout_of,
)

FORMATS = ("auto", "text", "jsonl", "csv", "parquet")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_LINES = "lines of JSON: the field {field!r} of each is a document"
_ARRAY = "an array of JSON objects: the field {field!r} of each is a document"
_OBJECTS = "JSON objects over several lines: the field {field!r} of each is a document"
_NO_RECORDS = "JSON without the field {field!r}, read as plain text"
_STRINGS = (
    "an array of strings, read as plain text, one document: make each string an object with it in "
    "the field {field!r} if each is a document"
)
_RECORDS_AS_TEXT = (
    "JSON objects, but read as plain text for the name of the file: set the format to jsonl if the "
    "field {field!r} of each is a document"
)
WARNINGS = (_NO_RECORDS, _STRINGS, _RECORDS_AS_TEXT)
"""Those of ``decided`` that may be meant otherwise."""


def format_of(file: Path, field: str) -> str:
    """What ``auto`` stands for: ``text``, ``jsonl``, ``csv`` or ``parquet``.

    Raises:
        ValueError: if the content decides and cannot be read.
    """
    suffix = _suffix(file)
    if suffix == ".json":
        return "jsonl" if holds_records(head_of(file), field) else "text"
    return _SUFFIXES.get(suffix, "text")


def decided(file: Path, format: str, field: str) -> str | None:
    """What the content decided, in words with ``{field}``; None if the name decides alone.

    Args:
        file: which.
        format: as it is set.
        field: that holds the text.

    Raises:
        ValueError: if the file cannot be read.
    """
    chosen = format_of(file, field) if format == "auto" else format
    is_json = _suffix(file) == ".json"
    if chosen == "jsonl":
        words = {Layout.LINES: _LINES, Layout.ARRAY: _ARRAY, Layout.OBJECTS: _OBJECTS}
        layout = layout_of(head_of(file))
        return words[layout] if is_json or layout is not Layout.LINES else None
    if chosen == "text" and format == "auto":
        if is_json:
            return _STRINGS if holds_strings(head_of(file)) else _NO_RECORDS
        return _RECORDS_AS_TEXT if holds_records(head_of(file), field) else None
    return None


def head_of(file: Path, shown: str | None = None) -> bytes:
    """The first bytes of its content."""
    with open_content(file, shown or str(file)) as content:
        return content.stream.read(HEAD)


def _suffix(file: Path) -> str:
    return Path(name_inside(file.name)).suffix
