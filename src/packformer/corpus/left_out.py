"""Counts what is left out of an input, and says so in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import NamedTuple

_DOCUMENTS = {
    "empty": "empty",
    "null": "null",
    "not_utf8": "not UTF-8",
    "invalid": "invalid",
    "no_token": "without a token in this tokenizer",
}
_FILES = {
    "hidden": "hidden",
    "special": "sockets, pipes or devices",
    "repeated": "met again and read once",
}


class Reason(Enum):
    """Why a document is left out; the values are names of ``LeftOut``, or kinds of invalid ones."""

    EMPTY = "empty"
    NULL = "null"
    NOT_UTF8 = "not_utf8"
    NO_TOKEN = "no_token"
    NO_JSON = "no JSON"
    NO_OBJECT = "JSON, but no object"
    NO_FIELD = "without the field"
    REPEATED_FIELD = "with the field more than once"
    NO_TEXT = "without text in the field"
    COLUMNS = "of another number of columns"
    TOO_LONG = "too long"
    UNREADABLE = "archived or damaged"

    @property
    def counted_as(self) -> str:
        """Name in ``LeftOut``."""
        return self.value if self.value in _DOCUMENTS else "invalid"

    @property
    def words(self) -> str:
        """For messages."""
        return _DOCUMENTS.get(self.value, self.value)


class Omission(NamedTuple):
    """A document that is left out.

    Attributes:
        reason: why.
        message: the same with its place, in words; empty where there is nothing to say.
    """

    reason: Reason
    message: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Counts of everything that was given and did not become a document.

    Attributes:
        empty: documents without text.
        null: documents whose text is null.
        not_utf8: documents that are not UTF-8.
        invalid: documents that cannot be read as what they are: no JSON, no field, no text in it,
            another number of columns than the header's, too long; and files that are archives,
            damaged or cut short.
        no_token: documents for whose text the tokenizer has no token.
        hidden: files and folders in given folders whose names begin with a dot.
        special: sockets, pipes and devices in given folders.
        repeated: files and folders that are reached again, by a link or by being given twice.
    """

    empty: int = 0
    null: int = 0
    not_utf8: int = 0
    invalid: int = 0
    no_token: int = 0
    hidden: int = 0
    special: int = 0
    repeated: int = 0

    def __add__(self, other: LeftOut) -> LeftOut:
        names = [field.name for field in fields(self)]
        return LeftOut(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def __bool__(self) -> bool:
        return self != LeftOut()

    def __str__(self) -> str:
        """As ``left out: 3 empty, 2 null; of files and folders 1 hidden``; empty if nothing is."""
        documents, files = self._shown(_DOCUMENTS), self._shown(_FILES)
        groups = [documents] * bool(documents) + [f"of files and folders {files}"] * bool(files)
        return f"left out: {'; '.join(groups)}" if groups else ""

    def _shown(self, words: dict[str, str]) -> str:
        counts = ((getattr(self, name), word) for name, word in words.items())
        return ", ".join(f"{count:,} {word}" for count, word in counts if count)
