"""Concatenation: documents one after another, cut where a row ends."""

from __future__ import annotations

from collections.abc import Iterator

from packformer.data.mixing import pieces_read
from packformer.data.packing import PackerState, Piece
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource


class CutPiece(Piece):
    """A piece cut at the end of its row: its last token predicts the first one of the next row."""

    __slots__ = ()


class ConcatenatingPacker:
    """Lays documents one after another and cuts them where a row ends.

    The rest of a document begins the next row, as in GPT-2 and most trainers since. So rows are
    full, in the order of reading, and every token but a document's first is predicted once. What a
    row holds of a document cannot attend to what the row before holds of it.

    Rows are full but for the last one of a pass that ends, and rows that run out of
    ``max_documents``.

    Args:
        source: the documents.
        settings: row length, limit and policy of long documents.
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
        pieces = self._pieces(state)
        while True:
            row: list[Piece] = []
            room = self._settings.row_length
            while room and len(row) < self._max_documents:
                piece = next(pieces, None)
                if piece is None:
                    break
                row.append(_fitted(piece, room, state))
                room -= row[-1].length
            if not row:
                return
            yield row

    def _pieces(self, state: PackerState) -> Iterator[Piece]:
        """What was cut off comes first, then what is read."""
        reading = pieces_read(
            self._source,
            self._settings,
            state.cursors,
            state.counts,
            seed=self._seed,
            epochs=self._epochs,
        )
        while True:
            if state.pool:
                yield state.pool.pop()
                continue
            cut = next(reading, None)
            if cut is None:
                return
            document, start, length = cut
            state.arrivals += 1
            yield Piece(length, state.arrivals - 1, document, start)


def _fitted(piece: Piece, room: int, state: PackerState) -> Piece:
    """The piece, or of one that is longer what fits; the rest waits in ``state``."""
    length, arrival, document, start = piece
    if length <= room:
        return piece
    state.pool.append(Piece(length - room, arrival, document, start + room))
    return CutPiece(room, arrival, document, start)
