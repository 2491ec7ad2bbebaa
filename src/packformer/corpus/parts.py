"""What of a corpus is finished at once: a shard of each split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from packformer.corpus.documents import Raw
from packformer.corpus.encode import EMPTY, SKIPPED, Encoded, held_out
from packformer.corpus.shards import SPLITS, ShardWriter


class Place(NamedTuple):
    """A place in the input: number of the source, and of the pieces read of it."""

    source: int
    pieces: int


@dataclass(frozen=True)
class Batch:
    """Pieces to tokenize together.

    Attributes:
        pieces: in the order of the input.
        ends_part: the part is complete with them.
        place: after them.
        read: bytes of the input up to there.
    """

    pieces: list[Raw]
    ends_part: bool
    place: Place
    read: int


class Part:
    """The shards that are being written, one per split."""

    def __init__(
        self,
        folder: Path,
        number: int,
        dtype: str,
        fraction: float,
        report: Callable[[int, int], None],
    ) -> None:
        self._folder = folder
        self._number = number
        self._dtype = dtype
        self._fraction = fraction
        self._report = report
        self._held_out = False  # the document whose pieces are coming
        self._text = 0
        self._begin()

    def _begin(self) -> None:
        self._writers = {
            split: ShardWriter(self._folder / f"{split}-{self._number:05}.tokens", self._dtype)
            for split in SPLITS
        }
        self._left_out = {"empty": 0, "skipped": 0}

    def add(self, encoded: Encoded, batch: Batch) -> None:
        """Writes a batch; one that is empty only ends its part."""
        if not batch.pieces:
            return
        sizes = np.diff(encoded.ends, prepend=0)
        last = np.array([raw.last for raw in batch.pieces], dtype=bool)
        first = np.array([raw.first for raw in batch.pieces], dtype=bool)
        # Later pieces are on the side of their document's first one, maybe of an earlier batch.
        firsts = np.concatenate([[self._held_out], held_out(encoded.hashes, self._fraction)])
        side_of = np.maximum.accumulate(np.where(first, np.arange(1, len(first) + 1), 0))
        validation = firsts[side_of]
        self._held_out = bool(validation[-1])
        self._left_out["empty"] += int((encoded.hashes == EMPTY).sum())
        self._left_out["skipped"] += int((encoded.hashes == SKIPPED).sum())
        kept = encoded.hashes >= 0
        for split, side in zip(SPLITS, (~validation, validation), strict=True):
            here = side & kept
            if here.any():
                ends = np.cumsum(sizes[here])[last[here]]
                self._writers[split].add(
                    encoded.ids[np.repeat(here, sizes)],
                    ends,
                    int(encoded.text_bytes[here].sum()),
                    int(encoded.spelled_bytes[here].sum()),
                )
        self._text += int(encoded.text_bytes.sum())
        self._report(batch.read, self._text)

    def finish(self) -> dict[str, Any]:
        """The shards on disk, and what was left out; then the next part begins."""
        shards = {split: writer.finish() for split, writer in self._writers.items()}
        found: dict[str, Any] = {split: s and asdict(s) for split, s in shards.items()}
        found |= self._left_out
        self._number += 1
        self._begin()
        return found

    def discard(self) -> None:
        """Removes what was not finished."""
        for writer in self._writers.values():
            writer.discard()
