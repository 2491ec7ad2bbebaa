"""The pieces of one source, or of several in fixed proportions, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace

from packformer.data.order import Cursor, Cut, read
from packformer.data.piece_counts import PackingCounts
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource, Mixture


def pieces_read(
    source: DocumentSource,
    settings: PackingSettings,
    cursors: list[Cursor],
    counts: PackingCounts,
    *,
    seed: int | None,
    epochs: int | None,
) -> Iterator[Cut]:
    """The pieces from ``cursors`` on. A state saved between two of them misses nothing.

    In a mixture the next source is the one furthest behind its share of tokens.

    Args:
        source: the documents.
        settings: limit and policy of long ones.
        cursors: of each source, kept up to date; empty at the beginning.
        counts: what becomes of the documents, added up.
        seed: of the order, see ``PieceOrder``; None for the source's own.
        epochs: passes over a source that has an end; None for passes without end.

    Raises:
        ValueError: if a whole pass yields no piece, or a document is too long under ``error``.
    """
    mixture = source if isinstance(source, Mixture) else Mixture([source], [1.0])
    if not cursors:
        cursors += [Cursor() for _ in mixture.sources]
    readings = [
        read(one, settings, cursor, counts, seed=seed, epochs=epochs)
        for one, cursor in zip(mixture.sources, cursors, strict=True)
    ]
    if len(readings) == 1:
        yield from readings[0]
        return

    def share(number: int) -> tuple[float, int]:
        return cursors[number].tokens / mixture.weights[number], number

    behind = [share(number) for number in range(len(readings))]
    heapify(behind)
    while behind:
        number = behind[0][1]
        cut = next(readings[number], None)
        if cut is None:
            heappop(behind)
            continue
        heapreplace(behind, share(number))
        document, start, length = cut
        yield mixture.starts[number] + document, start, length
