"""Packing documents of different lengths into rows of constant size."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from packformer.data.order import Cursor, Cut, PackingCounts, read
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource, Mixture


class Piece(NamedTuple):
    """A document, or part of one: tokens ``start : start + length`` of ``document``.

    Pieces sort by length, then by ``arrival``, their number in the order of reading.
    """

    length: int
    arrival: int
    document: int
    start: int


@dataclass
class PackerState:
    """Where a packer stands; plain numbers, so that it fits in a checkpoint.

    Attributes:
        cursors: of each source; none before the first piece.
        arrivals: pieces read so far.
        pool: pieces read and not yet packed, in ascending order.
        counts: what became of the documents.
    """

    cursors: list[Cursor] = field(default_factory=list)
    arrivals: int = 0
    pool: list[Piece] = field(default_factory=list)
    counts: PackingCounts = field(default_factory=PackingCounts)

    def to_dict(self) -> dict[str, Any]:
        """A copy made of plain types only."""
        return {
            "cursors": [dict(vars(cursor)) for cursor in self.cursors],
            "arrivals": self.arrivals,
            "pool": [list(piece) for piece in self.pool],
            "counts": dict(vars(self.counts)),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> PackerState:
        """The inverse of ``to_dict``."""
        return cls(
            [Cursor(**cursor) for cursor in state["cursors"]],
            state["arrivals"],
            [Piece(*piece) for piece in state["pool"]],
            PackingCounts(**state["counts"]),
        )


class BestFitPacker:
    """Online best-fit packing with a bounded look-ahead.

    A pool of ``lookahead`` pieces is kept. Each row starts with the oldest piece, so that
    none waits forever, and then takes, again and again, the longest piece that still fits; the
    pool is refilled from the source after each.

    Args:
        source: the documents.
        settings: row length, limits and policy.
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

    def _refill(self, state: PackerState, reading: Iterator[Cut]) -> None:
        for document, start, length in islice(
            reading, max(0, self._settings.lookahead - len(state.pool))
        ):
            insort(state.pool, Piece(length, state.arrivals, document, start))
            state.arrivals += 1

    def _read(self, state: PackerState) -> Iterator[Cut]:
        """What enters the pool next; a state saved between two of these misses nothing.

        Of a mixture the source comes next that is the furthest behind its share of tokens.
        """
        mixture = self._source
        if not isinstance(mixture, Mixture):
            mixture = Mixture([mixture], [1.0])
        if not state.cursors:
            state.cursors = [Cursor() for _ in mixture.sources]
        readings = {
            number: read(
                source,
                self._settings,
                cursor,
                state.counts,
                seed=self._seed,
                epochs=self._epochs,
            )
            for number, (source, cursor) in enumerate(
                zip(mixture.sources, state.cursors, strict=True)
            )
        }
        while readings:
            number = min(readings, key=lambda n: state.cursors[n].tokens / mixture.weights[n])
            cut = next(readings[number], None)
            if cut is None:
                del readings[number]
            else:
                document, start, length = cut
                yield mixture.starts[number] + document, start, length
