"""From pieces of documents to batches of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from packformer.attention import PackedLayout
from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.data.packing import BestFitPacker, PackerState, Piece
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource

_Row = TypeVar("_Row")


def collate_row(
    source: DocumentSource,
    pieces: list[Piece],
    *,
    row_length: int,
    max_seqlen: int,
    max_documents: int,
    packer_state: dict[str, Any],
    corpus: int = 0,
) -> PackedBatch:
    """Lays the tokens and targets of ``pieces`` one after another and pads to ``row_length``.

    Padding is laid out as further documents of at most ``max_seqlen`` tokens, in slots of their own
    after the ``max_documents``.
    """
    tokens = np.zeros(row_length, dtype=np.int64)
    targets = np.full(row_length, IGNORE_INDEX, dtype=np.int64)
    end = 0
    for piece in pieces:
        start, end = end, end + piece.length
        tokens[start:end], targets[start:end] = source.piece(
            piece.document, piece.start, piece.length
        )
        targets[end - 1] = IGNORE_INDEX  # its successor lies in no or another document
    lengths = [piece.length for piece in pieces]
    padding = [min(max_seqlen, row_length - at) for at in range(end, row_length, max_seqlen)]
    return PackedBatch(
        tokens=torch.from_numpy(tokens)[None],
        targets=torch.from_numpy(targets)[None],
        layout=PackedLayout.from_lengths(
            lengths + padding,
            num_slots=max_documents + math.ceil(row_length / max_seqlen),
            max_seqlen=max_seqlen,
        ),
        num_tokens=end,
        num_targets=int((targets != IGNORE_INDEX).sum()),
        lengths=tuple(lengths),
        packer_state=packer_state,
        corpus=corpus,
    )


def own_turns(rows: Iterator[_Row], rank: int, world_size: int) -> Iterator[_Row]:
    """The rows of this process: of rank r of W rows r, r + W, ..., in turns of its workers."""
    worker = get_worker_info()
    worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
    for turn in count():
        group = list(islice(rows, world_size))
        if rank >= len(group):
            return
        if turn % num_workers == worker_id:
            yield group[rank]


class PackedRows(IterableDataset[PackedBatch]):
    """A stream of packed rows that can start anywhere.

    Every process packs the same global stream and keeps its own rows (``own_turns``): the stream,
    and so the saved state, depends neither on the number of workers nor of ranks.

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

    def __iter__(self) -> Iterator[PackedBatch]:
        state = PackerState() if self._start is None else PackerState.from_dict(self._start)
        packer = BestFitPacker(
            self._source,
            self._settings,
            max_documents=self._max_documents,
            seed=self._seed,
            epochs=self._epochs,
        )
        rows = islice(packer.rows(state), self._limit)
        for row in own_turns(rows, self._rank, self._world_size):
            yield collate_row(
                self._source,
                row,
                row_length=self._settings.row_length,
                max_seqlen=self._settings.max_seqlen,
                max_documents=self._max_documents,
                packer_state=state.to_dict(),
            )
