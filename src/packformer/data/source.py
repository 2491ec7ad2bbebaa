"""What the packer needs to know of documents, wherever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
