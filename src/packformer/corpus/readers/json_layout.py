"""Tells from the first bytes of a file how it holds JSON objects."""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import Any

from packformer.corpus.documents import InvalidDocumentError, value_of

HEAD = 2**16
"""Bytes from the beginning of a file that decide."""
_MARK = "\ufeff"
_NOT_WHOLE = object()
_MARGIN = 12  # characters of the longest thing JSON has beside strings: -Infinity, \\uXXXX


class Layout(Enum):
    """One object a line; one array of them; objects over several lines or several on one."""

    LINES = auto()
    ARRAY = auto()
    OBJECTS = auto()


def layout_of(head: bytes) -> Layout:
    """How a file with this beginning holds objects; ``LINES`` unless the bytes show otherwise.

    A damaged first line still counts as ``LINES`` if the next line begins an object.
    """
    text = _text(head)
    if re.match(r"\[\s*(\{|\]\s*$)", text):
        return Layout.ARRAY
    if not text.startswith("{"):
        return Layout.LINES
    first, second = _lines(text)
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        several = error.msg == "Extra data" and first[error.pos :].startswith("{")
        broken = not second or second.startswith("{")
        return Layout.OBJECTS if several or not broken else Layout.LINES
    except (ValueError, RecursionError):
        pass
    return Layout.LINES


def holds_records(head: bytes, field: str) -> bool:
    """Whether a file that begins with these bytes evidently holds documents as JSON objects.

    Lines of objects do, and an array of objects. An object alone, maybe over several lines, does if
    it has the field: others are settings, notebooks and the like.
    """
    text, layout = _text(head), layout_of(head)
    goes_on = len(head) >= HEAD
    if layout is Layout.ARRAY:
        return _value(text[1:].lstrip().removeprefix("]") or "{}", goes_on) is not None
    if not text.startswith("{"):
        return False
    lines = [line for line in _lines(text) if line.startswith("{")]
    if layout is Layout.LINES and len(lines) == 2 and any(_value(line, False) for line in lines):
        return True
    value = _value(text, goes_on)
    if value is _NOT_WHOLE:
        return re.search(rf'"{re.escape(field.rpartition(".")[2])}"\s*:', text) is not None
    return value is not None and _has(value, field)


def holds_strings(head: bytes) -> bool:
    """Whether a file that begins with these bytes evidently is an array of strings alone."""
    text = _text(head)
    if not re.match(r'\[\s*"', text):
        return False
    try:
        return all(isinstance(value, str) for value in json.loads(text))
    except (ValueError, RecursionError):
        return len(head) >= HEAD


def is_cut_short(error: json.JSONDecodeError) -> bool:
    """Whether the error may disappear once more text is read."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - _MARGIN


def _text(head: bytes) -> str:
    return head.decode(errors="replace").removeprefix(_MARK).lstrip()


def _lines(text: str) -> tuple[str, str]:
    """The first two that are not blank, without white space around them."""
    first, _, rest = text.partition("\n")
    return first.strip(), rest.lstrip().partition("\n")[0].strip()


def _value(text: str, goes_on: bool) -> Any:
    """The object at the beginning of a text; ``_NOT_WHOLE`` if it may be cut off and more text
    may come; else None."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return _NOT_WHOLE if goes_on and is_cut_short(error) and text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _has(record: dict[str, Any], field: str) -> bool:
    try:
        value_of(record, field, "")
    except InvalidDocumentError:
        return False
    return True
