"""The parts of a corpus, written and finished one at a time: a shard of each split."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from packformer.corpus.documents import Raw
from packformer.corpus.encode import MARKS, Encoded
from packformer.corpus.left_out import LeftOut, Reason
from packformer.corpus.shards import SPLITS, ShardWriter
from packformer.corpus.split import Spare, held_out

COUNTS = ("characters", "lost", "unknown")
"""What ``Encoded`` counts: of a part in the journal."""

log = logging.getLogger(__name__)


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
    """The shards that are being written, one per split.

    Args:
        folder: of the corpus.
        number: of this part.
        dtype: of the ids.
        fraction: of the documents held out.
        report: is called with the bytes that were read, and those of text.
        worded: what a document is left out for, in words for the user.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        dtype: str,
        fraction: float,
        report: Callable[[int, int], None],
        worded: Callable[[str], str],
    ) -> None:
        self._folder = folder
        self._number = number
        self._dtype = dtype
        self._fraction = fraction
        self._report = report
        self._worded = worded
        self._hash = 0  # of the document whose pieces are coming
        self._text = 0
        self._told: set[Reason] = set()
        self._begin()

    def _begin(self) -> None:
        self._writers = {
            split: ShardWriter(self._folder / f"{split}-{self._number:05}.tokens", self._dtype)
            for split in SPLITS
        }
        self._spares = {split: Spare(split) for split in SPLITS}
        self._counts = dict.fromkeys(COUNTS, 0)
        self._left_out = LeftOut()
        self._kinds: Counter[str] = Counter()

    def add(self, encoded: Encoded, batch: Batch) -> None:
        """Writes a batch; one that is empty only ends its part."""
        if not batch.pieces:
            return
        sizes = np.diff(encoded.ends, prepend=0)
        last = np.array([raw.last for raw in batch.pieces], dtype=bool)
        first = np.array([raw.first for raw in batch.pieces], dtype=bool)
        # Later pieces are on the side of their document's first one, maybe of an earlier batch.
        first_of = np.maximum.accumulate(np.where(first, np.arange(1, len(first) + 1), 0))
        hashes = np.concatenate([[self._hash], encoded.hashes])[first_of]
        validation = held_out(hashes, self._fraction)
        self._hash = int(hashes[-1])
        self._count_left_out(encoded)
        for name in COUNTS:
            self._counts[name] += getattr(encoded, name)
        kept = encoded.hashes >= 0
        for split, side in zip(SPLITS, (~validation, validation), strict=True):
            here = side & kept
            if here.any():
                writer = self._writers[split]
                text, spelled = encoded.text_bytes[here], encoded.spelled_bytes[here]
                numbers = writer.documents + np.cumsum(last[here]) - last[here]
                self._spares[split].add(hashes[here], numbers, text, spelled)
                ends = np.cumsum(sizes[here])[last[here]]
                ids = encoded.ids[np.repeat(here, sizes)]
                writer.add(ids, ends, int(text.sum()), int(spelled.sum()))
        self._text += int(encoded.text_bytes.sum())
        self._report(batch.read, self._text)

    def _count_left_out(self, encoded: Encoded) -> None:
        for reason, message in encoded.messages.items():
            if reason not in self._told:
                self._told.add(reason)
                told = self._worded(message)
                log.warning("left out, the first of its kind (%s): %s", reason.words, told)
        for reason, mark in MARKS.items():
            if count := int((encoded.hashes == mark).sum()):
                self._left_out += LeftOut(**{reason.counted_as: count})
                self._kinds[reason.value] += count

    def finish(self) -> dict[str, Any]:
        """The shards on disk, and what was left out; then the next part begins."""
        shards = {split: writer.finish() for split, writer in self._writers.items()}
        found: dict[str, Any] = {split: s and asdict(s) for split, s in shards.items()}
        found["spare"] = {split: spare.found() for split, spare in self._spares.items()}
        found |= self._counts
        found["left_out"] = asdict(self._left_out)
        found["kinds"] = dict(self._kinds)
        self._number += 1
        self._begin()
        return found

    @property
    def tokens_in_work(self) -> int:
        """Of the shards that are not finished."""
        return sum(writer.tokens for writer in self._writers.values())

    def discard(self) -> None:
        """Removes what was not finished."""
        for writer in self._writers.values():
            writer.discard()
