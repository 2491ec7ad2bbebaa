"""The rows for validation: each corpus has its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from torch.utils.data import IterableDataset

from packformer.batch import PackedBatch
from packformer.data.packing import BestFitPacker, PackerState, Piece
from packformer.data.rows import collate_row, own_turns
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource, Mixture

_SEED = 0  # the same rows in every run, whatever its seed


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` shared out by weight, but at least 1 for each.

    Args:
        total: to be shared; the sum exceeds it only where there are more weights than that.
        weights: positive numbers.
    """
    wanted = [total * weight / sum(weights) for weight in weights]
    found = [max(1, int(share)) for share in wanted]
    by_remainder = sorted(range(len(found)), key=lambda i: found[i] - wanted[i])
    for place in by_remainder[: max(0, total - sum(found))]:
        found[place] += 1
    while sum(found) > total and max(found) > 1:
        found[found.index(max(found))] -= 1
    return found


class ValidationRows(IterableDataset[PackedBatch]):
    """One pass over what is held out, corpus after corpus; no row holds documents of two.

    Every rank gets equally many rows, because ranks that share out a model run it together: where
    rows do not suffice for all, the others get rows without documents.

    Args:
        source: the documents; each source of a ``Mixture`` is a corpus.
        settings: how they are packed.
        max_documents: pieces a row has room for.
        limit: rows at most, shared out by the corpora's tokens; None for all.
        rank: of this process.
        world_size: number of ranks.
    """

    def __init__(
        self,
        source: DocumentSource,
        settings: PackingSettings,
        *,
        max_documents: int,
        limit: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        mixture = source if isinstance(source, Mixture) else Mixture([source], [1.0])
        self._sources = mixture.sources
        self._limits: list[int | None] = [None] * len(self._sources)
        if limit is not None:
            self._limits = [*shares(limit, mixture.weights)]
        self._settings = settings
        self._max_documents = max_documents
        self._rank = rank
        self._world_size = world_size

    def _rows(self) -> Iterator[tuple[int, list[Piece]]]:
        """Each row's corpus and pieces; in the end rows of no piece, for the other ranks."""
        number = 0
        for corpus, (source, limit) in enumerate(zip(self._sources, self._limits, strict=True)):
            packer = BestFitPacker(
                source,
                self._settings,
                max_documents=self._max_documents,
                seed=_SEED,
                epochs=1,
            )
            for row in islice(packer.rows(PackerState()), limit):
                number += 1
                yield corpus, row
        for _ in range(-number % self._world_size):
            yield 0, []

    def __iter__(self) -> Iterator[PackedBatch]:
        for corpus, row in own_turns(self._rows(), self._rank, self._world_size):
            yield collate_row(
                self._sources[corpus],
                row,
                row_length=self._settings.row_length,
                max_seqlen=self._settings.max_seqlen,
                max_documents=self._max_documents,
                packer_state={},
                corpus=corpus,
            )
