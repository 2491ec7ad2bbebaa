"""Synthetic tasks that show, in a minute, whether an attention variant learns.

Documents are generated from their number; lengths vary from document to document; only answer
tokens count in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from packformer.batch import IGNORE_INDEX
from packformer.cache import fingerprint
from packformer.counted import counted
from packformer.data.source import DataSplits, Tokens, check_lasting
from packformer.requirements import check_recall, check_transduction
from packformer.settings import check_whole

_TRAIN, _VALIDATION = 0, 1
_OF_A_TASK = ("seed", "size", "length", "generate")


class Task(Protocol):
    """What generates documents; ``task_splits`` makes a data set of it."""

    @property
    def seed(self) -> int:
        """Of all documents."""
        ...

    def size(self, rng: np.random.Generator) -> int:
        """Draws how large a document is, in whatever the task counts."""
        ...

    def length(self, size: int) -> int:
        """Tokens of a document of that size."""
        ...

    def generate(self, rng: np.random.Generator, size: int) -> tuple[Tokens, Tokens]:
        """A document: tokens ``[L]``, and targets ``[L]`` that are -100 but for the answers."""
        ...


@dataclass(frozen=True)
class GeneratedDocuments:
    """Documents of a task, made when asked for; a ``DocumentSource``.

    Attributes:
        task: generates them.
        split: separates the random numbers of training and validation.
        num_documents: None for an endless source.
    """

    task: Task
    split: int
    num_documents: int | None

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.task.seed, self.split, index])

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        return self.task.length(self.task.size(self._rng(index)))

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens and targets; only answers have a target. The document is generated whole.

        Raises:
            ValueError: if the task makes it longer or shorter than it says.
        """
        rng = self._rng(index)
        size = self.task.size(rng)
        tokens, targets = self.task.generate(rng, size)
        told = self.task.length(size)
        if len(tokens) != told or len(targets) != told:
            raise ValueError(
                f"task ({type(self.task).__name__}): generate made {counted(len(tokens), 'token')} "
                f"and {counted(len(targets), 'target')} of size {size}, and length({size}) is "
                f"{told}: they must be equally many"
            )
        part = slice(start, start + length)
        return tokens[part], targets[part]


def task_splits(task: Task, vocab_size: int, num_validation: int, name: str) -> DataSplits:
    """Endless training, and some documents to measure on.

    Args:
        task: generates the documents; its ``repr`` is what a resume compares.
        vocab_size: V; every token is below it.
        num_validation: documents measured on.
        name: one line for the log.

    Raises:
        ValueError: if a part of the task is missing, its ``repr`` holds an address, or a number is
            out of range.
    """
    missing = [part for part in _OF_A_TASK if not hasattr(task, part)]
    if missing:
        raise ValueError(f"task ({type(task).__name__}) lacks {', '.join(missing)}")
    check_lasting("repr of the task", repr(task))
    check_whole("data.validation_documents", num_validation, at_least=1)
    check_whole("data.seed", task.seed, at_least=0)
    return DataSplits(
        train=GeneratedDocuments(task, _TRAIN, None),
        validation=GeneratedDocuments(task, _VALIDATION, num_validation),
        vocab_size=vocab_size,
        byte_lengths=None,
        scores_answers=True,
        tokenizer=None,
        fingerprint=fingerprint([repr(task)]),
        description=name,
    )


@dataclass(frozen=True)
class AssociativeRecall:
    """Multi-query associative recall (Arora et al. 2023, "Zoology").

    A document lists pairs ``key value`` with distinct keys, then asks for every key once, in random
    order: ``key answer``. The answer after each asked key is to be predicted. A model that cannot
    see the pairs is right once in ``num_values``.

    Args:
        num_keys: different keys.
        num_values: different values.
        min_pairs: fewest pairs in a document.
        max_pairs: most pairs in a document.
        validation_documents: documents measured on.
        seed: of the documents.

    Raises:
        ValueError: if a size is out of range.
    """

    num_keys: int = 64
    num_values: int = 64
    min_pairs: int = 4
    max_pairs: int = 8
    validation_documents: int = 512
    seed: int = 0

    def prepare(self) -> DataSplits:
        check_recall(**vars(self))
        name = f"associative recall of {self.min_pairs} to {self.max_pairs} pairs"
        vocab_size = self.num_keys + self.num_values
        return task_splits(self, vocab_size, self.validation_documents, name)

    def size(self, rng: np.random.Generator) -> int:
        """Pairs of a document."""
        return int(rng.integers(self.min_pairs, self.max_pairs + 1))

    def length(self, size: int) -> int:
        """Tokens of a document with ``size`` pairs."""
        return 4 * size

    def generate(self, rng: np.random.Generator, size: int) -> tuple[Tokens, Tokens]:
        """A document with ``size`` pairs."""
        keys = rng.permutation(self.num_keys)[:size]
        values = self.num_keys + rng.integers(self.num_values, size=size)
        asked = rng.permutation(size)
        pairs = np.stack([keys, values], axis=1)
        tokens = np.concatenate([pairs, pairs[asked]]).reshape(-1)
        targets = np.full(len(tokens), IGNORE_INDEX, dtype=np.int64)
        targets[2 * size :: 2] = values[asked]
        return tokens, targets


@dataclass(frozen=True)
class _Transduction:
    """A document is symbols, a separator, and the answer made of the symbols.

    Args:
        num_symbols: different symbols.
        min_symbols: fewest symbols in a document.
        max_symbols: most symbols in a document.
        validation_documents: documents measured on.
        seed: of the documents.

    Raises:
        ValueError: if a size is out of range.
    """

    num_symbols: int = 32
    min_symbols: int = 4
    max_symbols: int = 16
    validation_documents: int = 512
    seed: int = 0

    def prepare(self) -> DataSplits:
        check_transduction(**vars(self))
        name = f"{type(self).__name__.lower()} of {self.min_symbols} to {self.max_symbols} symbols"
        return task_splits(self, self.num_symbols + 1, self.validation_documents, name)

    def size(self, rng: np.random.Generator) -> int:
        """Symbols of a document."""
        return int(rng.integers(self.min_symbols, self.max_symbols + 1))

    def length(self, size: int) -> int:
        """Tokens of a document with ``size`` symbols."""
        return 2 * size + 1

    def generate(self, rng: np.random.Generator, size: int) -> tuple[Tokens, Tokens]:
        """A document with ``size`` symbols."""
        symbols = rng.integers(self.num_symbols, size=size)
        separator = [self.num_symbols]
        tokens = np.concatenate([symbols, separator, self.answer(symbols)])
        targets = np.append(tokens[1:], IGNORE_INDEX)
        targets[:size] = IGNORE_INDEX
        return tokens, targets

    def answer(self, symbols: Tokens) -> Tokens:
        """What is to be predicted after the separator."""
        raise NotImplementedError


@dataclass(frozen=True)
class Copying(_Transduction):
    __doc__ = f"""Repeat the symbols. {_Transduction.__doc__}"""

    def answer(self, symbols: Tokens) -> Tokens:
        return symbols


@dataclass(frozen=True)
class Sorting(_Transduction):
    __doc__ = f"""Sort the symbols. {_Transduction.__doc__}"""

    def answer(self, symbols: Tokens) -> Tokens:
        return np.sort(symbols)
