"""What batches of the same documents would cost: padded, concatenated or packed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from packformer.batch import IGNORE_INDEX
from packformer.data.packing import BestFitPacker, PackerState
from packformer.data.settings import PackingSettings
from packformer.data.source import Tokens
from packformer.model.flops import attention_flops, causal_pairs, product_flops

_OPEN_ROWS = 64  # of first-fit
_PACKED_PIECES = 200_000  # that are packed one by one, a second or two; the rest fills rows as well
_ROWS_SHOWN = 16


@dataclass(frozen=True)
class Cost:
    """One way to make batches of some documents.

    Attributes:
        name: of the way.
        computed: tokens that the model computes, padding included.
        useful: tokens of documents among them.
        cut: documents that lie in several rows or blocks, or lost their end.
        dropped: tokens that no batch holds.
        pairs: query-key pairs that attention computes.
        rows: lengths of the documents of the first rows, for pictures; empty for padding.
        estimated: whether ``computed`` follows from the fill of the first rows alone.
        policy: of ``PackingSettings``, that makes such batches; None if none does.
    """

    name: str
    computed: int
    useful: int
    cut: int
    dropped: int
    pairs: int
    rows: tuple[tuple[int, ...], ...] = ()
    estimated: bool = False
    policy: str | None = None

    @property
    def fill(self) -> float:
        """Share of the computed tokens that are useful; 0 if there are none."""
        return self.useful / self.computed if self.computed else 0.0

    @property
    def kept(self) -> float:
        """Share of the documents' tokens that are computed at all; 0 if there are none."""
        return self.useful / (self.useful + self.dropped) if self.useful else 0.0

    def flops_per_token(self, weights: int, width: int, num_layers: int) -> float:
        """Training flops per useful token, padding's included, of a model without windows.

        Args:
            weights: of all matrices.
            width: of the model.
            num_layers: of the model.
        """
        if not self.useful:
            return math.inf
        attention = attention_flops(width * num_layers * self.pairs)
        return (product_flops(weights, self.computed) + attention) / self.useful


def costs(
    lengths: Sequence[int] | NDArray[np.int64],
    settings: PackingSettings,
    *,
    batch: int = 8,
    seed: int = 0,
) -> list[Cost]:
    """Costs of the usual ways, those of all policies among them; best fit comes last.

    Args:
        lengths: of all documents, in tokens.
        settings: of the rows.
        batch: documents of a padded batch.
        seed: of the order.
    """
    shuffled = np.random.default_rng(seed).permutation(np.asarray(lengths, dtype=np.int64))
    longest = settings.max_seqlen
    return [
        _padded(shuffled, longest, batch, fixed=False),
        _padded(shuffled, longest, batch, fixed=True),
        _concatenated(shuffled, settings.row_length),
        _cut_apart(shuffled, settings, seed),
        _in_blocks(shuffled, settings),
        _first_fit(shuffled, settings),
        _best_fit(shuffled, settings),
    ]


def _padded(lengths: NDArray[np.int64], longest: int, batch: int, *, fixed: bool) -> Cost:
    kept = np.minimum(lengths, longest)
    firsts = np.arange(0, len(kept), batch)
    sizes = np.full(len(firsts), longest) if fixed else np.maximum.reduceat(kept, firsts)
    counts = np.diff(firsts, append=len(kept))
    return Cost(
        name=f"pad to {longest:,} tokens" if fixed else f"pad to the longest of {batch}",
        computed=int(counts @ sizes),
        useful=int(kept.sum()),
        cut=int((lengths > longest).sum()),
        dropped=int((lengths - kept).sum()),
        pairs=int(counts @ causal_pairs(sizes)),
    )


def _concatenated(lengths: NDArray[np.int64], row: int) -> Cost:
    ends = lengths.cumsum()
    total = int(ends[-1])
    num_rows = total // row
    in_several = (ends - lengths) // row != (ends - 1) // row
    return Cost(
        name="concatenate and cut",
        computed=num_rows * row,
        useful=num_rows * row,
        cut=int((in_several & (lengths > 0)).sum()),
        dropped=total - num_rows * row,
        pairs=num_rows * causal_pairs(row),
        rows=tuple(
            _between(ends, number * row, (number + 1) * row)
            for number in range(min(num_rows, _ROWS_SHOWN))
        ),
    )


def _between(ends: NDArray[np.int64], start: int, end: int) -> tuple[int, ...]:
    """Lengths of what documents with these ends have between two places."""
    inside = ends[np.searchsorted(ends, start, side="right") : np.searchsorted(ends, end)]
    bounds = np.unique(np.concatenate([[start], inside, [end]]))
    return tuple(np.diff(bounds).tolist())


def _cut_apart(lengths: NDArray[np.int64], settings: PackingSettings, seed: int) -> Cost:
    """``ConcatenatingPacker``: pieces in random order, cut at row ends, that do not attend to each
    other."""
    row, limit = settings.row_length, replace(settings, policy="concatenate").longest_read
    whole, rest = np.divmod(lengths, limit)
    used = rest >= 2
    documents = np.concatenate([np.repeat(np.arange(len(lengths)), whole), np.flatnonzero(used)])
    pieces = np.concatenate([np.full(int(whole.sum()), limit, dtype=np.int64), rest[used]])
    order = np.random.default_rng(seed).permutation(len(pieces))
    documents, pieces = documents[order], pieces[order]
    ends = pieces.cumsum()
    useful = int(pieces.sum())
    parts = np.diff(np.union1d(ends, np.arange(row, useful, row)), prepend=0)
    in_several = (ends - pieces) // row != (ends - 1) // row
    cut = np.union1d(documents[in_several], np.flatnonzero(lengths > limit))
    return Cost(
        name="concatenate, documents apart",
        computed=math.ceil(useful / row) * row,
        useful=useful,
        cut=len(cut),
        dropped=int(lengths.sum()) - useful,
        pairs=int(causal_pairs(parts).sum()),
        policy="concatenate",
    )


