"""Long documents in pieces that lose no token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packformer.data.order import all_lengths
from packformer.data.source import DocumentSource, Tokens, read_piece


class Window(NamedTuple):
    """Tokens ``start : start + length`` of ``document``."""

    document: int
    start: int
    length: int


class Windows:
    """Documents in pieces of at most ``limit`` tokens; a ``DocumentSource`` of the pieces.

    The pieces of a document overlap by one token: the last of a piece is predicted there, and is
    the first of the next piece, which is predicted from it. So every token but the first of a
    document is predicted exactly once, wherever documents are cut. A document of one token gives
    no piece.

    Args:
        source: finite.
        limit: at least 2.

    Attributes:
        limit: see above.
        lengths: tokens of each document, int64 ``[documents]``.
        num_documents: pieces.
    """

    def __init__(self, source: DocumentSource, limit: int) -> None:
        self._source = source
        self.limit = limit
        self.lengths: NDArray[np.int64] = all_lengths(source)
        self._ends = np.cumsum(-(-(self.lengths - 1).clip(0) // (limit - 1)))
        self.num_documents = int(self._ends[-1]) if len(self._ends) else 0

    @property
    def longest(self) -> int:
        """Tokens of the longest piece."""
        return min(self.limit, int(self.lengths.max()))

    @property
    def num_tokens(self) -> int:
        """Of all pieces together."""
        counted = int((self.lengths - 1).clip(0).sum())
        return counted + self.num_documents  # each piece has one token that it does not predict

    def window(self, index: int) -> Window:
        """Where piece ``index`` lies."""
        document = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[document - 1]) if document else 0
        start = (index - before) * (self.limit - 1)
        return Window(document, start, min(self.limit, int(self.lengths[document]) - start))

    def document_lengths(self, indices: list[int]) -> NDArray[np.int64]:
        """Tokens of the whole documents that pieces belong to."""
        return self.lengths[np.searchsorted(self._ends, indices, side="right")]

    def length(self, index: int) -> int:
        """Tokens of piece ``index``."""
        return self.window(index).length

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens and targets of a part of piece ``index``."""
        window = self.window(index)
        return read_piece(self._source, window.document, window.start + start, length)
