"""Wording that messages about what cannot be read share: one line, ending in advice."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence

FIELD_SETTINGS = "--field or data.field"
"""Of a command and of training; what prepares puts the one of its user in its place."""

_NAMES_SHOWN = 8
_NAME_LENGTH = 60


def listed(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    more = len(names) - most
    return f"{shown} and {more:,} more" if more > 0 else shown


def _on_one_line(name: str) -> str:
    short = name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
    return short if short.isprintable() and short.strip() else repr(short)


def missing(kind: str, name: str, others: Sequence[str]) -> str:
    """What to say of a record or table that lacks a field.

    Args:
        kind: ``field`` or ``column``.
        name: that is missing.
        others: that are there.
    """
    if not others:
        return f"has no {kind} {name!r} and no other: fill or remove it"
    there = listed(list(map(_on_one_line, others)))
    return f"has no {kind} {name!r}, but {there}: set {FIELD_SETTINGS}"


def not_text(found: str, kind: str, name: str, inside: Sequence[str] = (), write: str = "") -> str:
    """What to say of a field that holds something else than text.

    Args:
        found: what it holds, with its article.
        kind: ``field`` or ``column``.
        name: of the field.
        inside: names of the texts in it, if it holds any by name.
        write: a record with text, as its format writes it.
    """
    advice = f"set {FIELD_SETTINGS}"
    if inside:
        nested = listed([_on_one_line(f"{name}.{member}") for member in inside])
        advice += f" to {'one of ' * (len(inside) > 1)}{nested}"
    elif write:
        advice = f"write it as {write}, or {advice}"
    return f"has {_on_one_line(found)} in the {kind} {name!r}, not text: {advice}"


def record_with(field: str, value: str) -> str:
    """How JSON writes a record: ``{"a": {"b": value}}`` for the field ``a.b``."""
    for name in reversed(field.split(".")):
        value = f"{{{json.dumps(name, ensure_ascii=False)}: {value}}}"
    return value


def not_json(error: Exception, place: bool = True) -> str:
    """What to say of text that Python's JSON decoder refuses.

    Args:
        error: of the decoder.
        place: name the character, where the message names the line it is counted from.
    """
    if isinstance(error, RecursionError):
        return "is nested too deeply to be read as JSON: flatten or remove it"
    if not isinstance(error, json.JSONDecodeError):  # of int()
        most = sys.get_int_max_str_digits()
        return f"has a number of more than {most:,} digits: write it as a string, or remove it"
    reason = error.msg.rstrip(": ").removesuffix(" at").removesuffix(" starting")
    where = f" at character {error.pos + 1:,}" if place else ""
    return unreadable_as("JSON", f"{reason}{where}")


def unreadable_as(format: str, reason: str) -> str:
    """What to say of a text that is not of its format."""
    return f"cannot be read as {format} ({reason}): mend it"


def cause(error: Exception) -> str:
    """What a library says of a damaged file, fit for the brackets of a message."""
    words = " ".join(str(error).split()).rstrip(".")
    return re.sub(r"\s*\([^()]*\)$", "", words) or type(error).__name__