def _in_blocks(lengths: NDArray[np.int64], settings: PackingSettings) -> Cost:
    """Documents read whole, in rows laid out as blocks: attention sees all of a block, whatever
    documents lie in it."""
    row, block = settings.row_length, settings.max_seqlen
    pieces = lengths[lengths >= 2]
    ends, useful = pieces.cumsum(), int(pieces.sum())
    num_rows = math.ceil(useful / row)
    starts = np.add.outer(np.arange(num_rows) * row, np.arange(0, row, block)).ravel()
    starts = starts[starts < useful]
    first = np.searchsorted(starts, ends - pieces, side="right")
    last = np.searchsorted(starts, ends - 1, side="right")
    return Cost(
        name=f"concatenate, blocks of {block:,}",
        computed=num_rows * row,
        useful=useful,
        cut=int((first != last).sum()),
        dropped=int(lengths.sum()) - useful,
        pairs=int(causal_pairs(np.diff(starts, append=useful)).sum()),
        rows=tuple(
            _between(ends, number * row, min((number + 1) * row, useful))
            for number in range(min(num_rows, _ROWS_SHOWN))
        ),
        policy="blocks",
    )


def _first_fit(lengths: NDArray[np.int64], settings: PackingSettings) -> Cost:
    return _packed("first fit", _first_fit_rows(lengths, settings), lengths, settings, shortest=1)


def _first_fit_rows(
    lengths: NDArray[np.int64], settings: PackingSettings
) -> Iterator[tuple[int, ...]]:
    rows: list[list[int]] = []
    rooms: list[int] = []
    for piece in _pieces(lengths, settings.max_seqlen):
        place = next((i for i, room in enumerate(rooms) if room >= piece), None)
        if place is not None:
            rows[place].append(piece)
            rooms[place] -= piece
            continue
        rows.append([piece])
        rooms.append(settings.row_length - piece)
        if len(rows) > _OPEN_ROWS:
            yield tuple(rows.pop(0))
            rooms.pop(0)
    yield from map(tuple, rows)


def _pieces(lengths: NDArray[np.int64], limit: int) -> Iterator[int]:
    for length in lengths:
        for start in range(0, int(length), limit):
            yield min(limit, int(length) - start)


def _best_fit(lengths: NDArray[np.int64], settings: PackingSettings) -> Cost:
    packer = BestFitPacker(
        Lengths(lengths),
        PackingSettings(settings.row_length, settings.max_seqlen, "split", settings.lookahead),
        max_documents=settings.row_length,
        seed=0,
        epochs=1,
    )
    rows = (tuple(piece.length for piece in row) for row in packer.rows(PackerState()))
    cost = _packed("best fit (packformer)", rows, lengths, settings, shortest=2)
    return replace(cost, policy="best_fit")


def _packed(
    name: str,
    rows: Iterable[tuple[int, ...]],
    lengths: NDArray[np.int64],
    settings: PackingSettings,
    *,
    shortest: int,
) -> Cost:
    """The cost of all documents, from the first rows that hold them.

    Args:
        name: of the way.
        rows: lengths of the pieces of each, made as they are asked for.
        lengths: of all documents.
        settings: of the rows.
        shortest: piece that reaches a row.
    """
    whole, rest = np.divmod(lengths, settings.max_seqlen)
    rest[rest < shortest] = 0
    limit, num_whole = settings.max_seqlen, int(whole.sum())
    useful = num_whole * limit + int(rest.sum())
    num_pieces = num_whole + int((rest > 0).sum())
    num_rows, packed, tokens = 0, 0, 0
    shown: list[tuple[int, ...]] = []
    for row in rows:
        num_rows, packed, tokens = num_rows + 1, packed + len(row), tokens + sum(row)
        if len(shown) < _ROWS_SHOWN:
            shown.append(row)
        if packed >= _PACKED_PIECES:
            break
    estimated = packed < num_pieces
    if estimated:
        num_rows = math.ceil(num_rows * useful / tokens)
    return Cost(
        name=name,
        computed=num_rows * settings.row_length,
        useful=useful,
        cut=int((lengths > limit).sum()),
        dropped=int(lengths.sum()) - useful,
        pairs=num_whole * causal_pairs(limit) + int(causal_pairs(rest).sum()),
        rows=tuple(shown),
        estimated=estimated,
    )


class Lengths:
    """Documents of which only the lengths matter; a ``Sectioned`` source of one section."""

    sections_at_once = 1

    def __init__(self, lengths: Sequence[int] | NDArray[np.int64]) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self.num_documents = len(self._lengths)
        self.sections = (self.num_documents,)

    def length(self, index: int) -> int:
        return int(self._lengths[index])

    def lengths(self, section: int, which: NDArray[np.int64] | None) -> NDArray[np.int64]:
        return self._lengths if which is None else self._lengths[which]

    def open(self, sections: list[int], following: list[int]) -> None:
        """Everything is there."""

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        tokens = np.zeros(length, dtype=np.int64)
        return tokens, np.full_like(tokens, IGNORE_INDEX)
