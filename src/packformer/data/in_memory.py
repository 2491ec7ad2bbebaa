"""Packing documents that are in memory, without a data set or a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from packformer.batch import PackedBatch
from packformer.data.rows import PackedRows
from packformer.data.settings import PackingSettings
from packformer.data.source import Tokens, successors


class Documents:
    """Documents in memory, a ``DocumentSource``: the target of each token is its successor.

    Args:
        documents: token ids of each, ``[L]``.

    Raises:
        ValueError: if one is not a sequence of whole numbers from 0 up.
    """

    def __init__(self, documents: Iterable[Sequence[int] | Tokens]) -> None:
        self._documents = [_checked(number, document) for number, document in enumerate(documents)]

    @property
    def num_documents(self) -> int:
        """How many there are."""
        return len(self._documents)

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        return len(self._documents[index])

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens ``start : start + length`` of document ``index``, and their successors."""
        tokens = self._documents[index][start : start + length]
        return tokens, successors(tokens)


def _checked(number: int, document: Sequence[int] | Tokens) -> Tokens:
    tokens = np.asarray(document)
    if tokens.ndim != 1 or (len(tokens) and not np.issubdtype(tokens.dtype, np.integer)):
        raise ValueError(f"document {number} must be a sequence of token ids, whole numbers")
    tokens = tokens.astype(np.int64)
    if len(tokens) and tokens.min() < 0:
        raise ValueError(f"document {number} has the token id {tokens.min()}: ids begin at 0")
    return tokens


def pack(
    documents: Iterable[Sequence[int] | Tokens],
    row_length: int,
    *,
    max_document_length: int | None = None,
    long_documents: str = "split",
    lookahead: int = 256,
    policy: str = "best_fit",
) -> Iterator[PackedBatch]:
    """Packs documents into rows, each token once.

    A document of one token has nothing to predict and is left out. All rows have the same shape
    and the same number of document slots, so a compiled model needs one program.

    Args:
        documents: token ids of each, ``[L]``.
        row_length: M, tokens of a row.
        max_document_length: ``long_documents`` says what happens to longer ones; None for M, and no
            limit where rows cut documents. At most M, unless they do. For a model, give its
            ``max_position``.
        long_documents: ``split``, ``truncate``, ``drop`` or ``error``.
        lookahead: documents that best fit chooses from.
        policy: ``best_fit``, or ``concatenate``: documents are cut where rows end, or ``blocks``,
            see ``PackingSettings``.

    Yields:
        ``PackedBatch`` with tokens and targets int64 ``[1, M]``.

    Raises:
        ValueError: if a setting or a document is out of range.
    """
    settings = PackingSettings(row_length, max_document_length, long_documents, lookahead, policy)
    if max_document_length is not None and max_document_length > row_length and not settings.cuts:
        raise ValueError(
            f"max_document_length ({max_document_length}) must be at most row_length "
            f"({row_length}): a document lies in one row"
        )
    source = Documents(documents)
    lengths = [source.length(number) for number in range(source.num_documents)]
    if not any(length > 1 for length in lengths):
        raise ValueError("there is no document of two tokens or more: nothing can be predicted")
    most = sum(-(-length // settings.longest_read) for length in lengths)
    rows = PackedRows(
        source, settings, max_documents=min(most, settings.most_pieces), seed=None, epochs=1
    )
    return iter(rows)
