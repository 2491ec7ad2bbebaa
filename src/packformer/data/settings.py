"""How documents become rows."""

from __future__ import annotations

from dataclasses import dataclass

from packformer.requirements import PACKING
from packformer.settings import check_settings

LONG_DOCUMENT_POLICIES = ("split", "truncate", "drop", "error")


@dataclass(frozen=True)
class PackingSettings:
    """How documents become rows.

    Attributes:
        row_length: M, tokens of a row, and of a micro-batch.
        max_document_length: documents are at most that long in a row, in tokens, and never longer
            than the row; None for ``row_length``.
        long_documents: what to do with longer documents: ``split`` them into pieces, ``truncate``,
            ``drop`` or ``error``.
        lookahead: documents the packer chooses from.

    Raises:
        ValueError: if a value is out of range.
    """

    row_length: int
    max_document_length: int | None = None
    long_documents: str = "split"
    lookahead: int = 256

    def __post_init__(self) -> None:
        check_settings("packing", PACKING, vars(self))
        if self.long_documents not in LONG_DOCUMENT_POLICIES:
            raise ValueError(
                f"packing.long_documents ({self.long_documents!r}) must be one of "
                f"{', '.join(LONG_DOCUMENT_POLICIES)}"
            )

    @property
    def max_seqlen(self) -> int:
        """Longest document a row can hold, in tokens."""
        limit = self.max_document_length
        return self.row_length if limit is None else min(limit, self.row_length)
