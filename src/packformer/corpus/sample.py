"""The text that a tokenizer is trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packformer.corpus.documents import text_or_omission
from packformer.corpus.input import Input

_CHUNK = 2**16  # characters given to the trainer at once: its own form of them is much larger
_WORD = 1024  # characters: training takes time that grows with the square of a word
_LONG = re.compile(rf"(\S{{{_WORD + 1},}}|\s{{{_WORD + 1},}})")
_SPLITS = re.compile(r"(?<=\S)(?=[ \n])")  # of the words of a byte-level BPE, always


def sample(input: Input, sources: list[str], most: int, skip_invalid: bool) -> Iterator[str]:
    """Texts to train a tokenizer on: of each source its beginning, in proportion to its size.

    They come in chunks that are cut between words; words and white space longer than 1,024
    characters are cut too, so that training takes time and memory in proportion to the text.

    Args:
        input: the documents.
        sources: of them.
        most: bytes in all.
        skip_invalid: leave out what cannot be read instead of failing.

    Raises:
        ValueError: if a document cannot be read.
    """
    files = [input.file_of(source) for source in sources]
    sizes = [file.stat().st_size if file else 1 for file in files]
    total, upto, taken = max(1, sum(sizes)), 0, 0
    for source, size in zip(sources, sizes, strict=True):
        upto += size
        if taken >= most * upto / total:
            continue
        for raw in input.read(source):
            text = text_or_omission(raw, input.field, skip_invalid)
            if isinstance(text, str):
                yield from chunks(text[: max(1, most - taken)])
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
            end = max((m.end() for m in _SPLITS.finditer(text, start + 1, end)), default=end)
        yield from _bounded(text[start:end])
        start = end


def _bounded(text: str) -> Iterator[str]:
    for run in _LONG.split(text):
        size = _WORD if _LONG.fullmatch(run) else _CHUNK
        yield from (run[start : start + size] for start in range(0, len(run), size))
