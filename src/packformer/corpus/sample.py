"""The text that a tokenizer is trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress

from packformer.corpus.documents import UnreadableFileError, text_or_omission
from packformer.corpus.input import Input

_CHUNK = 2**16  # characters given to the trainer at once: its own form of them is much larger
_WORD = 1024  # characters: training takes time that grows with the square of a word
_LONG_WHITE = re.compile(rf"\s{{{_WORD + 1}}}")
_LONG = re.compile(rf"(\S{{{_WORD + 1},}}|\s{{{_WORD + 1},}})")
_PART = re.compile(r"\w+|[^\w\s]+")  # roughly what a byte-level BPE takes for a word
_DIFFERENT = 32 * 2**20  # bytes of different words
_LOOKED_AT, _COUNTED = 4, 64  # of so many chunks one
_SPLITS = re.compile(r"(?<=\S)(?=[ \n])")  # of the words of a byte-level BPE, always


def sample(input: Input, sources: list[str], most: int, skip_invalid: bool) -> Iterator[str]:
    """Texts to train a tokenizer on: of each source its beginning, in proportion to its size.

    They come in chunks that are cut between words; words and white space longer than 1,024
    characters are cut too, so that training takes time in proportion to the text. They end when
    about 32 MiB of different words came, for which training takes about 2 GiB of memory. Prose with
    spaces has fewer in 256 MiB; text whose words hardly repeat, as base64 or Chinese, has them much
    earlier.

    Args:
        input: the documents.
        sources: of them.
        most: bytes in all.
        skip_invalid: leave out what cannot be read instead of failing.

    Raises:
        ValueError: if a document cannot be read.
    """
    texts = _beginnings(input, sources, most, skip_invalid)
    seen: set[str] = set()
    for number, chunk in enumerate(chunk for text in texts for chunk in chunks(text)):
        if number % _LOOKED_AT == 0:
            seen.update(_PART.findall(chunk))
            if number % _COUNTED == 0 and _LOOKED_AT * len("".join(seen).encode()) > _DIFFERENT:
                return
        yield chunk


def _beginnings(input: Input, sources: list[str], most: int, skip_invalid: bool) -> Iterator[str]:
    files = [input.file_of(source) for source in sources]
    sizes = [file.stat().st_size if file else 1 for file in files]
    total, upto, taken = max(1, sum(sizes)), 0, 0
    for source, size in zip(sources, sizes, strict=True):
        upto += size
        if taken >= most * upto / total:
            continue
        # What is left out later may be among them: looking for it would mean to read all.
        with suppress(UnreadableFileError) if skip_invalid else nullcontext():
            for raw in input.read(source):
                text = text_or_omission(raw, input.field, skip_invalid)
                if isinstance(text, str):
                    yield text[: max(1, most - taken)]
                taken += len(raw.data)
                if taken >= most * upto / total:
                    break


def chunks(text: str) -> Iterator[str]:
    """The text in pieces of at most 64 Ki characters, and of no word longer than 1,024.

    A byte-level BPE splits the text where it is cut, unless a word is too long for a piece.
    """
    start = 0
    while start < len(text):
        end = min(start + _CHUNK, len(text))
        if end < len(text):
            end = _split(text, start, end)
        yield from _bounded(text[start:end])
        start = end


def _split(text: str, start: int, end: int) -> int:
    """The last place between words; ``end`` if there is none."""
    for first in (max(start, end - _WORD), start):
        if found := list(_SPLITS.finditer(text, first + 1, end)):
            return found[-1].end()
    return end


def _bounded(text: str) -> Iterator[str]:
    if max(map(len, text.split()), default=0) <= _WORD and not _LONG_WHITE.search(text):
        yield text
        return
    for run in _LONG.split(text):
        size = _WORD if _LONG.fullmatch(run) else _CHUNK
        yield from (run[start : start + size] for start in range(0, len(run), size))
