"""Documents of random tokens and log-normal length: for benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from packformer.cache import fingerprint
from packformer.data.source import DataSplits, Tokens, successors
from packformer.requirements import RANDOM_DOCUMENTS
from packformer.settings import check_settings

_TRAIN, _VALIDATION = 0, 1
_BLOCK = 4096  # tokens with a random generator of their own: a piece needs no others


@dataclass(frozen=True)
class RandomDocuments:
    """Uniformly random tokens in documents whose lengths are log-normal; there is nothing to learn.

    Attributes:
        vocab_size: V.
        mean_length: of the log-normal distribution, in tokens.
        sigma: standard deviation of the logarithm of the lengths.
        longest: longer ones are cut to this length, in tokens; None for no limit.
        validation_documents: finite, unlike those for training.
        seed: of lengths and tokens.

    Raises:
        ValueError: if a number is out of range.
    """

    vocab_size: int = 50_304
    mean_length: float = 600
    sigma: float = 1.0
    longest: int | None = 4096
    validation_documents: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings("data", RANDOM_DOCUMENTS, vars(self))

    def prepare(self) -> DataSplits:
        return DataSplits(
            train=_Documents(self, _TRAIN, None),
            validation=_Documents(self, _VALIDATION, self.validation_documents),
            vocab_size=self.vocab_size,
            byte_lengths=None,
            scores_answers=False,
            tokenizer=None,
            fingerprint=fingerprint(["2", repr(self)]),
            description=f"random documents of {self.mean_length:g} tokens on average",
        )


@dataclass(frozen=True)
class _Documents:
    settings: RandomDocuments
    split: int
    num_documents: int | None

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.split, index])

    def _length(self, rng: np.random.Generator) -> int:
        of = self.settings
        mu = math.log(of.mean_length) - of.sigma**2 / 2
        length = max(2, round(rng.lognormal(mu, of.sigma)))
        return length if of.longest is None else min(length, of.longest)

    def length(self, index: int) -> int:
        return self._length(self._rng(index))

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        first, end = start // _BLOCK * _BLOCK, start + length
        blocks = [
            self._block(index, at // _BLOCK, min(_BLOCK, end - at))
            for at in range(first, end, _BLOCK)
        ]
        tokens = np.concatenate(blocks)[start - first :]
        return tokens, successors(tokens)

    def _block(self, index: int, block: int, size: int) -> Tokens:
        """The first tokens of a block."""
        seed = [self.settings.seed, self.split, index, 1 + block]
        return np.random.default_rng(seed).integers(self.settings.vocab_size, size=size)
