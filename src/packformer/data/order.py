"""The order in which pieces of documents are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packformer.data.permutation import Permutation
from packformer.data.piece_counts import PackingCounts, count_pieces
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource, Mixture, Sectioned, Tokens

_BLOCK = 1024  # pieces looked up at once
_MOST_UNUSABLE = 10_000  # documents in a row of an endless source

Cut = tuple[int, int, int]
"""Document, first token and length of a piece."""


@dataclass
class Cursor:
    """Where the reading of a source stands.

    Attributes:
        epoch: passes that were completed.
        group: of sections, in this epoch's order.
        position: pieces of this group's order that were read; documents, if the source has no end.
        tokens: read in all.
        piece: of a source without end, pieces of the next document that were read.
    """

    epoch: int = 0
    group: int = 0
    position: int = 0
    tokens: int = 0
    piece: int = 0


def all_lengths(source: DocumentSource) -> NDArray[np.int64]:
    """Tokens of every document of a finite source, ``[documents]``."""
    if isinstance(source, Mixture):
        found = [all_lengths(one) for one in source.sources]
    else:
        sectioned = _sectioned(source)
        found = [sectioned.lengths(n, None) for n in range(len(sectioned.sections))]
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _sectioned(source: DocumentSource) -> Sectioned:
    return source if isinstance(source, Sectioned) else _OneSection(source)


class PieceOrder:
    """The order of a finite source's pieces: sections are shuffled, then the pieces of a group.

    A group is as many sections as the source wants to have open at once; with all of them the order
    is one permutation of all pieces. In memory are 4 bytes per document of one group (8 from 2**32
    pieces on); the permutations take none.

    Args:
        source: the documents.
        settings: limit and policy of long documents.
        seed: of the order, another in each epoch; None for the source's own.
    """

    def __init__(self, source: DocumentSource, settings: PackingSettings, seed: int | None) -> None:
        self._source = _sectioned(source)
        self._settings = settings
        self._seed = seed
        self._bases = np.cumsum([0, *self._source.sections])
        at_once = self._source.sections_at_once
        self.num_groups = -(-len(self._source.sections) // at_once)

    def sections(self, epoch: int, group: int) -> list[int]:
        """The sections of a group."""
        count, at_once = len(self._source.sections), self._source.sections_at_once
        places = np.arange(group * at_once, min(count, (group + 1) * at_once))
        if self._seed is not None:
            places = Permutation(count, [self._seed, epoch, 0])(places)
        return places.tolist()

    def group(self, epoch: int, group: int) -> PieceGroup:
        """A group, its sections opened; those that follow are announced.

        Raises:
            ValueError: if a document is too long under the policy ``error``.
        """
        following = (epoch, group + 1) if group + 1 < self.num_groups else (epoch + 1, 0)
        sections = self.sections(epoch, group)
        self._source.open(sections, self.sections(*following))
        counts = PackingCounts()
        tables = []
        for section in sections:
            pieces, found = count_pieces(
                self._source.lengths(section, None), self._settings, int(self._bases[section])
            )
            counts.add(found)
            ends = np.cumsum(pieces)
            small = not len(ends) or ends[-1] < 2**32
            tables.append(ends.astype(np.uint32) if small else ends)
        key = None if self._seed is None else [self._seed, epoch, 1 + group]
        return PieceGroup(
            self._source,
            sections,
            self._bases[sections],
            tables,
            counts,
            key,
            self._settings.longest_read,
        )


class PieceGroup:
    """The pieces of some sections in their order.

    Attributes:
        counts: what becomes of the documents.
        num_pieces: in all.
    """

    def __init__(
        self,
        source: Sectioned,
        sections: list[int],
        bases: NDArray[np.int64],
        tables: list[NDArray[np.unsignedinteger] | NDArray[np.int64]],
        counts: PackingCounts,
        key: list[int] | None,
        limit: int,
    ) -> None:
        self.counts = counts
        self._source = source
        self._sections = sections
        self._bases = bases
        self._tables = tables
        self._limit = limit
        self._ends = np.cumsum([int(table[-1]) if len(table) else 0 for table in tables])
        self.num_pieces = int(self._ends[-1]) if tables else 0
        self._permutation = None if key is None else Permutation(self.num_pieces, key)

    def cuts(self, start: int, stop: int) -> list[Cut]:
        """The pieces at places ``start .. stop - 1``."""
        pieces = np.arange(start, stop)
        if self._permutation is not None:
            pieces = self._permutation(pieces)
        documents, starts, lengths = (np.empty_like(pieces) for _ in range(3))
        parts = np.searchsorted(self._ends, pieces, side="right")
        for part in np.unique(parts):
            here = parts == part
            table = self._tables[part]
            local = pieces[here] - (self._ends[part - 1] if part else 0)
            found = np.searchsorted(table, local.astype(table.dtype), side="right")
            before = np.where(found > 0, table[found - 1], 0).astype(np.int64)
            documents[here] = found + self._bases[part]
            starts[here] = (local - before) * self._limit
            lengths[here] = self._source.lengths(self._sections[part], found) - starts[here]
        sizes = np.minimum(lengths, self._limit)
        return list(zip(documents.tolist(), starts.tolist(), sizes.tolist(), strict=True))


class _OneSection:
    """A finite source as a single section; a ``Sectioned``."""

    sections_at_once = 1

    def __init__(self, source: DocumentSource) -> None:
        assert source.num_documents is not None
        self.num_documents = source.num_documents
        self.sections = (source.num_documents,)
        self._source = source

    def length(self, index: int) -> int:
        return self._source.length(index)

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        return self._source.piece(index, start, length)

    def lengths(self, section: int, which: NDArray[np.int64] | None) -> NDArray[np.int64]:
        numbers = range(self.num_documents) if which is None else which.tolist()
        return np.fromiter(map(self.length, numbers), np.int64)

    def open(self, sections: list[int], following: list[int]) -> None:
        """Everything is there."""


def read(
    source: DocumentSource,
    settings: PackingSettings,
    cursor: Cursor,
    counts: PackingCounts,
    *,
    seed: int | None,
    epochs: int | None,
) -> Iterator[Cut]:
    """The pieces from ``cursor`` on; it and ``counts`` are kept up to date.

    Args:
        source: the documents.
        settings: limit and policy of long ones.
        cursor: where to begin.
        counts: what becomes of the documents, added up.
        seed: of the order of a finite source; None for the source's own.
        epochs: passes over a finite source; None for passes without end.

    Raises:
        ValueError: if a whole pass yields no piece, or a document is too long under ``error``.
    """
    if source.num_documents is None:
        yield from _read_endless(source, settings, cursor, counts)
        return
    order = PieceOrder(source, settings, seed)
    while epochs is None or cursor.epoch < epochs:
        whole, found = cursor.group == cursor.position == 0, 0
        while cursor.group < order.num_groups:
            group = order.group(cursor.epoch, cursor.group)
            found += group.num_pieces
            if cursor.position == 0:
                counts.add(group.counts)
            while cursor.position < group.num_pieces:
                stop = min(cursor.position + _BLOCK, group.num_pieces)
                for cut in group.cuts(cursor.position, stop):
                    cursor.position += 1
                    cursor.tokens += cut[2]
                    yield cut
            cursor.group, cursor.position = cursor.group + 1, 0
        if whole and not found:
            raise _no_document(source.num_documents, settings)
        cursor.epoch, cursor.group = cursor.epoch + 1, 0


def _read_endless(
    source: DocumentSource, settings: PackingSettings, cursor: Cursor, counts: PackingCounts
) -> Iterator[Cut]:
    limit, unusable = settings.longest_read, 0
    while True:
        document, length = cursor.position, source.length(cursor.position)
        pieces, found = count_pieces(np.array([length]), settings, document)
        unusable = 0 if pieces[0] else unusable + 1
        if unusable == _MOST_UNUSABLE:
            raise _no_document(unusable, settings)
        if cursor.piece == 0:
            counts.add(found)
        while cursor.piece < pieces[0]:
            start = cursor.piece * limit
            size = min(limit, length - start)
            cursor.piece += 1
            cursor.tokens += size
            yield document, start, size
        cursor.position, cursor.piece = cursor.position + 1, 0


def _no_document(count: int, settings: PackingSettings) -> ValueError:
    fits = (
        f" and fits max_document_length ({settings.longest_read}) under "
        f"long_documents={settings.long_documents}"
    )
    return ValueError(
        f"the data yields no document: of {count} none has 2 tokens or more"
        + ("" if settings.reads_whole else fits)
    )
