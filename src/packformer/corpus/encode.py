"""What a process of ``packformer prepare`` does: texts in, ids out."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from packformer.corpus.documents import PIECE, Raw, UndecodableError, text_of
from packformer.corpus.tokenizer import BOS, EOS, num_ids, token_byte_lengths

_WORDS_KEPT = 200_000  # about 30 MB
_HASHED = 2**16  # bytes, less than the first piece of a long file has
_TEXTS = 128  # at once: the library's own form of more falls out of the caches

EMPTY, SKIPPED = -1, -2
"""Instead of a hash: documents that are left out."""


class Encoded(NamedTuple):
    """A batch of documents or pieces, as arrays so that they travel between processes cheaply.

    Attributes:
        ids: of all, one after another, in the shards' dtype.
        ends: past-the-end place of each in ``ids``.
        hashes: of each text: 31 bits of its SHA-256, or ``EMPTY`` or ``SKIPPED``.
        text_bytes: of each, UTF-8.
        spelled_bytes: that the ids of each stand for; -1 if the tokenizer does not say.
    """

    ids: NDArray[np.unsignedinteger]
    ends: NDArray[np.int64]
    hashes: NDArray[np.int64]
    text_bytes: NDArray[np.int64]
    spelled_bytes: NDArray[np.int64]


class Encoder:
    """Encodes batches.

    Args:
        tokenizer_json: of the tokenizer, with ``BOS`` and ``EOS``.
        field: that holds the text in a line of JSON.
        skip_invalid: leave out what is not UTF-8 instead of failing.
    """

    def __init__(self, tokenizer_json: str, field: str, skip_invalid: bool) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        model = self._tokenizer.model
        if isinstance(model, models.BPE):  # of words it has split before: by default 10,000
            model._resize_cache(_WORDS_KEPT)
            self._tokenizer.model = model
        self._tokenizer.encode_special_tokens = True  # spelled out in a text they are text
        vocabulary = self._tokenizer.get_vocab()
        self.dtype = np.dtype(np.uint16 if num_ids(self._tokenizer) <= 2**16 else np.uint32)
        self._bos, self._eos = vocabulary[BOS], vocabulary[EOS]
        self._byte_lengths = token_byte_lengths(self._tokenizer)
        self._field = field
        self._skip_invalid = skip_invalid

    def __call__(self, batch: Sequence[Raw]) -> Encoded:
        """Ids of all, ``BOS`` before the first piece of a document and ``EOS`` after its last.

        Raises:
            ValueError: if a text cannot be read.
        """
        texts, hashes, sizes = [], [], []
        for raw in batch:
            text, mark, size = self._text(raw)
            texts.append(text)
            hashes.append(mark)
            sizes.append(size)
        bos, eos = ([np.array([id], self.dtype)] for id in (self._bos, self._eos))
        parts: list[NDArray[np.unsignedinteger]] = []
        sizes_in_ids = []
        for raw, pieces, mark in zip(batch, self._encode(texts), hashes, strict=True):
            kept = [*bos * raw.first, *pieces, *eos * raw.last] if mark >= 0 else []
            parts += kept
            sizes_in_ids.append(sum(map(len, kept)))
        ends = np.cumsum(sizes_in_ids, dtype=np.int64)
        found = np.concatenate([np.empty(0, self.dtype), *parts])
        if self._byte_lengths is None:
            spelled = np.full(len(batch), -1)
        else:
            sums = np.concatenate([[0], np.cumsum(self._byte_lengths[found])])
            spelled = np.diff(sums[ends], prepend=0)
        return Encoded(found, *(np.array(x, np.int64) for x in (ends, hashes, sizes, spelled)))

    def _text(self, raw: Raw) -> tuple[str, int, int]:
        """Text, hash and size."""
        try:
            text = text_of(raw, self._field)
        except UndecodableError:
            if not self._skip_invalid:
                raise
            return "", SKIPPED, 0
        if not text and raw.first and raw.last:
            return "", EMPTY, 0
        data = text.encode()
        return text, _hash(data), len(data)

    def _encode(self, texts: list[str]) -> list[list[NDArray[np.unsignedinteger]]]:
        """Ids of the pieces of each text.

        A few at a time: the library's form of them takes their size in memory many times.
        """
        pieces = [_pieces(text) for text in texts]
        found: list[NDArray[np.unsignedinteger]] = []
        for part in _groups([piece for some in pieces for piece in some]):
            encodings = self._tokenizer.encode_batch_fast(part, add_special_tokens=False)
            found += [np.array(encoding.ids, self.dtype) for encoding in encodings]
        ids = iter(found)
        return [[next(ids) for _ in some] for some in pieces]


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """At most ``_TEXTS`` texts of at most ``PIECE`` characters together, or one."""
    start = size = 0
    for number, text in enumerate(texts):
        if number - start == _TEXTS or (number > start and size + len(text) > PIECE):
            yield texts[start:number]
            start, size = number, 0
        size += len(text)
    if texts:
        yield texts[start:]


def hash_of(text: str) -> int:
    """31 bits of the SHA-256 of the text's first 64 KiB: which side of the split it is on."""
    return _hash(text.encode())


def _hash(data: bytes) -> int:
    # Of a long file only a piece is known when it has to be put on a side.
    return int.from_bytes(hashlib.sha256(data[:_HASHED]).digest()[:4]) >> 1


def held_out(hashes: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Which documents of these hashes are for validation."""
    return hashes < fraction * 2**31


def _pieces(text: str) -> list[str]:
    """The text, cut after newlines where it is longer than ``PIECE`` characters."""
    pieces = []
    while len(text) > PIECE:
        end = text.rfind("\n", PIECE // 2, PIECE) + 1 or PIECE
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text]


_encoder: Encoder | None = None


def start_process(tokenizer_json: str, field: str, skip_invalid: bool) -> None:
    """Makes this process ready for ``encode``."""
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many processes as wanted
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = Encoder(tokenizer_json, field, skip_invalid)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its processes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def encode(batch: Sequence[Raw]) -> Encoded:
    """``Encoder`` of this process."""
    assert _encoder is not None
    return _encoder(batch)
