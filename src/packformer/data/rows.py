"""From pieces of documents to batches of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from packformer.attention import PackedLayout
from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.data.concatenating import CutPiece
from packformer.data.packers import make_packer
from packformer.data.packing import PackerState, Piece
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource, read_piece

_Row = TypeVar("_Row")


def collate_row(
    source: DocumentSource,
    pieces: list[Piece],
    *,
    row_length: int,
    max_seqlen: int,
    max_documents: int,
    packer_state: dict[str, Any] | None,
    corpus: int = 0,
    block_length: int | None = None,
) -> PackedBatch:
    """Lays the tokens and targets of ``pieces`` one after another and pads to ``row_length``.

    Padding is laid out as further documents of at most ``max_seqlen`` tokens, in slots of their own
    after the ``max_documents``. With ``block_length`` the tokens are laid out in blocks of so many
    instead, wherever documents begin; targets are the same.

    Raises:
        ValueError: if a piece is not of the length that was asked for, or no whole numbers.
    """
    tokens = np.zeros(row_length, dtype=np.int64)
    targets = np.full(row_length, IGNORE_INDEX, dtype=np.int64)
    end = 0
    for piece in pieces:
        start, end = end, end + piece.length
        is_cut = isinstance(piece, CutPiece)
        found = read_piece(source, piece.document, piece.start, piece.length + is_cut)
        tokens[start:end], targets[start:end] = (each[: piece.length] for each in found)
        if not is_cut:
            targets[end - 1] = IGNORE_INDEX  # its successor lies in no or another document
    lengths = [piece.length for piece in pieces]
    if block_length is not None:
        lengths = [min(block_length, end - at) for at in range(0, end, block_length)]
    padding = [min(max_seqlen, row_length - at) for at in range(end, row_length, max_seqlen)]
    return PackedBatch(
        tokens=torch.from_numpy(tokens)[None],
        targets=torch.from_numpy(targets)[None],
        layout=PackedLayout.from_lengths(
            lengths + padding,
            num_slots=max_documents + math.ceil(row_length / max_seqlen),  # room for blocks, too
            max_seqlen=max_seqlen,
        ),
        num_tokens=end,
        num_targets=int((targets != IGNORE_INDEX).sum()),
        lengths=tuple(lengths),
        packer_state=packer_state,
        corpus=corpus,
        pieces=tuple((piece.document, piece.start) for piece in pieces),
    )


def own_turns(rows: Iterator[_Row], rank: int, world_size: int) -> Iterator[_Row]:
    """The rows of this process: of rank r of W rows r, r + W, ..., in turns of its workers."""
    is_own_turn = _turns()
    while rank < len(group := list(islice(rows, world_size))):
        if next(is_own_turn):
            yield group[rank]


def _turns() -> Iterator[bool]:
    """Of each row of a rank, whether it is made in this process: the loader's take turns."""
    worker = get_worker_info()
    worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
    for turn in count():
        yield turn % num_workers == worker_id


def deal(costs: Sequence[float], world_size: int) -> list[list[int]]:
    """Shares the rows of one step out so that ranks have about the same to compute.

    Ranks wait for one another at the end of a step. So the sums of their costs matter: of the W
    most expensive rows that are left each rank gets one, the rank with the least so far the most
    expensive. Rows that ranks compute at the same time are thus similar, too.

    Args:
        costs: of each row.
        world_size: W, ranks.

    Returns:
        The numbers of the rows of each rank, in the order in which it computes them: that of the
        stream if a rank has all rows or only one.
    """
    numbers = list(range(len(costs)))
    if world_size == 1 or len(costs) <= world_size:
        return [numbers[rank::world_size] for rank in range(world_size)]
    numbers.sort(key=lambda number: costs[number], reverse=True)
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    spent = [0.0] * world_size
    for first in range(0, len(numbers), world_size):
        least_first = sorted(range(world_size), key=lambda rank: spent[rank])
        for number, rank in zip(numbers[first : first + world_size], least_first, strict=False):
            dealt[rank].append(number)
            spent[rank] += costs[number]
    return dealt


def attention_cost(lengths: Iterable[int]) -> int:
    """What attention costs in a row, up to a factor: the squared lengths of its documents."""
    return sum(length * length for length in lengths)


class PackedRows(IterableDataset[PackedBatch]):
    """A stream of packed rows that can start anywhere.

    Every process packs the same global stream and keeps its own rows (``deal``): the stream, the
    rows of each optimizer step, and so the saved state depend neither on the number of workers nor
    of ranks. The last row of a step that a rank gets carries the packer's state after that step,
    those before it the state before: a checkpoint within a step repeats the whole step.

    Args:
        source: the documents.
        settings: how they are packed.
        max_documents: pieces a row has room for.
        seed: of the order; None for the source's own.
        epochs: passes over a source that has an end; None for passes without end.
        limit: rows of the whole stream at most; None for all.
        start: packer state of a ``PackedBatch`` to continue after; None for the beginning.
        rank: of this process.
        world_size: W.
        rows_per_step: of all ranks together; None for one of each.
    """

    def __init__(
        self,
        source: DocumentSource,
        settings: PackingSettings,
        *,
        max_documents: int,
        seed: int | None,
        epochs: int | None = None,
        limit: int | None = None,
        start: dict[str, Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        rows_per_step: int | None = None,
    ) -> None:
        self._source = source
        self._settings = settings
        self._max_documents = max_documents
        self._seed = seed
        self._epochs = epochs
        self._limit = limit
        self._start = start
        self._rank = rank
        self._world_size = world_size
        self._rows_per_step = rows_per_step or world_size

    def __iter__(self) -> Iterator[PackedBatch]:
        state = PackerState() if self._start is None else PackerState.from_dict(self._start)
        packer = make_packer(
            self._source,
            self._settings,
            max_documents=self._max_documents,
            seed=self._seed,
            epochs=self._epochs,
        )
        rows = islice(packer.rows(state), self._limit)
        is_own_turn = _turns()
        before = self._start
        while step := list(islice(rows, self._rows_per_step)):
            after = state.to_dict()
            costs = [attention_cost(piece.length for piece in row) for row in step]
            own = deal(costs, self._world_size)[self._rank]
            for place, number in enumerate(own, start=1):
                if not next(is_own_turn):
                    continue
                yield collate_row(
                    self._source,
                    step[number],
                    row_length=self._settings.row_length,
                    max_seqlen=self._settings.max_seqlen,
                    max_documents=self._max_documents,
                    packer_state=after if place == len(own) else before,
                    block_length=self._settings.block_length,
                )
            before = after
