"""What batches of the same documents would cost: padded, concatenated or packed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packformer.batch import IGNORE_INDEX
from packformer.data.packing import BestFitPacker, PackerState
from packformer.data.settings import PackingSettings
from packformer.data.source import Tokens

_OPEN_ROWS = 64  # of first-fit


@dataclass(frozen=True)
class Cost:
    """One way to make batches of some documents.

    Attributes:
        name: of the way.
        computed: tokens that the model computes, padding included.
        useful: tokens of documents among them.
        cut: documents that lie in several rows, or lost their end.
        dropped: tokens that no batch holds.
        pairs: query-key pairs that attention computes.
        rows: lengths of the documents of the first rows, for pictures; empty for padding.
    """

    name: str
    computed: int
    useful: int
    cut: int
    dropped: int
    pairs: int
    rows: tuple[tuple[int, ...], ...] = ()

    @property
    def fill(self) -> float:
        """Share of the computed tokens that are useful; 0 if there are none."""
        return self.useful / self.computed if self.computed else 0.0

    def flops_per_token(self, weights: int, width: int, num_layers: int) -> float:
        """Training flops per useful token, padding's included: 6 a weight, 12 D L a pair.

        Args:
            weights: of all matrices.
            width: D.
            num_layers: L.
        """
        if not self.useful:
            return math.inf
        return (6 * weights * self.computed + 12 * width * num_layers * self.pairs) / self.useful


def costs(
    lengths: Sequence[int], settings: PackingSettings, *, batch: int = 8, seed: int = 0
) -> list[Cost]:
    """Costs of the usual ways, packing as this project does it last.

    Args:
        lengths: of all documents, in tokens.
        settings: of the rows.
        batch: documents of a padded batch.
        seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    shuffled = np.asarray(lengths, dtype=np.int64)[order]
    longest = settings.max_seqlen
    return [
        _padded(shuffled, longest, batch, fixed=False),
        _padded(shuffled, longest, batch, fixed=True),
        _concatenated(shuffled, settings.row_length),
        _first_fit(shuffled, settings),
        _best_fit(shuffled, settings),
    ]


def _triangles(lengths: NDArray[np.int64]) -> int:
    return int((lengths * (lengths + 1) // 2).sum())


def _padded(lengths: NDArray[np.int64], longest: int, batch: int, *, fixed: bool) -> Cost:
    kept = np.minimum(lengths, longest)
    groups = [kept[i : i + batch] for i in range(0, len(kept), batch)]
    sizes = [np.full(len(g), longest if fixed else g.max()) for g in groups]
    computed = np.concatenate(sizes)
    return Cost(
        name=f"pad to {longest:,} tokens" if fixed else f"pad to the longest of {batch}",
        computed=int(computed.sum()),
        useful=int(kept.sum()),
        cut=int((lengths > longest).sum()),
        dropped=int((lengths - kept).sum()),
        pairs=_triangles(computed),
    )


def _concatenated(lengths: NDArray[np.int64], row: int) -> Cost:
    ends = lengths.cumsum()
    usable = int(ends[-1]) // row * row
    starts = ends - lengths
    cut = int((starts // row != (ends - 1) // row).sum())
    num_rows = usable // row
    bounds = np.unique(np.concatenate([np.arange(num_rows + 1) * row, ends[ends < usable]]))
    pieces = np.diff(bounds)
    rows: list[list[int]] = [[]]
    for piece in pieces[:200].tolist():
        rows[-1].append(piece)
        if sum(rows[-1]) == row:
            rows.append([])
    return Cost(
        name="concatenate and cut",
        computed=usable,
        useful=usable,
        cut=cut,
        dropped=int(ends[-1]) - usable,
        pairs=num_rows * (row * (row + 1) // 2),
        rows=tuple(tuple(r) for r in rows if sum(r) == row),
    )


def _pieces(lengths: Iterable[int], settings: PackingSettings) -> list[int]:
    limit = settings.max_seqlen
    return [
        min(limit, length - start) for length in lengths for start in range(0, int(length), limit)
    ]


def _first_fit(lengths: NDArray[np.int64], settings: PackingSettings) -> Cost:
    open_rows: list[list[int]] = []
    rooms: list[int] = []
    done: list[list[int]] = []
    for piece in _pieces(lengths, settings):
        place = next((i for i, room in enumerate(rooms) if room >= piece), None)
        if place is not None:
            open_rows[place].append(piece)
            rooms[place] -= piece
            continue
        open_rows.append([piece])
        rooms.append(settings.row_length - piece)
        if len(open_rows) > _OPEN_ROWS:
            done.append(open_rows.pop(0))
            rooms.pop(0)
    return _packed("first fit", [*done, *open_rows], lengths, settings)


def _best_fit(lengths: NDArray[np.int64], settings: PackingSettings) -> Cost:
    packer = BestFitPacker(
        Lengths(lengths.tolist()),
        PackingSettings(settings.row_length, settings.max_seqlen, "split", settings.lookahead),
        max_documents=settings.row_length,
        seed=0,
        epochs=1,
    )
    rows = [[piece.length for piece in row] for row in packer.rows(PackerState())]
    return _packed("best fit (packformer)", rows, lengths, settings)


def _packed(
    name: str, rows: list[list[int]], lengths: NDArray[np.int64], settings: PackingSettings
) -> Cost:
    packed = np.array([piece for row in rows for piece in row], dtype=np.int64)
    return Cost(
        name=name,
        computed=len(rows) * settings.row_length,
        useful=int(packed.sum()),
        cut=int((lengths > settings.max_seqlen).sum()),
        dropped=int(lengths.sum() - packed.sum()),
        pairs=_triangles(packed),
        rows=tuple(tuple(row) for row in rows[:16]),
    )


class Lengths:
    """Documents of which only the lengths matter; a ``DocumentSource``."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths

    @property
    def num_documents(self) -> int:
        return len(self._lengths)

    def length(self, index: int) -> int:
        return self._lengths[index]

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        tokens = np.zeros(length, dtype=np.int64)
        return tokens, np.full_like(tokens, IGNORE_INDEX)
