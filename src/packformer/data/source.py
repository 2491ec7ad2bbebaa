"""What the packer needs to know of documents, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


class DocumentSource(Protocol):
    """Documents by number. The same number always gives the same document."""

    @property
    def num_documents(self) -> int | None:
        """How many there are; None if they never end."""
        ...

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        ...

    def document(self, index: int) -> tuple[Tokens, Tokens]:
        """Tokens ``[L]`` and targets ``[L]`` (``IGNORE_INDEX`` where nothing is predicted)."""
        ...


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


@dataclass(frozen=True)
class Mixture:
    """Several sources in fixed proportions of tokens; a ``DocumentSource``.

    Document numbers run through all sources.

    Attributes:
        sources: finite ones.
        weights: of each; of the tokens read, source i gives its weight by the sum of all.
    """

    sources: Sequence[DocumentSource]
    weights: Sequence[float]

    @property
    def num_documents(self) -> int:
        """Of all sources."""
        return sum(source.num_documents or 0 for source in self.sources)

    def locate(self, index: int) -> tuple[DocumentSource, int]:
        """The source of document ``index``, and its number there."""
        for source in self.sources:
            count = source.num_documents or 0
            if index < count:
                return source, index
            index -= count
        raise IndexError(index)

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        source, number = self.locate(index)
        return source.length(number)

    def document(self, index: int) -> tuple[Tokens, Tokens]:
        """Tokens and targets of document ``index``."""
        source, number = self.locate(index)
        return source.document(number)


@dataclass(frozen=True)
class DataSplits:
    """What a data set gives to the run.

    Attributes:
        train: documents to learn from.
        validation: documents to measure on; finite.
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
