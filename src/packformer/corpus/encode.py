"""What a process of ``packformer prepare`` does: texts in, ids out."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from packformer.corpus.documents import PIECE, Raw, UndecodableError, text_of
from packformer.corpus.tokenizer import BOS, EOS, num_ids, token_byte_lengths

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
        flat: list[int] = []
        ends = []
        for raw, pieces, mark in zip(batch, self._encode(texts), hashes, strict=True):
            if mark >= 0:
                if raw.first:
                    flat.append(self._bos)
                for ids in pieces:
                    flat += ids
                if raw.last:
                    flat.append(self._eos)
            ends.append(len(flat))
        found = np.array(flat, dtype=self.dtype)
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

    def _encode(self, texts: list[str]) -> list[list[list[int]]]:
        """Ids of the pieces of each text: a longer one would take its size in memory many times."""
        pieces = [_pieces(text) for text in texts]
        flat = [piece for some in pieces for piece in some]
        found: list[list[int]] = []
        for start in range(0, len(flat), _TEXTS):
            part = flat[start : start + _TEXTS]
            encodings = self._tokenizer.encode_batch_fast(part, add_special_tokens=False)
            found += [encoding.ids for encoding in encodings]
        ids = iter(found)
        return [[next(ids) for _ in some] for some in pieces]


def hash_of(text: str) -> int:
    """31 bits of the text's SHA-256: which side of the split it is on."""
    return _hash(text.encode())


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:4]) >> 1


def is_held_out(mark: int, fraction: float) -> bool:
    """Whether a document of this hash is for validation."""
    return mark < fraction * 2**31


def _pieces(text: str) -> list[str]:
    """The text, cut after newlines where it is longer than ``PIECE`` characters."""
    pieces = []
    while len(text) > PIECE:
        end = text.rfind("\n", 0, PIECE) + 1 or PIECE
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text]


_encoder: Encoder | None = None


def start_process(tokenizer_json: str, field: str, skip_invalid: bool) -> None:
    """Makes this process ready for ``encode``."""
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    _encoder = Encoder(tokenizer_json, field, skip_invalid)


def encode(batch: Sequence[Raw]) -> Encoded:
    """``Encoder`` of this process."""
    assert _encoder is not None
    return _encoder(batch)
