"""How documents become rows."""

from __future__ import annotations

from dataclasses import dataclass

from packformer.requirements import PACKING
from packformer.settings import check_settings

_NO_LIMIT = 2**63 - 1

LONG_DOCUMENT_POLICIES = ("split", "truncate", "drop", "error")


@dataclass(frozen=True)
class PackingSettings:
    """How documents become rows.

    Attributes:
        row_length: M, tokens of a row, and of a micro-batch.
        max_document_length: documents are at most that long in a row, in tokens, and never longer
            than the row; None for ``row_length``, or under ``concatenate`` for no limit. Under
            ``blocks``, of which it is the length, documents have no limit.
        long_documents: what to do with longer documents: ``split`` them into pieces, ``truncate``,
            ``drop`` or ``error``.
        lookahead: documents that best fit chooses from.
        policy: ``best_fit``: rows hold whole pieces, and have padding at the end, see
            ``BestFitPacker``; ``concatenate``: pieces are cut where rows end, see
            ``ConcatenatingPacker``; ``blocks``: the same rows, laid out as blocks of equal length
            instead of documents, so that attention sees all of a block, as in nanoGPT.

    Raises:
        ValueError: if a value is out of range.
    """

    row_length: int
    max_document_length: int | None = None
    long_documents: str = "split"
    lookahead: int = 256
    policy: str = "best_fit"

    def __post_init__(self) -> None:
        check_settings("packing", PACKING, vars(self))
        if self.long_documents not in LONG_DOCUMENT_POLICIES:
            raise ValueError(
                f"packing.long_documents ({self.long_documents!r}) must be one of "
                f"{', '.join(LONG_DOCUMENT_POLICIES)}"
            )

    @property
    def cuts(self) -> bool:
        """Whether documents are cut where rows end."""
        return self.policy in ("concatenate", "blocks")

    @property
    def block_length(self) -> int | None:
        """Tokens that take the place of a document in a row's layout; None for documents."""
        return self.max_seqlen if self.policy == "blocks" else None

    @property
    def longest_read(self) -> int:
        """Longest piece that is read at once, in tokens; longer documents are cut or left out."""
        if not self.cuts:
            return self.max_seqlen
        limit = None if self.policy == "blocks" else self.max_document_length
        return _NO_LIMIT if limit is None else limit

    @property
    def reads_whole(self) -> bool:
        """Whether documents are read whole, over as many rows as they need."""
        return self.longest_read == _NO_LIMIT

    @property
    def most_pieces(self) -> int:
        """Pieces that a row holds at most: of 2 tokens, and where documents are cut, of 1 first and
        last."""
        return self.row_length // 2 + self.cuts

    @property
    def max_seqlen(self) -> int:
        """Longest document a row can hold, in tokens."""
        limit = self.max_document_length
        return self.row_length if limit is None else min(limit, self.row_length)
