"""What the packer needs from a source of documents, wherever it comes from."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from packformer.batch import IGNORE_INDEX

Tokens = NDArray[np.int64]
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+>")  # in the repr of an object that defines none


class DocumentSource(Protocol):
    """Documents by number. The same number always gives the same document."""

    @property
    def num_documents(self) -> int | None:
        """How many there are; None if they never end."""
        ...

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        ...

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens ``start : start + length`` of document ``index``, and a target for each.

        A target is ``IGNORE_INDEX`` where nothing is predicted. The last target is not used,
        because the last token's successor lies outside the piece. The cost of a piece depends on
        its own length, not on the document's.
        """
        ...


def whole_document(source: DocumentSource, index: int) -> tuple[Tokens, Tokens]:
    """Tokens ``[L]`` and targets ``[L]`` of all of document ``index``."""
    return source.piece(index, 0, source.length(index))


def read_piece(
    source: DocumentSource, index: int, start: int, length: int
) -> tuple[Tokens, Tokens]:
    """Tokens ``[length]`` and targets ``[length]`` of a piece, which may be of a user's source.

    Raises:
        ValueError: if they are of another length or no whole numbers.
    """
    tokens, targets = source.piece(index, start, length)
    tokens, targets = np.asarray(tokens), np.asarray(targets)
    whole = tokens.dtype.kind in "iu" and targets.dtype.kind in "iu"
    if whole and tokens.shape == targets.shape == (length,):
        return tokens, targets
    made = (f"{part.dtype} {list(part.shape)}" for part in (tokens, targets))
    raise ValueError(
        f"{name_of_document(source, index)} of {type(source).__name__}: piece({index}, {start}, "
        f"{length}) returned tokens {' and targets '.join(made)}, both must be whole numbers "
        f"[{length}]"
    )


def successors(tokens: Tokens) -> Tokens:
    """The targets of plain text: each token's successor, and nothing for the last."""
    targets = np.empty_like(tokens)
    targets[:-1] = tokens[1:]
    targets[-1:] = IGNORE_INDEX
    return targets


@runtime_checkable
class Sectioned(DocumentSource, Protocol):
    """A finite source in sections, of which only some are open at a time.

    Attributes:
        sections: number of documents of each; document numbers run through all of them.
        sections_at_once: how many are open, and shuffled together.
    """

    @property
    def sections(self) -> Sequence[int]:
        """See above."""
        ...

    @property
    def sections_at_once(self) -> int:
        """See above."""
        ...

    def lengths(self, section: int, which: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Tokens of each document of an open section, or of some, by their number in it."""
        ...

    def open(self, sections: list[int], following: list[int]) -> None:
        """Makes ``sections`` ready to read, and may begin with those ``following``."""
        ...


@runtime_checkable
class Naming(Protocol):
    """A source that knows where its documents come from."""

    def name(self, index: int) -> str:
        """Of document ``index``, for people."""
        ...


def name_of_document(source: DocumentSource, index: int) -> str:
    """What people may find document ``index`` by."""
    return source.name(index) if isinstance(source, Naming) else f"document {index}"


@dataclass(frozen=True)
class Mixture:
    """Several sources in fixed proportions of tokens; a ``DocumentSource``.

    Document numbers run through all sources.

    Attributes:
        sources: finite ones.
        weights: of each; of the tokens read, source i gives its weight by the sum of all.
        names: of each, all different, for what is measured of it.
    """

    sources: Sequence[DocumentSource]
    weights: Sequence[float]
    names: Sequence[str] = ()

    @cached_property
    def starts(self) -> list[int]:
        """Number of the first document of each source, and at the end that of all documents."""
        return [0, *accumulate(source.num_documents or 0 for source in self.sources)]

    @property
    def num_documents(self) -> int:
        """Of all sources."""
        return self.starts[-1]

    def locate(self, index: int) -> tuple[DocumentSource, int]:
        """The source of document ``index``, and its number there."""
        if not 0 <= index < self.num_documents:
            raise IndexError(index)
        number = bisect_right(self.starts, index) - 1
        return self.sources[number], index - self.starts[number]

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        source, number = self.locate(index)
        return source.length(number)

    def name(self, index: int) -> str:
        """Of document ``index``, for people."""
        return name_of_document(*self.locate(index))

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens and targets of a piece of document ``index``."""
        source, number = self.locate(index)
        return read_piece(source, number, start, length)


def check_lasting(name: str, compared: str) -> None:
    """That a text which a resume compares is the same in every process.

    Args:
        name: of what is compared.
        compared: the text, often the ``repr`` of a data set.

    Raises:
        ValueError: if an object's address stands in it.
    """
    if _ADDRESS.search(compared):
        raise ValueError(
            f"{name} ({compared}) holds an address, so that no run could be resumed: make it a "
            "dataclass, or give it a __repr__ that tells its settings"
        )


@dataclass(frozen=True)
class DataSplits:
    """What a data set gives to the run.

    Attributes:
        train: documents to learn from.
        validation: documents to measure on; finite. Each source of a ``Mixture`` is measured by
            itself, too.
        vocab_size: V; every token id is below it.
        byte_lengths: int64 ``[V]``, bytes of text each token stands for; None if it is no text.
        scores_answers: whether exact-match accuracy of the targets is a meaningful metric.
        tokenizer: the ``tokenizer.json`` the text was encoded with; None if it is no text.
        fingerprint: of everything the documents of ``train`` depend on.
        description: one line for the log.
    """

    train: DocumentSource
    validation: DocumentSource
    vocab_size: int
    byte_lengths: Tokens | None
    scores_answers: bool
    tokenizer: Path | None
    fingerprint: str
    description: str


class DataSet(Protocol):
    """A choice of the ``data`` config group."""

    def prepare(self) -> DataSplits:
        """Loads, tokenises or generates; cached work is reused.

        Raises:
            ValueError: if the input is unusable; names the file and the rule.
        """
        ...
