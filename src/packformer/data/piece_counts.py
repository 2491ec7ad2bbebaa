"""How many pieces documents are cut into, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packformer.counted import counted
from packformer.data.settings import PackingSettings


@dataclass
class PackingCounts:
    """What becomes of the documents, counted when their group of sections begins.

    A source without end is counted as it is read.

    Attributes:
        documents: of the source.
        split: documents longer than the limit that were cut into pieces.
        truncated: documents that lost their end.
        dropped: documents left out whole.
        tokens_dropped: tokens of truncated and dropped documents that reach no row.
    """

    documents: int = 0
    split: int = 0
    truncated: int = 0
    dropped: int = 0
    tokens_dropped: int = 0

    def add(self, other: PackingCounts) -> None:
        """Adds other counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def count_pieces(
    lengths: NDArray[np.int64], settings: PackingSettings, first: int
) -> tuple[NDArray[np.int64], PackingCounts]:
    """How many pieces each document gives, and what becomes of them all.

    One token alone predicts nothing and is no piece.

    Args:
        lengths: of the documents, in tokens.
        settings: limit and policy.
        first: number of the first of these documents, for the message.

    Raises:
        ValueError: if one is too long under the policy ``error``.
    """
    limit, policy = settings.longest_read, settings.long_documents
    short, long = lengths < 2, lengths > limit
    pieces = np.where(short, 0, 1)
    counts = PackingCounts(documents=len(lengths))
    unused = lengths[short].sum()
    counts.dropped = int(short.sum())
    if long.any():
        if policy == "error":
            document = int(long.argmax())
            at_most = "" if settings.cuts else ", row_length at most"
            raise ValueError(
                f"document {first + document} has "
                f"{counted(int(lengths[document]), 'token')}, more than "
                f"max_document_length ({limit}{at_most}): raise it, or set "
                "packing.long_documents to drop or, for text alone, to split or truncate"
            )
        if policy == "drop":
            pieces[long] = 0
            counts.dropped += int(long.sum())
            unused += lengths[long].sum()
        elif policy == "truncate":
            counts.truncated = int(long.sum())
            unused += (lengths[long] - limit).sum()
        else:
            counts.split = int(long.sum())
            rest = lengths[long] % limit
            pieces[long] = lengths[long] // limit + (rest >= 2)
            unused += (rest == 1).sum()
    counts.tokens_dropped = int(unused)
    return pieces, counts
