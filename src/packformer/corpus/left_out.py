"""What of an input is left out, counted, and the one sentence that says it."""

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
    """Why a document is left out; the values are names of ``LeftOut``."""

    EMPTY = "empty"
    NULL = "null"
    NOT_UTF8 = "not_utf8"
    INVALID = "invalid"
    NO_TOKEN = "no_token"


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
    """Counts of what was given and is in no document of the corpus.

    Attributes:
        empty: documents without text.
        null: documents whose text is null.
        not_utf8: documents that are not UTF-8.
        invalid: documents that cannot be read as what they are: no JSON, no field, no text in it,
            another number of columns than the header's, too long.
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
        """As ``documents: 3 empty, 2 null; files and folders: 1 hidden``; empty if nothing is."""
        groups = {"documents": _DOCUMENTS, "files and folders": _FILES}
        return "; ".join(
            f"{name}: {', '.join(shown)}"
            for name, words in groups.items()
            if (shown := self._shown(words))
        )

    def _shown(self, words: dict[str, str]) -> list[str]:
        return [
            f"{count:,} {word}" for name, word in words.items() if (count := getattr(self, name))
        ]
