"""Packing documents of different lengths into rows of constant size."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from packformer.data.mixing import pieces_read
from packformer.data.order import Cursor, Cut
from packformer.data.piece_counts import PackingCounts
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource


class Piece(NamedTuple):
    """A document, or part of one: tokens ``start : start + length`` of ``document``.

    Pieces sort by length, then by ``arrival``, their number in the order of reading.
    """

    length: int
    arrival: int
    document: int
    start: int


_NUMBERS = len(Piece._fields)


@dataclass
class PackerState:
    """Where a packer stands; plain numbers, so that it fits in a checkpoint.

    Attributes:
        cursors: of each source; none before the first piece.
        arrivals: pieces read so far.
        pool: pieces read and not yet packed, in ascending order; where rows cut documents, the
            rest of the last one.
        counts: what became of the documents.
    """

    cursors: list[Cursor] = field(default_factory=list)
    arrivals: int = 0
    pool: list[Piece] = field(default_factory=list)
    counts: PackingCounts = field(default_factory=PackingCounts)

    def to_dict(self) -> dict[str, Any]:
        """A copy made of plain types only; the numbers of all pieces one after another.

        Every row has one: lists, one for each piece of a large pool, would take most of the time.
        """
        return {
            "cursors": [dict(vars(cursor)) for cursor in self.cursors],
            "arrivals": self.arrivals,
            "pool": [*chain.from_iterable(self.pool)],
            "counts": dict(vars(self.counts)),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> PackerState:
        """The inverse of ``to_dict``; also reads the older form, a list for every piece."""
        numbers = state["pool"]
        if numbers and not isinstance(numbers[0], int):
            numbers = [*chain.from_iterable(numbers)]
        return cls(
            [Cursor(**cursor) for cursor in state["cursors"]],
            state["arrivals"],
            [Piece(*numbers[i : i + _NUMBERS]) for i in range(0, len(numbers), _NUMBERS)],
            PackingCounts(**state["counts"]),
        )


class BestFitPacker:
    """Online best-fit packing with a bounded look-ahead.

    A pool of ``lookahead`` pieces is kept. Each row starts with the oldest piece, so that
    none waits forever, and then takes, again and again, the longest piece that still fits; the
    pool is refilled from the source after each.

    Args:
        source: the documents.
        settings: row length, limits and look-ahead.
        max_documents: pieces a row has room for.
        seed: of the order, see ``PieceOrder``; None for the source's own.
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
        waiting = deque(sorted(pool, key=lambda piece: piece.arrival))  # and some that are packed
        packed: set[int] = set()  # arrivals of those
        reading = pieces_read(
            self._source,
            self._settings,
            state.cursors,
            state.counts,
            seed=self._seed,
            epochs=self._epochs,
        )
        while True:
            self._refill(state, reading, waiting)
            if not pool:
                return
            while (piece := waiting.popleft()).arrival in packed:
                packed.remove(piece.arrival)
            del pool[bisect_left(pool, piece)]
            row, room = [piece], self._settings.row_length - piece.length
            while len(row) < self._max_documents:
                self._refill(state, reading, waiting)
                fits = bisect_right(pool, (room, math.inf))
                if not fits:
                    break
                piece = pool.pop(fits - 1)
                packed.add(piece.arrival)
                row.append(piece)
                room -= piece.length
            yield row

    def _refill(self, state: PackerState, reading: Iterator[Cut], waiting: deque[Piece]) -> None:
        while len(state.pool) < self._settings.lookahead:
            cut = next(reading, None)
            if cut is None:
                return
            document, start, length = cut
            piece = Piece(length, state.arrivals, document, start)
            insort(state.pool, piece)
            waiting.append(piece)
            state.arrivals += 1
