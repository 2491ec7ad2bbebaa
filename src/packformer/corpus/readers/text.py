"""A text file as one document, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packformer.corpus import documents
from packformer.corpus.documents import Form, Raw
from packformer.corpus.readers.compression import Content, open_content


def read_text(shown: str, content: Content) -> Iterator[Raw]:
    """The file as one document, cut after a newline where there is one, never in a character."""
    offset, rest = 0, b""
    while True:
        read = content.stream.read(documents.PIECE - len(rest))
        data = rest + read
        if not read:
            break
        if len(data) < documents.PIECE:
            rest = data
            continue
        end = data.rfind(b"\n", documents.PIECE // 2) + 1 or _last_character(data)
        done = content.raw.tell()
        yield Raw(data[:end], shown, Form.TEXT, offset, offset == 0, False, done)
        offset, rest = offset + end, data[end:]
    done = content.raw.tell()
    yield Raw(data, shown, Form.TEXT, offset, offset == 0, True, done)


def _last_character(data: bytes) -> int:
    """Where the last character begins; the end, if that is no UTF-8."""
    for back in range(1, 5):
        if data[-back] & 0xC0 != 0x80:
            return len(data) - back
    return len(data)


def undecodable_piece(shown: str, file: Path) -> Raw | None:
    """The first piece of a file of several that is not UTF-8, as a document of its own."""
    with open_content(file, shown) as content:
        for raw in read_text(shown, content):
            try:
                raw.data.decode()
            except UnicodeDecodeError:
                return raw._replace(first=True, last=True)
    return None
