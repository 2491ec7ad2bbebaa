"""Packing documents of different lengths into rows of constant size."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from packformer.data.source import DocumentSource
from packformer.settings import check_whole

_MOST_UNUSABLE = 10_000  # documents in a row of an endless source
LONG_DOCUMENT_POLICIES = ("split", "truncate", "drop", "error")


@dataclass(frozen=True)
class PackingSettings:
    """How documents become rows.

    Attributes:
        row_length: M, tokens of a row, and of a micro-batch.
        max_document_length: documents are at most that long in a row, in tokens, and never longer
            than the row; None for ``row_length``.
        long_documents: what to do with longer documents: ``split`` them into pieces, ``truncate``,
            ``drop`` or ``error``.
        lookahead: documents the packer chooses from.

    Raises:
        ValueError: if a value is out of range.
    """

    row_length: int
    max_document_length: int | None = None
    long_documents: str = "split"
    lookahead: int = 256

    def __post_init__(self) -> None:
        check_whole("row_length", self.row_length, at_least=2)
        if self.max_document_length is not None:
            check_whole("max_document_length", self.max_document_length, at_least=2)
        check_whole("lookahead", self.lookahead, at_least=1)
        if self.long_documents not in LONG_DOCUMENT_POLICIES:
            raise ValueError(
                f"long_documents ({self.long_documents!r}) must be one of "
                f"{', '.join(LONG_DOCUMENT_POLICIES)}"
            )

    @property
    def max_seqlen(self) -> int:
        """Longest document a row can hold, in tokens."""
        limit = self.max_document_length
        return self.row_length if limit is None else min(limit, self.row_length)


class Piece(NamedTuple):
    """A document, or part of one: tokens ``start : start + length`` of ``document``.

    Pieces sort by length, then by ``arrival``, their number in the order of reading.
    """

    length: int
    arrival: int
    document: int
    start: int


_Cut = tuple[int, int, int]
"""Document, first token and length of a piece that was not read yet."""


@dataclass
class PackingCounts:
    """What becomes of the documents, counted for a whole epoch when it begins.

    A source without end is counted as it is read.

    Attributes:
        documents: of the source.
        split: documents longer than the limit that were cut into pieces.
        truncated: documents that lost their end.
        dropped: documents left out whole.
        tokens_dropped: tokens of truncated and dropped documents that reach no row.
    """

    documents: int = 0
    split: int = 0
    truncated: int = 0
    dropped: int = 0
    tokens_dropped: int = 0

    def add(self, other: PackingCounts) -> None:
        """Adds the counts of another epoch."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class PackerState:
    """Where a packer stands; plain numbers, so that it fits in a checkpoint.

    Attributes:
        epoch: passes over the source that were completed.
        cursor: pieces of this epoch's order that were read; documents, if the source has no end.
        arrivals: pieces read so far.
        pool: pieces read and not yet packed, in ascending order.
        counts: what became of the documents.
    """

    epoch: int = 0
    cursor: int = 0
    arrivals: int = 0
    pool: list[Piece] = field(default_factory=list)
    counts: PackingCounts = field(default_factory=PackingCounts)

    def to_dict(self) -> dict[str, Any]:
        """A copy made of plain types only."""
        pool = [list(piece) for piece in self.pool]
        return {**vars(self), "pool": pool, "counts": dict(vars(self.counts))}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> PackerState:
        """The inverse of ``to_dict``."""
        pool = [Piece(*piece) for piece in state["pool"]]
        return cls(**{**state, "pool": pool, "counts": PackingCounts(**state["counts"])})


