"""Cuts long texts where it changes no ids: the pieces get the same ids as the whole text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Tokenizer

from packformer.corpus.documents import PIECE, Raw
from packformer.corpus.tokenizer import encode_texts

_CONTEXT = 1024  # bytes on either side of a cut
_WINDOW = 4096  # bytes in which places for a cut are looked for at once
_TRIED, _TRIED_OF_WINDOW = 64, 16  # places of each kind

# Behind which a text may be cut, the surest first.
_KINDS = (
    re.compile(rb"[A-Za-z](?= [A-Za-z])"),  # a word before a word: no tokenizer's token spans both
    re.compile(rb"\S(?=[ \n])"),  # anything before white space
    re.compile(rb"[^\xc0-\xff](?![\x80-\xbf])"),  # any character
)


class Cutter:
    """Finds places where a tokenizer's ids do not depend on what lies beyond.

    A place is taken if a token ends there, and if the ids after it are the same with all and with
    half of the text before it. A piece is then encoded behind that text, whose ids are dropped: so
    a prefix space, or white space that is stripped, is put only where the document begins.

    Args:
        tokenizer: as ``text_tokenizer`` gives it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def place(self, data: bytes, earliest: int, latest: int) -> int:
        """The last good place between two bytes of a text.

        If there is none, as inside a word longer than the whole stretch, the cut comes after the
        last whole character.
        """
        for kind in _KINDS:
            for place in islice(_places(kind, data, earliest, latest), _TRIED):
                if self._is_good(data, place):
                    return place
        while data[latest] & 0xC0 == 0x80 and latest > earliest:
            latest -= 1
        return latest

    def _is_good(self, data: bytes, place: int) -> bool:
        before = context(data, place).decode(errors="ignore")
        after = data[place : place + _CONTEXT].decode(errors="ignore")
        found = []
        for left in (before, before[len(before) // 2 + 1 :]):
            ids, both = self._ids(left), self._ids(left + after)
            if both[: len(ids)] != ids:
                return False
            found.append(both[len(ids) :])
        return found[0] == found[1]

    def _ids(self, text: str) -> list[int]:
        (encoding,) = encode_texts(self._tokenizer, [text])
        return encoding.ids


def context(data: bytes, place: int) -> bytes:
    """The text before a place that the ids after it may depend on, from a whole character on."""
    start = max(0, place - _CONTEXT)
    while start < place and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:place]


def _places(kind: re.Pattern[bytes], data: bytes, earliest: int, latest: int) -> Iterator[int]:
    """From the last on; a few of each window, so that they differ."""
    for end in range(latest, earliest, -_WINDOW):
        start = max(end - _WINDOW, earliest)
        # Two bytes more, for what must follow a place.
        found = [match.end() for match in kind.finditer(data, start, end + 2) if match.end() <= end]
        yield from found[: -_TRIED_OF_WINDOW - 1 : -1]


def pieces(before: str, text: str, cutter: Cutter) -> Iterator[tuple[str, str]]:
    """Each piece of a text, with the preceding text that it must be encoded behind.

    Args:
        before: of the first piece.
        text: to cut, if it is long.
        cutter: that says where.
    """
    if len(text) <= PIECE:
        yield before, text
        return
    data = text.encode()
    start = 0
    while len(data) - start > 2 * PIECE:
        end = cutter.place(data, start + PIECE // 2, start + PIECE)
        yield before, data[start:end].decode()
        start, before = end, context(data, end).decode()
    yield before, data[start:].decode()


def recut(raws: Iterable[Raw], cutter: Cutter) -> Iterator[Raw]:
    """Documents as they come; those that come in pieces cut where ``cutter`` says."""
    rest, behind, first, offset = b"", b"", True, 0
    for raw in raws:
        if raw.first and raw.last:
            yield raw
            continue
        if raw.first:
            rest, behind, first, offset = b"", b"", True, raw.offset
        rest += raw.data
        if not raw.last and len(rest) <= PIECE:
            continue
        end = len(rest)
        if not raw.last:
            end = cutter.place(rest, end // 2, end - min(_CONTEXT, end // 4))
        yield raw._replace(data=rest[:end], context=behind, offset=offset, first=first)
        behind = context(rest, end)
        rest, first, offset = rest[end:], False, offset + end
