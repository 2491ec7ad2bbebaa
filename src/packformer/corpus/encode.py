"""The work of one process of ``packformer prepare``: texts in, ids out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from packformer.corpus.documents import PIECE, Raw, text_or_omission
from packformer.corpus.left_out import Omission, Reason
from packformer.corpus.long_texts import Cutter, pieces
from packformer.corpus.losses import characters, token_characters, unknown_token
from packformer.corpus.split import hash_of
from packformer.corpus.tokenizer import (
    document_marks,
    encode_texts,
    num_ids,
    text_tokenizer,
    token_byte_lengths,
)
from packformer.interruption import SIGNALS

_WORDS_KEPT = 200_000  # about 30 MB
_TEXTS = 128  # at once: the library's own form of more falls out of the caches

MARKS = {reason: -number for number, reason in enumerate(Reason, start=1)}
"""Instead of a hash: documents that are left out, and why."""


class Encoded(NamedTuple):
    """A batch of documents or pieces, as arrays, which are cheap to send between processes.

    Attributes:
        ids: of all, one after another, in the shards' dtype.
        ends: past-the-end place of each in ``ids``.
        hashes: of each text: 31 bits of its SHA-256, or one of ``MARKS``.
        text_bytes: of each, UTF-8.
        spelled_bytes: that the ids of each stand for; -1 if the tokenizer does not say.
        characters: of all texts together.
        lost: of these, those that no token spells.
        unknown: ids that stand for what the tokenizer does not know.
        messages: of the first document that is left out for a reason, where it needs words.
    """

    ids: NDArray[np.unsignedinteger]
    ends: NDArray[np.int64]
    hashes: NDArray[np.int64]
    text_bytes: NDArray[np.int64]
    spelled_bytes: NDArray[np.int64]
    characters: int
    lost: int
    unknown: int
    messages: dict[Reason, str]


class Encoder:
    """Encodes batches.

    Args:
        tokenizer_json: of the tokenizer, with ``BOS`` and ``EOS``.
        field: that holds the text in a line of JSON.
        skip_invalid: leave out what cannot be read instead of failing.
        keep_empty: a document without text is one, of its two marks alone.
    """

    def __init__(
        self, tokenizer_json: str, field: str, skip_invalid: bool, keep_empty: bool = False
    ) -> None:
        self._tokenizer = text_tokenizer(tokenizer_json)
        model = self._tokenizer.model
        if isinstance(model, models.BPE):  # of words it has split before: by default 10,000
            model._resize_cache(_WORDS_KEPT)
            self._tokenizer.model = model
        self._cutter = Cutter(self._tokenizer)
        vocabulary = self._tokenizer.get_vocab()
        self.dtype = np.dtype(np.uint16 if num_ids(self._tokenizer) <= 2**16 else np.uint32)
        marks = document_marks(self._tokenizer)
        assert marks is not None
        self._bos, self._eos = marks
        self._byte_lengths = token_byte_lengths(self._tokenizer)
        self._characters = token_characters(self._tokenizer)
        unknown = unknown_token(self._tokenizer)
        self._unknown = None if unknown is None else vocabulary.get(unknown)
        self._field = field
        self._skip_invalid = skip_invalid
        self._keep_empty = keep_empty
        self._messages: dict[Reason, str] = {}

    def __call__(self, batch: Sequence[Raw]) -> Encoded:
        """Ids of all, ``BOS`` before the first piece of a document and ``EOS`` after its last.

        Raises:
            ValueError: if a text cannot be read.
        """
        self._messages = {}
        texts, hashes, sizes = [], [], []
        for raw in batch:
            text, mark, size = self._text(raw)
            texts.append(text)
            hashes.append(mark)
            sizes.append(size)
        bos, eos = ([np.array([id], self.dtype)] for id in (self._bos, self._eos))
        parts: list[NDArray[np.unsignedinteger]] = [np.empty(0, self.dtype)]
        sizes_in_ids = []
        contexts = [raw.context.decode() for raw in batch]
        encoded = self._encode(texts, contexts)
        for number, (raw, found) in enumerate(zip(batch, encoded, strict=True)):
            if texts[number] and raw.first and raw.last and not any(map(len, found)):
                hashes[number] = MARKS[Reason.NO_TOKEN]
            kept = [*bos * raw.first, *found, *eos * raw.last] if hashes[number] >= 0 else []
            parts += kept
            sizes_in_ids.append(sum(map(len, kept)))
        ids, ends = np.concatenate(parts), np.cumsum(sizes_in_ids, dtype=np.int64)
        text_bytes = np.array(sizes, np.int64)
        spelled = np.full(len(batch), -1, np.int64)
        if self._byte_lengths is not None:
            spelled = _sums(self._byte_lengths[ids], ends)
        return Encoded(
            ids,
            ends,
            np.array(hashes, np.int64),
            text_bytes,
            spelled,
            sum(map(len, texts)),
            self._lost(texts, ids, ends, spelled == text_bytes),
            0 if self._unknown is None else int((ids == self._unknown).sum()),
            self._messages,
        )

    def _lost(
        self,
        texts: list[str],
        ids: NDArray[np.unsignedinteger],
        ends: NDArray[np.int64],
        whole: NDArray[np.bool_],
    ) -> int:
        """Characters that no token spells, in the texts not known to be ``whole``."""
        if whole.all():
            return 0
        spelled = _sums(self._characters[ids], ends)
        missing = [max(0, characters(texts[n]) - int(spelled[n])) for n in np.flatnonzero(~whole)]
        return sum(missing)

    def _text(self, raw: Raw) -> tuple[str, int, int]:
        """Text, hash and size."""
        text = text_or_omission(raw, self._field, self._skip_invalid)
        if isinstance(text, Omission):
            if text.reason is not Reason.EMPTY or not self._keep_empty:
                if text.message:
                    self._messages.setdefault(text.reason, text.message)
                return "", MARKS[text.reason], 0
            text = ""
        data = text.encode()
        return text, hash_of(data), len(data)

    def _encode(
        self, texts: list[str], contexts: list[str]
    ) -> list[list[NDArray[np.unsignedinteger]]]:
        """Ids of the pieces of each text, without those of the context it stands behind."""
        split = [
            list(pieces(before, text, self._cutter))
            for before, text in zip(contexts, texts, strict=True)
        ]
        every = [piece for some in split for piece in some]
        found = iter(self._ids([before + text for before, text in every]))
        dropped = iter(self._ids([before for before, _ in every if before]))
        return [
            [next(found)[len(next(dropped)) if before else 0 :] for before, _ in some]
            for some in split
        ]

    def _ids(self, texts: list[str]) -> list[NDArray[np.unsignedinteger]]:
        """A few texts at a time: the library's encodings take many times their size."""
        found: list[NDArray[np.unsignedinteger]] = []
        for part in _groups(texts):
            encodings = encode_texts(self._tokenizer, part)
            found += [np.array(encoding.ids, self.dtype) for encoding in encodings]
        return found


def _sums(values: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of the values up to each end, from the one before."""
    totals = np.concatenate([[0], np.cumsum(values)])
    return np.diff(totals[ends], prepend=0)


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


_encoder: Encoder | None = None


def start_process(*arguments: Any) -> None:
    """Makes this process ready for ``encode``.

    Args:
        arguments: of ``Encoder``.
    """
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many processes as wanted
    for number in set(SIGNALS) - {signal.SIGTERM}:  # by which the parent ends its processes
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = Encoder(*arguments)


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