class BestFitPacker:
    """Online best-fit packing with a bounded look-ahead.

    A pool of about ``lookahead`` pieces is kept. Each row starts with the oldest piece, so that
    none waits forever, and then takes, again and again, the longest piece that still fits; the
    pool is refilled from the source after each.

    Args:
        source: the documents.
        settings: row length, limits and policy.
        max_documents: pieces a row has room for.
        seed: of the order, a new permutation of all pieces each epoch; None for the source's own.
        epochs: passes over a source that has an end; None for passes without end.
    """

    def __init__(
        self,
        source: DocumentSource,
        settings: PackingSettings,
        *,
        max_documents: int,
        seed: int | None,
        epochs: int | None = None,
    ) -> None:
        self._source = source
        self._settings = settings
        self._max_documents = max_documents
        self._seed = seed
        self._epochs = epochs

    def rows(self, state: PackerState) -> Iterator[list[Piece]]:
        """Rows of pieces from ``state`` on, which is kept up to date.

        Raises:
            ValueError: if a whole pass yields no piece, or a document is too long under ``error``.
        """
        pool = state.pool
        reading = self._read(state)
        while True:
            self._refill(state, reading)
            if not pool:
                return
            piece = pool.pop(min(range(len(pool)), key=lambda i: pool[i].arrival))
            row, room = [piece], self._settings.row_length - piece.length
            while len(row) < self._max_documents:
                self._refill(state, reading)
                fits = bisect_right(pool, room, key=lambda piece: piece.length)
                if not fits:
                    break
                piece = pool.pop(fits - 1)
                row.append(piece)
                room -= piece.length
            yield row

    def _refill(self, state: PackerState, reading: Iterator[list[_Cut]]) -> None:
        while len(state.pool) < self._settings.lookahead:
            cuts = next(reading, None)
            if cuts is None:
                return
            for document, start, length in cuts:
                insort(state.pool, Piece(length, state.arrivals, document, start))
                state.arrivals += 1

    def _read(self, state: PackerState) -> Iterator[list[_Cut]]:
        """What enters the pool next; a state saved between two of these misses nothing."""
        count = self._source.num_documents
        if count is None:
            unusable = 0
            while True:
                state.cursor += 1
                cuts = self._cut(state.cursor - 1, state.counts)
                unusable = 0 if cuts else unusable + 1
                if unusable == _MOST_UNUSABLE:
                    raise self._no_document(unusable)
                yield cuts
        counts = PackingCounts()
        cuts = [cut for document in range(count) for cut in self._cut(document, counts)]
        if not cuts:
            raise self._no_document(count)
        while self._epochs is None or state.epoch < self._epochs:
            order = np.arange(len(cuts))
            if self._seed is not None:
                order = np.random.default_rng([self._seed, state.epoch]).permutation(order)
            if state.cursor == 0:
                state.counts.add(counts)
            while state.cursor < len(cuts):
                state.cursor += 1
                yield [cuts[order[state.cursor - 1]]]
            state.epoch, state.cursor = state.epoch + 1, 0

    def _no_document(self, count: int) -> ValueError:
        return ValueError(
            f"the data yields no document: of {count} none has 2 tokens or more and fits "
            f"max_document_length ({self._settings.max_seqlen}) under "
            f"long_documents={self._settings.long_documents}"
        )

    def _cut(self, document: int, counts: PackingCounts) -> list[_Cut]:
        """The document's pieces; one token alone predicts nothing."""
        length, limit = self._source.length(document), self._settings.max_seqlen
        policy = self._settings.long_documents
        counts.documents += 1
        if length < 2:
            counts.dropped += 1
            counts.tokens_dropped += length
            return []
        if length <= limit:
            return [(document, 0, length)]
        if policy == "error":
            raise ValueError(
                f"document {document} has {length} tokens, more than max_document_length "
                f"({limit}): raise it, or set packing.long_documents to drop or, for text alone, "
                "to split or truncate"
            )
        if policy == "drop":
            counts.dropped += 1
            counts.tokens_dropped += length
            return []
        if policy == "truncate":
            counts.truncated += 1
            counts.tokens_dropped += length - limit
            return [(document, 0, limit)]
        counts.split += 1
        starts = range(0, length, limit)
        cuts = [(document, start, min(limit, length - start)) for start in starts]
        if cuts[-1][2] < 2:
            counts.tokens_dropped += cuts.pop()[2]
        return cuts
