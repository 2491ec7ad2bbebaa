"""Documents as readers give them, still undecoded, and how to get the text out of them."""

from __future__ import annotations

import json
from collections import Counter
from enum import Enum, auto
from typing import Any, NamedTuple

from packformer.corpus.left_out import Omission, Reason
from packformer.corpus.wording import missing, not_json, not_text, record_with

PIECE = 2**20
"""Bytes of a text file that are read at once; longer ones come in pieces."""
RECORD_BYTES = 64 * 2**20
"""Bytes that one record may have at most, as a line of JSON or a row of a table: it is read whole.
A text file has no bound: it is read in pieces."""
RECORD_LIMIT = f"longer than {RECORD_BYTES // 2**20} MiB, the most that one record may have"
OWN_FILE = "give its text as a file of its own, which is read in pieces"
TOO_LONG = f"is {RECORD_LIMIT}: {OWN_FILE}"


class Form(Enum):
    """What ``Raw.data`` is: UTF-8 text, a JSON object with the text in it, or, where there is no
    text, empty (``NULL``) or the reason in words."""

    TEXT = auto()
    JSON = auto()
    NULL = auto()
    NOT_UTF8 = auto()
    INVALID = auto()


class Raw(NamedTuple):
    """A document, or a piece of a long one.

    Attributes:
        data: see ``form``.
        place: where it comes from, for messages.
        form: what ``data`` is.
        offset: of ``data`` in its file, in bytes, where it is a piece of a file; else 0.
        first: begins its document.
        last: ends its document.
        read: bytes of the input that are done with, for the progress.
        context: end of the piece before, which the tokens of this one may depend on.
        invalid: kind of what is wrong, where ``form`` is ``INVALID``.
    """

    data: bytes
    place: str
    form: Form
    offset: int = 0
    first: bool = True
    last: bool = True
    read: int = 0
    context: bytes = b""
    invalid: Reason = Reason.UNREADABLE


class InvalidDocumentError(ValueError):
    """A document that cannot be read, although those after it can.

    Args:
        message: what is wrong with it, and where it is.
        kind: of what is wrong.
    """

    def __init__(self, message: str, kind: Reason = Reason.UNREADABLE) -> None:
        super().__init__(message)
        self.kind = kind


class UnreadableFileError(InvalidDocumentError):
    """A file that cannot be read to its end as what it is, although other files can.

    Args:
        shown: how messages call the file.
        reason: completes a sentence that begins with that.
    """

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(f"{shown} {reason}", Reason.UNREADABLE)
        self.as_document = Raw(reason.encode(), shown, Form.INVALID)


class UndecodableError(InvalidDocumentError):
    """A document that is not UTF-8."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.NOT_UTF8)


def text_of(raw: Raw, field: str) -> str | None:
    """The text of a document or piece; None if it is null.

    Args:
        raw: the document.
        field: that holds the text in a JSON object; ``a.b`` is the field ``b`` of the object ``a``.

    Raises:
        UndecodableError: if it is not UTF-8.
        InvalidDocumentError: if it is no JSON, or lacks text in the field.
    """
    if raw.form is Form.NULL:
        return None
    if raw.form is Form.INVALID:
        raise InvalidDocumentError(f"{raw.place} {raw.data.decode()}", raw.invalid)
    if raw.form is Form.NOT_UTF8:
        raise UndecodableError(f"{raw.place} {raw.data.decode()}")
    try:
        text = raw.data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {raw.offset + error.start}"
        raise UndecodableError(
            f"{raw.place} is not UTF-8 ({where}): convert or remove it"
        ) from error
    if raw.first:
        text = text.removeprefix("\ufeff")  # Windows marks the beginning of its files
    return _text_of_json(text, raw.place, field) if raw.form is Form.JSON else text


def text_or_omission(raw: Raw, field: str, skip_invalid: bool) -> str | Omission:
    """The text of a document or piece, or why the document is left out.

    Args:
        raw: the document.
        field: see ``text_of``.
        skip_invalid: leave out what cannot be read as what it is instead of failing.

    Raises:
        InvalidDocumentError: if it cannot be read, unless such documents are skipped.
    """
    try:
        text = text_of(raw, field)
    except InvalidDocumentError as error:
        if not skip_invalid:
            raise
        return Omission(error.kind, str(error))
    if text is None:
        return Omission(Reason.NULL)
    return text if text or not (raw.first and raw.last) else Omission(Reason.EMPTY)


def _text_of_json(line: str, place: str, field: str) -> str | None:
    # Making the object is slower where keys are watched.
    watched = line.count(f'"{field.rpartition(".")[2]}"') > 1
    try:
        record = json.loads(line, object_pairs_hook=_Object if watched else None)
    except (ValueError, RecursionError) as error:
        raise InvalidDocumentError(f"{place} {not_json(error)}", Reason.NO_JSON) from error
    if not isinstance(record, dict):
        raise InvalidDocumentError(
            f"{place} is {json_type(record)}, not an object with {field!r}: write it as "
            f"{record_with(field, '...')}",
            Reason.NO_OBJECT,
        )
    found = value_of(record, field, place)
    if found is None:
        return None
    if not isinstance(found, str):
        write = record_with(field, '"..."')
        raise InvalidDocumentError(
            f"{place} {not_text(json_type(found), 'field', field, texts_in(found), write)}",
            Reason.NO_TEXT,
        )
    try:
        found.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell
        where = f"character {error.start} of its text"
        raise UndecodableError(f"{place} is not UTF-8 ({where}): convert or remove it") from error
    return found


class _Object(dict):
    """A JSON object that remembers which keys it repeats."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = (key for key, _ in pairs)
        self.repeated = {key for key, count in Counter(keys).items() if count > 1}


def value_of(record: dict[str, Any], field: str, place: str, inside: str = "") -> Any:
    """The value of a record's field; ``a.b`` is the field ``b`` of its object ``a``.

    Args:
        record: which.
        field: its name, inside the record.
        place: of the record, for messages.
        inside: name of the record in the whole one, with a dot at its end; empty for the whole.

    Raises:
        InvalidDocumentError: if there is no such field, or there are two.
    """
    if field not in record and "." in field:
        outer, _, inner = field.partition(".")
        if record.get(outer, 0) is None:
            return None
        if isinstance(record.get(outer), dict):
            return value_of(record[outer], inner, place, f"{inside}{outer}.")
    if field not in record:
        others = [f"{inside}{name}" for name in record]
        raise InvalidDocumentError(
            f"{place} {missing('field', inside + field, others)}", Reason.NO_FIELD
        )
    if field in getattr(record, "repeated", ()):
        raise InvalidDocumentError(
            f"{place} has the field {inside + field!r} more than once: keep one",
            Reason.REPEATED_FIELD,
        )
    return record[field]


def texts_in(value: Any) -> list[str]:
    """Names of the texts that a JSON object holds; none if it is no object."""
    if not isinstance(value, dict):
        return []
    return [name for name, member in value.items() if isinstance(member, str)]


def json_type(value: Any) -> str:
    """The JSON name of a value's type, with its article."""
    names: dict[type, str] = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        type(None): "null",
    }
    return names.get(type(value), "an object")
